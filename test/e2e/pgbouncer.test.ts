import test from 'ava'
import { query } from '../../src/embedded/postgres.ts'
import { eventually } from '../support/shop.ts'
import { run } from './host.ts'
import { lackingDocker, openPostgresHa, openShopOn } from './postgres-ha.ts'

const missing = await lackingDocker()
if (missing) console.error(`${import.meta.filename}: skipped, ${missing}`)
const it = missing ? test.skip : test

it('PgBouncer in transaction mode, a purchase and a load of orders → each is answered, none is lost', async (t) => {
  t.timeout(240_000)
  await using database = await openPostgresHa({ nodes: 1 })
  await using opened = await openShopOn(database)
  const { shop, market, lost } = opened
  const { out } = await run(process.execPath, ['src/tour.ts', '--url', shop.url, '--inbox', shop.inboxUrl])
  t.log(out.split('\n').at(-1))

  const began = Date.now()
  const load = await market.during(async () => {}, { orders: 250 })
  t.log(`${market.sales.size} orders, ${load.requests} requests in ${Date.now() - began} ms`)
  t.deepEqual(load.failures, [])
  await eventually('all events have left', async () => {
    const { rows } = await query(shop.databaseUrl, 'select count(*)::int as waiting from orders.outbox')
    return rows[0].waiting === 0
  })
  t.deepEqual(await lost(), [])

  const sessions = await query(
    shop.databaseUrl,
    `select usename, count(*)::int as number, bool_and(ssl) as ssl from pg_stat_activity join pg_stat_ssl using (pid)
     where datname = 'bodega' and usename like 'bodega%' group by 1 order by 1`,
  )
  t.log(sessions.rows.map(({ usename, number }) => `${usename} ${number}`).join(', '))
  t.deepEqual(
    sessions.rows.map(({ usename, ssl }) => [usename, ssl]),
    ['auth', 'notifications', 'orders', 'products'].map((role) => [`bodega_${role}_a`, true]),
    'who has a session at the database, and whether over TLS',
  )
})
