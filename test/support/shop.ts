import { randomBytes } from 'node:crypto'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TestFn } from 'ava'
import { type Child, startChild } from '../../src/embedded/child.ts'
import { type Answer, type Call, call, codeIn, type MailMessage, mailsTo, mailTo } from '../../src/embedded/client.ts'
import { startEdge } from '../../src/embedded/edge.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import { findPrograms } from '../../src/embedded/programs.ts'
import { memoryEnv, type RoleProcess, type Shop, type ShopOptions, startShop } from '../../src/embedded/shop.ts'
import { type Role, roleNames } from '../../src/platform/config.ts'

export interface TestUser {
  id: string
  email: string
  password: string
  /** Access token of a session of its own. */
  token: string
  refreshToken: string
}

export interface TestShop extends Shop {
  /** One request through the edge; the path goes out as it is written. */
  call(method: string, path: string, options?: Call): Promise<Answer>
  /** Waits for the newest mail to an address that fits. */
  mailTo(address: string, options?: Parameters<typeof mailTo>[2]): Promise<MailMessage>
  /** All mails to an address by now, oldest first. */
  mailsTo(address: string): Promise<MailMessage[]>
  /** A new customer: registered, verified by the mailed code, signed in. */
  user(known?: { email?: string; password?: string; name?: string }): Promise<TestUser>
  /** A new session of a user. */
  login(user: Pick<TestUser, 'email' | 'password'>): Promise<Pick<TestUser, 'token' | 'refreshToken'>>
  /** The first admin, made by the command. */
  admin(): Promise<TestUser>
  /** A new user with the role staff. */
  staff(): Promise<TestUser>
}

type Options = Partial<ShopOptions> & { ownPostgres?: boolean }

/**
 * A whole shop for a test file: `const shop = useShop(test)` at its top. It stands when the tests begin, and stops after
 * them. Its database is its own, on the PostgreSQL that all files share, unless `ownPostgres`, which is durable as in
 * production.
 */
export function useShop(test: TestFn, options?: Options): TestShop {
  const shop = {} as TestShop
  let close = async () => {}
  test.serial.before('the shop starts', async (t) => {
    t.timeout(120_000)
    const opened = await openShop(options)
    close = opened.close
    Object.setPrototypeOf(shop, opened.shop)
  })
  test.after.always('the shop stops', () => close())
  return shop
}

