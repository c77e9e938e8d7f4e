import anyTest, { type TestFn } from 'ava'
import { eventually } from '../support/shop.ts'
import { useOrders } from './orders.ts'

const test = anyTest as TestFn
const { as, order, product, stock, sql, customer, staff, age, loginAs, eventsOf } = useOrders(test)
type User = ReturnType<typeof customer>

async function placed(user: User, { stock = 10, quantity = 1 } = {}) {
  const productId = await product({ stock })
  const answer = await order(user, { items: [{ productId, quantity }] })
  return { id: answer.body.id as string, productId }
}
const to = (user: User, id: string, verb: string) => as(user, 'POST', `/order/${id}/${verb}`)
const history = async (id: string): Promise<string[]> =>
  (await sql('select status from orders.order_event where order_id = $1 order by at, status', id)).map((r) => r.status)
/** Waits until the user's events are exactly these, in any order. */
const told = (user: User, ...subjects: string[]) =>
  eventually(
    `events ${subjects}`,
    async () => `${(await eventsOf(user)).map((e) => e.subject).sort()}` === `${subjects.sort()}`,
  )

test('pay, ship, deliver by staff → each once, with its time, event and history', async (t) => {
  const [user, boss] = [customer(), staff()]
  const { id } = await placed(user)
  t.is((await to(user, id, 'pay')).status, 403)
  t.like(await to(boss, id, 'ship'), { status: 409, body: { code: 'wrong_state', current: 'pending' } })
  t.like(await to(boss, id, 'pay'), { status: 200, body: { status: 'paid', shippedAt: null } })
  t.like(await to(boss, id, 'pay'), { status: 409, body: { code: 'wrong_state', current: 'paid' } })
  t.is((await to(boss, id, 'ship')).body.status, 'shipped')
  t.like(await to(user, id, 'cancel'), { status: 409, body: { code: 'wrong_state', current: 'shipped' } })
  const { body } = await to(boss, id, 'deliver')
  t.truthy(body.paidAt && body.shippedAt && body.deliveredAt)
  t.deepEqual(await history(id), ['pending', 'paid', 'shipped', 'delivered'])
  await told(user, 'msg.order.placed', 'msg.order.paid', 'msg.order.shipped', 'msg.order.delivered')
  t.pass()
})

test("another user's order → 404 to read and to cancel; staff may do both", async (t) => {
  const [user, other, boss] = [customer(), customer(), staff()]
  const { id, productId } = await placed(user)
  t.like(await as(other, 'GET', `/order/${id}`), { status: 404, body: { code: 'not_found' } })
  t.like(await to(other, id, 'cancel'), { status: 404, body: { code: 'not_found' } })
  t.is((await as(boss, 'GET', `/order/${id}`)).body.id, id)
  t.is((await to(boss, id, 'cancel')).body.status, 'cancelled')
  t.is(await stock(productId), 10)
  t.is((await as(user, 'GET', '/order/x')).status, 404)
})

test('cancel, ten at once → one 200, stock returned once, one event', async (t) => {
  const user = customer()
  const { id, productId } = await placed(user, { stock: 10, quantity: 4 })
  t.is(await stock(productId), 6)
  const answers = await Promise.all(Array.from({ length: 10 }, () => to(user, id, 'cancel')))
  t.is(answers.filter((answer) => answer.status === 200).length, 1)
  t.is(answers.filter((answer) => answer.body.code === 'wrong_state').length, 9)
  t.is(await stock(productId), 10)
  await told(user, 'msg.order.placed', 'msg.order.cancelled')
})

test('cancel of a paid order → its stock returns, and the event says that it was paid', async (t) => {
  const user = customer()
  const { id, productId } = await placed(user)
  await to(staff(), id, 'pay')
  t.is((await to(user, id, 'cancel')).body.status, 'cancelled')
  t.is(await stock(productId), 10)
  await told(user, 'msg.order.placed', 'msg.order.paid', 'msg.order.cancelled')
  t.true((await eventsOf(user)).find(({ subject }) => subject === 'msg.order.cancelled')?.data.paid)
})

test.serial('expire_due against pay, 30 orders → each ends as one of them, and the stock tells which', async (t) => {
  const [user, boss] = [customer(), staff()]
  const productId = await product({ stock: 100 })
  const ids: string[] = []
  for (let i = 0; i < 30; i++) ids.push((await order(user, { items: [{ productId, quantity: 1 }] })).body.id)
  await Promise.all(ids.map((id) => age(id, 31)))
  const [paid] = await Promise.all([
    Promise.all(ids.map((id) => to(boss, id, 'pay'))),
    ...Array.from({ length: 4 }, () => loginAs('notifications', 'select orders.expire_due(batch => 5)')),
  ])
  await loginAs('notifications', 'select orders.expire_due()')
  const rows = await sql('select status, count(*)::int from orders.order where user_id = $1 group by status', user.id)
  const count = Object.fromEntries(rows.map((row) => [row.status, row.count]))
  t.is((count.paid ?? 0) + (count.expired ?? 0), 30)
  t.is(paid.filter((answer) => answer.status === 200).length, count.paid ?? 0)
  t.is(await stock(productId), 100 - (count.paid ?? 0))
  for (const answer of paid.filter((answer) => answer.status !== 200))
    t.like(answer, { status: 409, body: { current: 'expired' } })
  await eventually('every event', async () => (await eventsOf(user)).length === 60)
})

