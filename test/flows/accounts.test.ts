import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { domainToUnicode } from 'node:url'
import test from 'ava'
import jwt from 'jsonwebtoken'
import pg from 'pg'
import { codeIn, type MailMessage } from '../../src/embedded/client.ts'
import { eventually, useShop } from '../support/shop.ts'

const shop = useShop(test)
let database: pg.Client
test.serial.before(async () => {
  database = new pg.Client({ connectionString: shop.databaseUrl })
  await database.connect()
})
test.after.always('the connection closes', () => database.end())

const newAddress = () => `user-${randomBytes(6).toString('hex')}@example.org`
const password = 'a long enough password'
const register = (email: string, more = {}) =>
  shop.call('POST', '/auth/register', { body: { email, password, ...more } })
const linkIn = (text: string) => /token=([\w-]{43})/.exec(text)?.[1] as string
/** Lets the cool-down of a purpose be over, as 60 s would. */
const coolDown = (email: string) =>
  database.query(
    `update auth.verification set sent_at = now() - interval '61 seconds' where user_id = (select id from auth.user where email = $1)`,
    [email],
  )
const unverified = async () => {
  const email = newAddress()
  await register(email)
  return { email, mail: await shop.mailTo(email) }
}

test('register, type the code → verified once, and login works only from then on', async (t) => {
  const { email, mail } = await unverified()
  const before = await shop.call('POST', '/auth/login', { body: { email, password } })
  t.is(before.status, 403)
  t.is(before.body.code, 'email_unverified')
  const code = codeIn(mail)
  t.is((await shop.call('POST', '/auth/verify', { body: { email, code } })).status, 200)
  const again = await shop.call('POST', '/auth/verify', { body: { email, code } })
  t.is(again.status, 400)
  t.is(again.body.code, 'bad_code')
  t.is((await shop.call('POST', '/auth/login', { body: { email, password } })).status, 200)
})

test('open the link → nothing is used up; its button posts → verified once', async (t) => {
  const { email, mail } = await unverified()
  const token = linkIn(mail.text)
  const page = await shop.call('GET', `/auth/verify?token=${token}`)
  t.is(page.status, 200)
  t.regex(page.headers['content-type'] ?? '', /^text\/html/)
  t.regex(String(page.headers['content-security-policy']), /default-src 'none'/)
  for (const path of ['/auth/verify', '/auth/password/reset'])
    for (const [asked, language] of [
      ['de-AT, en;q=0.5', 'de'],
      ['fr, hi;q=0.8, en;q=0.1', 'hi'],
      ['fr', 'en'],
    ] as const) {
      const { text } = await shop.call('GET', path, { headers: { 'Accept-Language': asked } })
      t.true(text.includes(`<html lang="${language}">`), `${path} ${asked}`)
    }
  t.is((await shop.call('POST', '/auth/verify', { body: { token } })).status, 200)
  t.is((await shop.call('POST', '/auth/verify', { body: { token } })).body.code, 'bad_token')
  t.is((await shop.call('POST', '/auth/login', { body: { email, password } })).status, 200)
})

test('five wrong codes → the right one is dead, the link still works', async (t) => {
  const { email, mail } = await unverified()
  const code = codeIn(mail)
  const wrong = code === '000000' ? '000001' : '000000'
  for (let i = 0; i < 5; i++)
    t.is((await shop.call('POST', '/auth/verify', { body: { email, code: wrong } })).status, 400)
  t.is((await shop.call('POST', '/auth/verify', { body: { email, code } })).status, 400)
  t.is((await shop.call('POST', '/auth/verify', { body: { token: linkIn(mail.text) } })).status, 200)
})

test('resend within 60 s → no mail; after it → a new mail, and the older one is worth nothing', async (t) => {
  const { email, mail } = await unverified()
  t.is((await shop.call('POST', '/auth/verify/resend', { body: { email } })).status, 202)
  await coolDown(email)
  t.is((await shop.call('POST', '/auth/verify/resend', { body: { email } })).status, 202)
  const newer = await shop.mailTo(email, { fits: (m) => m.id !== mail.id })
  t.is((await shop.mailsTo(email)).length, 2)
  t.is((await shop.call('POST', '/auth/verify', { body: { token: linkIn(mail.text) } })).status, 400)
  t.is((await shop.call('POST', '/auth/verify', { body: { token: linkIn(newer.text) } })).status, 200)
})