/** A whole shop, for a test that wants one of its own; the caller closes it. */
export async function openShop({ ownPostgres = false, env, ...options }: Options = {}) {
  const adminUrl = process.env.TEST_POSTGRES_URL
  if (!adminUrl && !ownPostgres && !options.postgres)
    throw new Error('there is no PostgreSQL for tests: run them with npm test')
  const dir = mkdtempSync(join(tmpdir(), 'shop-'))
  const started = await startShop({
    dir,
    env: { ...noLimits, ...env },
    ...(adminUrl && !ownPostgres ? { postgres: { adminUrl, name: `shop_${randomBytes(6).toString('hex')}` } } : {}),
    ...options,
  })
  const close = async () => {
    await started.close()
    if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  return { shop: withUsers(started), close }
}

/** One more replica of a role, beside the shop's own, with some settings and variables of its own. */
export async function startReplica(
  shop: Shop,
  role: Role,
  name: string,
  changes: Record<string, string> = {},
  env: Record<string, string> = {},
): Promise<RoleProcess> {
  const [port, metricsPort] = await freePorts(2)
  const dir = join(shop.dir, name)
  cpSync(shop.secretsDir(role), dir, { recursive: true })
  const settings = { ...changes, LISTEN_PORT: String(port), METRICS_PORT: String(metricsPort) }
  for (const [key, value] of Object.entries(settings)) writeFileSync(join(dir, key), value)
  const url = `http://127.0.0.1:${port}`
  const child = await startChild({
    name,
    command: process.execPath,
    args: [join(import.meta.dirname, '../../src/main.ts')],
    env: { ...memoryEnv, ...env, ROLE: role, SECRETS_DIR: dir },
    log: join(shop.dir, 'log', `${name}.log`),
    grace: 30_000,
    ready: async () => (await fetch(`${url}/readyz`)).ok,
  })
  return Object.assign(child, { url, metricsUrl: `http://127.0.0.1:${metricsPort}/metrics` })
}

/** One more edge before the shop's roles, or before what stands at `instead` (URLs) for some of them. */
export async function startSecondEdge(
  shop: Shop,
  name: string,
  instead: Partial<Record<Role, string>>,
): Promise<Child & { url: string }> {
  const [port] = await freePorts(1)
  const upstreams = roleNames.map((role) => [
    `${role.toUpperCase()}_UPSTREAM`,
    new URL(instead[role] ?? shop.roles[role].url).host,
  ])
  return startEdge({
    program: findPrograms().nginx,
    dir: join(shop.dir, name),
    log: join(shop.dir, 'log', `${name}.log`),
    listen: `127.0.0.1:${port}`,
    env: Object.fromEntries(upstreams),
  })
}

/** For an edge whose customers all come from one address, which it would otherwise slow down. */
export const noLimits = {
  EDGE_SIGN_IN_RATE: '1000r/s',
  EDGE_SIGN_IN_BURST: '1000',
  EDGE_MAIL_RATE: '1000r/s',
  EDGE_MAIL_BURST: '1000',
  EDGE_PICTURE_RATE: '1000r/s',
  EDGE_PICTURE_BURST: '1000',
  EDGE_UPLOADS: '1000',
}

/** The body of an answer that must have this status. */
export async function must(url: string, status: number, method: string, path: string, options?: Call) {
  const answer = await call(url, method, path, options)
  if (answer.status !== status)
    throw new Error(`${method} ${path}: ${answer.status} instead of ${status}: ${answer.text}`)
  return answer.body
}

function withUsers(shop: Shop): TestShop {
  const { url } = shop
  const login: TestShop['login'] = async ({ email, password }) => {
    const tokens = await must(url, 200, 'POST', '/auth/login', { body: { email, password } })
    return { token: tokens.accessToken, refreshToken: tokens.refreshToken }
  }
  const user: TestShop['user'] = async (known = {}) => {
    const email = known.email ?? `user-${randomBytes(6).toString('hex')}@example.org`
    const password = known.password ?? `pass ${randomBytes(8).toString('hex')}`
    await must(url, 202, 'POST', '/auth/register', {
      body: { email, password, ...(known.name ? { name: known.name } : {}) },
    })
    const code = codeIn(await mailTo(shop.inboxUrl, email))
    await must(url, 200, 'POST', '/auth/verify', { body: { email, code } })
    const session = await login({ email, password })
    const { id } = await must(url, 200, 'GET', '/profile', { token: session.token })
    return { id, email, password, ...session }
  }
  let firstAdmin: Promise<TestUser> | undefined
  const admin = () => {
    firstAdmin ??= (async () => {
      const made = await user()
      await shop.run('auth', 'commands.ts', 'admin', made.email)
      return { ...made, ...(await login(made)) }
    })()
    return firstAdmin
  }
  const staff = async () => {
    const made = await user()
    const { token } = await admin()
    await must(url, 200, 'PUT', `/user/${made.id}/roles`, { token, body: { roles: ['staff'] } })
    return { ...made, ...(await login(made)) }
  }
  return Object.assign(shop, {
    call: (method: string, path: string, options?: Call) => call(url, method, path, options),
    mailTo: (address: string, options?: Parameters<typeof mailTo>[2]) => mailTo(shop.inboxUrl, address, options),
    mailsTo: (address: string) => mailsTo(shop.inboxUrl, address),
    user,
    login,
    admin,
    staff,
  })
}

/** Polls until `look` returns something; throws after `deadline` milliseconds with what was awaited. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false>,
  deadline = 15_000,
): Promise<T> {
  const end = Date.now() + deadline
  let last: unknown
  while (Date.now() < end) {
    try {
      const found = await look()
      if (found) return found
    } catch (error) {
      last = error
    }
    await sleep(25)
  }
  throw new Error(`not in ${deadline} ms: ${what}${last ? ` (${last})` : ''}`)
}
