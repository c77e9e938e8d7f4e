import { createHash } from 'node:crypto'
import { z } from 'zod'
import { problem } from '../platform/problem.ts'
import type { Product, ProductQuery } from './schema.ts'

/** Where a page ended: the last product's value in the order, and its id. */
export interface Position {
  key: string | number
  id: string
  /** The search found nothing as it was written, so the walk goes through what is spelled alike. */
  alike: boolean
}

// PostgreSQL's text cannot hold a null character.
const key = z.string().refine((text) => !text.includes('\0'))
const texts = z.object({ f: z.string(), k: key, i: z.uuid(), a: z.boolean() })
const forms = {
  name: texts,
  price: texts.extend({ k: z.int() }),
  // As PostgreSQL writes it in the time zone of its session; it reads neither the year 0 nor an offset of a day.
  created: texts.extend({
    k: z.iso.datetime({ offset: true }).regex(/^[1-9]\d{3}-.{14}(\.\d{1,6})?(Z|[+-](0\d|1[0-4]):\d\d)$/),
  }),
}

/** The order that a sort names, without its direction. */
export const orderOf = (sort: ProductQuery['sort']) => sort.replace('-', '') as keyof typeof forms

const keyOf = { name: 'name', price: 'price', created: 'createdAt' } as const

/** The opaque cursor after `last`. */
export const writeCursor = (query: ProductQuery, last: Product, alike: boolean) =>
  Buffer.from(
    JSON.stringify({ f: fingerprint(query), k: last[keyOf[orderOf(query.sort)]], i: last.id, a: alike }),
  ).toString('base64url')

/** Reads the cursor of `query`; a 400 where it was made for another filter or sort, or is none at all. */
export function readCursor(query: ProductQuery): Position | undefined {
  if (!query.cursor) return undefined
  let raw: unknown
  try {
    raw = JSON.parse(Buffer.from(query.cursor, 'base64url').toString())
  } catch {
    throw problem.badCursor()
  }
  const made = z.object({ f: z.string() }).safeParse(raw)
  if (made.success && made.data.f !== fingerprint(query))
    throw problem.badRequest('cursor_mismatch', 'The cursor belongs to another filter or sort; begin without it.')
  const read = forms[orderOf(query.sort)].safeParse(raw)
  if (!read.success) throw problem.badCursor()
  return { key: read.data.k, id: read.data.i, alike: read.data.a }
}

const fingerprint = ({ q, category, minPrice, maxPrice, inStock, sort }: ProductQuery) =>
  createHash('sha256')
    .update(JSON.stringify([q ?? '', category ?? '', minPrice, maxPrice, inStock, sort]))
    .digest('base64url')
    .slice(0, 12)