test('the sixth mail of a day → not sent', async (t) => {
  const { email } = await unverified()
  for (let i = 0; i < 6; i++) {
    await coolDown(email)
    await shop.call('POST', '/auth/verify/resend', { body: { email } })
  }
  const { rows } = await database.query(
    'select sent_count from auth.verification v join auth.user u on u.id = v.user_id where email = $1',
    [email],
  )
  t.is(rows[0].sent_count, 5)
})

test('mails of new passwords beyond the day’s five, whoever asks → one an hour, so that a good link is always there', async (t) => {
  const user = await shop.user()
  const forgot = async (age: string) => {
    await database.query(
      `update auth.verification set sent_at = now() - $2::interval where user_id = $1 and purpose = 'reset'`,
      [user.id, age],
    )
    await shop.call('POST', '/auth/password/forgot', { body: { email: user.email } })
    const { rows } = await database.query(
      `select sent_count from auth.verification where user_id = $1 and purpose = 'reset'`,
      [user.id],
    )
    return rows[0].sent_count
  }
  for (let i = 1; i <= 5; i++) t.is(await forgot('61 seconds'), i)
  t.is(await forgot('59 minutes'), 5)
  t.is(await forgot('61 minutes'), 6)
  t.is(await forgot('59 minutes'), 6)
})

test('register a stranger’s address by a name → the name is in no mail until the address is verified, and then it is', async (t) => {
  const email = newAddress()
  const name = 'You have won, see evil.example'
  await register(email, { name })
  await register(email, { name })
  await shop.call('POST', '/auth/password/forgot', { body: { email } })
  await shop.call('POST', '/auth/login', { body: { email } })
  const [, , , code] = await Promise.all(
    [/confirm/i, /already/i, /password/i, /code/i].map((subject) => shop.mailTo(email, { subject })),
  )
  const mails = await shop.mailsTo(email)
  t.is(mails.length, 4)
  for (const mail of mails) t.false(JSON.stringify(mail).includes('evil'), mail.subject)
  t.is((await shop.call('POST', '/auth/login', { body: { email, code: codeIn(code as MailMessage) } })).status, 200)
  const known = () =>
    database.query('select 1 from notifications.recipient where email = $1 and name = $2', [email, name])
  await eventually('notifications knows the name', async () => (await known()).rowCount === 1)
  await coolDown(email)
  await shop.call('POST', '/auth/password/forgot', { body: { email } })
  const greeted = await shop.mailTo(email, { subject: /password/i, fits: (m) => m.text.includes(name) })
  t.regex(greeted.text, /^Hello You have won/)
})

test('register without a language → the one that the browser asks for, of those that mails are in', async (t) => {
  for (const [asked, language] of [
    ['hi-IN, en;q=0.5', 'hi'],
    ['fr', 'en'],
  ] as const) {
    const email = newAddress()
    await shop.call('POST', '/auth/register', { body: { email, password }, headers: { 'Accept-Language': asked } })
    const { rows } = await database.query('select locale from auth.user where email = $1', [email])
    t.is(rows[0].locale, language)
  }
})

test('register a taken address → the same answer, and a mail that says so to its owner', async (t) => {
  const user = await shop.user()
  const fresh = await register(newAddress())
  const taken = await register(user.email.toUpperCase())
  t.deepEqual([taken.status, taken.text], [fresh.status, fresh.text])
  await shop.mailTo(user.email, { subject: /already/i })
  t.is(
    (await shop.call('POST', '/auth/login', { body: { email: user.email, password } })).status,
    401,
    'the old password stays',
  )
})

test('unknown address and wrong password → the same 401', async (t) => {
  const user = await shop.user()
  const wrong = await shop.call('POST', '/auth/login', { body: { email: user.email, password: 'not the password' } })
  const unknown = await shop.call('POST', '/auth/login', {
    body: { email: newAddress(), password: 'not the password' },
  })
  t.is(wrong.status, 401)
  t.deepEqual(wrong.body, unknown.body)
})

test('login by mailed code → tokens, the address is verified, and no password from before counts', async (t) => {
  const { email } = await unverified()
  t.is((await shop.call('POST', '/auth/login', { body: { email } })).status, 202)
  const code = codeIn(await shop.mailTo(email, { subject: /code/i, fits: (m) => !m.text.includes('token=') }))
  t.is(
    (await shop.call('POST', '/auth/login', { body: { email, code: code === '111111' ? '222222' : '111111' } })).status,
    401,
  )
  const answer = await shop.call('POST', '/auth/login', { body: { email, code } })
  t.is(answer.status, 200)
  t.true((await shop.call('GET', '/profile', { token: answer.body.accessToken })).body.verified)
  t.is((await shop.call('POST', '/auth/login', { body: { email, code } })).status, 401, 'a code is good for once')
  t.is((await shop.call('POST', '/auth/login', { body: { email, password } })).status, 401)
})

