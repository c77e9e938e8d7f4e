import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import test from 'ava'
import type pg from 'pg'
import type { Product } from '../../src/products/schema.ts'
import { freeze } from '../chaos/faults.ts'
import { eventually } from '../support/shop.ts'
import { useProducts } from './role.ts'

const { shop, ask, add, connect } = useProducts(test)
const stockOf = async ({ id }: Product) => (await ask('GET', `/product/${id}`)).body.stock as number
const change = (id: string, body: unknown, as: 'staff' | 'customer' | undefined = 'staff') =>
  ask('PUT', `/product/${id}/stock`, { as, body })

const take = async (orders: pg.Client, lines: [Product | string, number][]) => {
  const ids = lines.map(([p]) => (typeof p === 'string' ? p : p.id))
  const quantities = lines.map(([, quantity]) => quantity)
  return (await orders.query('select * from products.take_stock($1, $2)', [ids, quantities])).rows
}

test.serial(
  'PUT /product/{id}/stock, once the database stood still for 10 s → what is answered with 200 is there',
  async (t) => {
    t.timeout(60_000)
    const product = await add({ stock: 5 })
    await using admin = await connect('admin')
    const sessions = async (condition = 'true') => {
      const { rows } = await admin.query(
        `select pid from pg_stat_activity
       where application_name = 'products' and datname = current_database() and ${condition}`,
      )
      return rows.map(({ pid }) => pid as number)
    }
    const log = () => readFileSync(shop.roles.products.log)
    const from = log().length
    const thaw = freeze(await sessions())
    t.teardown(thaw)
    await eventually('the relay gives up', async () => log().subarray(from).includes('outbox not moved'), 20_000)
    thaw()
    // What it had asked for is done now, mostly a BEGIN, and it does not know.
    await eventually(
      'that is done',
      async () => (await sessions(`(state = 'idle in transaction' or query = 'ROLLBACK')`)).length > 0,
    )
    t.is((await change(product.id, { stock: 12 })).status, 200)
    t.is(await stockOf(product), 12)
  },
)

test('PUT /product/{id}/stock → set or changed, and the ETag stays', async (t) => {
  const product = await add({ stock: 5 })
  const set = await change(product.id, { stock: 12 })
  t.is(set.status, 200)
  t.deepEqual(set.body, { id: product.id, stock: 12 })
  t.is((await change(product.id, { change: -3 })).body.stock, 9)
  t.is((await change(product.id, { change: 1 })).body.stock, 10)
  t.is((await change(product.id, { stock: 0 })).body.stock, 0)

  const read = await ask('GET', `/product/${product.id}`, { headers: { 'If-None-Match': '"v1"' } })
  t.is(read.status, 304)
  t.is(read.headers['product-stock'], '0')
  t.is((await ask('GET', `/product/${product.id}`)).body.stock, 0)
})

test('PUT /product/{id}/stock beyond its range → 409 with what there is, and nothing changes', async (t) => {
  const product = await add({ stock: 2 })
  for (const amount of [-3, 1_000_000_000]) {
    const answer = await change(product.id, { change: amount })
    t.is(answer.status, 409)
    t.is(answer.body.code, 'stock_out_of_range')
    t.is(answer.body.available, 2)
  }
  t.is(await stockOf(product), 2)
})

test('PUT /product/{id}/stock with other faults → 400, 401, 403, 404', async (t) => {
  const { id } = await add()
  const bodies = [
    {},
    { stock: -1 },
    { stock: 1, change: 1 },
    { change: 0.5 },
    { stock: '3' },
    { stock: 2e9 },
    { more: 1 },
  ]
  for (const body of bodies) t.is((await change(id, body)).status, 400, JSON.stringify(body))
  t.is((await ask('PUT', `/product/${id}/stock`, { body: { stock: 1 } })).status, 401)
  t.is((await change(id, { stock: 1 }, 'customer')).status, 403)
  t.is((await change(randomUUID(), { stock: 1 })).status, 404)
  t.is((await change(randomUUID(), { change: 1 })).status, 404)
})

test('PUT /product/{id}/stock, 20 changes at once → each counts', async (t) => {
  const product = await add({ stock: 10 })
  const answers = await Promise.all(Array.from({ length: 20 }, () => change(product.id, { change: -1 })))
  t.is(answers.filter((a) => a.status === 200).length, 10)
  t.is(answers.filter((a) => a.status === 409).length, 10)
  t.is(await stockOf(product), 0)
})

test('take_stock by orders → the lines as they are now, less stock, same version', async (t) => {
  await using orders = await connect('orders')
  const [a, b] = [await add({ stock: 5, price: 100 }), await add({ stock: 1, currency: 'USD' })]
  const lines = await take(orders, [
    [b, 1],
    [a, 2],
  ])
  const line = ({ id, sku, name, price, currency }: Product, quantity: number) => ({
    ...{ product_id: id, sku, name, currency, quantity },
    price: String(price),
  })
  t.deepEqual(
    new Set(lines.map((l) => JSON.stringify(Object.entries(l).sort()))),
    new Set([line(a, 2), line(b, 1)].map((l) => JSON.stringify(Object.entries(l).sort()))),
  )
  t.is(await stockOf(a), 3)
  t.is(await stockOf(b), 0)
  t.is((await ask('GET', `/product/${a.id}`)).headers.etag, '"v1"')

  await orders.query('select products.return_stock($1, $2)', [
    [a.id, b.id],
    [2, 1],
  ])
  t.is(await stockOf(a), 5)
  t.is(await stockOf(b), 1)
})

