import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { Agent as PlainAgent, request as plainRequest } from 'node:http'
import { Agent as TlsAgent, request as tlsRequest } from 'node:https'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import type { Client, ClientOptions } from 'minio'
import type { Config } from './config.ts'
import { problem } from './problem.ts'

/** Bytes from `start` to `end`, both included. */
export interface Range {
  start: number
  end: number
}

/**
 * Files by key, such as `avatar/ab12….webp`. What is not there is undefined; a store that does not answer, or refuses
 * this shop, is a 503.
 */
export interface Objects {
  put(key: string, bytes: Buffer, type: string): Promise<void>
  /** The bytes, all or those of a range that lies within them, and how many they are. */
  get(key: string, range?: Range): Promise<{ body: Readable; size: number } | undefined>
  stat(key: string): Promise<{ size: number } | undefined>
  /** What is not there counts as removed. */
  remove(key: string): Promise<void>
  /** The keys of all objects, in no order; what others keep there, under other names, is left out. */
  list(): AsyncIterable<string>
  /** Throws when the store cannot be used. */
  check(): Promise<void>
}

type Settings = Pick<
  Config<'auth'>,
  'S3_URL' | 'S3_BUCKET' | 'S3_REGION' | 'S3_ACCESS_KEY' | 'S3_SECRET_KEY' | 'S3_CA' | 'OBJECTS_DIR' | 'CONN_TIMEOUT'
>

/** The store that the settings name: any S3, or else a directory. Nothing is connected to yet. */
export function openObjects(settings: Settings): Objects & Disposable {
  return settings.S3_URL ? openBucket(settings, settings.S3_URL) : openDirectory(settings.OBJECTS_DIR as string)
}

const wellFormed = /^[a-z]+\/[\w-]+(\.[a-z]+)?$/
function checked(key: string) {
  if (!wellFormed.test(key)) throw new TypeError(`${JSON.stringify(key)} is no key of an object`)
  return key
}

const outOfReach = (cause: unknown) =>
  Object.assign(problem.unavailable('The object store is out of reach; try again in a moment.'), { cause })

async function reached<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw error instanceof TypeError ? error : outOfReach(error)
  }
}

async function unlessMissing<T>(codes: readonly string[], work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (codes.includes((error as { code?: string }).code ?? '')) return undefined
    throw error
  }
}

function openBucket(settings: Settings, url: string): Objects & Disposable {
  const { S3_BUCKET: bucket, S3_REGION: region, S3_ACCESS_KEY, S3_SECRET_KEY, S3_CA, CONN_TIMEOUT } = settings
  const { protocol, hostname, port } = new URL(url)
  const isTls = protocol === 'https:'
  const agent = isTls ? new TlsAgent({ keepAlive: true, ca: S3_CA }) : new PlainAgent({ keepAlive: true })
  // Silence, also while connecting. A new bucket's first write takes SeaweedFS 5 s.
  const timeout = CONN_TIMEOUT + 10_000
  const request = ((options: object, answer: never) => {
    const outgoing = (isTls ? tlsRequest : plainRequest)({ ...options, timeout }, answer)
    return outgoing.once('timeout', () => outgoing.destroy(new Error(`no answer in ${timeout} ms`)))
  }) as typeof plainRequest
  const options: ClientOptions = {
    endPoint: hostname.replace(/^\[|\]$/g, ''),
    port: port ? Number(port) : undefined,
    useSSL: isTls,
    accessKey: S3_ACCESS_KEY,
    secretKey: S3_SECRET_KEY,
    // Told, so that the client need not ask.
    region,
    pathStyle: true,
    transport: { request },
    transportAgent: agent,
    // It says its retries on the console, and callers have retries of their own.
    retryOptions: { disableRetry: true },
  }
  let opening: Promise<Client> | undefined
  // Loaded when first used: it costs a third of a second, and a shop with a directory never needs it.
  const client = () => {
    opening ??= import('minio').then((minio) => new minio.Client(options))
    return opening
  }
  const missing = ['NoSuchKey', 'NotFound', 'NoSuchBucket']
  const make = async (s3: Client) => {
    await unlessMissing(['BucketAlreadyOwnedByYou', 'BucketAlreadyExists'], s3.makeBucket(bucket, region))
  }

  return {
    put: (key, bytes, type) =>
      reached(
        (async () => {
          const s3 = await client()
          const write = () => s3.putObject(bucket, checked(key), bytes, bytes.length, { 'Content-Type': type })
          if (await unlessMissing(['NoSuchBucket'], write())) return
          await make(s3)
          await write()
        })(),
      ),
    get: (key, range) =>
      reached(
        unlessMissing(
          missing,
          (async () => {
            const s3 = await client()
            const body = range
              ? await s3.getPartialObject(bucket, checked(key), range.start, range.end - range.start + 1)
              : await s3.getObject(bucket, checked(key))
            const { headers } = body as Readable & { headers: Record<string, string> }
            return { body, size: Number(headers['content-length']) }
          })(),
        ),
      ),
    async stat(key) {
      const found = client().then((s3) => s3.statObject(bucket, checked(key)))
      const known = await reached(unlessMissing(missing, found))
      return known && { size: known.size }
    },
    remove: (key) =>
      reached(
        (async () => {
          const s3 = await client()
          await unlessMissing(missing, s3.removeObject(bucket, checked(key)))
        })(),
      ),
    async *list() {
      const s3 = await client()
      try {
        for await (const { name } of s3.listObjectsV2(bucket, '', true))
          if (wellFormed.test(name ?? '')) yield name as string
      } catch (error) {
        if (!missing.includes((error as { code?: string }).code ?? '')) throw outOfReach(error)
      }
    },
    async check() {
      const s3 = await client()
      if (!(await s3.bucketExists(bucket))) await make(s3)
    },
    [Symbol.dispose]: () => agent.destroy(),
  }
}

function openDirectory(dir: string): Objects & Disposable {
  const place = (key: string) => join(dir, checked(key))
  const missing = ['ENOENT', 'ENOTDIR']

  async function write(path: string, bytes: Buffer) {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    const fresh = `${path}.${randomUUID()}`
    try {
      await using file = await open(fresh, 'wx', 0o600)
      await file.writeFile(bytes)
      await file.sync()
      // Whoever reads gets the old file or the whole new one.
      await rename(fresh, path)
    } catch (error) {
      await rm(fresh, { force: true })
      throw error
    }
  }

  return {
    put: async (key, bytes) => reached(write(place(key), bytes)),
    async get(key, range) {
      const file = await reached(unlessMissing(missing, open(place(key))))
      if (!file) return undefined
      const size = range ? range.end - range.start + 1 : (await file.stat()).size
      return { body: file.createReadStream(range), size }
    },
    async stat(key) {
      const known = await reached(unlessMissing(missing, stat(place(key))))
      return known && { size: known.size }
    },
    remove: async (key) => reached(rm(place(key), { force: true })),
    async *list() {
      const rooms = await reached(unlessMissing(missing, readdir(dir)))
      // A room may be a link to a folder; a file of such a name is another's.
      for (const room of rooms?.filter((name) => /^[a-z]+$/.test(name)) ?? [])
        for (const name of (await reached(unlessMissing(['ENOTDIR'], readdir(join(dir, room))))) ?? [])
          if (wellFormed.test(`${room}/${name}`)) yield `${room}/${name}`
    },
    async check() {
      await mkdir(dir, { recursive: true, mode: 0o700 })
    },
    [Symbol.dispose]: () => {},
  }
}
