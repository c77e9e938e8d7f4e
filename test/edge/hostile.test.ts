import { createHmac, createPrivateKey, generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import jwt from 'jsonwebtoken'
import pg from 'pg'
import { assert } from '../../src/platform/identity.ts'
import { table } from '../../src/table.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { rawRequest as rawTo, seenBy } from './raw.ts'

const shop = useShop(test)
let customer: TestUser
test.serial.before(async () => {
  customer = await shop.user()
})
const secret = (role: 'auth' | 'orders', name: string) => readFileSync(join(shop.secretsDir(role), name), 'utf8').trim()

const seen = async () => (await Promise.all(Object.values(shop.roles).map(seenBy))).reduce((a, b) => a + b)
const rawRequest = (method: string, target: string, headers?: string[]) => rawTo(shop.url, method, target, headers)

/** The next look at `path` is not one that the decision cache already answered. */
let looks = 0
const fresh = (path: string) => `${path}?look=${++looks}`

test.serial('identity headers of the client → overwritten: a customer stays that customer', async (t) => {
  const profile = await shop.call('GET', fresh('/profile'), {
    token: customer.token,
    headers: {
      'X-User-Id': '018f0000-0000-7000-8000-000000000000',
      'X-User-Email': 'admin@example.org',
      'X-User-Roles': 'admin',
      'X-Session-Id': 'x',
      'X-Auth-Assertion': 'x.y.z',
    },
  })
  t.is(profile.body.id, customer.id)
  const users = await shop.call('GET', '/user', { token: customer.token, headers: { 'X-User-Roles': 'admin' } })
  t.is(users.status, 403)
})

test.serial('identity headers without a token → 401, and no role is reached', async (t) => {
  const before = await seen()
  for (const headers of [
    { 'X-User-Id': customer.id, 'X-User-Roles': 'admin', 'X-Session-Id': 'x' },
    {
      'X-Auth-Assertion': assert(
        { id: customer.id, email: 'a@b.c', roles: ['admin'], sid: 'x' },
        secret('orders', 'ASSERTION_KEY'),
      ),
    },
  ] as Record<string, string>[])
    for (const path of ['/profile', '/cart', '/order', '/user']) {
      const answer = await shop.call('GET', path, { headers })
      t.is(answer.status, 401, path)
      t.is(answer.headers['content-type'], 'application/problem+json')
      t.is(answer.body.code, 'unauthenticated')
      t.regex(answer.headers['www-authenticate'] ?? '', /^Bearer realm="bodega"$/)
    }
  t.is(await seen(), before)
})

test.serial(
  'a role reached past the edge → 401 without an assertion, with a forged one, and with one of another key',
  async (t) => {
    const user = { id: customer.id, email: customer.email, roles: ['admin'], sid: 'x' }
    const forged = [
      undefined,
      assert(user, 'another key that nobody here has, 40 bytes'),
      jwt.sign({ email: user.email, roles: user.roles, sid: 'x' }, secret('orders', 'ASSERTION_KEY'), {
        subject: user.id,
        audience: 'bodega',
      }),
      jwt.sign({ roles: ['admin'] }, '', { algorithm: 'none', subject: user.id, audience: 'internal' }),
      customer.token,
    ]
    for (const assertion of forged)
      for (const role of ['auth', 'orders'] as const) {
        const path = role === 'auth' ? '/user' : '/order'
        const answer = await fetch(shop.roles[role].url + path, {
          headers: {
            ...(assertion ? { 'X-Auth-Assertion': assertion } : {}),
            'X-User-Id': user.id,
            'X-User-Roles': 'admin',
          },
        })
        t.is(answer.status, 401, `${role} ${assertion}`)
      }
  },
)

test.serial("headers that steer another proxy's decision → no effect", async (t) => {
  const headers = {
    'X-Original-Method': 'GET',
    'X-Original-URI': '/product',
    'X-Forwarded-Method': 'GET',
    'X-Forwarded-Uri': '/product',
    'X-HTTP-Method-Override': 'GET',
    'X-Method-Override': 'GET',
    'X-Rewrite-URL': '/product',
  }
  const before = await seen()
  const without = await shop.call('POST', '/product', { headers, body: {} })
  t.is(without.status, 401)
  const asCustomer = await shop.call('POST', '/product', { headers, token: customer.token, body: {} })
  t.is(asCustomer.status, 403)
  t.is(asCustomer.body.code, 'forbidden')
  const users = await shop.call('GET', '/user', { headers, token: customer.token })
  t.is(users.status, 403)
  t.is(await seen(), before)
})

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
  const body = await shop.call('POST', '/auth/login', { body: { email: 'a'.repeat(200_000) } })
  t.is(body.status, 413)
  t.is(body.body.code, 'body_too_large')
})

