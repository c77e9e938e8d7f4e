import { randomUUID } from 'node:crypto'
import anyTest, { type TestFn } from 'ava'
import { Cart } from '../../src/orders/schema.ts'
import { useOrders } from './orders.ts'

const test = anyTest as TestFn
const { as, order, product, stock, sql, customer } = useOrders(test)
type User = ReturnType<typeof customer>
const put = (user: User, productId: string, quantity: number) =>
  as(user, 'PUT', `/cart/items/${productId}`, { quantity })

test('GET /cart, nothing put yet → an empty cart', async (t) => {
  const answer = await as(customer(), 'GET', '/cart')
  t.is(answer.status, 200)
  t.deepEqual(answer.body, { items: [], totals: [], version: 0, updatedAt: null })
})

test('PUT /cart/items/{productId}, then again → one line with the last quantity, price of now, version grown', async (t) => {
  const user = customer()
  const [a, b] = [await product({ price: 250 }), await product({ price: 100, currency: 'USD' })]
  await put(user, a, 1)
  await put(user, b, 2)
  const answer = await put(user, a, 3)
  t.is(answer.status, 200)
  t.true(Cart.safeParse(answer.body).success)
  t.deepEqual(
    answer.body.items.map((item: { productId: string; quantity: number }) => [item.productId, item.quantity]),
    [
      [a, 3],
      [b, 2],
    ],
  )
  t.deepEqual(answer.body.totals, [
    { currency: 'EUR', total: 750 },
    { currency: 'USD', total: 200 },
  ])
  t.is(answer.body.version, 3)
  await sql('update products.product set price = 300 where id = $1', a)
  t.is((await as(user, 'GET', '/cart')).body.items[0].price, 300)
})

test('PUT /cart/items/{productId}, no such product or a bad quantity or too many products → refused', async (t) => {
  const user = customer()
  t.like(await put(user, randomUUID(), 1), { status: 404, body: { code: 'not_found' } })
  t.is((await put(user, 'x', 1)).status, 404)
  const productId = await product()
  for (const quantity of [0, 100, 1.5]) t.is((await put(user, productId, quantity)).status, 400)
  for (let i = 0; i < 100; i++) await put(user, await product(), 1)
  t.like(await put(user, productId, 1), { status: 422, body: { code: 'cart_full' } })
  t.is((await as(user, 'GET', '/cart')).body.items.length, 100)
})

test('GET /cart, a product gone and one sold out → kept, marked, not in the total', async (t) => {
  const user = customer()
  const [good, gone, few] = [await product({ price: 10 }), await product(), await product({ stock: 2 })]
  for (const id of [good, gone, few]) await put(user, id, 3)
  await sql('update products.product set deleted_at = now() where id = $1', gone)
  const { body } = await as(user, 'GET', '/cart')
  t.deepEqual(
    body.items.map((item: { available: boolean }) => item.available),
    [true, false, false],
  )
  t.is(body.items[1].name, null)
  t.deepEqual(body.totals, [{ currency: 'EUR', total: 30 }])
})

test('DELETE /cart/items/{productId} and /cart → 204; another user keeps theirs', async (t) => {
  const [user, other] = [customer(), customer()]
  const [a, b, c] = [await product(), await product(), await product()]
  for (const id of [a, b, c]) await put(user, id, 1)
  await put(other, a, 5)
  t.is((await as(user, 'DELETE', `/cart/items/${a}`)).status, 204)
  t.is((await as(user, 'GET', '/cart')).body.items.length, 2)
  t.is((await as(user, 'DELETE', '/cart')).status, 204)
  t.is((await as(user, 'DELETE', '/cart')).status, 204)
  t.like((await as(user, 'GET', '/cart')).body, { items: [], version: 5 })
  t.is((await as(other, 'GET', '/cart')).body.items.length, 1)
})

test('POST /order of the cart → its lines are ordered and it is empty; again → 422; the first key → replayed', async (t) => {
  const user = customer()
  const [a, b] = [await product({ price: 100, stock: 5 }), await product({ price: 50, stock: 5 })]
  await put(user, a, 2)
  await put(user, b, 1)
  const key = randomUUID()
  const first = await order(user, {}, key)
  t.is(first.status, 201, first.text)
  t.is(first.body.total, 250)
  t.deepEqual([await stock(a), await stock(b)], [3, 4])
  t.like((await as(user, 'GET', '/cart')).body, { items: [], version: 3 })
  t.like(await order(user, {}), { status: 422, body: { code: 'cart_empty' } })
  const again = await order(user, {}, key)
  t.is(again.text, first.text)
})

test('POST /order of the cart, one line not to be had → 409 and the cart as it was', async (t) => {
  const user = customer()
  const [a, b] = [await product({ stock: 5 }), await product({ stock: 0 })]
  await put(user, a, 2)
  await put(user, b, 1)
  t.like(await order(user, {}), { status: 409, body: { code: 'out_of_stock' } })
  t.like((await as(user, 'GET', '/cart')).body, { items: { length: 2 }, version: 2 })
  t.is(await stock(a), 5)
})

test('POST /order of lines in the body → the cart stays', async (t) => {
  const user = customer()
  const productId = await product()
  await put(user, productId, 2)
  t.is((await order(user, { items: [{ productId, quantity: 1 }] })).status, 201)
  t.is((await as(user, 'GET', '/cart')).body.items.length, 1)
})

test('POST /order of the cart, ten at once with keys of their own → one order', async (t) => {
  const user = customer()
  const productId = await product({ stock: 50 })
  await put(user, productId, 2)
  const answers = await Promise.all(Array.from({ length: 10 }, () => order(user, {})))
  t.deepEqual(
    [201, 422].map((status) => answers.filter((answer) => answer.status === status).length),
    [1, 9],
  )
  t.is(await stock(productId), 48)
})
