import { randomUUID } from 'node:crypto'
import test from 'ava'
import { type Answer, call } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { type Role, roleNames } from '../../src/platform/config.ts'
import type { User } from '../../src/platform/identity.ts'
import { allows, type TableRow } from '../../src/platform/routes.ts'
import { rawRequest, seenBy } from '../edge/raw.ts'
import { jpeg } from '../objects/corpus.ts'
import { trial } from '../support/cases.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { filled, goodCall, isGuarded, nameOf, rows } from './routes.ts'
import { accessTokens, assertions } from './tokens.ts'

const shop = useShop(test)
let admin: TestUser
let staff: TestUser
let owner: TestUser
let other: TestUser
test.serial.before('who is there', async () => {
  admin = await shop.admin()
  ;[staff, owner, other] = await Promise.all([shop.staff(), shop.user({ name: 'Owner of it all' }), shop.user()])
})

const seen = async () => (await Promise.all(Object.values(shop.roles).map(seenBy))).reduce((a, b) => a + b)
const claimsOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString())
const userOf = ({ id, email, token }: TestUser): User => {
  const { roles, sid } = claimsOf(token)
  return { id, email, roles, sid }
}
const guarded = rows.filter(isGuarded)
const isRefused = ({ status, body, headers }: Answer) =>
  status === 401 &&
  body.code === 'unauthenticated' &&
  headers['content-type'] === 'application/problem+json' &&
  /^Bearer realm="bodega"/.test(headers['www-authenticate'] ?? '')

test.serial('tokens that must not hold, on every guarded route → 401, and no role is reached', async (t) => {
  const { good, bad } = accessTokens(shop, userOf(admin))
  t.is((await shop.call('GET', '/user', { token: good })).status, 200, 'the pattern is right')
  const { check, done } = trial('access tokens that must not hold × guarded routes')
  const before = await seen()
  for (const row of guarded)
    for (const [name, token] of Object.entries(bad)) {
      const answer = await shop.call(row.method, filled(row, randomUUID()), { token })
      check(isRefused(answer), () => `${nameOf(row)}, ${name}: ${answer.status} ${answer.text}`)
    }
  check((await seen()) === before, () => 'a role was reached')
  done(t)
})

test.serial(
  'a good token in any place but its own, on every guarded route → 401, and no role is reached',
  async (t) => {
    const { token } = admin
    const { check, done } = trial('good tokens in the wrong place × guarded routes')
    const before = await seen()
    const places: Record<string, string>[] = [
      { Authorization: token },
      { Authorization: `Basic ${token}` },
      { Authorization: `Bearer${token}` },
      { Authorization: `Bearer\t${token}` },
      { Authorization: `Bearer "${token}"` },
      { Authorization: `Bearer token=${token}` },
      { Authorization: `Bearer ${token},` },
      { Authorization: `Bearer ${token} ${token}` },
      { Authorization: `Bearer Bearer ${token}` },
      { Authorization: `Bearer ${token}=` },
      { 'Proxy-Authorization': `Bearer ${token}` },
      { 'X-Authorization': `Bearer ${token}` },
      { 'X-Forwarded-Authorization': `Bearer ${token}` },
      { 'X-Access-Token': token },
      { Cookie: `access_token=${token}; token=${token}; Authorization=Bearer ${token}` },
    ]
    for (const row of guarded) {
      const path = filled(row, randomUUID())
      for (const headers of places) {
        const answer = await shop.call(row.method, path, { headers })
        check(isRefused(answer), () => `${nameOf(row)} ${JSON.stringify(headers).slice(0, 40)}: ${answer.status}`)
      }
      for (const name of ['access_token', 'token', 'authorization']) {
        const answer = await shop.call(row.method, `${path}?${name}=${token}`)
        check(isRefused(answer), () => `${nameOf(row)} ?${name}=: ${answer.status}`)
      }
    }
    check((await seen()) === before, () => 'a role was reached')
    done(t)
  },
)

