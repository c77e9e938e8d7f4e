import { constants, setPriority } from 'node:os'
import sharp, { type Sharp } from 'sharp'

// A process of its own for decoding what strangers send: a decoder that crashes or hangs takes nothing else down, its memory
// goes back to the system when it ends, and it has none of the role's secrets in its environment. resizer.ts starts it and
// sends it one picture after the other.

/** The sizes of the two files of a picture: the longest side of each, in pixels. */
export interface Sizes {
  large: number
  small: number
  /** Whether to cut out the middle square and bring it to exactly that size; otherwise the whole picture, never enlarged. */
  square: boolean
}
export type Format = 'jpeg' | 'png' | 'webp'
export interface Task {
  bytes: Uint8Array
  /** What the first bytes say. */
  format: Format
  sizes: Sizes
}
export type Result = { large: Uint8Array; small: Uint8Array } | { fault: 'bad' | 'too_large'; why: string }

/** An interlaced PNG is decoded whole, which takes up to 8 bytes a pixel; what else there is takes 4 at most. */
const mostPixels = 24_000_000
/** No WebP can be longer. */
const longestSide = 16_383

/**
 * The two WebP files of a picture: turned as its EXIF says, in sRGB, without any metadata, the first frame of an
 * animation. Pixels are counted by the header, before any is decoded.
 */
async function resize({ bytes, format, sizes }: Task): Promise<Result> {
  const source = (limitInputPixels: number | false) =>
    sharp(bytes, { failOn: 'error', autoOrient: true, limitInputPixels })
  const head = await source(false).metadata()
  if (head.format !== format) return { fault: 'bad', why: `it is ${head.format}, and begins as ${format}` }
  const { width, height } = head.autoOrient
  const weight = format !== 'png' || !head.isProgressive ? 1 : head.depth === 'uchar' ? 2 : 4
  if (width * height * weight > mostPixels || Math.max(width, height) > longestSide)
    return { fault: 'too_large', why: `${width} × ${height}` }
  const side = Math.min(width, height)
  const middle = {
    left: Math.floor((width - side) / 2),
    top: Math.floor((height - side) / 2),
    width: side,
    height: side,
  }
  const whole = source(mostPixels)
  // Where the square must grow, it is cut out before: the other way round a thin strip would grow a thousandfold.
  const cut = !sizes.square
    ? fitInto(whole, sizes.large)
    : (side < sizes.large ? whole.extract(middle) : whole).resize(sizes.large, sizes.large)
  const { data, info } = await cut
    .toColourspace('srgb')
    .timeout({ seconds: 10 })
    .raw()
    .toBuffer({ resolveWithObject: true })
  const raw = { raw: { width: info.width, height: info.height, channels: info.channels } }
  return { large: await encode(sharp(data, raw)), small: await encode(fitInto(sharp(data, raw), sizes.small)) }
}

const fitInto = (image: Sharp, side: number) => image.resize(side, side, { fit: 'inside', withoutEnlargement: true })
const encode = (image: Sharp) => image.webp({ quality: 80, effort: 4 }).toBuffer()

// Whatever a file claims to be, only these three decoders exist for it.
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({ operation: ['Jpeg', 'Png', 'Webp'].map((format) => `VipsForeignLoad${format}Buffer`) })
sharp.cache(false)
sharp.concurrency(1)
// Sign-ins and orders come first.
setPriority(constants.priority.PRIORITY_BELOW_NORMAL)

process.on('message', (task: Task) => {
  resize(task)
    .catch((error: Error): Result => ({ fault: 'bad', why: error.message }))
    .then((result) => process.send?.(result))
})
// The role is gone.
process.on('disconnect', () => process.exit())
// A terminal and a container signal all processes: the role ends this one itself, after the last picture.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
