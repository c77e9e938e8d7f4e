import { createHash } from 'node:crypto'
import type { Context } from 'koa'
import { z } from 'zod'
import { Picture } from '../events.ts'
import { type Message, NotYet, Permanent } from './bus.ts'
import type { Role } from './config.ts'
import type { Db, Knex } from './db.ts'
import type { Logger } from './log.ts'
import type { Objects } from './objects.ts'
import { Problem, problem } from './problem.ts'
import type { Sizes } from './resize-worker.ts'
import { receivePicture } from './upload.ts'

/**
 * A picture's files stay for a day after nothing refers to them any more: pages, lists and mails that were made before
 * the change still show them.
 */
const keptFor = 24 * 3600 * 1000
/** Clocks of the database and of this process may differ by as much. */
const slack = 60_000

/** `{hash}` of a path: one file of a picture. */
export const FileHash = z.object({
  hash: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .meta({ examples: ['0123456789abcdef'.repeat(4)] }),
})
/** The two files of a picture as the API shows them. */
export const PictureLinks = z.object({ large: z.string(), small: z.string() }).meta({
  description: 'Paths of the picture in two sizes, WebP; what a path shows never changes.',
  examples: [{ large: `/image/${'0123456789abcdef'.repeat(4)}`, small: `/image/${'fedcba9876543210'.repeat(4)}` }],
})

export interface Pictures {
  /** Takes the picture of a request's body; its files are stored before this returns. Throws as `receivePicture`. */
  take(ctx: Context): Promise<Picture>
  /** Stores the two files of a picture. */
  keep(files: { large: Buffer; small: Buffer }): Promise<Picture>
  /** Notes that a picture was just given up, in the transaction that does. */
  release(trx: Knex.Transaction, picture: Picture): Promise<unknown>
  /** Answers with a file: whole, a range of it, or 304. Throws 404 and 416. */
  send(ctx: Context, hash: string): Promise<void>
  /** Ends a message of a changed picture: a day later, those of its files that nothing refers to are removed. */
  tidy(message: Message): Promise<void>
}

interface Options {
  db: Db
  schema: Role
  objects: Objects
  /** The first part of every key and path, as `avatar` in /avatar/{hash}. */
  name: string
  sizes: Sizes
  log: Logger
}

/**
 * The pictures of one role. `<schema>.object` holds a row for each file in the store, and the view
 * `<schema>.object_in_use` every hash that is referred to. A file is written after its row was touched, and removed only
 * while its row is locked: so none is removed that another upload is just bringing again.
 */
