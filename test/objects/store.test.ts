import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import test, { type ExecutionContext } from 'ava'
import { Client } from 'minio'
import { findSeaweedfs } from '../../src/embedded/programs.ts'
import { type Seaweedfs, startSeaweedfs } from '../../src/embedded/seaweedfs.ts'
import { openObjects } from '../../src/platform/objects.ts'
import { Problem } from '../../src/platform/problem.ts'

type Settings = Parameters<typeof openObjects>[0]
const newDir = (name: string) => mkdtempSync(join(tmpdir(), name))
const common = { S3_BUCKET: 'bodega', S3_REGION: 'us-east-1', CONN_TIMEOUT: 3000 } as Settings

let seaweedfs: Seaweedfs
test.before(async (t) => {
  t.timeout(300_000)
  const dir = newDir('weed-')
  seaweedfs = await startSeaweedfs({ program: findSeaweedfs(t.log), dir, log: join(dir, 'log') })
})
test.after.always(() => seaweedfs?.stop())

const bucketOf = ({ url, accessKey, secretKey }: Seaweedfs): Settings => ({
  ...common,
  S3_URL: url,
  S3_ACCESS_KEY: accessKey,
  S3_SECRET_KEY: secretKey,
})
const directory = newDir('objects-')
const given = process.env.S3_TEST_URL

/** What the contract is tested on. `S3_TEST_URL=http://key:secret@host:port/bucket` adds any S3. */
const stores: Record<string, () => Settings> = {
  'a directory': () => ({ ...common, OBJECTS_DIR: join(directory, 'made') }),
  SeaweedFS: () => bucketOf(seaweedfs),
  ...(given && {
    S3_TEST_URL: () => {
      const { protocol, host, username, password, pathname, searchParams } = new URL(given)
      return {
        ...common,
        S3_URL: `${protocol}//${host}`,
        S3_ACCESS_KEY: decodeURIComponent(username),
        S3_SECRET_KEY: decodeURIComponent(password),
        S3_BUCKET: pathname.slice(1) || 'bodega-test',
        S3_REGION: searchParams.get('region') ?? 'us-east-1',
        S3_CA: process.env.S3_TEST_CA,
      }
    },
  }),
}

const newKey = () => `test/${randomBytes(32).toString('hex')}.webp`

for (const [name, settings] of Object.entries(stores)) {
  test.serial(`${name}, nothing made yet → is made by its first use`, async (t) => {
    using objects = openObjects(settings())
    const key = newKey()
    t.is(await objects.get(key), undefined)
    t.is(await objects.stat(key), undefined)
    await objects.put(key, Buffer.from('first'), 'image/webp')
    await objects.check()
    t.is((await read(objects, key))?.toString(), 'first')
    await objects.remove(key)
  })

  test.serial(`${name}, put → get and stat give the same bytes, again and over an older one`, async (t) => {
    using objects = openObjects(settings())
    const key = newKey()
    for (const bytes of [randomBytes(3), randomBytes(70_000), randomBytes(5 * 1024 * 1024), Buffer.alloc(1)]) {
      await objects.put(key, bytes, 'image/webp')
      t.deepEqual(await objects.stat(key), { size: bytes.length })
      t.true((await read(objects, key))?.equals(bytes))
    }
    await objects.remove(key)
  })

  test.serial(`${name}, ranges → those bytes and no others`, async (t) => {
    using objects = openObjects(settings())
    const key = newKey()
    await objects.put(key, Buffer.from('0123456789'), 'image/webp')
    for (const [start, end] of [
      [0, 0],
      [0, 9],
      [3, 5],
      [9, 9],
    ] as const)
      t.is((await read(objects, key, { start, end }))?.toString(), '0123456789'.slice(start, end + 1))
    await objects.remove(key)
    t.is(await objects.get(key, { start: 0, end: 1 }), undefined)
  })

  test.serial(`${name}, remove → gone, and once more is no fault`, async (t) => {
    using objects = openObjects(settings())
    const key = newKey()
    await objects.put(key, Buffer.from('x'), 'image/webp')
    await objects.remove(key)
    await objects.remove(key)
    t.is(await objects.get(key), undefined)
    t.is(await objects.stat(key), undefined)
  })

  test.serial(`${name}, one key written and read by many at once → always one of them whole`, async (t) => {
    using objects = openObjects(settings())
    const key = newKey()
    const versions = Array.from({ length: 6 }, (_, i) => Buffer.alloc(200_000, i))
    await objects.put(key, versions[0] as Buffer, 'image/webp')
    const hashes = new Set(versions.map(hashOf))
    await Promise.all([
      ...versions.map((bytes) => objects.put(key, bytes, 'image/webp')),
      ...Array.from({ length: 20 }, async () => t.true(hashes.has(hashOf((await read(objects, key)) as Buffer)))),
    ])
    await objects.remove(key)
  })

  test.serial(`${name}, list → every key, and none that was removed`, async (t) => {
    using objects = openObjects(settings())
    const keys = Array.from({ length: 30 }, newKey)
    await Promise.all(keys.map((key) => objects.put(key, Buffer.from('x'), 'image/webp')))
    await objects.remove(keys[0] as string)
    const listed: string[] = []
    for await (const key of objects.list()) listed.push(key)
    t.deepEqual(listed.filter((key) => keys.includes(key)).sort(), keys.slice(1).sort())
    await Promise.all(keys.map((key) => objects.remove(key)))
  })

  test.serial(`${name}, keys that lead elsewhere → refused`, async (t) => {
    using objects = openObjects(settings())
    for (const key of ['../x', 'test/../../x', '/etc/passwd', 'test//x', 'test/x\0', 'test/..', '', 'test/a/b', '.']) {
      for (const act of [
        () => objects.get(key),
        () => objects.stat(key),
        () => objects.remove(key),
        () => objects.put(key, Buffer.from('x'), 'image/webp'),
      ])
        await t.throwsAsync(act(), { instanceOf: TypeError }, key)
    }
  })
}