test('failures of one account from one address → slowed down, never locked out', async (t) => {
  const user = await shop.user()
  const wrong = { body: { email: user.email, password: 'no no no no' } }
  const failed = await Promise.all(Array.from({ length: 30 }, () => shop.call('POST', '/auth/login', wrong)))
  const tried = failed.filter(({ status }) => status === 401).length
  // After the fifth each needs a second more of its own, which a busy machine may take for a few of them.
  t.true(tried >= 5 && tried <= 8, String(tried))
  // A wait of four seconds, which a busy machine does not miss.
  await database.query('update auth.login_failure set failures = 7, last_at = now() where failures between 5 and 8')
  const slowed = await shop.call('POST', '/auth/login', { body: { email: user.email, password: user.password } })
  t.is(slowed.status, 429)
  t.is(slowed.body.code, 'slow_down')
  t.is(slowed.headers['retry-after'], String(slowed.body.retryAfter))
  await eventually(
    'the right password works again',
    async () =>
      (await shop.call('POST', '/auth/login', { body: { email: user.email, password: user.password } })).status === 200,
  )
})

test('the access token → claims, type and key as promised, its key in the JWKS', async (t) => {
  const user = await shop.user()
  const { header, payload } = jwt.decode(user.token, { complete: true }) as jwt.Jwt
  const claims = payload as jwt.JwtPayload
  t.is(header.typ, 'at+jwt')
  t.is(header.alg, 'RS256')
  t.is(claims.sub, user.id)
  t.is(claims.iss, shop.url)
  t.is((claims.exp as number) - (claims.iat as number), 600)
  t.deepEqual(claims.roles, ['customer'])
  t.truthy(claims.sid && claims.jti && claims.aud)
  const jwks = await shop.call('GET', '/.well-known/jwks.json')
  t.true(jwks.body.keys.some((k: { kid: string; d?: string }) => k.kid === header.kid && k.d === undefined))
  t.regex(String(jwks.headers['cache-control']), /max-age=300/)
})

test('refresh → the old token once more within 60 s gets the same answer; later it ends the session and mails the owner', async (t) => {
  const user = await shop.user()
  const exchange = (refreshToken: string) => shop.call('POST', '/auth/refresh', { body: { refreshToken } })
  const [first, retry] = await Promise.all([exchange(user.refreshToken), exchange(user.refreshToken)])
  t.is(first.status, 200)
  t.is(retry.body.refreshToken, first.body.refreshToken)
  const second = await exchange(first.body.refreshToken)
  t.is(second.status, 200)
  await database.query(
    `update auth.refresh_token set used_at = used_at - interval '61 seconds'
     where used_at is not null and session_id in (select id from auth.session where user_id = $1)`,
    [user.id],
  )
  const stolen = await exchange(user.refreshToken)
  t.is(stolen.status, 401)
  t.is(stolen.body.code, 'bad_refresh_token')
  t.is((await exchange(second.body.refreshToken)).status, 401, 'the whole family is over')
  await eventually(
    '401',
    async () => (await shop.call('GET', '/profile', { token: second.body.accessToken })).status === 401,
    5000,
  )
  await shop.mailTo(user.email, { fits: (m) => !/verif|code/i.test(m.subject) })
})

test('a refresh token of nobody, or none → 401', async (t) => {
  t.is(
    (await shop.call('POST', '/auth/refresh', { body: { refreshToken: randomBytes(32).toString('base64url') } }))
      .status,
    401,
  )
  t.is((await shop.call('POST', '/auth/refresh')).status, 401)
  t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken: 'x' } })).status, 400)
})

test('login with {cookie: true} → the refresh token only in a strict cookie, exchanged only from the shop itself', async (t) => {
  const user = await shop.user()
  const login = await shop.call('POST', '/auth/login', {
    body: { email: user.email, password: user.password, cookie: true },
  })
  t.is(login.body.refreshToken, undefined)
  const [cookie] = login.headers['set-cookie'] as string[]
  t.regex(
    cookie as string,
    /^__Secure-refresh=[\w-]{43}; Max-Age=604800; Path=\/auth; HttpOnly; Secure; SameSite=Strict$/,
  )
  const headers = { Cookie: (cookie as string).split(';')[0] as string }
  t.is((await shop.call('POST', '/auth/refresh', { headers })).body.code, 'wrong_origin')
  t.is(
    (await shop.call('POST', '/auth/refresh', { headers: { ...headers, Origin: 'https://evil.example' } })).status,
    403,
  )
  const exchanged = await shop.call('POST', '/auth/refresh', { headers: { ...headers, Origin: shop.url } })
  t.is(exchanged.status, 200)
  t.is(exchanged.body.refreshToken, undefined)
  t.truthy(exchanged.headers['set-cookie'])
})