/** What a client may say to be taken for someone else, or to have another request decided than its own. */
function claims() {
  const { good, bad } = assertions(shop, userOf(admin))
  const steering = { method: 'GET', path: '/product' }
  return [
    { 'X-Auth-Assertion': good },
    { 'X-Auth-Assertion': bad['alg none'] as string },
    { 'X-User-Id': admin.id, 'X-User-Email': admin.email, 'X-User-Roles': 'admin', 'X-Session-Id': 'x' },
    { 'X-User-Id': admin.id, 'X-User-Roles': 'admin', 'X-Auth-Assertion': good, Connection: 'X-Auth-Assertion' },
    { Connection: 'keep-alive, X-User-Id, X-Auth-Assertion, X-Real-IP, Authorization' },
    { X_Auth_Assertion: good, X_User_Id: admin.id },
    { 'X-Original-Method': steering.method, 'X-Original-URI': steering.path },
    { 'X-Forwarded-Method': steering.method, 'X-Forwarded-Uri': steering.path, 'X-Forwarded-Host': 'shop.example' },
    { 'X-HTTP-Method-Override': steering.method, 'X-Method-Override': steering.method, 'X-HTTP-Method': 'GET' },
    { 'X-Rewrite-URL': steering.path, 'X-Original-URL': steering.path, 'X-Envoy-Original-Path': steering.path },
    { 'X-Forwarded-For': '127.0.0.1', 'X-Real-IP': '127.0.0.1', Forwarded: 'for=127.0.0.1;host=localhost' },
    { 'X-Forwarded-User': admin.id, 'Remote-User': admin.email, 'X-Remote-User': admin.email, 'X-WEBAUTH-USER': 'x' },
    { 'X-Accel-Redirect': '/-/auth/user', 'X-Accel-Internal': '/', 'X-Sendfile': '/etc/passwd' },
    { Host: 'auth', 'X-Forwarded-Host': 'auth' },
  ] as Record<string, string>[]
}

test.serial('claims of a client about who it is and what it asks, on every route → as without them', async (t) => {
  const { check, done } = trial('headers that claim an identity or steer a proxy × routes')
  // Of nobody, who has no token, and of a customer, who may not do what staff may.
  for (const row of rows)
    for (const token of [undefined, other.token]) {
      if (row.path === '/auth/logout' && token) continue
      const { access } = row
      const isAllowed = !isGuarded(row) || (token !== undefined && access === 'user')
      if (isAllowed && token && !isGuarded(row)) continue
      // A path that is new in each run is not answered by a decision that was kept.
      const path = filled(row, randomUUID())
      const ask = (headers: Record<string, string>) => shop.call(row.method, path, { token, headers })
      const plain = await ask({})
      const before = isAllowed ? 0 : await seen()
      for (const headers of claims()) {
        const answer = await ask(headers)
        const isSame = answer.status === plain.status && answer.body?.code === plain.body?.code
        const isOther = answer.text.includes(admin.id) || answer.text.includes(admin.email)
        check(isSame && !isOther, () => `${nameOf(row)} ${JSON.stringify(headers)}: ${answer.status} ${answer.text}`)
      }
      if (!isAllowed) check((await seen()) === before, () => `${nameOf(row)}: its role was reached`)
    }
  done(t)
})

test.serial('a guarded route reached past the edge, by assertions that must not hold → 401', async (t) => {
  const { check, done } = trial('assertions that must not hold × guarded routes, at the roles')
  const { good, bad } = assertions(shop, userOf(admin))
  const ask = (row: TableRow, headers: Record<string, string>) =>
    call(shop.roles[row.role].url, row.method, filled(row, randomUUID()), { ...goodCall(row), headers })
  t.is((await ask(rows.find(({ path }) => path === '/user') as TableRow, { 'X-Auth-Assertion': good })).status, 200)
  const others: Record<string, string>[] = [
    {},
    { 'X-User-Id': admin.id, 'X-User-Roles': 'admin', 'X-User-Email': admin.email, 'X-Session-Id': 'x' },
    { Authorization: `Bearer ${admin.token}` },
    { Authorization: `Bearer ${good}` },
    { 'X-Auth-Assertion': `${good}, ${good}` },
    { 'X-Auth-Assertion': `Bearer ${good}` },
  ]
  for (const row of guarded)
    for (const headers of [...Object.values(bad).map((value) => ({ 'X-Auth-Assertion': value })), ...others]) {
      const { status, text } = await ask(row, headers)
      check(status === 401, () => `${nameOf(row)} ${JSON.stringify(headers).slice(0, 60)}: ${status} ${text}`)
    }
  done(t)
})