const unavailable = async (t: ExecutionContext, work: Promise<unknown>) => {
  const error = await t.throwsAsync(work, { instanceOf: Problem })
  t.is(error?.status, 503)
}

test('nothing listens at S3_URL → 503 for every act, and the check says why', async (t) => {
  using objects = openObjects({ ...bucketOf(seaweedfs), S3_URL: 'http://127.0.0.1:1' })
  const key = newKey()
  await unavailable(t, objects.put(key, Buffer.from('x'), 'image/webp'))
  await unavailable(t, objects.get(key))
  await unavailable(t, objects.stat(key))
  await unavailable(t, objects.remove(key))
  await t.throwsAsync(objects.check(), { message: /ECONNREFUSED/ })
})

test('a key that the S3 does not know → 503, and the check says why', async (t) => {
  using objects = openObjects({ ...bucketOf(seaweedfs), S3_SECRET_KEY: 'wrong' })
  await unavailable(t, objects.put(newKey(), Buffer.from('x'), 'image/webp'))
  await t.throwsAsync(objects.check())
})

test('S3 over TLS of a private authority → works with S3_CA, and is refused without', async (t) => {
  const dir = newDir('weed-tls-')
  const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')]
  const subject = ['-subj', '/CN=objects', '-addext', 'subjectAltName=IP:127.0.0.1']
  const form = ['-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', keyFile, '-out', certFile]
  execFileSync('openssl', ['req', '-x509', ...form, ...subject], { stdio: 'ignore' })
  await using server = await startSeaweedfs({
    program: findSeaweedfs(t.log),
    dir,
    log: join(dir, 'log'),
    tls: { certFile, keyFile },
  })
  using objects = openObjects({ ...bucketOf(server), S3_CA: readFileSync(certFile, 'utf8') })
  const key = newKey()
  await objects.put(key, Buffer.from('over TLS'), 'image/webp')
  t.is((await read(objects, key))?.toString(), 'over TLS')
  using strict = openObjects(bucketOf(server))
  await unavailable(t, strict.get(key))
})

test('a directory that cannot be one → 503, and nothing half written stays', async (t) => {
  const dir = newDir('objects-')
  const file = join(dir, 'file')
  writeFileSync(file, '')
  using objects = openObjects({ ...common, OBJECTS_DIR: file })
  await unavailable(t, objects.put(newKey(), Buffer.from('x'), 'image/webp'))
  t.is(await objects.get(newKey()), undefined)
  await t.throwsAsync(objects.check())
})

test('a directory, many written → holds exactly those files', async (t) => {
  const dir = newDir('objects-')
  using objects = openObjects({ ...common, OBJECTS_DIR: dir })
  const keys = Array.from({ length: 20 }, newKey)
  await Promise.all(keys.map((key) => objects.put(key, Buffer.from('x'), 'image/webp')))
  t.deepEqual(readdirSync(join(dir, 'test')).sort(), keys.map((key) => key.slice('test/'.length)).sort())
  t.true(existsSync(join(dir, 'test')))
})

test('a directory or bucket where others keep things too → a list of what is ours', async (t) => {
  const dir = newDir('objects-')
  writeFileSync(join(dir, '.DS_Store'), '')
  mkdirSync(join(dir, 'lost+found'))
  writeFileSync(join(dir, 'lost+found', 'x'), '')
  const { hostname, port } = new URL(seaweedfs.url)
  const { accessKey, secretKey } = seaweedfs
  const s3 = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey })
  for (const settings of [
    { ...common, OBJECTS_DIR: dir },
    { ...bucketOf(seaweedfs), S3_BUCKET: 'shared' },
  ]) {
    using objects = openObjects(settings)
    const key = newKey()
    await objects.put(key, Buffer.from('x'), 'image/webp')
    if (settings.S3_BUCKET === 'shared')
      for (const other of ['notes/Read me.txt', 'a/b/c', 'alone']) await s3.putObject('shared', other, 'x')
    const listed = async () => {
      const keys: string[] = []
      for await (const one of objects.list()) keys.push(one)
      return keys
    }
    t.deepEqual(await listed(), [key])
    if (settings.S3_BUCKET === 'shared') continue

    // On another disk, as a room may come to lie.
    const room = join(dir, key.slice(0, key.indexOf('/')))
    renameSync(room, join(dir, 'Elsewhere'))
    symlinkSync('Elsewhere', room)
    writeFileSync(join(dir, 'notes'), '')
    t.deepEqual(await listed(), [key])
  }
})

const hashOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
async function read(objects: ReturnType<typeof openObjects>, key: string, range?: { start: number; end: number }) {
  const found = await objects.get(key, range)
  if (!found) return undefined
  const bytes = await buffer(found.body)
  if (bytes.length !== found.size) throw new Error(`${bytes.length} bytes came, and ${found.size} were told`)
  return bytes
}
