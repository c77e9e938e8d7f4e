import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { openBus } from './bus.ts'
import { type Config, type Role, roleNames } from './config.ts'
import { hasState, migrationsIn, migrationsOf, outOfReach } from './db.ts'
import { type Logger, openLog } from './log.ts'
import { makeStreams } from './streams.ts'

/**
 * Makes the database and the bus what this version needs: database roles, logins, schemas, migrations, streams.
 * Safe to run again, and from several processes at once; on a newer schema it has nothing to do.
 */
export async function migrate(c: Config<'migrate'>) {
  const log = openLog(c.LOG_LEVEL, { role: 'migrate' })
  const client = await connect(c, log)
  try {
    const database = (await client.query('select current_database() as name')).rows[0].name as string
    const groups = Object.fromEntries([...roleNames, 'owner'].map((name) => [name, `${database}_${name}`]))
    const { rows } = await client.query(
      'select rolcreaterole or rolsuper as may from pg_roles where rolname = current_user',
    )
    const mayMakeRoles = rows[0].may as boolean
    await locked(client, () => makeRoles(client, database, groups, mayMakeRoles))
    for (const { role, login, password } of loginsOf(c))
      if (mayMakeRoles) await locked(client, () => makeLogin(client, groups[role] as string, login, password))
      else await findLogin(client, groups[role] as string, login)
    for (const role of roleNames)
      for (const file of migrationsOf(role)) {
        const applied = await patiently(() => locked(client, () => apply(client, role, file, groups)), log)
        if (applied) log.info({ schema: role, migration: file }, 'migration applied')
      }
  } finally {
    await client.end()
  }
  await using bus = openBus({ name: 'migrate', c, log, givesUp: true })
  const nagging = setInterval(() => bus.connected() || log.warn('waiting for the bus'), 2000)
  try {
    await makeStreams(await bus.connection, c)
  } finally {
    clearInterval(nagging)
  }
  log.info('database and bus are up to date')
  log.flush()
}

async function connect(c: Config<'migrate'>, log: Logger) {
  for (let ms = 250; ; ms = Math.min(ms * 2, 5000)) {
    const client = new pg.Client({
      connectionString: c.DATABASE_URL,
      ssl: c.DATABASE_CA ? { ca: c.DATABASE_CA } : undefined,
      connectionTimeoutMillis: c.CONN_TIMEOUT,
      application_name: 'migrate',
    })
    client.on('error', (err) => log.warn({ err }, 'database connection lost'))
    try {
      await client.connect()
      return client
    } catch (err) {
      if (!outOfReach(err)) throw err
      log.warn({ err, retryMs: ms }, 'waiting for the database')
      await pause(ms)
    }
  }
}

/** One at a time over all processes: a transaction lock, which also works behind PgBouncer. */
async function locked<T>(client: pg.Client, work: () => Promise<T>): Promise<T> {
  await client.query('begin')
  try {
    await client.query(`select pg_advisory_xact_lock(hashtext('bodega migrate'))`)
    const result = await work()
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback')
    throw error
  }
}

/**
 * Repeats work that cannot get a lock in 2 s: whoever asks for a table behind a migration that waits, such as for the end of
 * a backup, waits with it.
 */
async function patiently<T>(work: () => Promise<T>, log: Logger): Promise<T> {
  for (;;)
    try {
      return await work()
    } catch (err) {
      if (!hasState((err as Error).cause, '55P03')) throw err
      log.warn({ err }, 'a migration waits for a lock, between tries of 2 s')
      await pause(2000)
    }
}

const name = pg.escapeIdentifier

