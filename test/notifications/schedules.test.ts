import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { query } from '../../src/embedded/postgres.ts'
import { eventually, startReplica } from '../support/shop.ts'
import { usePost, zoneAt } from './post.ts'

const { shop, sink, sql, secret, metric } = usePost(test)

const names = ['expire-orders', 'remind-unpaid']
const minute = 60_000
const run = (job: string, slot: Date) =>
  sql(
    'select owner, result, error, finished_at from notifications.cron_run where job = $1 and slot = $2',
    job,
    slot,
  ).then(([row]) => row)
/** The slot whose run of expire-orders has begun and not ended. */
const slotBegun = () =>
  sql(
    `select slot from notifications.cron_run where job = 'expire-orders' and finished_at is null order by slot limit 1`,
  ).then(([row]) => row?.slot as Date | undefined)
const latest = (now = Date.now()) => new Date(now - (now % minute))
/** Steps out of the way of a minute's turn, where one slot becomes the next. */
const clearOfTurn = async () => {
  const left = minute - (Date.now() % minute)
  if (left < 8000) await sleep(left + 1000)
}

/** Another replica of the role, beside the shop's; its clock is `skew` seconds ahead. */
function replica(name: string, skew = 0) {
  const clock = `const True = Date; globalThis.Date = class extends True {
    constructor(...given) { given.length ? super(...given) : super(True.now() + ${skew * 1000}) }
    static now() { return True.now() + ${skew * 1000} }
  }`
  const NODE_OPTIONS = `--import data:text/javascript,${encodeURIComponent(clock)}`
  return startReplica(shop, 'notifications', name, {}, { NODE_OPTIONS })
}

/** An unpaid order as old as `minutes`. */
async function unpaid(minutes: number) {
  const id = randomUUID()
  await sql(
    `insert into orders.order (id, user_id, email, currency, total, created_at)
     values ($1, gen_random_uuid(), 'late@example.org', 'EUR', 100, now() - make_interval(mins => $2))`,
    id,
    minutes,
  )
  return id
}
const statusOf = (id: string) =>
  sql('select status, reminded_at from orders.order where id = $1', id).then(([row]) => row)
const job = (name: string) => shop.run('notifications', 'commands.ts', 'job', name)

test.serial('start → the latest slot, which nobody ran, is caught up', async (t) => {
  for (const name of names) {
    const rows = await eventually(`a run of ${name}`, async () => {
      const found = await sql(
        'select slot, result, error from notifications.cron_run where job = $1 and finished_at is not null',
        name,
      )
      return found.length > 0 && found
    })
    t.deepEqual(rows[0].result, { orders: 0 })
    t.is(rows[0].error, null)
    t.true(latest().getTime() - rows[0].slot.getTime() <= minute)
  }
})

test.serial(
  'job expire-orders by command → expires what is unpaid for 30 minutes, and enters it in the ledger',
  async (t) => {
    const [young, old] = [await unpaid(29), await unpaid(31)]
    const { stdout } = await job('expire-orders')
    t.regex(stdout, /^expire-orders: \{"orders":[01]\}\n$/)
    t.is((await statusOf(old)).status, 'expired')
    t.is((await statusOf(young)).status, 'pending')
  },
)

test.serial('job remind-unpaid by command, twice → reminds of each order once', async (t) => {
  const old = await unpaid(21)
  await job('remind-unpaid')
  const { reminded_at: first } = await statusOf(old)
  t.truthy(first)
  await job('remind-unpaid')
  t.deepEqual((await statusOf(old)).reminded_at, first)
  const [{ events }] = await sql(
    `select count(*) as events from orders.outbox where subject = 'msg.order.unpaid' and payload->>'orderId' = $1`,
    old,
  )
  t.is(Number(events), 1)
})

test.serial('1,100 late orders → one run works through all its batches', async (t) => {
  await shop.roles.notifications.stop()
  await sql(
    `insert into orders.order (id, user_id, email, currency, total, created_at)
     select gen_random_uuid(), gen_random_uuid(), 'late@example.org', 'EUR', 100, now() - interval '2 hours'
     from generate_series(1, 1100)`,
  )
  const { stdout } = await job('expire-orders')
  t.is(stdout, 'expire-orders: {"orders":1100}\n')
  await shop.roles.notifications.restart()
})

test.serial('an unknown job by command → exit code 78 and the names of the jobs', async (t) => {
  const error = await t.throwsAsync(job('nothing-of-the-kind'))
  t.regex(error.message, /expire-orders, remind-unpaid, remind-carts, ask-feedback, send-digests, purge/)
})

test.serial('three replicas, one clock 25 s ahead and one behind, a minute’s turn → each slot ran once', async (t) => {
  t.timeout(240_000)
  await using ahead = await replica('ahead', 25)
  await using behind = await replica('behind', -25)
  const replicas = [shop.roles.notifications, ahead, behind]
  const runs = async (result: string) => {
    const counts = await Promise.all(
      replicas.flatMap(({ metricsUrl }) => names.map((job) => metric('cron_runs_total', { job, result }, metricsUrl))),
    )
    return counts.reduce((sum, count) => sum + count, 0)
  }
  await clearOfTurn()
  const ledger = () =>
    sql(
      'select count(*)::int as runs from notifications.cron_run where finished_at is not null and job = any($1)',
      names,
    ).then(([row]) => row.runs)
  // Between runs, so that both counts are of the same moment.
  const [before, counted] = await eventually('a moment without a run', async () => {
    const [first, done] = [await ledger(), await runs('done')]
    return first === (await ledger()) && ([first, done] as const)
  })
  const next = new Date(latest().getTime() + 2 * minute)
  await eventually(
    'that slot of both jobs',
    async () => (await Promise.all(names.map((name) => run(name, next)))).every((row) => row?.finished_at),
    130_000,
  )
  // Until the last of the clocks has shown it, and the look for missed slots has passed.
  await sleep(Math.max(0, next.getTime() + 60_000 - Date.now()))
  // The ledger cannot hold a slot twice; the replicas' own counts show that nothing ran beside it.
  await eventually('both counts', async () => (await runs('done')) - counted === (await ledger()) - before)
  t.true((await ledger()) - before >= 4)
  t.is(await runs('failed'), 0)
  await shop.roles.notifications.stop()
  await ahead.stop()
  await behind.stop()
  await shop.roles.notifications.restart()
})

