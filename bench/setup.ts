import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { get } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import jwt from 'jsonwebtoken'
import { baseEnv, type Child, runToEnd, startChild } from '../src/embedded/child.ts'
import { call, codeIn, mailTo } from '../src/embedded/client.ts'
import { startEdge } from '../src/embedded/edge.ts'
import { freePorts } from '../src/embedded/ports.ts'
import { createDatabase, query } from '../src/embedded/postgres.ts'
import { findPrograms } from '../src/embedded/programs.ts'
import { writeSecrets } from '../src/embedded/secrets.ts'
import { memoryEnv, type Shop } from '../src/embedded/shop.ts'
import { type Role, roleNames } from '../src/platform/config.ts'
import { median } from './report.ts'

const main = join(import.meta.dirname, '../src/main.ts')
const log = (shop: Shop, name: string) => join(shop.dir, 'log', `${name}.log`)

/** The settings of a role or of `migrate`, by key. */
export const settingsOf = (shop: Shop, reader: Role | 'migrate'): Record<string, string> => {
  const dir = shop.secretsDir(reader)
  return Object.fromEntries(readdirSync(dir).map((key) => [key, readFileSync(join(dir, key), 'utf8')]))
}

/** A directory of settings: those of `reader`, with changes. */
function changed(shop: Shop, reader: Role | 'migrate', name: string, changes: Record<string, string>) {
  const dir = join(shop.dir, 'secrets', name)
  writeSecrets(dir, { ...settingsOf(shop, reader), ...changes })
  return dir
}

/** Starts a bare server of baseline.ts. */
export async function startBaseline(shop: Shop, kind: string) {
  const [port] = await freePorts(1)
  const url = `http://127.0.0.1:${port}`
  const child = await startChild({
    name: kind,
    command: process.execPath,
    // As the roles (src/main.ts): else one start in six may be a third slower.
    args: ['--no-allocation-site-pretenuring', join(import.meta.dirname, 'baseline.ts'), kind, String(port)],
    env: { DATABASE_URL: shop.databaseUrl, NODE_ENV: 'production' },
    log: log(shop, `bare-${kind}`),
    ready: async () => (await fetch(url)).status > 0,
  })
  return { url, child }
}

/** Where the mail sink says which order's mail it took when. */
export const mailLog = (shop: Shop) => log(shop, 'mail-sink')

/** Takes the place of the shop's inbox: a mail server that keeps nothing. */
export const startMailSink = (shop: Shop): Promise<Child> =>
  startChild({
    name: 'mail sink',
    command: process.execPath,
    args: [join(import.meta.dirname, 'baseline.ts'), 'mail', String(shop.ports.smtp)],
    log: mailLog(shop),
    ready: async () => true,
  })

export interface Customer {
  id: string
  email: string
  password: string
  /** Access token, of ten minutes. */
  token: string
  /** What the edge would tell a role of this customer, for longer than a run of the benchmark. */
  assertion: string
}

/** New customers: registered, verified by the mailed code, signed in. At the role itself, past the limits per address. */
export async function makeCustomers(shop: Shop, count: number): Promise<Customer[]> {
  const key = settingsOf(shop, 'orders').ASSERTION_KEY as string
  const make = async () => {
    const email = `bench-${randomBytes(6).toString('hex')}@example.org`
    const password = randomBytes(12).toString('hex')
    await post(shop, 202, '/auth/register', { email, password })
    const code = codeIn(await mailTo(shop.inboxUrl, email))
    await post(shop, 200, '/auth/verify', { email, code })
    const { accessToken: token } = await post(shop, 200, '/auth/login', { email, password })
    const { body } = await call(shop.url, 'GET', '/profile', { token })
    const claims = { email, roles: ['customer'], sid: (jwt.decode(token) as jwt.JwtPayload).sid }
    const assertion = jwt.sign(claims, key, { subject: body.id, audience: 'internal', expiresIn: '1h' })
    return { id: body.id as string, email, password, token, assertion }
  }
  return Promise.all(Array.from({ length: count }, make))
}