test.serial('what needs a permission, past the edge, by an assertion of a customer → 403', async (t) => {
  const { check, done } = trial('permissions × routes that need one, at the roles')
  for (const user of [other, staff])
    for (const row of guarded) {
      if (row.access === 'user' || allows(row.access as 'user:manage', userOf(user).roles)) continue
      const { status } = await call(shop.roles[row.role].url, row.method, filled(row, randomUUID()), {
        ...goodCall(row),
        headers: { 'X-Auth-Assertion': assertions(shop, userOf(user)).good },
      })
      check(status === 403, () => `${nameOf(row)}: ${status}`)
    }
  done(t)
})

test.serial(
  'a request spelled as the key of a decision that was kept → decided anew, and no role is reached',
  async (t) => {
    const { check, done } = trial('requests spelled as the key of a kept decision × guarded routes')
    for (const row of guarded.filter(({ access }) => access !== 'user')) {
      const path = filled(row, randomUUID())
      const before = await seen()
      let mine = 0
      for (const gap of ['|', ' ', '\t', '||', ';', ':']) {
        // What a customer may do, with the rest of the other key in its query …
        const rest = ['', row.method, 'shop', path].join(gap)
        const query = `/profile?look=${randomUUID()}`
        const { status } = await rawRequest(shop.url, 'GET', `${query}${rest}`, [
          `Authorization: Bearer ${other.token}`,
        ])
        if (status === 200) mine++
        // … and what it may not, with the beginning of that key in its token.
        const head = [`Bearer ${other.token}`, 'GET', 'shop', query].join(gap)
        const answer = await rawRequest(shop.url, row.method, path, [`Authorization: ${head}`, 'Content-Length: 0'])
        check([400, 401].includes(answer.status), () => `${nameOf(row)} by ${JSON.stringify(gap)}: ${answer.text}`)
      }
      t.true(mine >= 4)
      check((await seen()) === before + mine, () => `${nameOf(row)}: its role was reached`)
    }
    done(t)
  },
)

test.serial('the address of a client, as it says itself → is not believed: the audit has the real one', async (t) => {
  const { check, done } = trial('addresses that a client claims')
  const email = `nobody-${randomUUID()}@example.org`
  const claimed: Record<string, string | string[]>[] = [
    { 'X-Forwarded-For': '203.0.113.7' },
    { 'X-Forwarded-For': ['203.0.113.7', '203.0.113.8'] },
    { 'X-Real-IP': '203.0.113.7' },
    { Forwarded: 'for=203.0.113.7' },
    { 'X-Client-IP': '203.0.113.7', 'CF-Connecting-IP': '203.0.113.7', 'True-Client-IP': '203.0.113.7' },
    { 'X-Real-IP': '203.0.113.7', Connection: 'X-Real-IP' },
    { 'X-Forwarded-For': "' or 1=1 --" },
  ]
  for (const headers of claimed) {
    await shop.call('POST', '/auth/login', { body: { email, password: 'wrong password' }, headers })
    const [entry] = (await shop.call('GET', '/audit?limit=1', { token: admin.token })).body.items
    check(entry.ip === '127.0.0.1', () => `${JSON.stringify(headers)}: ${entry.ip}`)
  }
  done(t)
})

/** Paths whose parameter names what belongs to one user. */
const owned = ['/auth/sessions/{id}', '/user/{id}/roles', '/order/{id}', '/cart/items/{productId}']
/** Paths whose parameter names what is for all, or is itself the right to it. */
const common = ['/product/{id}', '/avatar/{hash}', '/image/{hash}', '/unsubscribe/{token}']
const isBelow = (path: string, parents: string[]) => parents.some((parent) => path.startsWith(parent))

test('every path with a parameter → said to be owned or common, above', (t) => {
  for (const { path } of rows.filter((row) => row.path.includes('{')))
    t.true(isBelow(path, owned) !== isBelow(path, common), path)
})