test.serial('unknown path → 404, unknown method → 405 with Allow, as problems and without a role', async (t) => {
  const before = await seen()
  const unknown = await shop.call('GET', '/admin')
  t.is(unknown.status, 404)
  t.is(unknown.body.code, 'no_route')
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

test.serial('tokens that are not ours, not now, not for this or signed otherwise → 401 invalid_token', async (t) => {
  const [key] = JSON.parse(secret('auth', 'JWT_KEYS')) as { kid: string; pem: string }[]
  const { kid, pem } = key as { kid: string; pem: string }
  const privateKey = createPrivateKey(pem)
  const publicPem = (await import('node:crypto')).createPublicKey(pem).export({ type: 'spki', format: 'pem' }) as string
  const claims = { sid: 'x', roles: ['admin'], email: customer.email }
  const options = {
    algorithm: 'RS256' as const,
    keyid: kid,
    header: { alg: 'RS256', typ: 'at+jwt' },
    issuer: shop.url,
    audience: 'bodega',
    subject: customer.id,
    jwtid: 'x',
    expiresIn: 600,
  }
  t.is(
    (await shop.call('GET', '/cart', { token: jwt.sign(claims, privateKey, options) })).status,
    200,
    'the pattern is right',
  )

  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const [head, payload, signature] = customer.token.split('.') as [string, string, string]
  const hmac = (header: object) => {
    const text = `${part(header)}.${payload}`
    return `${text}.${createHmac('sha256', publicPem).update(text).digest('base64url')}`
  }
  const other = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
  const bad: Record<string, string> = {
    'alg none': `${part({ alg: 'none', typ: 'at+jwt', kid })}.${payload}.`,
    'alg None with the signature': `${part({ alg: 'None', typ: 'at+jwt', kid })}.${payload}.${signature}`,
    'HS256 with the public key': hmac({ alg: 'HS256', typ: 'at+jwt', kid }),
    'no signature': `${head}.${payload}.`,
    'changed claims': `${head}.${part({ ...claims, sub: customer.id, iss: shop.url, aud: 'bodega', exp: 9e9 })}.${signature}`,
    'unknown kid': jwt.sign(claims, privateKey, { ...options, keyid: 'other' }),
    'kid as a path': jwt.sign(claims, privateKey, { ...options, keyid: '../../dev/null' }),
    'key of someone else': jwt.sign(claims, other, options),
    'expired beyond the skew': jwt.sign(
      { ...claims, iat: 1_000, exp: Math.floor(Date.now() / 1000) - 31 },
      privateKey,
      (({ expiresIn: _, ...rest }) => rest)(options),
    ),
    'not yet valid': jwt.sign(claims, privateKey, { ...options, notBefore: 60 }),
    'another audience': jwt.sign(claims, privateKey, { ...options, audience: 'internal' }),
    'another issuer': jwt.sign(claims, privateKey, { ...options, issuer: 'https://evil.example' }),
    'another type': jwt.sign(claims, privateKey, { ...options, header: { alg: 'RS256', typ: 'JWT' } }),
    RS512: jwt.sign(claims, privateKey, { ...options, algorithm: 'RS512', header: { alg: 'RS512', typ: 'at+jwt' } }),
    'no session': jwt.sign({ roles: ['admin'] }, privateKey, options),
    'an assertion': assert(
      { id: customer.id, email: customer.email, roles: ['admin'], sid: 'x' },
      secret('auth', 'ASSERTION_KEY'),
    ),
    garbage: 'garbage',
  }
  const before = await seen()
  for (const [name, token] of Object.entries(bad)) {
    const answer = await shop.call('GET', '/cart', { token })
    t.is(answer.status, 401, name)
    t.is(answer.headers['www-authenticate'], 'Bearer realm="bodega", error="invalid_token"', name)
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