test('return_stock to a stock that was set to its most meanwhile → stays there, and the rest comes back', async (t) => {
  await using orders = await connect('orders')
  const [full, other] = [await add({ stock: 1_000_000_000 }), await add({ stock: 5 })]
  await take(orders, [
    [full, 2],
    [other, 1],
  ])
  await change(full.id, { stock: 999_999_999 })
  await orders.query('select products.return_stock($1, $2)', [
    [full.id, other.id],
    [2, 1],
  ])
  t.is(await stockOf(full), 1_000_000_000)
  t.is(await stockOf(other), 5)
})

test('take_stock, some lines not to be had → BO001 that names them all, and nothing is taken', async (t) => {
  await using orders = await connect('orders')
  const [good, low, gone] = [await add({ stock: 5 }), await add({ stock: 1 }), await add({ stock: 5 })]
  await ask('DELETE', `/product/${gone.id}`, { as: 'staff', headers: { 'If-Match': '*' } })
  const unknown = randomUUID()
  const error = await t.throwsAsync<pg.DatabaseError>(() =>
    take(orders, [
      [low, 2],
      [unknown, 3],
      [good, 5],
      [gone, 1],
    ]),
  )
  t.is(error?.code, 'BO001')
  t.is(error?.message, 'out_of_stock')
  const failed: { productId: string }[] = JSON.parse(error?.detail ?? '')
  const expected = [
    { productId: low.id, requested: 2, available: 1 },
    { productId: unknown, requested: 3, available: 0, missing: true },
    { productId: gone.id, requested: 1, available: 0, missing: true },
  ]
  t.deepEqual(
    failed,
    expected.toSorted((x, y) => (x.productId < y.productId ? -1 : 1)),
  )
  t.is(await stockOf(good), 5)
})

test('take_stock with a product twice, none of it, or unequal lists → refused', async (t) => {
  await using orders = await connect('orders')
  const product = await add({ stock: 5 })
  const lists: [unknown[], unknown[]][] = [
    [
      [product.id, product.id],
      [1, 1],
    ],
    [[product.id], [0]],
    [[product.id], [-1]],
    [[product.id], [null]],
    [[null], [1]],
    [[product.id, randomUUID()], [1]],
  ]
  for (const lists_ of lists) {
    const error = await t.throwsAsync<pg.DatabaseError>(() =>
      orders.query('select products.take_stock($1::uuid[], $2::int[])', lists_),
    )
    t.is(error?.code, '22023')
  }
  t.is(await stockOf(product), 5)
})

test('take_stock by many at once in crossing orders → no deadlock, and exactly what there was', async (t) => {
  const products = await Promise.all(Array.from({ length: 4 }, () => add({ stock: 40 })))
  const buyers = await Promise.all(Array.from({ length: 8 }, () => connect('orders')))
  let sold = 0
  const codes = new Set<string>()
  await Promise.all(
    buyers.map(async (buyer, n) => {
      for (let i = 0; i < 15; i++) {
        const from = (n + i) % 4
        const lines = [0, 1, 2].map((k) => products[(n % 2 ? from + k : from + 6 - k) % 4] as Product)
        await take(
          buyer,
          lines.map((p) => [p, 1]),
        ).then(
          () => sold++,
          (error) => codes.add(error.code),
        )
      }
    }),
  )
  await Promise.all(buyers.map((buyer) => buyer.end()))
  t.deepEqual([...codes], ['BO001'])
  const left = (await Promise.all(products.map(stockOf))).reduce((a, b) => a + b)
  t.is(left, 160 - 3 * sold)
  t.true(left < 160 && left >= 0)
})

test('quote by orders → live products with their stock, others left out', async (t) => {
  await using orders = await connect('orders')
  const [a, gone] = [await add({ stock: 3 }), await add()]
  await ask('DELETE', `/product/${gone.id}`, { as: 'staff', headers: { 'If-Match': '*' } })
  const { rows } = await orders.query('select * from products.quote($1)', [[gone.id, a.id, randomUUID()]])
  const { id, sku, name, currency } = a
  t.deepEqual(rows, [{ product_id: id, sku, name, price: '1250', currency, on_hand: 3 }])
})

test('the login of orders at the tables of products → refused; the functions at another role → refused', async (t) => {
  await using orders = await connect('orders')
  for (const table of ['product', 'stock', 'word'])
    for (const statement of [`select from products.${table}`, `delete from products.${table}`]) {
      const error = await t.throwsAsync<pg.DatabaseError>(() => orders.query(statement))
      t.is(error?.code, '42501', statement)
    }
  await using products = await connect('products')
  const error = await t.throwsAsync<pg.DatabaseError>(() => products.query(`select products.take_stock('{}', '{}')`))
  t.is(error?.code, '42501')
})
