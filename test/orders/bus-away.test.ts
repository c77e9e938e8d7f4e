import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import anyTest, { type TestFn } from 'ava'
import { stream } from '../../src/events.ts'
import { eventually } from '../support/shop.ts'
import { useOrders } from './orders.ts'

const test = anyTest as TestFn
const { shop, sql, order, product, customer, eventsOf, onBus } = useOrders(test)

test.serial('NATS away → orders go on and the role stays ready; NATS back → every event once', async (t) => {
  const user = customer()
  const productId = await product({ stock: 20 })
  const body = { items: [{ productId, quantity: 1 }] }
  await order(user, body)
  await shop.nats.kill('SIGKILL')
  const answers = await Promise.all(Array.from({ length: 10 }, () => order(user, body)))
  t.deepEqual([...new Set(answers.map((answer) => answer.status))], [201])
  t.is((await fetch(`${shop.roles.orders.url}/readyz`)).status, 200)

  const back = Date.now()
  await shop.nats.restart()
  const found = await eventually('every event', async () => {
    const events = await eventsOf(user)
    return events.length >= 11 && events
  })
  t.is(found.length, 11)
  t.is(new Set(found.map((event) => event.data.orderId)).size, 11)
  // When it happened, by which a mailed code runs out, and not when the bus came back.
  const last = await onBus(async (nc) =>
    (await nc.jetstreamManager()).streams.getMessage(stream, { last_by_subj: 'msg.order.placed' }),
  )
  t.true(Date.parse(last.header.get('Event-Time')) < back)
})

test.serial('20,000 events while the database thinks there are none → NATS back, and they are told', async (t) => {
  await shop.nats.kill('SIGKILL')
  const tell = (count: number) =>
    sql(
      `insert into orders.outbox (subject, payload)
       select 'msg.order.placed', '{"padding": "${'x'.repeat(400)}"}' from generate_series(1, ${count})`,
    )
  await sql('alter table orders.outbox set (autovacuum_enabled = off)')
  await tell(3000)
  await sql('delete from orders.outbox')
  await sql('vacuum (analyze, truncate off) orders.outbox')
  await tell(20_000)
  const from = logged()
  await shop.nats.restart()
  await eventually('they are told', async () => (await sql('select from orders.outbox limit 1')).length === 0, 60_000)
  t.deepEqual(linesWith('outbox not moved', from), [])
  await sql('alter table orders.outbox reset (autovacuum_enabled)')
  // The other tests read every event that there is.
  await onBus(async (nc) => (await nc.jetstreamManager()).streams.purge(stream))
})

test.serial('role started while NATS is away → ready, takes orders, tells them later', async (t) => {
  const user = customer()
  const productId = await product()
  await shop.nats.kill('SIGKILL')
  await shop.roles.orders.restart()
  t.is((await order(user, { items: [{ productId, quantity: 1 }] })).status, 201)
  await shop.nats.restart()
  await eventually('the event', async () => (await eventsOf(user)).length === 1)
})

/** Lines of the role's log with a text, from byte `from` of the log on. */
const linesWith = (text: string, from: number) =>
  readFileSync(shop.roles.orders.log)
    .subarray(from)
    .toString()
    .split('\n')
    .filter((line) => line.includes(text))
const logged = () => readFileSync(shop.roles.orders.log).length

test.serial('NATS refuses what is told → it is asked again after pauses, and has all once it takes it', async (t) => {
  const user = customer()
  const body = { items: [{ productId: await product({ stock: 50 }), quantity: 1 }] }
  const takes = (max_msg_size: number) =>
    onBus(async (nc) => (await nc.jetstreamManager()).streams.update(stream, { max_msg_size }))
  const from = logged()
  const refused = () => linesWith('outbox not moved', from).length
  await takes(10)
  await order(user, body)
  await eventually('it is refused', async () => refused() > 0)
  for (let i = 0; i < 30; i++) await order(user, body)
  t.true(refused() <= 3, `${refused()} times`)
  await takes(-1)
  await eventually('every event', async () => (await eventsOf(user)).length === 31)
})

/** Changes the password that the bus knows of the role, and answers with the one before; a reload or a restart reads it. */
function rotate(password: string) {
  const file = join(shop.dir, 'nats', 'conf', 'nats.vars')
  const line = /^ORDERS_NATS_PASSWORD: "(.*)"$/m
  const vars = readFileSync(file, 'utf8')
  writeFileSync(file, vars.replace(line, `ORDERS_NATS_PASSWORD: "${password}"`))
  return line.exec(vars)?.[1] as string
}
/** When the role's log told of a refused login, in milliseconds, from byte `from` of the log on. */
const refusals = (from: number) => linesWith('bus login refused', from).map((line) => Date.parse(JSON.parse(line).time))

test.serial(
  'role started with a password that the bus does not know yet → ready, takes orders, says why it waits, tells them once it is known',
  async (t) => {
    const user = customer()
    const productId = await product()
    const known = rotate('yesterday')
    await shop.nats.restart()
    const from = logged()
    await shop.roles.orders.restart()
    t.is((await order(user, { items: [{ productId, quantity: 1 }] })).status, 201)
    await eventually('it is refused again', async () => refusals(from).length >= 2)
    const [first, second] = refusals(from) as [number, number]
    t.true(second - first > 1000, `${second - first} ms`)
    rotate(known)
    await shop.nats.kill('SIGHUP')
    await eventually('the event', async () => (await eventsOf(user)).length === 1)
  },
)

test.serial(
  'password of a connected role changed on the bus → the role says so, and tells all orders once its own is known again',
  async (t) => {
    const user = customer()
    const productId = await product()
    const from = logged()
    const known = rotate('tomorrow')
    await shop.nats.kill('SIGHUP')
    await eventually('it is refused three times', async () => refusals(from).length >= 3)
    const times = refusals(from)
    t.true((times[2] as number) - (times[0] as number) > 1000)
    t.is((await order(user, { items: [{ productId, quantity: 1 }] })).status, 201)
    rotate(known)
    await shop.nats.restart()
    await eventually('the event', async () => (await eventsOf(user)).length === 1)
  },
)