test('sessions → listed with the current one; deleting another user’s is a 404; deleting one ends it', async (t) => {
  const user = await shop.user()
  const other = await shop.login(user)
  const stranger = await shop.user()
  const list = await shop.call('GET', '/auth/sessions', { token: user.token })
  t.is(list.body.items.length, 2)
  t.is(list.body.items.filter((s: { current: boolean }) => s.current).length, 1)
  const target = list.body.items.find((s: { current: boolean }) => !s.current).id
  t.is((await shop.call('DELETE', `/auth/sessions/${target}`, { token: stranger.token })).status, 404)
  t.is((await shop.call('DELETE', `/auth/sessions/${target}`, { token: user.token })).status, 204)
  t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken: other.refreshToken } })).status, 401)
  await eventually('401', async () => (await shop.call('GET', '/profile', { token: other.token })).status === 401, 5000)
})

test('more sessions than a user may have → a new one ends those used longest ago, and no other user’s', async (t) => {
  const user = await shop.user()
  const stranger = await shop.user()
  await database.query(
    `insert into auth.session (id, user_id, ip, user_agent, expires_at, last_used_at)
     select gen_random_uuid(), $1, '203.0.113.9', '', now() + interval '30 days', now() + i * interval '1 ms'
     from generate_series(1, 500) i`,
    [user.id],
  )
  // Beside those of others, while the database thinks that there are none, as at its last look.
  const crowd = await shop.user()
  await database.query('alter table auth.session set (autovacuum_enabled = off)')
  await database.query(
    `insert into auth.session (id, user_id, ip, user_agent, expires_at)
     select gen_random_uuid(), $1, '203.0.113.9', '', now() + interval '30 days' from generate_series(1, 20000)`,
    [crowd.id],
  )
  await database.query(`update pg_class set reltuples = 0, relpages = 100 where oid = 'auth.session'::regclass`)
  const newest = await shop.login(user)
  const { items } = (await shop.call('GET', '/auth/sessions', { token: newest.token })).body
  t.is(items.length, 500)
  t.is(items.filter((s: { current: boolean }) => s.current).length, 1)
  t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken: user.refreshToken } })).status, 401)
  await eventually('401', async () => (await shop.call('GET', '/profile', { token: user.token })).status === 401, 5000)
  t.is((await shop.call('GET', '/auth/sessions', { token: stranger.token })).body.items.length, 1)
})

test('log out everywhere → every session ends', async (t) => {
  const user = await shop.user()
  const other = await shop.login(user)
  t.is((await shop.call('POST', '/auth/logout', { token: user.token, body: { everywhere: true } })).status, 204)
  for (const refreshToken of [user.refreshToken, other.refreshToken])
    t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken } })).status, 401)
})

test('forgot, reset → the new password works, the old one and every session do not, the link is good for once', async (t) => {
  const user = await shop.user()
  const unknown = await shop.call('POST', '/auth/password/forgot', { body: { email: newAddress() } })
  const known = await shop.call('POST', '/auth/password/forgot', { body: { email: user.email } })
  t.deepEqual([known.status, known.text], [unknown.status, unknown.text])
  const token = linkIn((await shop.mailTo(user.email, { subject: /password/i })).text)
  t.is((await shop.call('GET', `/auth/password/reset?token=${token}`)).status, 200)
  const fresh = 'another long password'
  t.is((await shop.call('POST', '/auth/password/reset', { body: { token, password: 'short' } })).status, 400)
  t.is((await shop.call('POST', '/auth/password/reset', { body: { token, password: fresh } })).status, 204)
  t.is((await shop.call('POST', '/auth/password/reset', { body: { token, password: fresh } })).body.code, 'bad_token')
  t.is((await shop.call('POST', '/auth/login', { body: { email: user.email, password: fresh } })).status, 200)
  t.is((await shop.call('POST', '/auth/login', { body: { email: user.email, password: user.password } })).status, 401)
  t.is((await shop.call('POST', '/auth/refresh', { body: { refreshToken: user.refreshToken } })).status, 401)
})

