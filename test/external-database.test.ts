import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { query, startPostgres } from '../src/embedded/postgres.ts'
import { generatedSecrets } from '../src/embedded/secrets.ts'
import { eventually, openShop } from './support/shop.ts'

test('a database whose administrator ran the SQL of docs/database.md → migrate needs no right to create roles', async (t) => {
  t.timeout(180_000)
  const dir = mkdtempSync(join(tmpdir(), 'external-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const { passwords } = await generatedSecrets(join(dir, 'secrets'))
  const page = readFileSync(join(import.meta.dirname, '../docs/database.md'), 'utf8')
  const sql = /```sql\n([\s\S]+?)```/.exec(page)?.[1] as string
  const filled = sql
    .replace(/\b(?=[a-z]+_a\b)/g, 'bodega_')
    .replace(/'([A-Z]+)'/g, (_, user: string) => `'${passwords[`${user.toLowerCase()}_database`] ?? 'migrate'}'`)

  await using server = await startPostgres({
    dir: join(dir, 'postgres'),
    log: join(dir, 'postgres.log'),
    password: 'admin',
  })
  const statements = filled.split(/;\n/).filter((text) => text.trim())
  const forgotten = statements.filter((text) => text.includes('role bodega_orders_a login'))
  t.is(forgotten.length, 1)
  for (const text of statements) if (!/role bodega_orders_a /.test(text)) await query(server.adminUrl, text)
  const adminUrl = Object.assign(new URL(server.adminUrl), { username: 'bodega_migrate', password: 'migrate' }).href
  const open = () => openShop({ dir, postgres: { adminUrl, name: 'bodega' } })
  await t.throwsAsync(open, { message: /there is no login bodega_orders_a in bodega_orders.*docs\/database\.md/ })

  await query(server.adminUrl, 'create database bodega owner bodega_migrate')
  for (const text of statements) if (/role bodega_orders_a /.test(text)) await query(server.adminUrl, text)
  const { shop, close } = await open()
  try {
    const user = await shop.user()
    t.is((await shop.call('GET', '/order', { token: user.token })).status, 200)
    const { rows } = await query(
      shop.databaseUrl,
      'select bool_or(rolcreaterole or rolsuper) as may from pg_roles where rolname = current_user',
    )
    t.false(rows[0].may)
    const owners = await query(
      adminUrl.replace(/postgres$/, 'bodega'),
      `select distinct tableowner from pg_tables where schemaname !~ '^(pg_|information_schema)'`,
    )
    t.deepEqual(owners.rows, [{ tableowner: 'bodega_owner' }])
    // As a restore does, beside the one in use.
    await query(adminUrl, 'create database bodega_restore template template0')
  } finally {
    await close()
  }
})

test('who may end sessions restores while an autovacuum is at work → it is left alone, and gives way', async (t) => {
  t.timeout(120_000)
  const dir = mkdtempSync(join(tmpdir(), 'external-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const program = readFileSync(join(import.meta.dirname, '../scripts/inside/database.sh'), 'utf8')
  const [ending = ''] = /select pg_terminate_backend.*(?= \\g)/.exec(program) ?? []
  await using server = await startPostgres({
    dir: join(dir, 'postgres'),
    log: join(dir, 'postgres.log'),
    password: 'admin',
    settings: { autovacuum_naptime: '1s', autovacuum_vacuum_cost_delay: '100ms', autovacuum_vacuum_cost_limit: '1' },
  })
  for (const text of [
    `create role bodega_migrate login createdb password 'migrate'`,
    'grant pg_signal_backend to bodega_migrate',
    'create database bodega owner bodega_migrate',
  ])
    await query(server.adminUrl, text)
  const url = Object.assign(new URL(server.adminUrl), { username: 'bodega_migrate', password: 'migrate' }).href
  await query(url.replace(/postgres$/, 'bodega'), 'create table public.large as select generate_series(1, 200000)')
  const at = `select backend_type as type from pg_stat_activity where datname = 'bodega'`
  await eventually(
    'an autovacuum',
    async () => (await query(server.adminUrl, at)).rows[0]?.type === 'autovacuum worker',
  )
  t.deepEqual((await query(url, ending.replace(":'name'", "'bodega'"))).rows, [])
  t.is((await query(server.adminUrl, at)).rows[0]?.type, 'autovacuum worker')
  await t.notThrowsAsync(query(url, 'alter database bodega rename to bodega_replaced'))
})
