import { argon2Sync, randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { call, codeIn } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { type Role, roleNames } from '../../src/platform/config.ts'
import { assert } from '../../src/platform/identity.ts'
import { eventually, useShop } from '../support/shop.ts'

const shop = useShop(test)
const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
const newAddress = () => `user-${randomBytes(6).toString('hex')}@example.org`
const password = 'a long enough password'

const secretOf = (role: Role, name: string) => readFileSync(join(shop.secretsDir(role), name), 'utf8').trim()

/** Lets time pass for the secrets of an address. */
const pass = (email: string, interval: string) =>
  sql(
    `update auth.verification set link_expires_at = link_expires_at - $2::interval, code_expires_at = code_expires_at - $2::interval
     where user_id = (select id from auth.user where email = $1)`,
    email,
    interval,
  )
const linkIn = (text: string) => /token=([\w-]{43})/.exec(text)?.[1] as string
async function registered() {
  const email = newAddress()
  await shop.call('POST', '/auth/register', { body: { email, password } })
  const mail = await shop.mailTo(email)
  return { email, code: codeIn(mail), token: linkIn(mail.text) }
}
const verify = async (body: object) => (await shop.call('POST', '/auth/verify', { body })).status

test('a code → good for 10 minutes; the link of the same mail → for 24 hours', async (t) => {
  const [young, old, older] = await Promise.all([registered(), registered(), registered()])
  await pass(young.email, '9 minutes 30 seconds')
  t.is(await verify({ email: young.email, code: young.code }), 200)
  await pass(old.email, '10 minutes 1 second')
  t.is(await verify({ email: old.email, code: old.code }), 400)
  await pass(old.email, '23 hours 49 minutes')
  t.is(await verify({ token: old.token }), 200)
  await pass(older.email, '24 hours 1 second')
  t.is(await verify({ token: older.token }), 400)
})

test.serial('a code mailed before its pepper was changed → good after it', async (t) => {
  const { email, code } = await registered()
  const CODE_PEPPER_PREVIOUS = secretOf('auth', 'CODE_PEPPER')
  shop.configure('auth', { CODE_PEPPER: 'f'.repeat(64), CODE_PEPPER_PREVIOUS })
  await shop.roles.auth.restart()
  t.is(await verify({ email, code }), 200)
})

test.serial('an assertion by the key before the one of now → good at each role, and by no other', async (t) => {
  const { id, email } = await shop.admin()
  const old = secretOf('auth', 'ASSERTION_KEY')
  for (const role of roleNames) shop.configure(role, { ASSERTION_KEY: 'f'.repeat(64), ASSERTION_KEY_PREVIOUS: old })
  await Promise.all(roleNames.map((role) => shop.roles[role].restart()))
  const product = { sku: 'ONE', name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 1 }
  for (const [role, status, method, path, body] of [
    ['auth', 200, 'GET', '/profile'],
    ['products', 201, 'POST', '/product', product],
    ['orders', 200, 'GET', '/order'],
    ['notifications', 200, 'GET', '/notification/preferences'],
  ] as const) {
    const ask = async (key: string) => {
      const assertion = assert({ id, email, roles: ['admin'], sid: randomUUID() }, key)
      const headers = { 'X-Auth-Assertion': assertion }
      return (await call(shop.roles[role].url, method, path, { headers, body })).status
    }
    t.is(await ask('e'.repeat(64)), 401, role)
    t.is(await ask(old), status, role)
  }
})

test('a link and a code, used by many at once → each is good for one of them', async (t) => {
  const [one, other] = await Promise.all([registered(), registered()])
  const by = (body: object) => Promise.all(Array.from({ length: 8 }, () => verify(body)))
  t.is((await by({ token: one.token })).filter((status) => status === 200).length, 1)
  // Five tries are counted, the right ones too.
  t.is((await by({ email: other.email, code: other.code })).filter((status) => status === 200).length, 1)
})

test('the link of a new password → good for an hour', async (t) => {
  const { email } = await shop.user()
  await shop.call('POST', '/auth/password/forgot', { body: { email } })
  const token = linkIn((await shop.mailTo(email, { subject: /new password/ })).text)
  const reset = async () => (await shop.call('POST', '/auth/password/reset', { body: { token, password } })).status
  await pass(email, '1 hour 1 second')
  t.is(await reset(), 400)
  await pass(email, '-1 minute')
  t.is(await reset(), 204)
})

test('a session → over after 7 days without a refresh, and after 30 days in any case', async (t) => {
  for (const [change, status] of [
    [`last_used_at = now() - interval '6 days 23 hours'`, 200],
    [`last_used_at = now() - interval '7 days 1 minute'`, 401],
    [`expires_at = expires_at - interval '29 days 23 hours'`, 200],
    [`expires_at = expires_at - interval '30 days 1 minute'`, 401],
  ] as const) {
    const { id, refreshToken } = await shop.user()
    await sql(`update auth.session set ${change} where user_id = $1`, id)
    t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken } })).status, status, change)
  }
})

test('a password stored with older parameters → is right, and stored with those of now at the login', async (t) => {
  const user = await shop.user()
  const stored = async () => (await sql('select password_hash as hash from auth.user where id = $1', user.id))[0].hash
  t.regex(await stored(), /^\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]{22}\$[\w+/]{43}$/)
  const salt = randomBytes(16)
  const base64 = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '')
  const weak = argon2Sync('argon2id', {
    message: user.password,
    nonce: salt,
    memory: 8192,
    passes: 1,
    parallelism: 1,
    tagLength: 32,
  })
  const phc = `$argon2id$v=19$m=8192,t=1,p=1$${base64(salt)}$${base64(weak)}`
  await sql('update auth.user set password_hash = $2 where id = $1', user.id, phc)
  t.is((await shop.call('POST', '/auth/login', { body: { email: user.email, password: 'not it at all' } })).status, 401)
  t.is(await stored(), phc)
  await shop.login(user)
  const renewed = await stored()
  t.regex(renewed, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/)
  await shop.login(user)
  t.is(await stored(), renewed)
})

test.serial(
  '300 sign-ins at once → 200 wait for their turn, the rest is refused at once; then one gets in',
  async (t) => {
    const user = await shop.user()
    const began = performance.now()
    const answers = await Promise.all(
      Array.from({ length: 300 }, async (_, n) => {
        const body = { email: `guest-${n}@example.org`, password: 'not the password' }
        const { status, body: problem } = await shop.call('POST', '/auth/login', { body })
        return { status, detail: problem.detail, ms: performance.now() - began }
      }),
    )
    // On a slow machine the edge gives the last of those who wait up after 20 s, with a 503 of its own.
    t.deepEqual([...new Set(answers.map(({ status }) => status))].sort(), [401, 503])
    const refused = answers.filter(({ detail }) => /Too many sign-ins/.test(detail))
    const slowest = Math.max(...answers.map(({ ms }) => ms))
    t.true(refused.length > 0 && refused.length <= 100, String(refused.length))
    t.true(Math.max(...refused.map(({ ms }) => ms)) < slowest)
    await eventually('one gets in', async () => (await shop.login(user)).token, 60_000)
  },
)
