import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import test from 'ava'
import pg from 'pg'
import { eventually, type TestUser, useShop } from '../support/shop.ts'

const shop = useShop(test, { ownPostgres: true })
let buyer: TestUser
let productId: string

test.serial.before('a customer and a product', async () => {
  const staff = await shop.staff()
  buyer = await shop.user()
  const made = await shop.call('POST', '/product', {
    token: staff.token,
    body: { sku: 'one', name: 'One', description: '', category: 'things', price: 100, currency: 'EUR', stock: 1000 },
  })
  productId = made.body.id
})

const order = () =>
  shop.call('POST', '/order', {
    token: buyer.token,
    body: { items: [{ productId, quantity: 1 }] },
    headers: { 'Idempotency-Key': randomUUID() },
  })
const logOf = (role: 'orders' | 'auth') =>
  readFileSync(shop.roles[role].log, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))

/** Holds the stock row, so that an order waits; `release` lets it go on. */
async function heldStock() {
  const client = new pg.Client({ connectionString: shop.databaseUrl })
  client.on('error', () => {}) // the server may be stopped under it
  await client.connect()
  await client.query('begin')
  await client.query('select from products.stock where product_id = $1 for update', [productId])
  const waiting = () =>
    eventually('an order waits for the row', async () => {
      // Within a transaction the view is the same at every look, unless told to forget.
      await client.query('select pg_stat_clear_snapshot()')
      const { rows } = await client.query(
        `select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'orders'`,
      )
      return rows[0].n > 0
    })
  return {
    waiting,
    release: async () => {
      await client.query('commit')
      await client.end()
    },
  }
}

test.serial(
  'SIGTERM while an order runs, and a connection that never asked stays open → the order is answered 201, its event leaves, and the process ends in order',
  async (t) => {
    const silent = connect(shop.ports.orders, '127.0.0.1').on('error', () => {})
    t.teardown(() => silent.destroy())
    await once(silent, 'connect')
    const { waiting, release } = await heldStock()
    const answer = order()
    await waiting()
    const stopped = shop.roles.orders.stop()
    await eventually('the role says that it stops', async () => logOf('orders').some((line) => line.msg === 'stopping'))
    await release()
    t.is((await answer).status, 201)
    await stopped
    t.is(logOf('orders').at(-1).msg, 'stopped')
    const client = new pg.Client({ connectionString: shop.databaseUrl })
    await client.connect()
    t.teardown(() => client.end())
    t.is((await client.query('select from orders.outbox')).rowCount, 0, 'the outbox was emptied on the way out')
    t.is((await shop.call('GET', '/product')).status, 200, 'the other roles go on')
    t.is((await order()).status, 503)
    await shop.roles.orders.restart()
    t.is((await order()).status, 201)
  },
)

/** The lines of the outbox in a scrape, which must bring the other metrics whatever becomes of these. */
async function outboxMetrics() {
  const scrape = await fetch(shop.roles.orders.metricsUrl)
  const text = await scrape.text()
  if (scrape.status !== 200 || !text.includes('nodejs_eventloop_lag_seconds'))
    throw new Error(`${scrape.status} ${text}`)
  return text.split('\n').filter((line) => line.startsWith('outbox_'))
}

