import { crc32, deflateSync } from 'node:zlib'
import sharp from 'sharp'

/** A photo-like picture with a light left half and a dark right one, so that turning it shows. */
const photo = (width: number, height: number) => {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">
    <rect width="100%" height="100%" fill="#202030"/><rect width="50%" height="100%" fill="#f0e0d0"/></svg>`
  return sharp(Buffer.from(svg)).removeAlpha()
}
export const jpeg = (width: number, height: number) => photo(width, height).jpeg().toBuffer()
export const png = (width: number, height: number) => photo(width, height).png().toBuffer()
const webp = (width: number, height: number) => photo(width, height).webp().toBuffer()

/** A JPEG that lies on its side, and says where it was taken and by whom. */
export const jpegWithExif = (width: number, height: number, orientation: number) =>
  photo(width, height)
    .jpeg()
    .withExif({
      IFD0: { Copyright: 'Ada Example', Orientation: String(orientation) },
      IFD3: {
        GPSLatitudeRef: 'N',
        GPSLatitude: '52/1 31/1 12/1',
        GPSLongitudeRef: 'E',
        GPSLongitude: '13/1 24/1 18/1',
      },
    })
    .withMetadata({ orientation })
    .toBuffer()

const chunk = (type: string, data: Buffer) => {
  const named = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const frame = Buffer.alloc(8)
  frame.writeUInt32BE(data.length, 0)
  frame.writeUInt32BE(crc32(named), 4)
  return Buffer.concat([frame.subarray(0, 4), named, frame.subarray(4)])
}
/** A PNG by hand: one bit a pixel, all of one colour, with any other chunks before the pixels. */
function bits(width: number, height: number, ...extra: [string, Buffer][]) {
  const head = Buffer.alloc(13)
  head.writeUInt32BE(width, 0)
  head.writeUInt32BE(height, 4)
  head[8] = 1
  const pixels = Buffer.alloc(Math.min((1 + Math.ceil(width / 8)) * height, 64 * 1024 * 1024))
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', head),
    ...extra.map(([type, data]) => chunk(type, data)),
    chunk('IDAT', deflateSync(pixels, { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

const compressed = (name: string, size: number) =>
  Buffer.concat([Buffer.from(`${name}\0\0`, 'latin1'), deflateSync(Buffer.alloc(size), { level: 9 })])

interface Refused {
  bytes: Buffer
  status: number
  code: string
}

/** Files that no picture is made from, each with the answer that it gets. */
export async function refusedFiles(): Promise<Record<string, Refused>> {
  const [aJpeg, aPng, aWebp] = await Promise.all([jpeg(800, 600), png(800, 600), webp(800, 600)])
  const html = Buffer.from('<html><script>alert(1)</script></html>')
  const svg = Buffer.from('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
  const hugeJpeg = Buffer.from(aJpeg)
  const frame = hugeJpeg.indexOf(Buffer.from([0xff, 0xc0]))
  hugeJpeg.writeUInt16BE(65_500, frame + 5)
  hugeJpeg.writeUInt16BE(65_500, frame + 7)
  const hugeWebp = await sharp({ create: { width: 16_383, height: 16_383, channels: 3, background: '#fff' } })
    .webp({ lossless: true, effort: 0 })
    .toBuffer()
  const unsupported = { status: 415, code: 'unsupported_image' }
  const tooLarge = { status: 422, code: 'image_too_large' }
  const bad = { status: 422, code: 'bad_image' }
  return {
    'an SVG': { bytes: svg, ...unsupported },
    'an SVG that includes another file': {
      bytes: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
      ...unsupported,
    },
    'a GIF that is HTML too': { bytes: Buffer.concat([Buffer.from('GIF89a/*'), html]), ...unsupported },
    'a GIF': { bytes: await photo(20, 20).gif().toBuffer(), ...unsupported },
    'an AVIF': { bytes: await photo(20, 20).avif({ effort: 0 }).toBuffer(), ...unsupported },
    'a TIFF': { bytes: await photo(20, 20).tiff().toBuffer(), ...unsupported },
    'a PDF': { bytes: Buffer.from('%PDF-1.7\n%âãÏÓ\n'), ...unsupported },
    HTML: { bytes: html, ...unsupported },
    'two bytes': { bytes: Buffer.from([0xff, 0xd8]), ...unsupported },
    'an SVG behind the signature of a PNG': { bytes: Buffer.concat([aPng.subarray(0, 8), svg]), ...bad },
    'a RIFF that is no WebP inside': {
      bytes: Buffer.concat([Buffer.from('RIFF\x20\0\0\0WEBP', 'latin1'), html]),
      ...bad,
    },
    'a JPEG cut off in its head': { bytes: aJpeg.subarray(0, 100), ...bad },
    'a JPEG cut off in its pixels': { bytes: aJpeg.subarray(0, Math.floor(aJpeg.length * 0.6)), ...bad },
    'a PNG cut off in its pixels': { bytes: aPng.subarray(0, Math.floor(aPng.length * 0.6)), ...bad },
    'a WebP cut off in its pixels': { bytes: aWebp.subarray(0, Math.floor(aWebp.length * 0.6)), ...bad },
    'a PNG of 30000 × 30000 in few bytes': { bytes: bits(30_000, 30_000), ...tooLarge },
    'a PNG of 2147483647 × 2147483647': { bytes: bits(2 ** 31 - 1, 2 ** 31 - 1), status: 422, code: '' },
    'a PNG of 1 × 100000': { bytes: bits(1, 100_000), ...tooLarge },
    'a PNG of 100000 × 1': { bytes: bits(100_000, 1), ...tooLarge },
    'an interlaced PNG of 6000 × 4000': {
      bytes: await photo(6000, 4000).png({ progressive: true }).toBuffer(),
      ...tooLarge,
    },
    'an interlaced PNG of 3000 × 2001 with 16 bits': {
      bytes: await photo(3000, 2001).toColourspace('rgb16').png({ progressive: true }).toBuffer(),
      ...tooLarge,
    },
    'a PNG of no pixels': { bytes: bits(0, 0), ...bad },
    'a JPEG that says 65500 × 65500': { bytes: hugeJpeg, ...tooLarge },
    'a WebP of 16383 × 16383': { bytes: hugeWebp, ...tooLarge },
  }
}

/** Odd files that a picture is made from. */
export async function takenFiles(): Promise<Record<string, Buffer>> {
  const html = Buffer.from('<html><script>alert(1)</script></html>')
  const frames = await Promise.all(
    ['#ff0000', '#00ff00', '#0000ff'].map((background) =>
      sharp({ create: { width: 64, height: 64, channels: 3, background } })
        .png()
        .toBuffer(),
    ),
  )
  return {
    'a JPEG that is HTML too': Buffer.concat([await jpeg(64, 64), html]),
    'an animated WebP': await sharp(frames, { join: { animated: true } })
      .webp({ loop: 0, delay: [50, 50, 50] })
      .toBuffer(),
    'a CMYK JPEG': await photo(64, 64).toColourspace('cmyk').jpeg().toBuffer(),
    'a grey JPEG': await photo(64, 64).greyscale().jpeg().toBuffer(),
    'a progressive JPEG of 24 megapixels': await photo(6000, 4000).jpeg({ progressive: true, quality: 50 }).toBuffer(),
    'an interlaced PNG of 12 megapixels': await photo(4000, 3000)
      .ensureAlpha(0.5)
      .png({ progressive: true })
      .toBuffer(),
    'a PNG of 24 megapixels and 16 bits': await photo(6000, 4000)
      .ensureAlpha(0.5)
      .toColourspace('rgb16')
      .png()
      .toBuffer(),
    'a WebP of 24 megapixels': await photo(6000, 4000).ensureAlpha(0.9).webp({ effort: 0 }).toBuffer(),
    'a PNG of 16 bits': await photo(64, 64).toColourspace('rgb16').png().toBuffer(),
    'a PNG of one bit': bits(64, 64),
    'a PNG of 1 × 16383': bits(1, 16_383),
    'a PNG of 16383 × 1': bits(16_383, 1),
    'a PNG with 60 MB of text in few bytes': bits(64, 64, ['zTXt', compressed('Comment', 60_000_000)]),
    'a PNG with a broken colour profile': bits(64, 64, ['iCCP', compressed('icc', 60_000_000)]),
    'a transparent WebP': await photo(64, 64).ensureAlpha(0).webp().toBuffer(),
  }
}
