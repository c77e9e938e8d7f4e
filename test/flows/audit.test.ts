import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { codeIn } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { type TestUser, useShop } from '../support/shop.ts'

const shop = useShop(test)
const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows

interface Entry {
  id: string
  at: string
  event: string
  userId: string | null
  actor: string | null
  ip: string | null
  detail: Record<string, unknown>
}
let admin: TestUser
test.serial.before('an admin', async () => {
  admin = await shop.admin()
})

/** Every entry of a user, or of all, oldest first, by pages of `limit`. */
async function audit(user?: string, limit = 100) {
  const entries: Entry[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const asked = new URLSearchParams({ limit: String(limit), ...(user && { user }), ...(cursor && { cursor }) })
    const page = await shop.call('GET', `/audit?${asked}`, { token: admin.token })
    if (page.status !== 200) throw new Error(page.text)
    entries.push(...page.body.items)
    cursor = page.body.next
  }
  return entries.reverse()
}
const events = async (user: TestUser) => (await audit(user.id)).map(({ event }) => event)

async function product() {
  const facts = { sku: randomUUID(), name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 99 }
  return (await shop.call('POST', '/product', { token: admin.token, body: facts })).body.id as string
}
const order = (user: TestUser, productId: string) =>
  shop.call('POST', '/order', {
    token: user.token,
    body: { items: [{ productId, quantity: 1 }] },
    headers: { 'Idempotency-Key': randomUUID() },
  })

test.serial('an account’s life → each step in the audit, once, with who and from where, and no secret', async (t) => {
  const user = await shop.user()
  const wrong = 'not the right password'
  await shop.call('POST', '/auth/login', { body: { email: user.email, password: wrong } })
  await shop.call('POST', '/auth/login', { body: { email: user.email, code: '000000' } })
  await shop.call('PUT', `/user/${user.id}/roles`, { token: admin.token, body: { roles: ['customer', 'staff'] } })
  const again = await shop.login(user)
  await shop.call('POST', '/auth/logout', { token: again.token, body: { everywhere: true } })
  await shop.call('POST', '/auth/password/forgot', { body: { email: user.email } })
  const mail = await shop.mailTo(user.email, { subject: /new password/ })
  const token = new URL(mail.text.match(/http\S+token=\S+/)?.[0] ?? '').searchParams.get('token')
  const password = `pass ${randomUUID()}`
  t.is((await shop.call('POST', '/auth/password/reset', { body: { token, password } })).status, 204)

  const entries = await audit(user.id)
  t.deepEqual(
    entries.map(({ event }) => event),
    [
      'account.registered',
      'account.verified',
      'login.succeeded',
      'login.failed',
      'login.failed',
      'roles.changed',
      'login.succeeded',
      'session.ended',
      'password.reset_requested',
      'password.changed',
    ],
  )
  t.deepEqual([...new Set(entries.map(({ userId }) => userId))], [user.id])
  const of = (event: string) => entries.find((entry) => entry.event === event)
  t.is(of('roles.changed')?.actor, admin.id)
  t.deepEqual(of('roles.changed')?.detail, { from: ['customer'], to: ['customer', 'staff'] })
  t.is(of('login.failed')?.ip, '127.0.0.1')
  t.is(of('login.failed')?.actor, null)
  t.is(of('login.succeeded')?.detail.by, 'password')
  t.is(of('session.ended')?.actor, user.id)
  for (const secret of [user.password, wrong, password, token as string, again.token, again.refreshToken])
    t.false(JSON.stringify(entries).includes(secret))
})

test.serial('a password for an address that nobody has → an entry without a user', async (t) => {
  const before = (await audit()).length
  await shop.call('POST', '/auth/login', { body: { email: `${randomUUID()}@example.org`, password: 'any password' } })
  const entries = await audit()
  t.is(entries.length, before + 1)
  t.like(entries.at(-1), { event: 'login.failed', userId: null })
})

test.serial('a refresh token that comes back late → in the audit as such', async (t) => {
  const user = await shop.user()
  await shop.call('POST', '/auth/refresh', { body: { refreshToken: user.refreshToken } })
  await sql(`update auth.refresh_token set used_at = now() - interval '61 seconds' where used_at is not null`)
  t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken: user.refreshToken } })).status, 401)
  t.is((await events(user)).at(-1), 'session.reused')
})

