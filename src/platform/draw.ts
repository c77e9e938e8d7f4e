import { constants, setPriority } from 'node:os'
import sharp, { type Sharp } from 'sharp'

// A process of its own for decoding what strangers send: a decoder that crashes or hangs takes nothing with it, its memory
// goes back to the system with it, and it has none of the role's secrets in its environment. images.ts starts it, and sends
// one picture after the other.

/** How the two files of a picture are cut: the longest side of each, in pixels. */
export interface Form {
  large: number
  small: number
  /** The middle square, always of that size; otherwise the whole picture, never enlarged. */
  square: boolean
}
export type Format = 'jpeg' | 'png' | 'webp'
export interface Task {
  bytes: Uint8Array
  /** What the first bytes say. */
  format: Format
  form: Form
}
export type Drawn = { large: Uint8Array; small: Uint8Array } | { fault: 'bad' | 'too_large'; why: string }

/** An interlaced PNG is decoded whole, which takes up to 8 bytes a pixel; what else there is takes 4 at most. */
const mostPixels = 24_000_000
/** No WebP can be longer. */
const longestSide = 16_383

/**
 * The two WebP files of a picture: turned as its EXIF says, in sRGB, without any metadata, the first frame of an
 * animation. Pixels are counted by the header, before any is decoded.
 */
async function draw({ bytes, format, form }: Task): Promise<Drawn> {
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
  const cut = !form.square
    ? within(whole, form.large)
    : (side < form.large ? whole.extract(middle) : whole).resize(form.large, form.large)
  const { data, info } = await cut
    .toColourspace('srgb')
    .timeout({ seconds: 10 })
    .raw()
    .toBuffer({ resolveWithObject: true })
  const raw = { raw: { width: info.width, height: info.height, channels: info.channels } }
  return { large: await encode(sharp(data, raw)), small: await encode(within(sharp(data, raw), form.small)) }
}

const within = (image: Sharp, side: number) => image.resize(side, side, { fit: 'inside', withoutEnlargement: true })
const encode = (image: Sharp) => image.webp({ quality: 80, effort: 4 }).toBuffer()

// Whatever a file claims to be, only these three decoders exist for it.
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({ operation: ['Jpeg', 'Png', 'Webp'].map((format) => `VipsForeignLoad${format}Buffer`) })
sharp.cache(false)
sharp.concurrency(1)
// Sign-ins and orders come first.
setPriority(constants.priority.PRIORITY_BELOW_NORMAL)

process.on('message', (task: Task) => {
  draw(task)
    .catch((error: Error): Drawn => ({ fault: 'bad', why: error.message }))
    .then((drawn) => process.send?.(drawn))
})
// Its role is gone.
process.on('disconnect', () => process.exit())
// Its role ends it, when the last picture is drawn.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
