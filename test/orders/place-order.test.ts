import { randomUUID } from 'node:crypto'
import anyTest, { type TestFn } from 'ava'
import { Order } from '../../src/orders/schema.ts'
import { eventually } from '../support/shop.ts'
import { useOrders } from './orders.ts'

const test = anyTest as TestFn
const { as, order, product, stock, sql, customer, eventsOf } = useOrders(test)
const ordersOf = async (id: string): Promise<number> =>
  Number((await sql('select count(*) from orders.order where user_id = $1', id))[0].count)
const keysOf = async (id: string): Promise<number> =>
  Number((await sql('select count(*) from orders.idempotency where user_id = $1', id))[0].count)

test('POST /order, two lines → 201 with names and prices of now, stock taken, the event told', async (t) => {
  const user = customer()
  const [a, b] = [await product({ price: 1050, stock: 5 }), await product({ price: 200, stock: 5 })]
  const answer = await order(user, {
    items: [
      { productId: a, quantity: 2 },
      { productId: b, quantity: 1 },
    ],
    expectedTotal: 2300,
  })
  t.is(answer.status, 201, answer.text)
  t.true(Order.safeParse(answer.body).success)
  t.is(answer.headers.location, `/order/${answer.body.id}`)
  t.is(answer.headers['idempotent-replayed'], undefined)
  t.like(answer.body, { status: 'pending', currency: 'EUR', total: 2300, paidAt: null })
  t.deepEqual([await stock(a), await stock(b)], [3, 4])
  t.deepEqual((await as(user, 'GET', `/order/${answer.body.id}`)).body, answer.body)

  const [event] = await eventually('the event', async () => {
    const found = await eventsOf(user)
    return found.length > 0 && found
  })
  t.is(event?.subject, 'msg.order.placed')
  t.like(event?.data, { orderId: answer.body.id, email: user.email, total: 2300, currency: 'EUR' })
  t.deepEqual(event?.data.lines, answer.body.items)
})

test('POST /order, key missing or not printable or too long → 400', async (t) => {
  const user = customer()
  const body = { items: [{ productId: await product(), quantity: 1 }] }
  t.like(await as(user, 'POST', '/order', body), { status: 400, body: { code: 'idempotency_key_missing' } })
  for (const key of ['naïve', 'x'.repeat(256)])
    t.like(await order(user, body, key), { status: 400, body: { code: 'idempotency_key_invalid' } })
  t.is((await order(user, body, `x ${'x'.repeat(253)}`)).status, 201)
})

test('POST /order, same key again → the same bytes, replayed; nothing happens twice', async (t) => {
  const user = customer()
  const [a, b] = [await product({ stock: 10 }), await product()]
  const key = randomUUID()
  const items = [
    { productId: a, quantity: 3 },
    { productId: b, quantity: 1 },
  ]
  const first = await order(user, { items }, key)
  await sql('update products.product set price = 7 where id = $1', a)
  await sql(`select orders.move(array[$1::uuid], 'paid', null)`, first.body.id)
  // The order of the lines is no part of what is ordered.
  const second = await order(user, { items: items.toReversed() }, key)
  t.is(second.status, 201)
  t.is(second.text, first.text)
  t.is(second.headers['idempotent-replayed'], 'true')
  t.is(second.headers.location, first.headers.location)
  t.is(await stock(a), 7)
  t.is(await ordersOf(user.id), 1)
})

test('POST /order, same key with another body → 422; same key of another user → an order', async (t) => {
  const [user, other] = [customer(), customer()]
  const productId = await product()
  const key = randomUUID()
  await order(user, { items: [{ productId, quantity: 1 }] }, key)
  for (const body of [
    { items: [{ productId, quantity: 2 }] },
    { items: [{ productId, quantity: 1 }], expectedTotal: 1000 },
    {},
  ])
    t.like(await order(user, body, key), { status: 422, body: { code: 'idempotency_mismatch' } })
  const theirs = await order(other, { items: [{ productId, quantity: 1 }] }, key)
  t.is(theirs.status, 201)
  t.is(theirs.headers['idempotent-replayed'], undefined)
})

test('POST /order, 50 at once with one key → exactly one order; the others wait or get the same bytes', async (t) => {
  const user = customer()
  const productId = await product({ stock: 100 })
  const key = randomUUID()
  const body = { items: [{ productId, quantity: 1 }] }
  const answers = await Promise.all(Array.from({ length: 50 }, () => order(user, body, key)))
  const placed = answers.filter((answer) => answer.status === 201)
  const waiting = answers.filter((answer) => answer.status === 409)
  t.is(placed.length + waiting.length, 50)
  t.is(placed.filter((answer) => answer.headers['idempotent-replayed'] === undefined).length, 1)
  t.is(new Set(placed.map((answer) => answer.text)).size, 1)
  for (const answer of waiting) {
    t.is(answer.body.code, 'in_flight')
    t.is(answer.headers['retry-after'], '1')
  }
  t.is((await order(user, body, key)).text, placed[0]?.text ?? '')
  t.is(await ordersOf(user.id), 1)
  t.is(await stock(productId), 99)
})

