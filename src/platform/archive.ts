import type { Readable, Writable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import type { Objects } from './objects.ts'

const block = 512
const padding = (size: number) => (block - (size % block)) % block
const types: Record<string, string> = { webp: 'image/webp' }

/** Writes every object as a tar (ustar), in order of key; returns how many. Those that are removed meanwhile are left out. */
export async function writeArchive(objects: Objects, out: Writable): Promise<number> {
  const keys: string[] = []
  for await (const key of objects.list()) keys.push(key)
  keys.sort()
  let count = 0
  async function* parts() {
    for (const key of keys) {
      const found = await objects.get(key)
      if (!found) continue
      const bytes = await buffer(found.body)
      yield header(key, bytes.length)
      yield bytes
      yield Buffer.alloc(padding(bytes.length))
      count++
    }
    yield Buffer.alloc(2 * block)
  }
  await pipeline(parts, out)
  return count
}

/** Puts every object of such a tar; returns how many. Throws where the tar is not whole. */
export async function readArchive(objects: Objects, from: Readable): Promise<number> {
  const read = byteReader(from)
  for (let count = 0; ; count++) {
    const head = await read(block)
    if (head.every((byte) => byte === 0)) return count
    const { key, size } = parse(head)
    const bytes = await read(size)
    await read(padding(size))
    const known = await objects.stat(key)
    if (known?.size === size) continue
    await objects.put(key, bytes, types[key.split('.').at(-1) ?? ''] ?? 'application/octet-stream')
  }
}

function header(key: string, size: number) {
  if (Buffer.byteLength(key) > 100) throw new RangeError(`the key ${key} is too long for an archive`)
  const head = Buffer.alloc(block)
  const octal = (value: number, width: number) => value.toString(8).padStart(width - 1, '0')
  head.write(key, 0)
  head.write(octal(0o644, 8), 100)
  head.write(octal(0, 8), 108)
  head.write(octal(0, 8), 116)
  head.write(octal(size, 12), 124)
  head.write(octal(0, 12), 136)
  head.write('0ustar\u000000', 156)
  head.write(`${octal(checksum(head), 7)}\0 `, 148)
  return head
}

/** The checksum of a header, in which the checksum itself counts as eight spaces. */
const checksum = (head: Buffer) =>
  head.reduce((sum, byte, place) => sum + (place >= 148 && place < 156 ? 0x20 : byte), 0)

function parse(head: Buffer) {
  const word = (start: number, end: number) => head.toString('latin1', start, end).split('\0')[0] as string
  const number = (start: number, end: number) => Number.parseInt(word(start, end).trim(), 8)
  if (number(148, 156) !== checksum(head)) throw new Error('this is no archive of objects, or it is damaged')
  return { key: word(0, 100), size: number(124, 136) }
}

/** Reads exactly as many bytes as asked for. */
function byteReader(from: Readable) {
  const chunks = from[Symbol.asyncIterator]()
  let rest = Buffer.alloc(0)
  return async (size: number) => {
    const parts = [rest]
    let length = rest.length
    while (length < size) {
      const { value, done } = await chunks.next()
      if (done) throw new Error('the archive of objects ends in the middle')
      parts.push(value)
      length += value.length
    }
    const all = Buffer.concat(parts)
    rest = all.subarray(size)
    return all.subarray(0, size)
  }
}
