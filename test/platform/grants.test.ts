import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import pg from 'pg'
import { roleNames } from '../../src/platform/config.ts'
import { useShop } from '../support/shop.ts'

const shop = useShop(test, { roles: [] })
const loginOf = (role: (typeof roleNames)[number]) =>
  readFileSync(join(shop.secretsDir(role), 'DATABASE_URL'), 'utf8').trim()

/** Functions that a role may call outside its own schema, by name. */
const granted: Record<string, string[]> = {
  auth: ['orders.audit'],
  products: [],
  orders: ['products.quote', 'products.return_stock', 'products.take_stock'],
  notifications: [
    'auth.digest_readers',
    'auth.purge',
    'auth.purge_audit',
    'auth.tell_unused',
    'orders.ask_feedback',
    'orders.awaits_payment',
    'orders.cart_waits',
    'orders.digest',
    'orders.expire_due',
    'orders.purge_keys',
    'orders.remind_carts',
    'orders.remind_unpaid',
    'products.low_stock',
    'products.tell_unused',
  ],
}

async function connect(url: string) {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  return client
}

for (const role of roleNames)
  test(`the login of ${role} → works in its own schema, and elsewhere calls only what is granted by name`, async (t) => {
    const client = await connect(loginOf(role))
    t.teardown(() => client.end())
    const { rows: tables } = await client.query(
      `select n.nspname as schema, c.relname as name,
              has_table_privilege(c.oid, 'select, insert, update, delete, truncate, references, trigger') as some,
              has_table_privilege(c.oid, 'truncate') or has_table_privilege(c.oid, 'trigger') as more
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname in ('auth', 'products', 'orders', 'notifications')`,
    )
    t.true(tables.length > 8)
    for (const { schema, name, some, more } of tables) {
      t.is(some, schema === role, `${schema}.${name}`)
      t.false(more, `${schema}.${name}`)
    }
    const { rows: functions } = await client.query(
      `select distinct n.nspname || '.' || p.proname as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
       where n.nspname in ('auth', 'products', 'orders', 'notifications') and n.nspname <> $1
         and has_function_privilege(p.oid, 'execute') and has_schema_privilege(n.oid, 'usage') order by 1`,
      [role],
    )
    t.deepEqual(
      functions.map((f) => f.name),
      granted[role],
    )
    for (const statement of [
      `create table ${role}.mine (x int)`,
      'create table public.mine (x int)',
      'create schema mine',
      'create role mine',
      'create temporary table mine (x int)',
      `insert into bodega.migration (schema, name) values ('x', 'x')`,
      `copy (select 1) to program 'true'`,
      `select pg_read_file('/etc/passwd')`,
      `alter table ${tables.find((x) => x.schema === role)?.schema}.outbox add column x int`,
      `drop schema ${role} cascade`,
      `set role ${shop.databaseUrl.split('/').at(-1)}_owner`,
    ]) {
      const error = await t.throwsAsync(client.query(statement), undefined, statement)
      t.regex(error?.message ?? '', /permission denied|must be|does not exist/, statement)
    }
  })

test('a login of this shop → cannot connect to the database of another one', async (t) => {
  const admin = await connect(shop.databaseUrl)
  t.teardown(() => admin.end())
  const { rows } = await admin.query(`select has_database_privilege('public', current_database(), 'connect') as open`)
  t.false(rows[0].open)
})

test('migrate by four processes at once, and again → nothing is done twice, nothing fails', async (t) => {
  await Promise.all(Array.from({ length: 4 }, () => shop.run('migrate', 'main.ts', 'migrate')))
  const admin = await connect(shop.databaseUrl)
  t.teardown(() => admin.end())
  const { rows } = await admin.query('select schema, count(*)::int as n from bodega.migration group by 1 order by 1')
  t.deepEqual(
    rows.map((r) => r.schema),
    ['auth', 'notifications', 'orders', 'products'],
  )
})