test.serial(
  'an order’s life → each status in the audit of its buyer, with who did it; make admin is there too',
  async (t) => {
    const user = await shop.user()
    const { body } = await order(user, await product())
    for (const step of ['pay', 'ship', 'deliver'])
      await shop.call('POST', `/order/${body.id}/${step}`, { token: admin.token })
    const orders = (await audit(user.id)).filter(({ event }) => event.startsWith('order.'))
    t.deepEqual(
      orders.map(({ event, actor, detail }) => [event, actor, detail.orderId]),
      [
        ['order.placed', user.id, body.id],
        ['order.paid', admin.id, body.id],
        ['order.shipped', admin.id, body.id],
        ['order.delivered', admin.id, body.id],
      ],
    )
    const made = (await audit(admin.id)).find(({ event }) => event === 'roles.changed')
    t.like(made, { actor: null, detail: { by: 'command', to: ['customer', 'admin'] } })
  },
)

test.serial(
  'make admin of an address that was registered and never verified → no password counts, a code does',
  async (t) => {
    const account = { email: `${randomUUID()}@example.org`, password: 'of whoever registered it' }
    await shop.call('POST', '/auth/register', { body: account })
    await shop.run('auth', 'commands.ts', 'admin', account.email)
    t.is((await shop.call('POST', '/auth/login', { body: account })).status, 401)
    await shop.call('POST', '/auth/login', { body: { email: account.email } })
    const code = codeIn(await shop.mailTo(account.email, { subject: /sign-in code/ }))
    t.is((await shop.call('POST', '/auth/login', { body: { email: account.email, code } })).status, 200)
    t.is((await shop.call('POST', '/auth/login', { body: account })).status, 401)
  },
)

test.serial(
  'pages of one, two and seven, many entries of one moment among them → the same as all at once, in order of time',
  async (t) => {
    const user = await shop.user()
    const goods = await product()
    for (let i = 0; i < 5; i++) await order(user, goods)
    await sql(
      `update orders.order_event set at = now() where order_id in (select id from orders.order where user_id = $1)`,
      user.id,
    )
    await sql(`insert into auth.audit (event, user_id) select 'test.flood', $1 from generate_series(1, 6)`, user.id)
    const whole = await audit()
    t.true(whole.length > 30)
    t.deepEqual(
      whole,
      whole.toSorted((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : a.id < b.id ? -1 : 1)),
    )
    t.is(new Set(whole.map(({ id }) => id)).size, whole.length)
    for (const limit of [1, 2, 7]) {
      t.deepEqual(await audit(undefined, limit), whole)
      t.deepEqual(
        await audit(user.id, limit),
        whole.filter(({ userId }) => userId === user.id),
      )
    }
  },
)

test.serial('GET /audit by others, and with bad input → 401, 403, 400', async (t) => {
  const [customer, staff] = [await shop.user(), await shop.staff()]
  t.is((await shop.call('GET', '/audit')).status, 401)
  for (const { token } of [customer, staff]) t.is((await shop.call('GET', '/audit', { token })).status, 403)
  const cursor = (text: string) => Buffer.from(text).toString('base64url')
  for (const bad of [
    'limit=0',
    'limit=101',
    'user=me',
    'other=1',
    'cursor=x',
    `cursor=${cursor(`2026-13-45T00:00:00.000000Z ${randomUUID()}`)}`,
    `cursor=${cursor(`2026-02-30T00:00:00.000000Z ${randomUUID()}`)}`,
    `cursor=${cursor(`0000-01-01T00:00:00.000000Z ${randomUUID()}`)}`,
    `cursor=${cursor('2026-11-25T00:00:00.000000Z; drop table')}`,
  ])
    t.is((await shop.call('GET', `/audit?${bad}`, { token: admin.token })).status, 400, bad)
})

test.serial('the login of auth, and of orders → may add to the audit and change or remove nothing', async (t) => {
  for (const [role, table] of [
    ['auth', 'auth.audit'],
    ['orders', 'orders.order_event'],
  ] as const) {
    const url = readFileSync(join(shop.secretsDir(role), 'DATABASE_URL'), 'utf8')
    for (const statement of [`update ${table} set at = now()`, `delete from ${table}`, `truncate ${table}`])
      await t.throwsAsync(query(url, statement), { message: /permission denied/ }, statement)
    t.true((await query(url, `select count(*)::int as n from ${table}`)).rows[0].n > 0)
  }
})

test.serial(
  'job purge → entries older than a year go, younger ones stay; nobody else may have that done',
  async (t) => {
    await sql(
      `insert into auth.audit (event, at) values ('test.old', now() - interval '366 days'), ('test.young', now() - interval '364 days')`,
    )
    const { stdout } = await shop.run('notifications', 'commands.ts', 'job', 'purge')
    t.regex(stdout, /"audit":1\b/)
    t.deepEqual(await sql(`select event from auth.audit where event in ('test.old', 'test.young')`), [
      { event: 'test.young' },
    ])
    const url = readFileSync(join(shop.secretsDir('auth'), 'DATABASE_URL'), 'utf8')
    await t.throwsAsync(query(url, 'select auth.purge_audit()'), { message: /permission denied/ })
  },
)
