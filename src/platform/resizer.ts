import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import { Gauge } from 'prom-client'
import { limiter } from './limiter.ts'
import type { Logger } from './log.ts'
import { registry } from './metrics.ts'
import { Problem, problem } from './problem.ts'
import type { Format, Result, Sizes, Task } from './resize-worker.ts'

const at = (bytes: Buffer, offset: number, text: string) =>
  bytes.subarray(offset, offset + text.length).equals(Buffer.from(text, 'latin1'))

/** The format by the first bytes alone; neither a header nor a file name is trusted. */
function formatOf(bytes: Buffer): Format | undefined {
  if (at(bytes, 0, '\xff\xd8\xff')) return 'jpeg'
  if (at(bytes, 0, '\x89PNG\r\n\x1a\n')) return 'png'
  if (at(bytes, 0, 'RIFF') && at(bytes, 8, 'WEBP')) return 'webp'
  return undefined
}

/** The problem of a picture whose format is not supported. */
export const unsupportedImage = () =>
  new Problem(415, 'unsupported_image', 'Send a JPEG, PNG or WebP, as the body itself or as the one file of a form.')
const badImage = () => problem.unprocessable('bad_image', 'The file is damaged or cut off; it cannot be decoded.')
const tooManyPixels = () =>
  problem.unprocessable(
    'image_too_large',
    'A picture may have 24 megapixels (an interlaced PNG 12, or 6 of 16 bits), and 16383 pixels on a side.',
  )

// One decoded picture in memory, and one picture at a time in the worker.
const resizing = limiter(1, 60, 'Too many pictures at once.')

/** The two WebP files of a JPEG, PNG or WebP. Throws 415, 422, and 503 where too many wait or no worker can be started. */
export function resize(bytes: Buffer, sizes: Sizes, log?: Logger): Promise<{ large: Buffer; small: Buffer }> {
  const format = formatOf(bytes)
  if (!format) throw unsupportedImage()
  return resizing(async () => {
    const task: Task = { bytes, format, sizes }
    // A second try, since the worker may have ended through no fault of this picture.
    const result = (await send(task, log)) ?? (await send(task, log)) ?? { fault: 'bad' }
    if ('fault' in result) throw result.fault === 'bad' ? badImage() : tooManyPixels()
    return { large: Buffer.from(result.large), small: Buffer.from(result.small) }
  })
}

/** Milliseconds that one picture may take, the start of the worker included. */
const longestResize = 20_000
/** Milliseconds that an idle worker waits for the next picture before it ends. */
const idleTime = 30_000
const inHand = new Gauge({ name: 'pictures_in_hand', help: 'Pictures that are being resized', registers: [registry] })
let worker: { child: ChildProcess; idleTimer: NodeJS.Timeout } | undefined

/** The running worker, or a new one; its idle time begins anew. */
function useWorker(): ChildProcess {
  if (worker) clearTimeout(worker.idleTimer)
  const child = worker?.child ?? startWorker()
  const idleTimer = setTimeout(() => {
    if (worker?.child === child) worker = undefined
    if (child.connected) child.disconnect()
  }, idleTime).unref()
  worker = { child, idleTimer }
  return child
}

function startWorker(): ChildProcess {
  const { PATH, NODE_COMPILE_CACHE } = process.env
  const child = fork(join(import.meta.dirname, 'resize-worker.ts'), {
    // One arena: with more, memory of big and small pieces in turns is never given back (measured 450 MB against 210).
    env: { PATH, NODE_COMPILE_CACHE, MALLOC_ARENA_MAX: '1' },
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  child.once('exit', () => {
    if (worker?.child === child) worker = undefined
  })
  child.on('error', () => {
    // One that could not be started never exits.
    if (child.pid === undefined && worker?.child === child) {
      clearTimeout(worker.idleTimer)
      worker = undefined
    }
  })
  child.unref()
  child.channel?.unref()
  return child
}

/** The worker's result; undefined where the worker ended instead. Throws 503 where none can be started. */
const send = (task: Task, log?: Logger) =>
  new Promise<Result | undefined>((resolve, reject) => {
    const child = useWorker()
    if (child.pid === undefined)
      return reject(problem.unavailable('Pictures cannot be resized at the moment; try again in a moment.'))
    const deadline = setTimeout(() => {
      child.kill('SIGKILL')
      settle({ fault: 'bad', why: 'it takes too long' })
    }, longestResize)
    const ended = (code: number | null, signal: string | null) => {
      log?.warn({ code, signal, format: task.format, bytes: task.bytes.length }, 'the resize worker has ended')
      settle(undefined)
    }
    const settle = (result: Result | undefined) => {
      clearTimeout(deadline)
      inHand.dec()
      child.off('exit', ended).off('message', settle)
      resolve(result)
    }
    inHand.inc()
    child.once('exit', ended).once('message', settle)
    child.send(task, (error) => error && child.kill('SIGKILL'))
  })
