import type { IncomingMessage } from 'node:http'
import { Busboy, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy'
import type { Context } from 'koa'
import { limiter } from './limiter.ts'
import { Problem, problem } from './problem.ts'
import type { Sizes } from './resize-worker.ts'
import { resize, unsupportedImage } from './resizer.ts'

/** Most bytes of an uploaded file. The edge lets 64 KiB more through, for what multipart adds. */
const mostBytes = 5 * 1024 * 1024
const wrapping = 64 * 1024
/** The media types that a picture may be sent as. */
export const uploadTypes = ['image/jpeg', 'image/png', 'image/webp']

const tooLarge = () => new Problem(413, 'body_too_large', 'A picture may have 5 MiB at most.')
const cutOff = () => problem.badRequest('bad_body', 'The body ended before it was whole.')
const oneFile = () => problem.badRequest('one_file', 'A form must have exactly one file.')
const badForm = () => problem.badRequest('bad_form', 'The body is not valid multipart/form-data.')
// Bodies in memory: 4 × 5 MiB, and as much again while one is put together. The others wait in their sockets.
const reading = limiter(4, 60, 'Too many pictures at once.')

/** Reads the picture in a request's body and makes its two WebP files. Throws problems 400, 413, 415, 422 and 503. */
export const receivePicture = (ctx: Context, sizes: Sizes) =>
  reading(async () => resize(await readUpload(ctx), sizes, ctx.state.log))

async function readUpload(ctx: Context): Promise<Buffer> {
  const { req } = ctx
  const type = (req.headers['content-type'] ?? '').toLowerCase()
  if (req.headers['content-encoding']) throw new Problem(415, 'unsupported_encoding', 'A picture is sent as it is.')
  const isForm = /^multipart\/form-data\s*(;|$)/.test(type)
  if (!isForm && type && !/^(image\/|application\/octet-stream\b)/.test(type)) throw unsupportedImage()
  const most = mostBytes + (isForm ? wrapping : 0)
  try {
    if (Number(req.headers['content-length'] ?? 0) > most) throw tooLarge()
    const bytes = isForm ? await readForm(req, most) : await readAll(req, most)
    if (bytes.length === 0) throw problem.badRequest('body_missing', 'This route needs a picture.')
    return bytes
  } catch (error) {
    if (!req.complete) discard(req)
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
 * Discards the rest of a refused body. A client that is still sending would miss the answer if the connection closed at
 * once, so 256 KiB more are read and thrown away, and the connection stays open for 2 s.
 */
function discard(req: IncomingMessage) {
  let more = 0
  req.on('error', () => undefined)
  req.on('data', (chunk: Buffer) => {
    more += chunk.length
    if (more > 256 * 1024) req.pause()
  })
  setTimeout(() => req.complete || req.socket.destroy(), 2000).unref()
  req.resume()
}