/** Gives each customer a fresh access token. */
export async function signIn(shop: Shop, customers: Customer[]) {
  for (const customer of customers) {
    const { email, password } = customer
    customer.token = (await post(shop, 200, '/auth/login', { email, password })).accessToken
  }
}

async function post(shop: Shop, status: number, path: string, body: object) {
  const answer = await call(shop.roles.auth.url, 'POST', path, { body })
  if (answer.status !== status) throw new Error(`POST ${path}: ${answer.status}: ${answer.text}`)
  return answer.body
}

/** Fills a catalogue with `count` products of which there are a thousand million each; returns the ids of a thousand. */
export async function fillCatalogue(databaseUrl: string, count: number): Promise<string[]> {
  const run = (sql: string) => query(databaseUrl, sql)
  await run(
    `insert into products.product (id, sku, name, description, category, price, currency, created_at, updated_at)
     select gen_random_uuid(), 'BENCH-' || i, (array['Oak', 'Linen', 'Copper', 'Wool', 'Glass'])[i % 5 + 1] || ' '
              || (array['lamp', 'chair', 'kettle', 'blanket', 'bowl', 'shelf', 'clock'])[i % 7 + 1] || ' ' || i,
            '${description}',
            'category-' || i % 40, 500 + i * 7 % 90000, 'EUR', moment, moment
       from generate_series(1, ${count}) i, lateral (select now() - i * interval '1 second' as moment) made`,
  )
  await run('insert into products.stock (product_id, on_hand) select id, 1000000000 from products.product')
  await settle(databaseUrl, 'products.product', 'products.stock')
  const { rows } = await run('select id from products.product limit 1000')
  return rows.map((row) => row.id)
}
const description = 'Made by hand in a small workshop, and meant to be used every day for many years.'

/** What autovacuum does some time after so many rows have come. */
async function settle(databaseUrl: string, ...tables: string[]) {
  for (const table of tables) await query(databaseUrl, `vacuum (analyze) ${table}`)
  await query(databaseUrl, 'checkpoint')
}

/** A database of its own in the shop's PostgreSQL, migrated, and the settings with which a role uses it. */
async function openDatabase(shop: Shop, name: string) {
  const databaseUrl = await createDatabase(shop.databaseUrl, name)
  const migrator = changed(shop, 'migrate', `${name}-migrate`, { DATABASE_URL: databaseUrl })
  await runToEnd(process.execPath, [main, 'migrate'], { env: { SECRETS_DIR: migrator } })
  const settingsFor = (role: Role) => {
    const login = new URL(settingsOf(shop, role).DATABASE_URL as string)
    return { DATABASE_URL: Object.assign(login, { pathname: `/${name}` }).href }
  }
  return { databaseUrl, settingsFor }
}

/**
 * `make import` of so many products into a database of its own, as that command does it: how many a second, and how many
 * MB its process held after a tenth of them and at most. Leaves the products to a second products role.
 */
export async function importLarge(shop: Shop, count: number) {
  const name = 'large'
  const { databaseUrl, settingsFor } = await openDatabase(shop, name)
  const file = join(shop.dir, 'large.csv')
  const kinds = ['lamp', 'chair', 'kettle', 'blanket', 'bowl', 'shelf', 'clock']
  const makers = ['Oak', 'Linen', 'Copper', 'Wool', 'Glass']
  const out = openSync(file, 'w')
  writeSync(out, 'sku,name,description,category,price,currency,stock\n')
  for (let i = 1; i <= count; ) {
    let lines = ''
    for (const end = Math.min(count, i + 9999); i <= end; i++)
      lines += `BENCH-${i},${makers[i % 5]} ${kinds[i % 7]} ${i},"${description}",category-${i % 40},${500 + ((i * 7) % 90_000)},EUR,1000000\n`
    writeSync(out, lines)
  }
  closeSync(out)
  const secrets = changed(shop, 'products', name, settingsFor('products'))
  const began = performance.now()
  const child = spawn(process.execPath, [join(main, '../commands.ts'), 'import', file], {
    env: { ...baseEnv(), ...memoryEnv, SECRETS_DIR: secrets },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  let early = Number.NaN
  let most = 0
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = text
  })
  const watch = setInterval(() => {
    // One that has ended and is not yet waited for has no memory.
    const now = child.exitCode === null ? memoryOf(child.pid) || 0 : 0
    most = Math.max(most, now)
    const percent = Number(/(\d+) % ·/.exec(said)?.[1])
    if (percent >= 10 && Number.isNaN(early)) early = now
  }, 100)
  const [code] = await once(child, 'exit')
  clearInterval(watch)
  if (code !== 0) throw new Error(`the import ended with ${code}: ${said}`)
  const rate = count / ((performance.now() - began) / 1000)
  await settle(databaseUrl, 'products.product', 'products.stock')
  return { rate, early, most, role: await startReplica(shop, 'products', name, settingsFor('products')) }
}

