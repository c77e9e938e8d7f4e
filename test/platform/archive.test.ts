import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import test, { type ExecutionContext } from 'ava'
import { readArchive, writeArchive } from '../../src/platform/archive.ts'
import { type Objects, openObjects } from '../../src/platform/objects.ts'

function store(t: ExecutionContext): Objects {
  const dir = mkdtempSync(join(tmpdir(), 'archive-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  return openObjects({ OBJECTS_DIR: dir } as Parameters<typeof openObjects>[0])
}
async function archive(objects: Objects) {
  const out = new PassThrough()
  const [count, bytes] = await Promise.all([writeArchive(objects, out), buffer(out)])
  return { count, bytes }
}

const key = `image/${'a'.repeat(64)}.webp`

test('objects into an archive and back → the same bytes under the same keys, also of none and of whole blocks', async (t) => {
  const [from, to] = [store(t), store(t)]
  t.is((await archive(from)).count, 0)
  for (const [name, size] of Object.entries({ [key]: 700, 'avatar/b.webp': 1024, 'avatar/c.webp': 0 }))
    await from.put(name, Buffer.alloc(size, size % 251), 'image/webp')
  const { count, bytes } = await archive(from)
  t.is(count, 3)
  t.is(await readArchive(to, Readable.from([bytes])), 3)
  t.deepEqual((await archive(to)).bytes, bytes)
  t.is(await readArchive(to, Readable.from([bytes])), 3)
})

test('an archive that ends early, or is none → an error that says so', async (t) => {
  const from = store(t)
  await from.put(key, Buffer.alloc(700, 1), 'image/webp')
  const { bytes } = await archive(from)
  for (const length of [0, 100, 600, 1024])
    await t.throwsAsync(readArchive(store(t), Readable.from([bytes.subarray(0, length)])), {
      message: /ends in the middle/,
    })
  bytes[3] = 0xff
  await t.throwsAsync(readArchive(store(t), Readable.from([bytes])), { message: /damaged/ })
})