test('profile → read and changed, and kept in no cache; what is not a name, language or time zone is refused', async (t) => {
  const user = await shop.user()
  const changed = await shop.call('PATCH', '/profile', {
    token: user.token,
    body: { name: 'Ada', locale: 'de', timeZone: 'Europe/Berlin' },
  })
  t.is(changed.status, 200)
  const shown = await shop.call('GET', '/profile', { token: user.token })
  t.like(shown.body, { name: 'Ada', locale: 'de', timeZone: 'Europe/Berlin' })
  t.is(shown.headers['cache-control'], 'no-store')
  for (const body of [
    {},
    { roles: ['admin'] },
    { timeZone: 'Mars/Base' },
    { name: 'a\nb' },
    { name: 'x'.repeat(101) },
    [],
    null,
  ])
    t.is((await shop.call('PATCH', '/profile', { token: user.token, body })).status, 400, JSON.stringify(body))
})

test('addresses with signs that few have, and of a domain in another script → registered, and their mail arrives', async (t) => {
  const id = randomBytes(6).toString('hex')
  for (const email of [`r&d.${id}@example.org`, `ada/sales=${id}@example.org`, `${id}@xn--11b5bs1di.xn--h2brj9c`]) {
    t.is((await register(email)).status, 202, email)
    // The inbox shows the domain in its script.
    const [name, domain] = email.split('@') as [string, string]
    t.regex(codeIn(await shop.mailTo(`${name}@${domainToUnicode(domain)}`)), /^[0-9]{6}$/)
  }
  for (const email of [`.${id}@example.org`, `a..${id}@example.org`, `${id}@192.0.2.1`, `${id}@localhost`])
    t.is((await register(email)).status, 400, email)
})

test('bad input to register → a 400 that names each field and rule', async (t) => {
  const answer = await register('no address', { password: 'short', nickname: 'x', timeZone: 'nowhere' })
  t.is(answer.status, 400)
  t.is(answer.body.code, 'invalid_input')
  const fields = answer.body.errors.map((e: { field: string }) => e.field).sort()
  t.deepEqual(fields, ['email', 'nickname', 'password', 'timeZone'])
  t.is(
    (await shop.call('POST', '/auth/register', { body: '{"email":', headers: { 'Content-Type': 'application/json' } }))
      .body.code,
    'bad_body',
  )
  t.is(
    (
      await shop.call('POST', '/auth/register', {
        body: 'email=a',
        headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
      })
    ).status,
    415,
  )
  t.is((await shop.call('POST', '/auth/register')).body.code, 'body_missing')
})

test('the last admin cannot stop being one; users are listed in pages', async (t) => {
  const admin = await shop.admin()
  for (const id of [admin.id, admin.id.toUpperCase()]) {
    const refused = await shop.call('PUT', `/user/${id}/roles`, { token: admin.token, body: { roles: ['customer'] } })
    t.is(refused.status, 409, id)
    t.is(refused.body.code, 'last_admin')
  }
  const seen: string[] = []
  let cursor: string | null = null
  do {
    const page = await shop.call('GET', `/user?limit=5${cursor ? `&cursor=${cursor}` : ''}`, { token: admin.token })
    t.is(page.status, 200)
    seen.push(...page.body.items.map((u: { email: string }) => u.email))
    cursor = page.body.next
  } while (cursor)
  t.true(seen.includes(admin.email))
  t.deepEqual(seen, [...new Set(seen)].sort())
})

test('passwords, codes and tokens that were sent → in no log and no table as they were', async (t) => {
  const canary = `canary ${randomBytes(12).toString('hex')}`
  const user = await shop.user({ password: canary })
  await shop.call('POST', '/auth/login', { body: { email: user.email, password: `${canary} wrong` } })
  for (const role of ['auth', 'products', 'orders', 'notifications', 'nginx', 'edge'])
    for (const word of [canary, user.token, user.refreshToken]) {
      let log = ''
      try {
        log = readFileSync(join(shop.dir, 'log', `${role}.log`), 'utf8')
      } catch {
        // the edge's log has one of two names
      }
      t.false(log.includes(word), `${role}.log`)
    }
  for (const table of ['user', 'verification', 'session', 'refresh_token', 'login_failure', 'outbox']) {
    const { rows } = await database.query(`select coalesce(string_agg(x::text, ' '), '') as all from auth.${table} x`)
    for (const word of [canary, user.refreshToken]) t.false(rows[0].all.includes(word), table)
  }
})