export function openPictures({ db, schema, objects, name, sizes, log }: Options): Pictures {
  const keyOf = (hash: string) => `${name}/${hash}.webp`
  const touch = (knex: Knex, hashes: string[]) =>
    knex.raw(
      `insert into ${schema}.object as o (hash)
       select hash from unnest(?::text[]) hash order by hash
       on conflict on constraint object_pkey do update set used_at = now()`,
      [hashes],
    )

  async function keep({ large, small }: { large: Buffer; small: Buffer }): Promise<Picture> {
    const picture = { large: sha256(large), small: sha256(small) }
    await touch(db.knex, [...new Set(Object.values(picture))])
    await Promise.all([
      objects.put(keyOf(picture.large), large, 'image/webp'),
      objects.put(keyOf(picture.small), small, 'image/webp'),
    ])
    return picture
  }

  /** Removes those of the files that nothing has referred to for a day; how many. */
  const removeUnused = (files: string[]) =>
    db.knex.transaction(async (trx) => {
      // Who removes the same ones waits: to pass over them would end its message as done, though the other one may fail.
      // What is in use is asked as a value: as a condition it would be a join with every picture there is.
      const { rows } = await trx.raw(
        `select o.hash from ${schema}.object o
         where o.hash = any (?) and o.used_at < now() - make_interval(secs => ?)
           and not (select exists (select from ${schema}.object_in_use u where u.hash = o.hash))
         order by o.hash for update`,
        [files, keptFor / 1000],
      )
      const hashes = rows.map((row: { hash: string }) => row.hash) as string[]
      await Promise.all(hashes.map((hash) => objects.remove(keyOf(hash))))
      if (hashes.length > 0) await trx.raw(`delete from ${schema}.object where hash = any (?)`, [hashes])
      return hashes.length
    })

  return {
    async take(ctx) {
      return keep(await receivePicture(ctx, sizes))
    },
    keep,
    release: (trx, picture) =>
      trx.raw(
        `update ${schema}.object set used_at = now()
         where hash = any (array(select hash from ${schema}.object where hash = any (?) order by hash for update))`,
        [Object.values(picture)],
      ),

    async send(ctx, hash) {
      const tag = `"${hash}"`
      const key = keyOf(hash)
      const known = ctx
        .get('If-None-Match')
        .split(',')
        .map((one) => one.trim())
      // Who says the tag has the file, which never changes: the store is not asked, nor need it be there.
      const isFresh =
        known.includes(tag) ||
        known.includes(`W/${tag}`) ||
        (known.includes('*') && (await objects.stat(key)) !== undefined)
      const found = isFresh ? undefined : await find(ctx, tag, key)
      if (!isFresh && !found) throw problem.notFound(name, hash)
      ctx.set({
        ETag: tag,
        'Cache-Control': 'public, max-age=31536000, immutable',
        'Content-Security-Policy': "default-src 'none'",
        'X-Content-Type-Options': 'nosniff',
      })
      if (!found) {
        ctx.status = 304
        return
      }
      ctx.set({
        'Accept-Ranges': 'bytes',
        'Content-Disposition': `inline; filename="${name}-${hash.slice(0, 12)}.webp"`,
      })
      if (found.range) ctx.set('Content-Range', `bytes ${found.range}`)
      ctx.status = found.range ? 206 : 200
      // A file that breaks off must not look like a whole one.
      found.body?.once('error', (err) => {
        log.warn({ err, hash }, 'picture broke off')
        ctx.res.destroy()
      })
      ctx.body = found.body ?? ''
      ctx.type = 'image/webp'
      ctx.length = found.size
    },

    async tidy(message) {
      const change = Change.safeParse(message.data)
      if (!change.success) throw new Permanent(`not a change of a picture: ${change.error.message}`.slice(0, 300))
      if (!change.data.replaced) return
      const wait = Date.parse(change.data.at) + keptFor + slack - Date.now()
      if (wait > 0) throw new NotYet(wait)
      const removed = await removeUnused(Object.values(change.data.replaced))
      if (removed > 0) log.info({ removed }, 'unused pictures removed')
    },
  }

  /** The file, or the range of it that is asked for; of a HEAD its size alone. Undefined where there is no such file. */
  async function find(ctx: Context, tag: string, key: string) {
    const header = ctx.get('Range')
    const isRanged = header !== '' && ctx.method === 'GET' && ['', tag].includes(ctx.get('If-Range'))
    if (ctx.method === 'HEAD' || isRanged) {
      const known = await objects.stat(key)
      if (!known) return undefined
      const range = isRanged ? readRange(header, known.size) : undefined
      if (range) {
        const part = await objects.get(key, range)
        return part && { ...part, range: `${range.start}-${range.end}/${known.size}` }
      }
      if (ctx.method === 'HEAD') return known as { size: number; body?: undefined; range?: undefined }
    }
    const whole = await objects.get(key)
    return whole && { ...whole, range: undefined }
  }
}

const Change = z.object({ replaced: Picture.nullable(), at: z.iso.datetime() })

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

/** The one range that a header asks for; undefined where the whole answers it; 416 where it lies outside. */
function readRange(header: string, size: number) {
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(header.replaceAll(' ', '')) ?? []
  if (first === '' && last === '') return undefined
  if (first !== '' && last !== '' && Number(first) > Number(last)) return undefined
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1)
  if (start >= size || (first === '' && Number(last) === 0))
    throw new Problem(
      416,
      'range_not_satisfiable',
      `The file has ${size} bytes.`,
      {},
      { 'Content-Range': `bytes */${size}` },
    )
  return { start, end }
}

/** The paths of a picture under its name, or null. */
export const linksTo = (name: string, picture: Picture | null) =>
  picture && { large: `/${name}/${picture.large}`, small: `/${name}/${picture.small}` }
