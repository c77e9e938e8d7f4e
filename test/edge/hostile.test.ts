import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import pg from 'pg'
import { table } from '../../src/table.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { rawRequest as rawTo, seenBy } from './raw.ts'

const shop = useShop(test)
let customer: TestUser
test.serial.before(async () => {
  customer = await shop.user()
})

const seen = async () => (await Promise.all(Object.values(shop.roles).map(seenBy))).reduce((a, b) => a + b)
const rawRequest = (method: string, target: string, headers?: string[]) => rawTo(shop.url, method, target, headers)

/** The next look at `path` is not one that the decision cache already answered. */
let looks = 0
const fresh = (path: string) => `${path}?look=${++looks}`

const ambiguous = [
  '/product%2f..%2fuser',
  '/product/%2e%2e/user',
  '/product/../user',
  '/product/./x',
  '/product//x',
  '//user',
  '/user%00',
  '/user%5c',
  '/user\\',
  '/%75ser/%2e%2e',
  '/user%0d%0aX-Injected:1',
  '/product/..',
  '/product%7f',
]
for (const path of ambiguous)
  test.serial(`GET ${path} → refused at the edge, and no role is reached`, async (t) => {
    const before = await seen()
    for (const headers of [[], [`Authorization: Bearer ${customer.token}`]]) {
      const { status, text } = await rawRequest('GET', path, headers)
      t.true(status === 403 || status === 400, `${status}`)
      t.regex(text, /application\/problem\+json/)
      t.notRegex(text, /X-Injected/)
    }
    t.is(await seen(), before)
  })

test.serial('a path encoded twice → decoded once only: nothing is there', async (t) => {
  const answer = await rawRequest('GET', '/%2575ser', [`Authorization: Bearer ${customer.token}`])
  t.is(answer.status, 404)
  const product = await rawRequest('GET', '/product/%252e%252e%252fuser')
  t.is(product.status, 404)
})

test.serial('an encoded letter in a guarded path → the same guard', async (t) => {
  t.is((await rawRequest('GET', '/%75ser')).status, 401)
  t.is((await rawRequest('GET', '/%75ser', [`Authorization: Bearer ${customer.token}`])).status, 403)
})

test.serial('overlong path, header and body → 414, 431 or 400, 413 as problems', async (t) => {
  const long = await rawRequest('GET', `/${'a'.repeat(20_000)}`)
  t.is(long.status, 414)
  t.regex(long.text, /"code":"uri_too_long"/)
  const header = await rawRequest('GET', '/product', [`X-Long: ${'a'.repeat(20_000)}`])
  t.is(header.status, 431)
  t.regex(header.text, /"code":"headers_too_large"/)
  const body = await shop.call('POST', '/auth/login', { body: { email: 'a'.repeat(16 * 1024) } })
  t.is(body.status, 413)
  t.is(body.body.code, 'body_too_large')
})

test.serial('unknown path → 404, unknown method → 405 with Allow, as problems and without a role', async (t) => {
  const before = await seen()
  const unknown = await shop.call('GET', '/admin')
  t.is(unknown.status, 404)
  t.is(unknown.body.code, 'no_route')
  for (const path of ['/PRODUCT', '/Cart', '/auth/Login', '/product/'])
    t.is((await shop.call('GET', path)).body.code, 'no_route', path)
  for (const [method, path] of [
    ['POST', '/Order'],
    ['POST', '/Auth/Refresh'],
    ['PATCH', '/PROFILE'],
  ] as const)
    t.like(await shop.call(method, path), { status: 404, body: { code: 'no_route' } }, path)
  const method = await shop.call('DELETE', '/auth/login')
  t.is(method.status, 405)
  t.is(method.headers.allow, 'POST')
  t.is((await rawRequest('TRACE', '/product')).status, 405)
  t.is((await rawRequest('BREW', '/product')).status, 405)
  t.is(await seen(), before)
})

for (const path of [
  '/authn',
  '/authz',
  '/authz/product',
  '/metrics',
  '/readyz',
  '/-/authz',
  '/-/auth/public',
  '/-/orders/user',
  '/-/problem/400',
  '/docs/../nginx.conf',
  '/routes.conf',
])
  test.serial(`GET and POST ${path} from outside → nothing is there`, async (t) => {
    const before = await seen()
    for (const method of ['GET', 'POST']) {
      const { status } = await rawRequest(method, path, [
        'Content-Length: 0',
        `Authorization: Bearer ${customer.token}`,
      ])
      t.true([403, 404, 405].includes(status), `${method} ${status}`)
    }
    t.is(await seen(), before)
  })

