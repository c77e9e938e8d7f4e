import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import pg from 'pg'
import { eventually, useShop } from '../support/shop.ts'
import { family, freeze } from './faults.ts'

// Other shops are on the same server.
const waiting = `pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
const shop = useShop(test, { roles: ['auth', 'notifications'] })

test('an edge that stands still while the answer to a refresh waits → the customer asks again, and his session goes on', async (t) => {
  t.timeout(60_000)
  const user = await shop.user()
  const exchange = (refreshToken: string) => shop.call('POST', '/auth/refresh', { body: { refreshToken } })
  const database = new pg.Client({ connectionString: shop.databaseUrl })
  await database.connect()
  const count = async (sql: string) => (await database.query(`select 1 from ${sql}`)).rows.length
  // Auth is held in the middle of the exchange until the edge stands still, so that the answer finds nobody who reads it.
  await database.query('begin')
  await database.query('select 1 from auth.refresh_token for update')
  const asked = exchange(user.refreshToken)
  await eventually('auth waits', async () => (await count(waiting)) > 0)
  const thaw = freeze(family(shop.edge.pid as number))
  await database.query('commit')
  await eventually('auth has answered', async () => (await count('auth.refresh_token where used_at is not null')) > 0)
  await database.end()
  // The edge's 20 s, which nobody can set, and one.
  await sleep(21_000)
  thaw()

  // Awake again, nginx sees that the time is over before it sees the answer.
  t.is((await asked).status, 503)
  const again = await exchange(user.refreshToken)
  t.is(again.status, 200, again.text)
  t.is((await shop.call('GET', '/profile', { token: again.body.accessToken })).status, 200)
})