/** One group without login for each role, and one that owns every object; PUBLIC loses what PostgreSQL gives it. */
async function makeRoles(client: pg.Client, database: string, groups: Record<string, string>, mayMakeRoles: boolean) {
  const { rows } = await client.query('select rolname from pg_roles where rolname = any($1)', [Object.values(groups)])
  const missing = Object.values(groups).filter((group) => !rows.some((row) => row.rolname === group))
  if (missing.length > 0 && !mayMakeRoles) throw needsAdministrator(`there is no role ${missing.join(', ')}`)
  for (const group of missing) await client.query(`create role ${name(group)} nologin`)
  const owner = name(groups.owner as string)
  if (missing.includes(groups.owner as string)) await client.query(`grant ${owner} to current_user`)

  await client.query(`revoke all on database ${name(database)} from public`)
  await client.query('create extension if not exists pg_trgm with schema public')
  await client.query(`create schema if not exists bodega authorization ${owner}`)
  // Its owner's as all else, not this login's: a backup comes back where that is another.
  await client.query(`set local role ${owner}`)
  await client.query(`create table if not exists bodega.migration (
    schema text not null, name text not null, applied_at timestamptz not null default now(),
    constraint migration_pkey primary key (schema, name))`)
  await client.query('set local role none')
  await client.query(`alter default privileges for role ${owner} revoke execute on functions from public`)
  for (const role of roleNames) {
    const group = name(groups[role] as string)
    await client.query(`grant connect on database ${name(database)} to ${group}`)
    await client.query(`grant usage on schema bodega to ${group}`)
    await client.query(`grant select on bodega.migration to ${group}`)
    await client.query(`create schema if not exists ${name(role)} authorization ${owner}`)
    await client.query(`grant usage on schema ${name(role)} to ${group}`)
    const defaults = `alter default privileges for role ${owner} in schema ${name(role)}`
    await client.query(`${defaults} grant select, insert, update, delete on tables to ${group}`)
    await client.query(`${defaults} grant usage on sequences to ${group}`)
  }
}

const loginsOf = (c: Config<'migrate'>) =>
  roleNames.flatMap((role) => {
    const prefix = role.toUpperCase() as Uppercase<Role>
    const [login, password] = [c[`${prefix}_DATABASE_USER`], c[`${prefix}_DATABASE_PASSWORD`]]
    return login && password ? [{ role, login, password }] : []
  })

/** A role's login with its password; statements and idle transactions of it cannot hold locks for long. */
async function makeLogin(client: pg.Client, group: string, login: string, secret: string) {
  const password = pg.escapeLiteral(secret)
  const { rowCount } = await client.query('select from pg_roles where rolname = $1', [login])
  await client.query(`${rowCount ? 'alter' : 'create'} role ${name(login)} login password ${password}`)
  await client.query(`grant ${name(group)} to ${name(login)}`)
  await client.query(`alter role ${name(login)} set statement_timeout = '15s'`)
  // Every statement here is short; compiling one would cost more than it saves.
  await client.query(`alter role ${name(login)} set jit = off`)
  await client.query(`alter role ${name(login)} set idle_in_transaction_session_timeout = '15s'`)
}

/** Where this user may not make roles, an administrator has made the login, with its password. */
async function findLogin(client: pg.Client, group: string, login: string) {
  const { rowCount } = await client.query(
    `select from pg_auth_members where roleid = to_regrole($1) and member = to_regrole($2)`,
    [name(group), name(login)],
  )
  if (!rowCount) throw needsAdministrator(`there is no login ${login} in ${group}`)
}

const needsAdministrator = (lack: string) =>
  new Error(
    `${lack}, and the user of DATABASE_URL may not make roles: let an administrator run the SQL of docs/database.md`,
  )

/** Runs one file as the owner, in the transaction that also notes it; `:"orders"` is the group of that role (as psql writes it). */
async function apply(client: pg.Client, role: Role, file: string, groups: Record<string, string>) {
  const noted = await client.query(
    'insert into bodega.migration (schema, name) values ($1, $2) on conflict do nothing returning name',
    [role, file],
  )
  if (!noted.rowCount) return false
  const sql = readFileSync(join(migrationsIn(role), file), 'utf8').replace(/:"(\w+)"/g, (_, group) => {
    const found = groups[group]
    if (!found) throw new Error(`${role}/migrations/${file} names the unknown group :"${group}"`)
    return name(found)
  })
  try {
    await client.query(`set local lock_timeout = '2s'`)
    await client.query(`set local role ${name(groups.owner as string)}`)
    await client.query(sql)
  } catch (error) {
    throw new Error(`${role}/migrations/${file} failed: ${(error as Error).message}`, { cause: error })
  }
  return true
}