test.serial('two Authorization headers, or another scheme → refused', async (t) => {
  const both = await rawRequest('GET', '/profile', [
    `Authorization: Bearer ${customer.token}`,
    'Authorization: Bearer x',
  ])
  t.true([400, 401].includes(both.status), `${both.status}`)
  t.is((await rawRequest('GET', '/profile', ['Authorization: Basic YTpi'])).status, 401)
})

test.serial('a session that ended → refused within 5 s on a path that the edge had cached', async (t) => {
  const { token } = await shop.login(customer)
  t.is((await shop.call('GET', '/profile', { token })).status, 200)
  const began = Date.now()
  t.is((await shop.call('POST', '/auth/logout', { token })).status, 204)
  await eventually(
    '401 for the ended session',
    async () => (await shop.call('GET', '/profile', { token })).status === 401,
    5000,
  )
  t.true(Date.now() - began < 5000)
})

test.serial('roles taken away → refused within 5 s', async (t) => {
  const staff = await shop.staff()
  const admin = await shop.admin()
  t.is((await shop.call('POST', '/product', { token: staff.token, body: {} })).status, 400)
  t.is(
    (await shop.call('PUT', `/user/${staff.id}/roles`, { token: admin.token, body: { roles: ['customer'] } })).status,
    200,
  )
  await eventually(
    '401',
    async () => (await shop.call('POST', '/product', { token: staff.token, body: {} })).status === 401,
    5000,
  )
  t.pass()
})

test.serial('every guarded route of the table without a token → 401, and no role is reached', async (t) => {
  const before = await seen()
  for (const row of await table()) {
    if (row.internal || row.access === 'public' || row.access === 'PRODUCT_READ') continue
    const path = row.path.replace(/\{\w+\}/g, customer.id)
    t.is((await shop.call(row.method, path)).status, 401, `${row.method} ${path}`)
  }
  t.is(await seen(), before)
})

test.serial('every route that needs a permission, by a customer → 403, and no role is reached', async (t) => {
  const { token } = await shop.login(customer)
  const before = await seen()
  for (const row of await table()) {
    if (['public', 'user', 'PRODUCT_READ'].includes(row.access)) continue
    const path = row.path.replace(/\{\w+\}/g, customer.id)
    t.is((await shop.call(row.method, path, { token })).status, 403, `${row.method} ${path}`)
  }
  t.is(await seen(), before)
})

test.serial(
  'auth dead → reads of products go on, its own routes and guarded ones answer 503 as a problem; back → 200',
  async (t) => {
    const { token } = await shop.login(customer)
    await shop.roles.auth.kill('SIGKILL')
    t.is((await shop.call('GET', '/product')).status, 200)
    for (const answer of [
      await shop.call('GET', fresh('/order'), { token }),
      await shop.call('POST', '/auth/login', { body: {} }),
      await shop.call('POST', '/auth/refresh', { body: {} }),
    ]) {
      t.is(answer.status, 503)
      t.is(answer.body.code, 'unavailable')
      t.truthy(answer.headers['retry-after'])
    }
    await shop.roles.auth.restart()
    await eventually('200', async () => (await shop.call('GET', '/order', { token })).status === 200)
  },
)

test.serial(
  'products dead, a picture of 1 MB → 503 as for every request, and not too large for the second try',
  async (t) => {
    const { token } = await shop.staff()
    await shop.roles.products.kill('SIGKILL')
    const answer = await shop.call('PUT', '/product/018f0000-0000-7000-8000-000000000000/image', {
      token,
      body: Buffer.alloc(1_000_000),
      headers: { 'Content-Type': 'image/jpeg', 'If-Match': '*' },
    })
    t.is(answer.status, 503)
    await shop.roles.products.restart()
  },
)

test.serial(
  'auth asked before it has read which sessions are revoked → the answer waits for that, and is 200',
  async (t) => {
    const { token } = await shop.login(customer)
    await shop.roles.auth.stop()
    const blocker = new pg.Client({ connectionString: shop.databaseUrl })
    await blocker.connect()
    await blocker.query('begin; lock table auth.session in access exclusive mode')
    const restarted = shop.roles.auth.restart()
    const isAlive = () =>
      fetch(`${shop.roles.auth.url}/healthz`).then(
        (answer) => answer.ok,
        () => false,
      )
    await eventually('auth answers at all', isAlive)
    const asked = shop.call('GET', fresh('/profile'), { token })
    // How long the reading takes, not a wait.
    await sleep(500)
    await blocker.query('rollback')
    await blocker.end()
    t.is((await asked).status, 200)
    await restarted
  },
)
