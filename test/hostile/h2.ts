import { connect } from 'node:tls'
import fc from 'fast-check'
import { hidden } from './bytes.ts'

/**
 * HTTP/2 by hand, since no client sends what it must not: frames (RFC 9113), headers as literals without table or Huffman
 * code (RFC 7541), and of an answer its status and body.
 */
export type Header = [name: string, value: string]
export const types = { data: 0, headers: 1, priority: 2, reset: 3, settings: 4, ping: 6, goaway: 7, window: 8, more: 9 }
const endStream = 1
const endHeaders = 4

export function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** A number of HPACK after a prefix of so many bits. */
function integer(bits: number, value: number): Buffer {
  const most = 2 ** bits - 1
  if (value < most) return Buffer.from([value])
  const bytes = [most]
  let rest = value - most
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128)
  return Buffer.from([...bytes, rest])
}
const text = (value: string) => {
  const bytes = Buffer.from(value, 'latin1')
  return Buffer.concat([integer(7, bytes.length), bytes])
}
/** Headers as a block, each in `latin1` as it stands, valid or not. */
export const block = (headers: Header[]): Buffer =>
  Buffer.concat(headers.flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]))

const uint32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
const setting = (id: number, value: number) => Buffer.concat([Buffer.from([0, id]), uint32(value)])
const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
/** Answers may be as long as they like. */
export const hello = Buffer.concat([
  preface,
  frame(types.settings, 0, 0, setting(4, 2 ** 30)),
  frame(types.window, 0, 0, uint32(2 ** 30)),
])
/** A client that takes no byte of any answer. */
export const deafHello = Buffer.concat([preface, frame(types.settings, 0, 0, setting(4, 0))])

export const basic = (method: string, path: string): Header[] => [
  [':method', method],
  [':scheme', 'https'],
  [':authority', 'shop'],
  [':path', path],
]
/** A request of one block of headers, cut into as many frames, and a body in one or none. */
export function request(stream: number, headers: Header[], body?: string, pieces = 1): Buffer {
  const all = block(headers)
  const size = Math.ceil(all.length / pieces)
  const parts = Array.from({ length: pieces }, (_, n) => all.subarray(n * size, (n + 1) * size))
  const end = body === undefined ? endStream : 0
  return Buffer.concat([
    ...parts.map((part, n) =>
      frame(n ? types.more : types.headers, (n === pieces - 1 ? endHeaders : 0) | (n ? 0 : end), stream, part),
    ),
    ...(body === undefined ? [] : [frame(types.data, endStream, stream, Buffer.from(body, 'latin1'))]),
  ])
}

export interface Reply {
  /** By stream; 0 while nothing was answered. */
  streams: Map<number, { status: number; text: string }>
  /** Requests and connections that the edge gave up. */
  refusals: number
  /** The connection was not let go within 20 s after this side had said that it is done. */
  late: boolean
}
const shortStatus: Record<number, number> = { 8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500 }
/** nginx puts the status first, as an entry of HPACK's table or as three digits. */
function statusOf(headers: Buffer) {
  const first = headers[0] as number
  return first >= 0x80 ? (shortStatus[first - 0x80] ?? 0) : Number(headers.subarray(2, 5).toString('latin1'))
}

/**
 * Writes bytes as they stand over TLS and reads the frames that come. This side says that it is done once `answers` requests
 * have their whole answer; where it cannot know how many will, once nothing more has come for 150 ms.
 */
export const talk = (url: string, bytes: Buffer, answers = Number.POSITIVE_INFINITY): Promise<Reply> =>
  new Promise((resolve) => {
    const patience = Number.isFinite(answers) ? 10_000 : 150
    const { hostname, port } = new URL(url)
    const socket = connect({ host: hostname, port: Number(port), ALPNProtocols: ['h2'], rejectUnauthorized: false })
    const reply: Reply = { streams: new Map(), refusals: 0, late: false }
    let got = Buffer.alloc(0)
    let left = answers
    let quiet = setTimeout(() => socket.end(), 5000)
    const end = setTimeout(() => {
      reply.late = true
      socket.destroy()
    }, 25_000)
    socket.on('secureConnect', () => {
      socket.write(bytes)
    })
    socket.on('data', (chunk: Buffer) => {
      got = Buffer.concat([got, chunk])
      while (got.length >= 9 && got.length >= 9 + got.readUIntBE(0, 3)) {
        const [type = 0, flags = 0] = got.subarray(3, 5)
        const stream = got.readUInt32BE(5)
        const payload = got.subarray(9, 9 + got.readUIntBE(0, 3))
        const answer = reply.streams.get(stream) ?? { status: 0, text: '' }
        if (type === types.headers) reply.streams.set(stream, { ...answer, status: statusOf(payload) })
        if (type === types.data)
          reply.streams.set(stream, { ...answer, text: answer.text + payload.toString('latin1') })
        if (type === types.reset || type === types.goaway) reply.refusals++
        if ((type === types.headers || type === types.data) && flags & endStream && --left === 0) socket.end()
        got = got.subarray(9 + payload.length)
      }
      clearTimeout(quiet)
      quiet = setTimeout(() => socket.end(), patience)
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(quiet)
      clearTimeout(end)
      resolve(reply)
    })
  })