test.serial('expire_due → only pending orders past their time, each once, told', async (t) => {
  const [user, boss] = [customer(), staff()]
  const [late, fresh, paid] = [await placed(user), await placed(user), await placed(user)]
  await to(boss, paid.id, 'pay')
  await age(late.id, 31)
  await age(paid.id, 31)
  t.is((await loginAs('notifications', 'select orders.expire_due() as n')).rows[0].n, 1)
  t.is((await loginAs('notifications', 'select orders.expire_due() as n')).rows[0].n, 0)
  t.like((await as(user, 'GET', `/order/${late.id}`)).body, { status: 'expired' })
  t.is((await as(user, 'GET', `/order/${fresh.id}`)).body.status, 'pending')
  t.deepEqual(await Promise.all([late, fresh, paid].map((o) => stock(o.productId))), [10, 9, 9])
  t.like(await to(boss, late.id, 'pay'), { status: 409, body: { current: 'expired' } })
  await eventually('the event', async () => (await eventsOf(user)).some((e) => e.subject === 'msg.order.expired'))
})

test.serial('remind_unpaid, run by several at once and again → one reminder an order', async (t) => {
  const user = customer()
  const [{ id }] = [await placed(user), await placed(user)]
  await age(id, 21)
  const runs = await Promise.all(
    Array.from({ length: 4 }, () => loginAs('notifications', 'select orders.remind_unpaid() as n')),
  )
  t.is(
    runs.reduce((sum, run) => sum + run.rows[0].n, 0),
    1,
  )
  t.is((await loginAs('notifications', 'select orders.remind_unpaid() as n')).rows[0].n, 0)
  await told(user, 'msg.order.placed', 'msg.order.placed', 'msg.order.unpaid')
})

test('order_event, changed or deleted by the login of orders → refused', async (t) => {
  const refused = { code: '42501' }
  for (const statement of ['update orders.order_event set actor = null', 'delete from orders.order_event'])
    t.like(await t.throwsAsync(loginAs('orders', statement)), refused)
  t.like(await t.throwsAsync(loginAs('notifications', 'select from orders.order')), refused)
  t.like(await t.throwsAsync(loginAs('orders', 'update products.stock set on_hand = 9')), refused)
})

test('GET /order, pages → own orders, newest first, each once; another cursor → 400', async (t) => {
  const user = customer()
  const productId = await product()
  const ids: string[] = []
  for (let i = 0; i < 5; i++) ids.unshift((await order(user, { items: [{ productId, quantity: 1 }] })).body.id)
  await placed(customer())
  const seen: string[] = []
  for (let path = '/order?limit=2'; path; ) {
    const { status, body } = await as(user, 'GET', path)
    t.is(status, 200)
    seen.push(...body.items.map((item: { id: string }) => item.id))
    path = body.next && `/order?limit=2&cursor=${body.next}`
  }
  t.deepEqual(seen, ids)
  const whole = await as(user, 'GET', '/order?limit=5')
  t.is(whole.body.next, null)
  t.deepEqual(whole.body.items[0], (await as(user, 'GET', `/order/${ids[0]}`)).body)
  t.deepEqual((await as(customer(), 'GET', '/order')).body, { items: [], next: null })
  t.like(await as(user, 'GET', '/order?cursor=nonsense'), { status: 400, body: { code: 'bad_cursor' } })
  for (const limit of ['0', '101', 'x']) t.is((await as(user, 'GET', `/order?limit=${limit}`)).status, 400)
})

test('GET /order?user=all → for staff, of every user; for a customer 403', async (t) => {
  const { id } = await placed(customer())
  t.like(await as(customer(), 'GET', '/order?user=all'), { status: 403, body: { code: 'forbidden' } })
  const { body } = await as(staff(), 'GET', '/order?user=all&limit=100')
  t.true(body.items.some((item: { id: string }) => item.id === id))
})

test('any route without an assertion or with a forged one → 401', async (t) => {
  const user = customer()
  const forged = { 'X-Auth-Assertion': 'eyJhbGciOiJub25lIn0.e30.', 'X-User-Id': user.id }
  t.is((await as(user, 'GET', '/order', undefined, forged)).status, 401)
  t.is((await as(user, 'GET', '/cart', undefined, { 'X-Auth-Assertion': '' })).status, 401)
})
