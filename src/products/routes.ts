import type { Context } from 'koa'
import { v7 as newId } from 'uuid'
import { type Db, retryConflicts, violates } from '../platform/db.ts'
import { FileHash } from '../platform/pictures.ts'
import { problem } from '../platform/problem.ts'
import { Id, type Route, route } from '../platform/routes.ts'
import { readCursor, writeCursor } from './cursor.ts'
import { etag, versionsIn } from './etag.ts'
import { changeImage, type Deps, removeProduct } from './image.ts'
import { NewProduct, Product, ProductFacts, ProductPage, ProductQuery, ProductStock, StockChange } from './schema.ts'
import {
  addProduct,
  changeStock,
  findProduct,
  listProducts,
  replaceProduct,
  setStock,
  spelledAlike,
  stockOf,
  versionOf,
} from './store.ts'

/** Bytes of the longest facts of a product: a client that escapes to ASCII makes up to 12 of a character, 124,000 in all. */
const longestFacts = 128 * 1024

/** The room's part of the route table; `deps` is used only when a handler runs. */
export const routes = (deps: Deps): Route[] => [
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
        listProducts(deps.db, { ...filter, words }, position, limit + 1)
      const respelled = async (text: string) => ({ text: await spelledAlike(deps.db.knex, text), alike: true })

      let alike = position?.alike ?? false
      let found = await list(q ? (alike ? await respelled(q) : { text: q, alike }) : undefined)
      if (q && found.length === 0 && !position) {
        alike = true
        found = await list(await respelled(q))
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
    bodyLimit: longestFacts,
    sends: ['ETag', 'Location'],
    answers: { 201: Product },
    problems: ['409 sku_taken'],
    async handle({ ctx, body }) {
      const id = newId()
      const product = await unlessSkuTaken(body.sku, () => addProduct(deps.db.knex, id, body))
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
    sends: ['ETag', 'Product-Stock'],
    answers: { 200: Product, 304: null },
    async handle({ ctx, params }) {
      const product = await findProduct(deps.db, params.id)
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
    bodyLimit: longestFacts,
    headers: ['If-Match!'],
    sends: ['ETag'],
    answers: { 200: Product },
    problems: ['409 sku_taken', '412 stale', '428 precondition_required'],
    async handle({ ctx, params, body }) {
      const versions = expectedVersions(ctx)
      const product = await unlessSkuTaken(body.sku, () => replaceProduct(deps.db.knex, params.id, versions, body))
      if (!product) throw await notWritten(deps.db, params.id)
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
      if (!(await removeProduct(deps, params.id, expectedVersions(ctx)))) throw await notWritten(deps.db, params.id)
    },
  }),

  route({
    method: 'PUT',
    path: '/product/{id}/image',
    access: 'product:write',
    upload: true,
    summary:
      'Set the picture of a product: a JPEG, PNG or WebP of at most 5 MiB. It is kept in 1024 and 256 pixels, which a ' +
      'smaller one does not grow to. The picture is one of the facts that the ETag stands for.',
    params: Id,
    headers: ['If-Match!'],
    sends: ['ETag'],
    answers: { 200: Product },
    problems: ['412 stale', '428 precondition_required'],
    async handle({ ctx, params: { id } }) {
      const versions = expectedVersions(ctx)
      // Asked before the body is read, and once more by the write.
      const current = await versionOf(deps.db.knex, id)
      if (current === undefined || (versions !== '*' && !versions.includes(current)))
        throw await notWritten(deps.db, id)
      const product = await changeImage(deps, id, versions, await deps.images.take(ctx))
      if (!product) throw await notWritten(deps.db, id)
      ctx.set('ETag', etag(product.version))
      return product.item
    },
  }),

  route({
    method: 'DELETE',
    path: '/product/{id}/image',
    access: 'product:write',
    summary: 'Remove the picture of a product.',
    params: Id,
    headers: ['If-Match!'],
    sends: ['ETag'],
    answers: { 204: null },
    problems: ['412 stale', '428 precondition_required'],
    async handle({ ctx, params: { id } }) {
      const product = await changeImage(deps, id, expectedVersions(ctx), null)
      if (!product) throw await notWritten(deps.db, id)
      ctx.set('ETag', etag(product.version))
    },
  }),

  route({
    method: 'GET',
    path: '/image/{hash}',
    access: 'public',
    summary: 'A file of a picture. It stays for a day after the picture has changed.',
    params: FileHash,
    headers: ['Range', 'If-Range', 'If-None-Match'],
    sends: ['ETag', 'Content-Range'],
    answers: { 200: null, 206: null, 304: null },
    problems: ['416 range_not_satisfiable'],
    media: 'image/webp',
    handle: ({ ctx, params }) => deps.images.send(ctx, params.hash),
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
          ? await changeStock(deps.db.knex, id, body.change ?? 0)
          : await setStock(deps.db.knex, id, body.stock)
      if (stock !== undefined) return { id, stock }
      const available = await stockOf(deps.db.knex, id)
      if (available === undefined) throw problem.notFound('product', id)
      throw problem.conflict(
        'stock_out_of_range',
        `There are ${available}; the change would take the stock out of its range of 0 to 1,000,000,000.`,
        {
          available,
        },
      )
    },
  }),
]

/** The versions of If-Match; throws 428 without that header. */
function expectedVersions(ctx: Context) {
  const header = ctx.get('If-Match')
  if (!header)
    throw problem.preconditionRequired('Send If-Match with the version that is meant: the ETag of a GET, or *.')
  return versionsIn(header)
}

/** The problem of a conditional write that found nothing to write: 404, or 412 for another version. */
async function notWritten(db: Db, id: string) {
  const version = await versionOf(db.knex, id)
  return version === undefined
    ? problem.notFound('product', id)
    : problem.stale(`The product is at ${etag(version)} by now; read it again.`)
}

/** Writes the facts of a product. Tried again, since an import that notes the same new words in another order may deadlock. */
async function unlessSkuTaken<T>(sku: string, write: () => Promise<T>): Promise<T> {
  try {
    return await retryConflicts(write)
  } catch (error) {
    if (violates(error, 'product_sku_key')) throw problem.conflict('sku_taken', `Another product has the sku ${sku}.`)
    throw error
  }
}