test.serial(
  'a replica killed in the middle of a run → another takes the run over once its lease is over',
  async (t) => {
    t.timeout(150_000)
    await shop.roles.notifications.stop()
    await sql(`delete from notifications.cron_run where job = 'expire-orders'`)
    // The run cannot end while someone else holds the table.
    const { default: pg } = await import('pg')
    const blocker = new pg.Client({ connectionString: shop.databaseUrl })
    await blocker.connect()
    await blocker.query('begin; lock table orders.order in access exclusive mode')
    await shop.roles.notifications.restart()
    const slot = await eventually('the run is begun', slotBegun)
    const begun = await run('expire-orders', slot)
    await shop.roles.notifications.kill('SIGKILL')
    await blocker.query('rollback')
    await blocker.end()
    // For the other to do once it has looked at the first job, whatever the one before it came to.
    await sql(`delete from notifications.cron_run where job = 'remind-unpaid'`)

    await using other = await replica('other')
    const looked = () => metric('cron_runs_total', { job: 'remind-unpaid', result: 'done' }, other.metricsUrl)
    await eventually('the other has looked for what was missed', async () => (await looked()) > 0)
    t.deepEqual(await run('expire-orders', slot), begun)
    await sql(`update notifications.cron_run set lease_until = now() - interval '1 second' where finished_at is null`)
    await other.restart()
    const retaken = await eventually('the run is taken over', async () => {
      const row = await run('expire-orders', slot)
      return row?.finished_at && row
    })
    t.not(retaken.owner, begun.owner)
    t.deepEqual(retaken.result, { orders: 0 })
    await other.stop()
    await shop.roles.notifications.restart()
  },
)

test.serial('a job that fails → its error is in the ledger, and the next slot is another try', async (t) => {
  t.timeout(120_000)
  await shop.roles.notifications.stop()
  await sql('delete from notifications.cron_run')
  await sql('alter function orders.remind_unpaid(interval, int) rename to remind_unpaid_away')
  await shop.roles.notifications.restart()
  const failed = await eventually('the run fails', async () => {
    const [row] = await sql(
      `select slot, result, error from notifications.cron_run where job = 'remind-unpaid' and finished_at is not null`,
    )
    return row
  })
  t.regex(failed.error, /remind_unpaid/)
  t.is(failed.result, null)
  await sql('alter function orders.remind_unpaid_away(interval, int) rename to remind_unpaid')
  await eventually(
    'a later slot is done',
    async () => {
      const [row] = await sql(
        `select from notifications.cron_run where job = 'remind-unpaid' and slot > $1 and result is not null`,
        failed.slot,
      )
      return row
    },
    75_000,
  )
})

test.serial('a stop in the middle of a run → waits for its end', async (t) => {
  await shop.roles.notifications.stop()
  await sql('delete from notifications.cron_run')
  const { default: pg } = await import('pg')
  const blocker = new pg.Client({ connectionString: shop.databaseUrl })
  await blocker.connect()
  await blocker.query('begin; lock table orders.order in access exclusive mode')
  await shop.roles.notifications.restart()
  const slot = await eventually('the run is begun', slotBegun)
  const stopped = shop.roles.notifications.stop()
  await eventually(
    'the role is stopping',
    async () =>
      !(await fetch(`${shop.roles.notifications.url}/healthz`).then(
        (r) => r.ok,
        () => false,
      )),
  )
  await blocker.query('rollback')
  await blocker.end()
  await stopped
  t.deepEqual((await run('expire-orders', slot)).result, { orders: 0 })
  await shop.roles.notifications.restart()
})

test.serial('a run that waits for the mail server → the same job is not begun beside it', async (t) => {
  await shop.roles.notifications.stop()
  await sql('delete from notifications.cron_run')
  await sql(
    `insert into auth.user (id, email, name, locale, time_zone, roles, email_verified_at)
     values (gen_random_uuid(), 'staff@example.org', '', 'en', $1, '{staff}', now())`,
    zoneAt(12),
  )
  await sink.down()
  await shop.roles.notifications.restart()
  const runs = (job: string) => sql('select slot, finished_at from notifications.cron_run where job = $1', job)
  const [begun] = await eventually('the run is begun', async () => {
    const rows = await runs('send-digests')
    return rows.length > 0 && rows
  })
  t.is(begun.finished_at, null)
  await eventually('the other jobs have run', async () => (await runs('purge')).length > 0)
  // As if the next slot had come: the look for missed runs takes the jobs in turn, this one before the purge.
  await sql(`delete from notifications.cron_run where job in ('send-digests', 'purge')`)
  await eventually('missed runs are looked for', async () => (await runs('purge')).length > 0, 45_000)
  t.deepEqual(await runs('send-digests'), [])
  await sink.up()
})

test.serial('the login of notifications → may call its functions of orders and nothing else there', async (t) => {
  const url = secret('notifications', 'DATABASE_URL')
  await t.notThrowsAsync(query(url, 'select orders.expire_due(), orders.remind_unpaid()'))
  await t.throwsAsync(query(url, 'select * from orders.order'), { message: /permission denied/ })
})
