import { type ChildProcess, fork } from 'node:child_process'
import type { IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { Busboy, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy'
import type { Context } from 'koa'
import { Gauge } from 'prom-client'
import type { Drawn, Form, Format, Task } from './draw.ts'
import type { Logger } from './log.ts'
import { registry } from './metrics.ts'
import { Problem, problem } from './problem.ts'
import { turns } from './turns.ts'

/** Most bytes of an uploaded file. The edge lets 64 KiB more through, for what multipart adds. */
const mostBytes = 5 * 1024 * 1024
const wrapping = 64 * 1024
export const uploadTypes = ['image/jpeg', 'image/png', 'image/webp']

const at = (bytes: Buffer, offset: number, text: string) =>
  bytes.subarray(offset, offset + text.length).equals(Buffer.from(text, 'latin1'))

/** What the bytes themselves say that they are; no header and no file name is asked. */
function formatOf(bytes: Buffer): Format | undefined {
  if (at(bytes, 0, '\xff\xd8\xff')) return 'jpeg'
  if (at(bytes, 0, '\x89PNG\r\n\x1a\n')) return 'png'
  if (at(bytes, 0, 'RIFF') && at(bytes, 8, 'WEBP')) return 'webp'
  return undefined
}

const tooLarge = () => new Problem(413, 'body_too_large', 'A picture may have 5 MiB at most.')
const unsupported = () =>
  new Problem(415, 'unsupported_image', 'Send a JPEG, PNG or WebP, as the body itself or as the one file of a form.')
const cutOff = () => problem.badRequest('bad_body', 'The body ended before it was whole.')
const oneFile = () => problem.badRequest('one_file', 'A form must have exactly one file.')
const badForm = () => problem.badRequest('bad_form', 'The body is not valid multipart/form-data.')
const badImage = () => problem.unprocessable('bad_image', 'The file is damaged or cut off; it cannot be decoded.')
const tooManyPixels = () =>
  problem.unprocessable(
    'image_too_large',
    'A picture may have 24 megapixels (an interlaced PNG 12, or 6 of 16 bits), and 16383 pixels on a side.',
  )

const tooMany = 'Too many pictures at once.'
// Bodies in memory: 4 × 5 MiB, and as much again while one is put together. The others wait in their sockets.
const reading = turns(4, 60, tooMany)
// One decoded picture in memory, and one picture at a time with the process that draws.
const drawing = turns(1, 60, tooMany)

/** Reads the picture of a request's body and draws its two WebP files. Throws problems 400, 413, 415, 422 and 503. */
export const receivePicture = (ctx: Context, form: Form) =>
  reading(async () => draw(await readUpload(ctx), form, ctx.state.log))

async function readUpload(ctx: Context): Promise<Buffer> {
  const { req } = ctx
  const type = (req.headers['content-type'] ?? '').toLowerCase()
  if (req.headers['content-encoding']) throw new Problem(415, 'unsupported_encoding', 'A picture is sent as it is.')
  const isForm = /^multipart\/form-data\s*(;|$)/.test(type)
  if (!isForm && type && !/^(image\/|application\/octet-stream\b)/.test(type)) throw unsupported()
  const most = mostBytes + (isForm ? wrapping : 0)
  try {
    if (Number(req.headers['content-length'] ?? 0) > most) throw tooLarge()
    const bytes = isForm ? await readForm(req, most) : await readAll(req, most)
    if (bytes.length === 0) throw problem.badRequest('body_missing', 'This route needs a picture.')
    return bytes
  } catch (error) {
    if (!req.complete) letGo(req)
    throw error
  }
}

/** The chunks of a body up to `most` bytes; the request stays open, for the answer that refuses it. */
async function* chunksOf(req: IncomingMessage, most: number): AsyncGenerator<Buffer> {
  let size = 0
  try {
    for await (const chunk of req.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length
      if (size > most) throw tooLarge()
      yield chunk
    }
  } catch (error) {
    throw error instanceof Problem ? error : cutOff()
  }
}

async function readAll(req: IncomingMessage, most: number) {
  const chunks: Buffer[] = []
  for await (const chunk of chunksOf(req, most)) chunks.push(chunk)
  return Buffer.concat(chunks)
}

async function readForm(req: IncomingMessage, most: number) {
  let fault: Problem | undefined
  const refuse = (problem: Problem) => {
    fault ??= problem
  }
  let files = 0
  const chunks: Buffer[] = []
  const limits = { fileSize: mostBytes, fields: 16, fieldSize: 1024, parts: 20, headerPairs: 20, headerSize: 8192 }
  let parser: BusboyInstance
  try {
    parser = new Busboy({ headers: req.headers as BusboyHeaders, limits })
  } catch {
    throw badForm()
  }
  parser.on('file', (_field, file) => {
    if (++files > 1) refuse(oneFile())
    file.on('limit', () => refuse(tooLarge()))
    file.on('error', () => refuse(badForm()))
    file.on('data', (chunk: Buffer) => {
      if (!fault) chunks.push(chunk)
    })
  })
  parser.on('partsLimit', () => refuse(badForm()))
  parser.on('error', () => refuse(badForm()))
  for await (const chunk of chunksOf(req, most)) {
    // Nothing is asynchronous behind it, so what it holds back is at most this chunk.
    parser.write(chunk)
    if (fault) break
  }
  if (!fault) {
    const done = new Promise<void>((resolve) => parser.once('finish', resolve).once('error', () => resolve()))
    parser.end()
    await done
  }
  if (!fault && files !== 1) refuse(oneFile())
  if (fault) throw fault
  return Buffer.concat(chunks)
}

/**
 * Lets a refused body end: a client that is still sending would miss the answer if the connection closed at once, so
 * 256 KiB more are read and thrown away, and the connection stays for 2 s.
 */
function letGo(req: IncomingMessage) {
  let more = 0
  req.on('error', () => undefined)
  req.on('data', (chunk: Buffer) => {
    more += chunk.length
    if (more > 256 * 1024) req.pause()
  })
  setTimeout(() => req.complete || req.socket.destroy(), 2000).unref()
  req.resume()
}

/** Milliseconds: what one picture may take, start of the process included, and how long the process waits for the next. */
const longestDraw = 20_000
const idle = 30_000
const inHand = new Gauge({ name: 'pictures_in_hand', help: 'Pictures that are being drawn', registers: [registry] })
let artist: { child: ChildProcess; leaves: NodeJS.Timeout } | undefined

function call(): ChildProcess {
  if (artist) clearTimeout(artist.leaves)
  const { PATH, NODE_COMPILE_CACHE } = process.env
  const child =
    artist?.child ??
    fork(join(import.meta.dirname, 'draw.ts'), {
      // One arena: with more, memory of big and small pieces in turns is never given back (measured 450 MB against 210).
      env: { PATH, NODE_COMPILE_CACHE, MALLOC_ARENA_MAX: '1' },
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
  if (!artist) {
    child.once('exit', () => {
      if (artist?.child === child) artist = undefined
    })
    child.on('error', () => {
      // One that could not be started never exits.
      if (child.pid === undefined && artist?.child === child) {
        clearTimeout(artist.leaves)
        artist = undefined
      }
    })
    child.unref()
    child.channel?.unref()
  }
  const leaves = setTimeout(() => {
    if (artist?.child === child) artist = undefined
    if (child.connected) child.disconnect()
  }, idle).unref()
  artist = { child, leaves }
  return child
}

/** What the process answers; undefined where it ended instead. Throws 503 where none can be started. */
const ask = (task: Task, log?: Logger) =>
  new Promise<Drawn | undefined>((resolve, reject) => {
    const child = call()
    if (child.pid === undefined)
      return reject(problem.unavailable('No picture can be drawn at the moment; try again in a moment.'))
    const late = setTimeout(() => {
      child.kill('SIGKILL')
      end({ fault: 'bad', why: 'it takes too long' })
    }, longestDraw)
    const gone = (code: number | null, signal: string | null) => {
      log?.warn({ code, signal, format: task.format, bytes: task.bytes.length }, 'the process that draws has ended')
      end(undefined)
    }
    const end = (answer: Drawn | undefined) => {
      clearTimeout(late)
      inHand.dec()
      child.off('exit', gone).off('message', end)
      resolve(answer)
    }
    inHand.inc()
    child.once('exit', gone).once('message', end)
    child.send(task, (error) => error && child.kill('SIGKILL'))
  })

/** The two WebP files of a JPEG, PNG or WebP. Throws 415 and 422. */
function draw(bytes: Buffer, form: Form, log?: Logger): Promise<{ large: Buffer; small: Buffer }> {
  const format = formatOf(bytes)
  if (!format) throw unsupported()
  return drawing(async () => {
    const task: Task = { bytes, format, form }
    // Once more, since the end of the process may have been no fault of this picture.
    const drawn = (await ask(task, log)) ?? (await ask(task, log)) ?? { fault: 'bad' }
    if ('fault' in drawn) throw drawn.fault === 'bad' ? badImage() : tooManyPixels()
    return { large: Buffer.from(drawn.large), small: Buffer.from(drawn.small) }
  })
}