test.serial(
  'the database does not answer for the outbox → each scrape is served without it, on one connection; it does → with it',
  async (t) => {
    t.is((await outboxMetrics()).length, 2)
    const holder = new pg.Client({ connectionString: shop.databaseUrl })
    await holder.connect()
    t.teardown(() => holder.end())
    await holder.query('begin; lock table orders.outbox in access exclusive mode')
    const began = performance.now()
    t.deepEqual(await Promise.all(Array.from({ length: 4 }, outboxMetrics)), [[], [], [], []])
    t.true(performance.now() - began < 5000)
    const { rowCount } = await holder.query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and query like 'select count%outbox'`,
    )
    t.is(rowCount, 1)
    await holder.query('rollback')
    t.is((await outboxMetrics()).length, 2)
  },
)

test.serial('a second signal while an order runs → the process ends at once', async (t) => {
  const { waiting, release } = await heldStock()
  const answer = order()
  await waiting()
  const { pid } = shop.roles.orders
  const stopped = shop.roles.orders.stop()
  await eventually(
    'the role says that it stops',
    async () => logOf('orders').filter((line) => line.msg === 'stopping').length > 1,
  )
  process.kill(pid as number, 'SIGTERM')
  await stopped
  t.is(logOf('orders').at(-1).msg, 'second signal, leaving at once')
  t.not((await answer).status, 201)
  await release()
  await shop.roles.orders.restart()
})

test.serial('an order that outlasts SHUTDOWN_GRACE → it is cut off, and the process ends and says why', async (t) => {
  shop.configure('orders', { SHUTDOWN_GRACE: '2' })
  await shop.roles.orders.restart()
  const { waiting, release } = await heldStock()
  const answer = order()
  await waiting()
  await shop.roles.orders.stop()
  t.is(logOf('orders').at(-1).msg, 'the grace period is over')
  t.not((await answer).status, 201)
  await release()
  shop.configure('orders', { SHUTDOWN_GRACE: '25' })
  await shop.roles.orders.restart()
})

test.serial('the database is missing at the start → alive, not ready, waiting aloud; it comes → ready', async (t) => {
  await shop.roles.orders.stop()
  await shop.postgres?.stop()
  const started = shop.roles.orders.restart()
  const state = await eventually('it answers', async () => {
    const healthy = await fetch(`${shop.roles.orders.url}/healthz`)
    const ready = await fetch(`${shop.roles.orders.url}/readyz`)
    return healthy.ok && { status: ready.status, body: (await ready.json()) as { checks: Record<string, string> } }
  })
  t.is(state.status, 503)
  t.not(state.body.checks.database, 'ok')
  const refused = await order()
  t.is(refused.status, 503)
  t.is(refused.body.code, 'unavailable')
  t.deepEqual(await outboxMetrics(), [])
  await eventually('it says what it waits for', async () =>
    logOf('orders').some((line) => line.msg === 'waiting for dependencies'),
  )
  await shop.postgres?.restart()
  await started
  await eventually('orders go on', async () => (await order()).status === 201)
})

test.serial('NATS is away → orders go on, the outbox grows, and all is delivered once it is back', async (t) => {
  await shop.nats.stop()
  const placed = []
  for (let i = 0; i < 5; i++) placed.push((await order()).body.id)
  t.is((await fetch(`${shop.roles.orders.url}/readyz`)).status, 200)
  const metrics = await (await fetch(shop.roles.orders.metricsUrl)).text()
  t.true(Number(/^outbox_events (\d+)/m.exec(metrics)?.[1]) >= 5)
  t.true(Number(/^outbox_oldest_seconds ([\d.]+)/m.exec(metrics)?.[1]) > 0)
  await shop.nats.restart()
  for (const id of placed) await shop.mailTo(buyer.email, { fits: (mail) => mail.text.includes(id), deadline: 30_000 })
  await eventually('the outbox is empty', async () =>
    /^outbox_events 0$/m.test(await (await fetch(shop.roles.orders.metricsUrl)).text()),
  )
  t.pass()
})

test.serial(
  'a fault that nobody foresaw → a bare 500 that names the request, under which the log has all of it',
  async (t) => {
    const client = new pg.Client({ connectionString: shop.databaseUrl })
    await client.connect()
    await client.query('alter table auth.session rename column user_agent to browser')
    const answer = await shop.call('GET', '/auth/sessions', { token: buyer.token })
    await client.query('alter table auth.session rename column browser to user_agent')
    await client.end()
    t.is(answer.status, 500)
    t.is(answer.headers['content-type'], 'application/problem+json')
    t.is(answer.body.code, 'internal')
    t.notRegex(answer.text, /user_agent|column|select|at /)
    const requestId = answer.headers['x-request-id']
    t.true(answer.body.detail.includes(requestId))
    const logged = await eventually('the fault is logged', async () =>
      logOf('auth').find((line) => line.requestId === requestId && line.level === 'error'),
    )
    t.regex(logged.err.stack, /column "user_agent" does not exist[\s\S]*at /)
    t.is((await shop.call('GET', '/auth/sessions', { token: buyer.token })).status, 200)
  },
)

test.serial('a request → one log line with id, user, route and time, and a metric by route', async (t) => {
  const answer = await order()
  const requestId = answer.headers['x-request-id']
  const line = await eventually('its log line', async () => logOf('orders').find((l) => l.requestId === requestId))
  t.like(line, { msg: 'request', method: 'POST', route: '/order', status: 201, userId: buyer.id, role: 'orders' })
  t.is(typeof line.ms, 'number')
  const metrics = await (await fetch(shop.roles.orders.metricsUrl)).text()
  t.regex(metrics, /http_request_duration_seconds_count\{method="POST",route="\/order",status="201"\} \d+/)
  for (const name of ['db_pool_connections', 'outbox_events', 'nodejs_eventloop_lag_seconds'])
    t.true(metrics.includes(name), name)
  const mailer = await (await fetch(shop.roles.notifications.metricsUrl)).text()
  for (const name of ['bus_consumer_lag', 'bus_messages_total', 'mail']) t.true(mailer.includes(name), name)
})
