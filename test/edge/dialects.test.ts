import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Answer, type Call, call } from '../../src/embedded/client.ts'
import { findProxy, type ProxyName } from '../../src/embedded/programs.ts'
import type { RoleProcess } from '../../src/embedded/shop.ts'
import { assert } from '../../src/platform/identity.ts'
import { eventually, startReplica, type TestUser, useShop } from '../support/shop.ts'
import { startProxy } from './proxies.ts'
import { rawRequest, seenBy } from './raw.ts'

const substitutes = ['traefik', 'caddy', 'envoy'] as const
const edges = ['nginx', ...substitutes] as const
type Edge = (typeof edges)[number]

const programs = new Map<Edge, string>([['nginx', '']])
for (const name of substitutes)
  try {
    programs.set(
      name,
      findProxy(name, (text) => process.stderr.write(`${text}\n`)),
    )
  } catch (error) {
    process.stderr.write(`skipped in test/edge/dialects.test.ts: ${(error as Error).message}\n`)
  }

const shop = useShop(test)
const auths = new Map<Edge, RoleProcess>()
const urls = new Map<Edge, string>()
let close = async () => {}
let customer: TestUser
let admin: TestUser

test.serial.before(async (t) => {
  t.timeout(120_000)
  customer = await shop.user()
  admin = await shop.admin()
  await using opening = new AsyncDisposableStack()
  urls.set('nginx', shop.url)
  auths.set('nginx', shop.roles.auth)
  for (const [name, program] of programs) {
    if (name === 'nginx') continue
    const dialect = name === 'envoy' ? 'envoy' : 'forward'
    const auth = opening.use(await startReplica(shop, 'auth', `auth-${name}`, { AUTHZ_DIALECT: dialect }))
    const { products, orders, notifications } = shop.roles
    const roles = { auth, products, orders, notifications }
    const proxy = await startProxy(name as ProxyName, { program, dir: join(shop.dir, name), roles })
    auths.set(name, auth)
    urls.set(name, opening.use(proxy).url)
  }
  const opened = opening.move()
  close = () => opened.disposeAsync()
})
test.after.always(() => close())

/** How many requests have reached a role through any of the proxies, questions to /authz not counted. */
const seen = async () => {
  const { products, orders, notifications } = shop.roles
  const counts = await Promise.all([...auths.values(), products, orders, notifications].map(seenBy))
  return counts.reduce((a, b) => a + b)
}

/** What a proxy made of a request: status, the problem's code, what is wrong with the token, whose profile came. */
function outcome({ status, headers, body }: Answer): string {
  const challenge = headers['www-authenticate']
  const who = body?.id === customer.id ? 'customer' : body?.id === admin.id ? 'admin' : body?.id
  return [status, body?.code, challenge?.includes('invalid_token') && 'invalid_token', who].filter(Boolean).join(' ')
}

interface Row {
  what: string
  ask: [method: string, path: string, options?: () => Call]
  /** What nginx makes of it, and every other proxy where nothing else is said. */
  expected: string
  /** What the others make of it, all or one: each of these differences is in docs/proxies.md. */
  others?: string | Partial<Record<Edge, string>>
}

const claims = () => ({
  'X-User-Id': admin.id,
  'X-User-Email': admin.email,
  'X-User-Roles': 'customer,admin',
  'X-Session-Id': 'x',
  // Even one with the right key, as if it had leaked.
  'X-Auth-Assertion': assert(
    { id: admin.id, email: admin.email, roles: ['admin'], sid: 'x' },
    readFileSync(join(shop.secretsDir('auth'), 'ASSERTION_KEY'), 'utf8'),
  ),
})
const steering = {
  'X-Original-Method': 'GET',
  'X-Original-URI': '/product',
  'X-Forwarded-Method': 'GET',
  'X-Forwarded-Uri': '/product',
  'X-HTTP-Method-Override': 'GET',
  'X-Envoy-Original-Path': '/product',
  'X-Rewrite-URL': '/product',
}
/** Headers that a proxy drops because the client calls them hop-by-hop. */
const dropped = { Connection: `close, ${Object.keys(steering).join(', ')}, X-User-Id, X-Auth-Assertion` }
const byCustomer = (more: Call = {}) => ({ token: customer.token, ...more })