/** A second orders role on a database of its own with so many orders, a hundred of each user, and a thousand products. */
export async function startOrders(shop: Shop, count: number) {
  const name = `orders_${count}`
  const { databaseUrl, settingsFor } = await openDatabase(shop, name)
  const products = await fillCatalogue(databaseUrl, 1000)
  const run = (sql: string) => query(databaseUrl, sql)
  // uuidv7 as the role makes them, so that the primary keys grow at their end as they do in a shop.
  await run(
    `insert into orders.order (id, user_id, email, currency, total, status, delivered_at, created_at)
     select uuidv7(made.age), md5((i / 100)::text)::uuid, 'bench@example.org', 'EUR', 1000, 'delivered', now() + made.age,
            now() + made.age
       from generate_series(1, ${count}) i, lateral (select (i - ${count}) * interval '1 minute' as age) made`,
  )
  await run(
    `insert into orders.order_line (order_id, product_id, sku, name, price, quantity)
     select o.id, p.id, p.sku, p.name, p.price, 1
       from orders.order o, lateral (values ('${products[0]}'::uuid), ('${products[1]}'::uuid)) two (id)
       join products.product p on p.id = two.id`,
  )
  await run(
    `insert into orders.order_event (order_id, status, at) select id, s, created_at from orders.order, unnest(array['pending', 'delivered']) s`,
  )
  await run(
    `insert into orders.idempotency (user_id, key, fingerprint, order_id, body, created_at)
     select user_id, id::text, '\\x00', id, '{}', created_at from orders.order where created_at > now() - interval '1 day'`,
  )
  await settle(databaseUrl, 'orders.order', 'orders.order_line', 'orders.order_event', 'orders.idempotency')
  return { products, databaseUrl, role: await startReplica(shop, 'orders', name, settingsFor('orders')) }
}

/** Another process of a role, with changed settings. */
async function startReplica(shop: Shop, role: Role, name: string, changes: Record<string, string>) {
  const [port, metrics] = await freePorts(2)
  const url = `http://127.0.0.1:${port}`
  const ports = { LISTEN_PORT: String(port), METRICS_PORT: String(metrics) }
  const child = await startChild({
    name: `${name} ${role}`,
    command: process.execPath,
    args: [main],
    env: { ...memoryEnv, SECRETS_DIR: changed(shop, role, name, { ...changes, ...ports }), ROLE: role },
    log: log(shop, name),
    ready: async () => (await fetch(`${url}/readyz`)).ok,
  })
  return { url, child }
}

/** One more edge, made by the same script; `urls` names who answers in place of the shop's roles. */
async function startOneMoreEdge(shop: Shop, name: string, urls: Partial<Record<Role, string>> = {}) {
  const [port] = await freePorts(1)
  const dir = join(shop.dir, name)
  const host = (role: Role) => new URL(urls[role] ?? shop.roles[role].url).host
  const edge = await startEdge({
    program: findPrograms().nginx,
    dir,
    log: log(shop, name),
    listen: `127.0.0.1:${port}`,
    env: Object.fromEntries(roleNames.map((role) => [`${role.toUpperCase()}_UPSTREAM`, host(role)])),
  })
  return { edge, dir }
}