test('POST /order, key older than 24 hours → a new order under the key, which purge_keys leaves', async (t) => {
  const user = customer()
  const body = { items: [{ productId: await product(), quantity: 1 }] }
  const key = randomUUID()
  const first = await order(user, body, key)
  await order(user, body, 'other')
  await sql(`update orders.idempotency set created_at = now() - interval '25 hours' where user_id = $1`, user.id)
  const second = await order(user, body, key)
  t.is(second.status, 201)
  t.not(second.body.id, first.body.id)
  t.is((await order(user, body, key)).text, second.text)
  await sql('select orders.purge_keys(500)')
  t.is(await keysOf(user.id), 1)
})

test('POST /order, some lines cannot be had → 409 names each, and nothing is left behind', async (t) => {
  const user = customer()
  const [plenty, few, none] = [await product({ stock: 10 }), await product({ stock: 2 }), await product({ stock: 0 })]
  const unknown = randomUUID()
  const key = randomUUID()
  const items = [plenty, few, none, unknown].map((productId) => ({ productId, quantity: 3 }))
  const answer = await order(user, { items }, key)
  t.like(answer, { status: 409, body: { code: 'out_of_stock' } })
  const named = new Map<string, object>(answer.body.lines.map((line: { productId: string }) => [line.productId, line]))
  t.is(named.size, 3)
  t.like(named.get(few), { requested: 3, available: 2 })
  t.like(named.get(none), { requested: 3, available: 0 })
  t.like(named.get(unknown), { requested: 3, available: 0 })
  t.deepEqual([await stock(plenty), await stock(few)], [10, 2])
  t.deepEqual([await ordersOf(user.id), await keysOf(user.id)], [0, 0])

  // The key is free: mended, the order goes through, and its event is the user's only one.
  const mended = await order(user, { items: [{ productId: few, quantity: 2 }] }, key)
  t.is(mended.status, 201)
  const told = await eventually('the event', async () => {
    const found = await eventsOf(user)
    return found.length > 0 && found
  })
  t.deepEqual(
    told.map((event) => [event.subject, event.data.orderId]),
    [['msg.order.placed', mended.body.id]],
  )
})

test('POST /order, last items and many buyers → exactly as many orders as items', async (t) => {
  const [a, b] = [await product({ stock: 7 }), await product({ stock: 1000 })]
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, i) => {
      const items = [
        { productId: a, quantity: 1 },
        { productId: b, quantity: 1 },
      ]
      return order(customer(), { items: i % 2 ? items : items.toReversed() })
    }),
  )
  t.deepEqual(
    [201, 409].map((status) => answers.filter((answer) => answer.status === status).length),
    [7, 53],
  )
  t.deepEqual([await stock(a), await stock(b)], [0, 993])
})

test('POST /order, total not as expected → 409 price_changed with the total now, nothing taken', async (t) => {
  const user = customer()
  const productId = await product({ price: 500, stock: 9 })
  const answer = await order(user, { items: [{ productId, quantity: 2 }], expectedTotal: 999 })
  t.like(answer, { status: 409, body: { code: 'price_changed', total: 1000 } })
  t.is(await stock(productId), 9)
  t.deepEqual([await ordersOf(user.id), await keysOf(user.id)], [0, 0])
})

test('POST /order, two currencies or a total beyond 2^53 → 422, nothing taken', async (t) => {
  const [euro, dollar] = [await product({ stock: 5 }), await product({ currency: 'USD' })]
  const items = [euro, dollar].map((productId) => ({ productId, quantity: 1 }))
  t.like(await order(customer(), { items }), { status: 422, body: { code: 'mixed_currency' } })
  t.is(await stock(euro), 5)
  const dear = await product({ price: Number.MAX_SAFE_INTEGER, stock: 5 })
  const answer = await order(customer(), { items: [{ productId: dear, quantity: 2 }] })
  t.like(answer, { status: 422, body: { code: 'total_too_large' } })
  t.is(await stock(dear), 5)
  t.is((await order(customer(), { items: [{ productId: dear, quantity: 1 }] })).body.total, Number.MAX_SAFE_INTEGER)
})

test('POST /order, malformed bodies → 400 that names the field', async (t) => {
  const productId = await product()
  const line = { productId, quantity: 1 }
  const bodies: [unknown, string][] = [
    [{ items: [] }, 'items'],
    [{ items: [{ productId, quantity: 0 }] }, 'items.0.quantity'],
    [{ items: [{ productId, quantity: 100 }] }, 'items.0.quantity'],
    [{ items: [{ productId, quantity: 1.5 }] }, 'items.0.quantity'],
    [{ items: [{ productId: 'x', quantity: 1 }] }, 'items.0.productId'],
    [{ items: [line, { ...line, productId: productId.toUpperCase() }] }, 'items'],
    [{ items: Array.from({ length: 101 }, () => ({ productId: randomUUID(), quantity: 1 })) }, 'items'],
    [{ items: [{ ...line, price: 1 }] }, 'items.0.price'],
    [{ items: [line], userId: randomUUID() }, 'userId'],
    [{ items: [line], expectedTotal: -1 }, 'expectedTotal'],
    [[], 'body'],
  ]
  for (const [body, field] of bodies) {
    const answer = await order(customer(), body)
    t.like(answer, { status: 400, body: { code: 'invalid_input' } }, JSON.stringify(body))
    t.is(answer.body.errors[0].field, field)
  }
})
