import { existsSync, readFileSync } from 'node:fs'
import anyTest, { type TestFn } from 'ava'
import { eventually } from '../support/shop.ts'
import { useOrders } from './orders.ts'

const test = anyTest as TestFn
const { shop, sql, as, order, product, customer } = useOrders(test)

test.serial(
  'connections lost while the database takes no new ones → those that are left answer everything',
  async (t) => {
    const user = customer()
    const body = { items: [{ productId: await product({ stock: 200 }), quantity: 1 }] }
    const place = async () => (await order(user, body)).status
    const atOnce = () => Promise.all(Array.from({ length: 20 }, place))
    await atOnce()
    const opened = () =>
      sql(
        `select pid, usename from pg_stat_activity
         where application_name = 'orders' and datname = current_database() order by backend_start`,
      )
    const before = await eventually('its eight pipelined connections', async () => {
      const rows = await opened()
      return rows.length > 8 && rows
    })
    const limit = (most: number) => sql(`alter role ${before[0].usename} connection limit ${most}`)
    await limit(0)
    t.teardown(() => limit(-1))
    const lost = before.slice(-3)
    for (const { pid } of lost) await sql('select pg_terminate_backend($1, 5000)', pid)

    const answers = [await place(), await place(), await place(), ...(await atOnce())]
    t.deepEqual([...new Set(answers)], [201])

    await limit(-1)
    await eventually('new ones', async () => {
      t.is((await as(user, 'GET', '/order')).status, 200)
      return (await opened()).length > before.length - lost.length
    })
  },
)

const sockets = '/proc/net/tcp'
;(existsSync(sockets) ? test.serial : test.skip)(
  'connections that are quiet → kept known on the way, each minute',
  async (t) => {
    const user = customer()
    await Promise.all(Array.from({ length: 20 }, () => as(user, 'GET', '/order')))
    const port = Number(new URL(shop.databaseUrl).port).toString(16).padStart(4, '0').toUpperCase()
    // proc_net_tcp(5): one that is established (01), whose next timer is that of the keepalive (02), in hundredths of a second.
    const line = new RegExp(`^ *\\d+: \\w+:\\w+ \\w+:${port} 01 \\w+:\\w+ 02:(\\w+)`, 'gm')
    const seconds = await eventually('its eight pipelined connections rest', async () => {
      const found = [...readFileSync(sockets, 'utf8').matchAll(line)].map(
        ([, left = '']) => Number.parseInt(left, 16) / 100,
      )
      return found.length >= 8 && found
    })
    t.true(Math.max(...seconds) <= 60, `${Math.max(...seconds)} s`)
  },
)

test.serial(
  'sessions that may only read, as with a primary that became a standby → others, once one may write',
  async (t) => {
    const user = customer()
    const body = { items: [{ productId: await product({ stock: 200 }), quantity: 1 }] }
    const place = async () => (await order(user, body)).status
    const atOnce = async () => [...new Set(await Promise.all(Array.from({ length: 20 }, place)))]
    t.deepEqual(await atOnce(), [201])
    const sessions = `from pg_stat_activity where application_name = 'orders' and datname = current_database()`
    const [{ usename }] = await sql(`select usename ${sessions} limit 1`)
    const reset = () => sql(`alter role ${usename} reset default_transaction_read_only`)
    t.teardown(reset)
    await sql(`alter role ${usename} set default_transaction_read_only = on`)
    await sql(`select pg_terminate_backend(pid, 5000) ${sessions}`)
    await eventually('only sessions that read', async () => {
      t.is((await as(user, 'GET', '/readyz')).status, 200)
      return (await atOnce()).every((status) => status === 503)
    })

    await reset()
    await eventually('orders again', async () => (await atOnce()).every((status) => status === 201))
    await eventually('the outbox moves', async () => (await sql('select from orders.outbox')).length === 0, 30_000)
  },
)