const rows: Row[] = [
  { what: 'a public route', ask: ['GET', '/product'], expected: '200' },
  { what: 'a public route by HEAD', ask: ['HEAD', '/product'], expected: '200' },
  { what: 'a public route with claims', ask: ['GET', '/product', () => ({ headers: claims() })], expected: '200' },
  { what: 'no token', ask: ['GET', '/profile'], expected: '401 unauthenticated' },
  {
    what: 'a bad token',
    ask: ['GET', '/profile', () => ({ token: 'a.b.c' })],
    expected: '401 unauthenticated invalid_token',
  },
  { what: 'a token', ask: ['GET', '/profile', byCustomer], expected: '200 customer' },
  { what: 'a token in a query', ask: ['GET', '/profile?access_token=x.y.z'], expected: '401 unauthenticated' },
  {
    what: 'a token and a body',
    ask: ['PATCH', '/profile', () => byCustomer({ body: { name: 'Ada' } })],
    expected: '200 customer',
  },
  { what: 'a permission that is missing', ask: ['GET', '/user', byCustomer], expected: '403 forbidden' },
  { what: 'a permission', ask: ['GET', '/user', () => ({ token: admin.token })], expected: '200' },
  { what: 'an encoded letter', ask: ['GET', '/%75ser', byCustomer], expected: '403 forbidden' },
  {
    what: 'claims and a token',
    ask: ['GET', '/profile', () => byCustomer({ headers: claims() })],
    expected: '200 customer',
  },
  {
    what: 'claims without a token',
    ask: ['GET', '/profile', () => ({ headers: claims() })],
    expected: '401 unauthenticated',
  },
  {
    what: 'claims with a token that may not',
    ask: ['GET', '/user', () => byCustomer({ headers: claims() })],
    expected: '403 forbidden',
  },
  {
    what: 'steering headers without a token',
    ask: ['POST', '/product', () => ({ headers: steering, body: {} })],
    expected: '401 unauthenticated',
  },
  {
    what: 'steering headers and a token that may not',
    ask: ['POST', '/product', () => byCustomer({ headers: steering, body: {} })],
    expected: '403 forbidden',
  },
  {
    what: 'steering headers that Connection names',
    ask: ['POST', '/product', () => byCustomer({ headers: { ...steering, ...dropped }, body: {} })],
    expected: '403 forbidden',
    others: { envoy: '400' },
  },
  {
    what: 'claims that Connection names',
    ask: ['GET', '/profile', () => byCustomer({ headers: { ...claims(), ...dropped } })],
    expected: '200 customer',
    others: { envoy: '400' },
  },
  { what: 'an unknown path', ask: ['GET', '/admin', byCustomer], expected: '404 no_route', others: '404' },
  {
    what: 'an unknown path beside known ones',
    ask: ['GET', '/auth/secret', byCustomer],
    expected: '404 no_route',
    others: '403 forbidden',
  },
  {
    what: 'an unknown method',
    ask: ['DELETE', '/auth/login', byCustomer],
    expected: '405 method_not_allowed',
    others: '403 forbidden',
  },
  ...['/authz', '/authn', '/authz/product', '/readyz', '/metrics'].map((path) => ({
    what: `${path} from outside`,
    ask: ['GET', path, byCustomer] as Row['ask'],
    expected: '404 no_route',
    others: '404',
  })),
]

const ambiguous = [
  '/product%2f..%2fuser',
  '/product/..%2fuser',
  '/product/%2e%2e/user',
  '/product/../user',
  '/product/../product/../user',
  '//user',
  '/product/x/../../user',
  '/user%00',
  '/user%5c',
  '/user\\',
  '/product/..;/user',
  '/product/.%2e/user',
  '/user%0d%0aX-Injected:1',
  '/product%7f',
  'http://shop/product/../user',
]

for (const edge of edges) {
  const behind = programs.has(edge) ? test.serial : test.serial.skip
  const url = () => urls.get(edge) as string

  behind(
    `${edge}: each row of the decision table → the documented outcome, and what is refused reaches no role`,
    async (t) => {
      for (const { what, ask, expected, others = expected } of rows) {
        const [method, path, options = () => ({})] = ask
        const before = await seen()
        const answer = await call(url(), method, path, options())
        const wanted = edge === 'nginx' ? expected : typeof others === 'string' ? others : (others[edge] ?? expected)
        t.is(outcome(answer), wanted, what)
        if (answer.status === 401) t.regex(answer.headers['www-authenticate'] ?? '', /^Bearer realm="bodega"/, what)
        if (answer.status !== 200) t.is(await seen(), before, `${what}: reached a role`)
        t.falsy(answer.headers['x-auth-assertion'], what)
      }
    },
  )

  behind(
    `${edge}: paths that can be read in two ways → none leads to a route that the user may not call`,
    async (t) => {
      const before = await seen()
      const headers = [[], [`Authorization: Bearer ${customer.token}`]]
      await Promise.all(
        ambiguous.flatMap((path) =>
          headers.map(async (sent) => {
            const { status, text } = await rawRequest(url(), 'GET', path, sent)
            t.true([400, 401, 403, 404].includes(status), `${path}: ${status}`)
            t.notRegex(text, /^X-Injected/im, path)
          }),
        ),
      )
      t.is(await seen(), before)
    },
  )

  behind(`${edge}: a client that names another address as its own → counted and shown by its true one`, async (t) => {
    const { email, password } = await shop.user()
    const headers = { 'X-Real-IP': '203.0.113.9', 'X-Forwarded-For': '203.0.113.9', Forwarded: 'for=203.0.113.9' }
    const login = await call(url(), 'POST', '/auth/login', { body: { email, password }, headers })
    const { body } = await call(url(), 'GET', '/auth/sessions', { token: login.body.accessToken, headers })
    t.deepEqual(
      body.items.map(({ ip }: { ip: string }) => ip.replace('::ffff:', '')),
      ['127.0.0.1', '127.0.0.1'],
    )
  })

  behind(`${edge}: a session that ended elsewhere → refused within 5 s`, async (t) => {
    const { token } = await shop.login(customer)
    t.is((await call(url(), 'GET', '/profile', { token })).status, 200)
    t.is((await shop.call('POST', '/auth/logout', { token })).status, 204)
    await eventually('401', async () => (await call(url(), 'GET', '/profile', { token })).status === 401, 5000)
  })

  behind(`${edge}: auth dead → nothing guarded is let through; back → it is`, async (t) => {
    const auth = auths.get(edge) as RoleProcess
    await auth.kill('SIGKILL')
    const before = await Promise.all([shop.roles.orders, shop.roles.products].map(seenBy))
    const guarded = await call(url(), 'GET', '/order?fresh', { token: customer.token })
    t.is(guarded.status, { nginx: 503, traefik: 500, caddy: 502, envoy: 503 }[edge])
    t.deepEqual(await Promise.all([shop.roles.orders, shop.roles.products].map(seenBy)), before)
    t.is((await call(url(), 'GET', '/product')).status === 200, edge === 'nginx')
    await auth.restart()
    await eventually('200', async () => (await call(url(), 'GET', '/order', { token: customer.token })).status === 200)
  })
}
