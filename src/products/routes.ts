import type { Context } from 'koa'
import { v7 as newId } from 'uuid'
import { type Db, violates } from '../platform/db.ts'
import { problem } from '../platform/problem.ts'
import { Id, type Route, route } from '../platform/routes.ts'
import { readCursor, writeCursor } from './cursor.ts'
import { etag, versionsIn } from './etag.ts'
import { NewProduct, Product, ProductFacts, ProductPage, ProductQuery, ProductStock, StockChange } from './schema.ts'
import {
  addProduct,
  changeStock,
  deleteProduct,
  findProduct,
  listProducts,
  replaceProduct,
  setStock,
  spelledAlike,
  stockOf,
  versionOf,
} from './store.ts'

interface Deps {
  db: Db
}

/** The catalogue's routes; `db` is used only when one of them is called. */
export const routes = ({ db }: Deps): Route[] => [
  route({
    method: 'GET',
    path: '/product',
    access: 'public',
    summary: 'List products by page: searched, filtered and sorted, the newest first unless said otherwise.',
    query: ProductQuery,
    answers: { 200: ProductPage },
    problems: ['400 cursor_mismatch', '400 bad_cursor'],
    async handle({ query }) {
      const position = readCursor(query)
      const { q, limit, ...filter } = query
      // One more than asked for tells whether there is a next page.
      const list = (words?: { text: string; alike: boolean }) =>
        listProducts(db, { ...filter, words }, position, limit + 1)
      const mended = async (text: string) => ({ text: await spelledAlike(db.knex, text), alike: true })

      let alike = position?.alike ?? false
      let found = await list(q ? (alike ? await mended(q) : { text: q, alike }) : undefined)
      if (q && found.length === 0 && !position) {
        alike = true
        found = await list(await mended(q))
      }
      const items = found.slice(0, limit)
      const last = found.length > limit ? items.at(-1) : undefined
      const next = last === undefined ? null : writeCursor(query, JSON.parse(last), alike)
      return `{"items":[${items.join()}],"next":${JSON.stringify(next)}}`
    },
  }),

  route({
    method: 'POST',
    path: '/product',
    access: 'product:write',
    summary: 'Add a product, with its first stock.',
    body: NewProduct,
    answers: { 201: Product },
    problems: ['409 sku_taken'],
    async handle({ ctx, body }) {
      const id = newId()
      const product = await unlessTaken(body.sku, addProduct(db.knex, id, body))
      ctx.set({ ETag: etag(product.version), Location: `/product/${id}` })
      return product.item
    },
  }),

  route({
    method: 'GET',
    path: '/product/{id}',
    access: 'PRODUCT_READ',
    summary:
      'Read a product. The ETag stands for its facts and not for its stock, which every sale changes: ' +
      'the header Product-Stock tells the stock of this moment, in a 304 too.',
    params: Id,
    headers: ['If-None-Match'],
    answers: { 200: Product, 304: null },
    async handle({ ctx, params }) {
      const product = await findProduct(db, params.id)
      if (!product) throw problem.notFound('product', params.id)
      ctx.set({
        ETag: etag(product.version),
        'Product-Stock': String(product.stock),
        'Cache-Control': 'no-cache',
      })
      const known = versionsIn(ctx.get('If-None-Match'))
      if (known !== '*' && !known.includes(product.version)) return product.item
      ctx.status = 304
      return undefined
    },
  }),

  route({
    method: 'PUT',
    path: '/product/{id}',
    access: 'product:write',
    summary: 'Replace all facts of a product. Its stock has a route of its own.',
    params: Id,
    body: ProductFacts,
    headers: ['If-Match!'],
    answers: { 200: Product },
    problems: ['409 sku_taken', '412 stale', '428 precondition_required'],
    async handle({ ctx, params, body }) {
      const versions = expectedVersions(ctx)
      const product = await unlessTaken(body.sku, replaceProduct(db.knex, params.id, versions, body))
      if (!product) throw await missed(db, params.id)
      ctx.set('ETag', etag(product.version))
      return product.item
    },
  }),

  route({
    method: 'DELETE',
    path: '/product/{id}',
    access: 'product:write',
    summary: 'Take a product out of the catalogue. Orders keep what they say of it, and its sku may be used again.',
    params: Id,
    headers: ['If-Match!'],
    answers: { 204: null },
    problems: ['412 stale', '428 precondition_required'],
    async handle({ ctx, params }) {
      if (!(await deleteProduct(db.knex, params.id, expectedVersions(ctx)))) throw await missed(db, params.id)
    },
  }),

  route({
    method: 'PUT',
    path: '/product/{id}/stock',
    access: 'product:write',
    summary: 'Set the stock of a product, or change it by a number, never below zero.',
    params: Id,
    body: StockChange,
    answers: { 200: ProductStock },
    problems: ['409 stock_out_of_range'],
    async handle({ params: { id }, body }) {
      const stock =
        body.stock === undefined
          ? await changeStock(db.knex, id, body.change ?? 0)
          : await setStock(db.knex, id, body.stock)
      if (stock !== undefined) return { id, stock }
      const available = await stockOf(db.knex, id)
      if (available === undefined) throw problem.notFound('product', id)
      throw problem.conflict(
        'stock_out_of_range',
        `There are ${available}; this change would leave what stock can be.`,
        {
          available,
        },
      )
    },
  }),
]

function expectedVersions(ctx: Context) {
  const header = ctx.get('If-Match')
  if (!header)
    throw problem.preconditionRequired('Say in If-Match which version this is about: the ETag of a GET, or *.')
  return versionsIn(header)
}

/** Why a conditional write found nothing to write. */
async function missed(db: Db, id: string) {
  const version = await versionOf(db.knex, id)
  return version === undefined
    ? problem.notFound('product', id)
    : problem.stale(`The product is at ${etag(version)} by now; read it again.`)
}

async function unlessTaken<T>(sku: string, write: Promise<T>): Promise<T> {
  try {
    return await write
  } catch (error) {
    if (violates(error, 'product_sku_key')) throw problem.conflict('sku_taken', `Another product has the sku ${sku}.`)
    throw error
  }
}