const one = <T>(...values: T[]) => fc.constantFrom(...values)
const odd = fc.string({ unit: fc.nat(255).map((code) => String.fromCharCode(code)), maxLength: 20 })
const mostly = (good: fc.Arbitrary<string>, bad: fc.Arbitrary<string>) =>
  fc.oneof({ weight: 20, arbitrary: good }, { weight: 2, arbitrary: bad }, { weight: 1, arbitrary: odd })

const rarely = <T>(arbitrary: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 9, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary })
const method = mostly(
  one('GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'PATCH'),
  one('', 'get', 'CONNECT', 'TRACE', 'OPTIONS', 'GET / HTTP/1.1\r\nX: ', 'GE\0T', 'G'.repeat(9000), 'PRI'),
)
const path = mostly(
  one('/product?limit=2', '/order', '/cart', '/auth/refresh', '/profile', '/healthz', '/notification/preferences'),
  one(
    ...['', '*', '//', '/../..', '/%', '/%c0%af', '/\0', '/a b', '/#x', '/product HTTP/1.1\r\nHost: x', '/é', '/authz'],
    ...['https://shop/product', 'shop:443', `/${'a'.repeat(9000)}`, '/-/auth/public', '/%2e%2e/metrics', '/\r\n/'],
  ),
)
const authority = mostly(one('shop', 'shop:443'), one('', 'a, b', '[::1', 'a@b', 'shop\r\nX: y', 'é', 'x'.repeat(9000)))
const value = fc.oneof(odd, one('1', '', ' ', '\0', 'a\r\nX: y', 'a\nb', ' a ', 'é', '\x7f', 'x'.repeat(9000)))
const anyHeader: fc.Arbitrary<Header> = fc.oneof(
  {
    weight: 3,
    arbitrary: one<Header>(
      ['accept', 'text/plain'],
      ['content-type', 'application/json'],
      ['authorization', 'Bearer a.b.c'],
      ['if-none-match', '*'],
      ['cookie', 'a=b'],
    ),
  },
  one<Header>(
    ...([
      ['content-length', '2'],
      ['content-length', '99999999999'],
      ['content-length', '-1'],
      ['transfer-encoding', 'chunked'],
      ['connection', 'close'],
      ['connection', 'x-auth-assertion'],
      ['upgrade', 'h2c'],
      ['te', 'gzip'],
      ['host', 'another'],
      ['host', ''],
      ['expect', '100-continue'],
      ['cookie', ''],
      ['range', 'bytes=-1'],
      ['Accept', 'upper case'],
      [':path', '/order'],
      [':status', '200'],
      [':protocol', 'websocket'],
      ['content-encoding', 'gzip'],
    ] satisfies Header[]),
  ),
  fc.tuple(
    one(
      'x-a',
      'accept',
      'x_a',
      'X-A',
      '',
      ' ',
      'x a',
      'x:a',
      'x\r\ny',
      'x\0',
      'é',
      ':',
      ':x',
      'x'.repeat(9000),
      'if-match',
    ),
    value,
  ),
)
/** Headers that are mostly a request, in an order that is mostly right. */
const anyHeaders: fc.Arbitrary<Header[]> = fc
  .record({ method, path, authority, scheme: mostly(one('https'), one('http', '', 'https\r\nx: y')) })
  .map((it) => [
    [':method', it.method] as Header,
    [':scheme', it.scheme] as Header,
    [':authority', it.authority] as Header,
    [':path', it.path] as Header,
  ])
  .chain((pseudo) =>
    fc
      .record({
        more: fc.array(anyHeader, { maxLength: 3 }),
        missing: rarely(fc.nat(3)),
        isMixed: rarely(fc.constant(true)),
      })
      .map(({ more, missing, isMixed }) => {
        const kept = pseudo.filter((_, n) => n !== missing)
        return isMixed ? [...more.slice(0, 1), ...kept, ...more.slice(1)] : [...kept, ...more]
      }),
  )
const body = fc.oneof(
  fc.constant(undefined),
  one('', '{}', '{"refreshToken":"x"}', '2\r\n{}\r\n0\r\n\r\n', 'x'.repeat(16_000)),
  odd,
)
/** Mostly in their order: the parts of a connection are numbered by it. */
const streams = fc.oneof({ weight: 12, arbitrary: fc.constant(undefined) }, one(1, 3, 0, 2, 2 ** 31 - 1))
const anyFrame: fc.Arbitrary<(n: number) => Buffer> = fc
  .record({
    type: fc.oneof(fc.nat(9), one(10, 16, 255)),
    flags: one(0, 1, 4, 5, 8, 0x20, 0x2d, 255),
    stream: one(0, 0, 1, 1, 3, 2, 2 ** 31 - 1, 2 ** 32 - 1),
    payload: fc.oneof(
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
      one(4, 5, 8).map((length) => Buffer.alloc(length)),
      // Indexed fields without an entry, a table too large, a Huffman code that ends nowhere, a length that never ends.
      one(
        [0xff, 0xff, 0xff, 0xff, 0x7f],
        [0x3f, 0xe1, 0xff, 0x7f],
        [0, 0x85, 255, 255, 255, 255, 255],
        [0, 0x7f, 0xff],
      ).map((bytes) => Buffer.from(bytes)),
      fc.constant(Buffer.alloc(20_000)),
    ),
  })
  .map(
    ({ type, flags, stream, payload }) =>
      () =>
        frame(type, flags, stream, payload),
  )
const anyRequestFrames = fc.record({ stream: streams, headers: anyHeaders, body, pieces: one(1, 1, 1, 2, 7) }).map(
  ({ stream, headers, body, pieces }) =>
    (n: number) =>
      request(stream ?? 2 * n + 1, headers, body, pieces),
)
/** A connection's bytes: a hello, requests and frames that are right, odd, or have a byte changed. */
export const anyConnection: fc.Arbitrary<Buffer> = fc
  .record({
    parts: fc.array(fc.oneof({ weight: 6, arbitrary: anyRequestFrames }, { weight: 1, arbitrary: anyFrame }), {
      minLength: 1,
      maxLength: 5,
    }),
    start: fc.oneof({ weight: 12, arbitrary: fc.constant(hello) }, one(preface, Buffer.alloc(0), deafHello)),
    changes: fc.array(fc.record({ at: fc.nat(400), byte: fc.nat(255) }), { maxLength: 2 }),
    isChanged: rarely(fc.constant(true)),
  })
  .map(({ parts, start, changes, isChanged }) => {
    const rest = Buffer.concat(parts.map((part, n) => part(n)))
    for (const { at, byte } of isChanged ? changes : []) if (at < rest.length) rest[at] = byte
    return Buffer.concat([start, rest])
  })

const inner = `GET ${hidden} HTTP/1.1\r\nHost: shop\r\nX: y\r\n\r\n`
const chunked = `0\r\n\r\n${inner}`
/** A request with another in its body, or in the text of a header, for whoever turns it into HTTP/1.1. */
export const anySmuggler2: fc.Arbitrary<Buffer> = fc
  .record({
    first: one('POST /auth/refresh', 'GET /product', 'PUT /cart', 'GET /healthz', 'HEAD /product'),
    framing: one<Header[]>(
      [],
      [['content-length', '0']],
      [['content-length', String(inner.length)]],
      [['content-length', String(chunked.length + 1)]],
      [
        ['content-length', '0'],
        ['content-length', String(chunked.length)],
      ],
      [['transfer-encoding', 'chunked']],
      [['transfer-encoding', ' chunked']],
      [['Transfer-Encoding', 'chunked']],
      [['transfer-encoding\r\nx', 'chunked']],
      [
        ['connection', 'transfer-encoding'],
        ['transfer-encoding', 'chunked'],
      ],
      [['x', 'y\r\nTransfer-Encoding: chunked']],
      [['x', 'y\nTransfer-Encoding: chunked']],
      [['x', 'y\r\nContent-Length: 0']],
      [['x: y\r\ntransfer-encoding', 'chunked']],
      [['transfer_encoding', 'chunked']],
      [['expect', '100-continue']],
      [['upgrade', 'websocket']],
    ),
    body: one(undefined, inner, chunked, `2\r\n{}\r\n0\r\n\r\n${inner}`, `0\r\nX: ${inner}`),
    place: fc.option(one('value', 'name', 'path', 'method', 'authority', 'scheme', 'cookie', 'query'), { freq: 2 }),
    end: one('\r\n', '\n', '\r', '\0'),
  })
  .map(({ first, framing, body, place, end }) => {
    const [verb = '', path = ''] = first.split(' ')
    const text = `x HTTP/1.1${end}Host: shop${end}${end}${inner}`
    const pseudo = basic(
      place === 'method' ? `GET /product ${text}` : verb,
      place === 'path' ? `${path} ${text}` : place === 'query' ? `${path}?${text}` : path,
    ).map(
      ([name, value]): Header => [
        name,
        place === name.slice(1) && name !== ':path' && name !== ':method' ? text : value,
      ],
    )
    const more: Header[] = [
      ...framing,
      ...(place === 'value' || place === 'cookie'
        ? [[place === 'value' ? 'x' : 'cookie', `y${end}${text}`] as Header]
        : []),
      ...(place === 'name' ? [[`x: y${end}${end}${inner}`, 'z'] as Header] : []),
    ]
    return Buffer.concat([hello, request(1, [...pseudo, ['content-type', 'application/json'], ...more], body)])
  })