const sql = async (text: string) => (await query(shop.databaseUrl, text)).rows
/** All that the database has of somebody, except what is on its way out. */
async function allOf(marks: string[]) {
  const tables = await sql(
    `select format('%I.%I', schemaname, tablename) as name from pg_tables
     where schemaname in (${roleNames.map((role) => `'${role}'`)}) and tablename <> 'outbox' order by 1`,
  )
  const found: string[] = []
  for (const { name } of tables)
    for (const { row } of await sql(`select t::text as row from ${name} t`))
      if (marks.some((mark) => row.includes(mark))) found.push(`${name} ${row}`)
  return found.sort()
}

test.serial(
  "every route, by another user and by staff, on what is somebody's → as if it were not there, and nothing changes",
  async (t) => {
    const { check, done } = trial("routes on another user's things")
    const { token } = owner
    const must = async (method: string, path: string, options: Parameters<typeof shop.call>[2] = {}) => {
      const answer = await shop.call(method, path, { token, ...options })
      if (answer.status > 299) throw new Error(`${method} ${path}: ${answer.text}`)
      return answer.body
    }
    const second = await shop.login(owner)
    const session = claimsOf(second.token).sid as string
    const facts = { sku: randomUUID(), name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 100 }
    const product = await must('POST', '/product', { token: admin.token, body: facts })
    const order = await must('POST', '/order', {
      body: { items: [{ productId: product.id, quantity: 1 }] },
      headers: { 'Idempotency-Key': randomUUID() },
    })
    await must('PUT', `/cart/items/${product.id}`, { body: { quantity: 7 } })
    await must('PUT', '/notification/preferences', {
      body: { cart: false, payment: true, feedback: false, digest: true },
    })
    const { avatar } = await must('PUT', '/profile/avatar', {
      body: await jpeg(64, 64),
      headers: { 'Content-Type': 'image/jpeg' },
    })
    const theirs: Record<string, string> = {
      '/auth/sessions/{id}': session,
      '/user/{id}/roles': owner.id,
      '/order/{id}': order.id,
      '/cart/items/{productId}': product.id,
    }
    const marks = [
      owner.id,
      owner.email,
      session,
      order.id,
      'Owner of it all',
      avatar.large.split('/').at(-1) as string,
    ]
    await shop.mailTo(owner.email, { subject: /order/i })
    await eventually('nothing is on its way', async () => {
      const waiting = await sql('select 1 from orders.outbox union all select 1 from auth.outbox')
      return waiting.length === 0
    })
    const before = await allOf(marks)
    t.true(before.length > 10)

    // A session that ends takes no other case with it.
    const last = (row: TableRow) => Number(row.path === '/auth/logout')
    for (const stranger of [other, staff]) {
      const who = userOf(stranger)
      for (const row of rows.toSorted((a, b) => last(a) - last(b))) {
        // Staff manage orders of everybody.
        if (row.access !== 'user' && isGuarded(row) && allows(row.access as 'user:manage', who.roles)) continue
        if (row.path.startsWith('/order/') && stranger === staff) continue
        const ask = (id: string) => shop.call(row.method, filled(row, id), { token: stranger.token, ...goodCall(row) })
        const mine = theirs[owned.find((path) => row.path.startsWith(path)) ?? '']
        const missing = randomUUID()
        const [answer, without] = [await ask(mine ?? missing), await ask(missing)]
        const told = marks.filter((mark) => mark !== mine && answer.text.includes(mark))
        check(told.length === 0, () => `${nameOf(row)} tells ${told}: ${answer.text}`)
        if (!mine || row.path.startsWith('/cart')) continue
        const shape = ({ status, headers, text }: Answer) => [
          status,
          Object.keys(headers).sort(),
          text.replaceAll(mine, 'ID').replaceAll(missing, 'ID'),
        ]
        check(
          [403, 404].includes(answer.status) && JSON.stringify(shape(answer)) === JSON.stringify(shape(without)),
          () => `${nameOf(row)}: ${answer.status} ${answer.text}, and ${without.status} where nothing is`,
        )
      }
    }
    const after = await allOf(marks)
    for (const row of new Set([...before, ...after]))
      check(before.includes(row) && after.includes(row), () => `changed: ${row}`)
    check((await shop.call('GET', '/profile', { token: second.token })).status === 200, () => 'a session ended')
    done(t)
  },
)

test('the roles of the table → are the four', (t) => {
  t.deepEqual(new Set(rows.map(({ role }) => role)), new Set<Role>(roleNames))
})