/** The edge as it ships before the bare servers: what every server pays for standing behind it. */
export const startBareEdge = async (shop: Shop, urls: { products: string; orders: string }) =>
  (await startOneMoreEdge(shop, 'bare-edge', urls)).edge

/**
 * An edge whose routes for users do not ask /authz: they tell the role that it is always `customer` who calls. What the
 * shop's own edge is slower by is what authentication costs.
 */
export async function startOpenEdge(shop: Shop, customer: Customer) {
  const { edge, dir } = await startOneMoreEdge(shop, 'open-edge')
  const facts: Record<string, string> = {
    $user_id: customer.id,
    $user_email: customer.email,
    $user_roles: 'customer',
    $session_id: 'bench',
    $assertion: customer.assertion,
  }
  const file = join(dir, 'access/user.conf')
  const told = readFileSync(file, 'utf8')
    .replace(/^auth_request_set (\$\w+) .*;$/gm, (_, name) => `set ${name} "${facts[name]}";`)
    .replace(/^auth_request .*\n/gm, '')
  writeFileSync(file, told)
  await edge.kill('SIGHUP')
  for (const end = Date.now() + 10_000; (await fetch(`${edge.url}/order`)).status !== 200; await sleep(50))
    if (Date.now() > end) throw new Error(`GET ${edge.url}/order still asks who is calling`)
  return edge
}

/** Milliseconds from the start of a role's process to its first 200 from /readyz, and its dependencies are there. */
export async function coldStart(shop: Shop, role: Role, more: Record<string, string>): Promise<number> {
  const [port = 0, metrics] = await freePorts(2)
  const ports = { LISTEN_PORT: String(port), METRICS_PORT: String(metrics) }
  const env = { ...baseEnv(), ...memoryEnv, ...more, SECRETS_DIR: changed(shop, role, 'cold', ports), ROLE: role }
  const began = performance.now()
  const child = spawn(process.execPath, [main], { env, stdio: 'ignore' })
  const gone = once(child, 'exit')
  try {
    while (!(await isReady(port))) {
      if (child.exitCode !== null || performance.now() - began > 20_000) throw new Error(`${role} did not start`)
      await sleep(2)
    }
    return performance.now() - began
  } finally {
    child.kill('SIGTERM')
    await gone
  }
}

const isReady = (port: number) =>
  new Promise<boolean>((resolve) => {
    get({ host: '127.0.0.1', port, path: '/readyz', agent: false }, (response) => {
      response.resume()
      resolve(response.statusCode === 200)
    }).once('error', () => resolve(false))
  })

/** Resident memory of a process in MB; pages that processes share are counted in each. */
export function memoryOf(pid: number | undefined): number {
  const kilobytes = existsSync(`/proc/${pid}/status`)
    ? /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    : execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })
  return Number(kilobytes) / 1024
}

/** The same with shared pages divided among those who share them: what a process really costs. Linux only. */
export function ownMemoryOf(pid: number | undefined): number | undefined {
  const file = `/proc/${pid}/smaps_rollup`
  return existsSync(file) ? Number(/^Pss:\s+(\d+)/m.exec(readFileSync(file, 'utf8'))?.[1]) / 1024 : undefined
}

/** Microseconds of processor time that a process has taken; NaN where there is no /proc. */
export function timeOf(pid: number | undefined): number {
  const file = `/proc/${pid}/stat`
  if (!existsSync(file)) return Number.NaN
  // From the third field on, behind the name: user and system time in hundredths of a second.
  const fields = readFileSync(file, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

/** Milliseconds that 8 KiB take to be on the disk of `dir`, the median of 50: the floor of a commit. */
export function syncTime(dir: string): number {
  const fd = openSync(join(dir, 'sync'), 'w')
  const page = Buffer.alloc(8192)
  const times = Array.from({ length: 50 }, () => {
    const began = performance.now()
    writeSync(fd, page)
    fdatasyncSync(fd)
    return performance.now() - began
  })
  closeSync(fd)
  return median(times)
}
