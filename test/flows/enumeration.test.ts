import { randomBytes } from 'node:crypto'
import test from 'ava'
import { type Answer, codeIn } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { freeze } from '../chaos/faults.ts'
import { useShop } from '../support/shop.ts'

/** The edge believes this machine about the client's address, so that requests come from wherever a test says. */
const shop = useShop(test, { env: { TRUSTED_PROXIES: '127.0.0.0/8' } })
const password = 'a long enough password'
const newAddress = () => `user-${randomBytes(6).toString('hex')}@example.org`
let clients = 0
/** An address that no request came from before. */
const newClient = () => `198.18.${++clients >> 8}.${clients & 255}`
const post = (path: string, body: object, from = newClient()) =>
  shop.call('POST', path, { body, headers: { 'X-Forwarded-For': from } })
const login = (email: string, secret: string, from?: string) => post('/auth/login', { email, password: secret }, from)

/** Makes the wait after five failures one of half a minute: the first, of a second, is over too soon on a busy machine. */
const lengthen = () => query(shop.databaseUrl, 'update auth.login_failure set failures = failures + 5, last_at = now()')

test.serial(
  'failed logins → slow down this account from this address, and nobody else; the owner gets in',
  async (t) => {
    const [user, other] = [await shop.user(), await shop.user()]
    const attacker = newClient()
    for (let i = 0; i < 5; i++) t.is((await login(user.email, 'wrong', attacker)).status, 401)
    await lengthen()
    const slowed = await login(user.email, user.password, attacker)
    t.like(slowed, { status: 429, body: { code: 'slow_down' } })
    t.is((await login(user.email, user.password)).status, 200, 'the owner, from elsewhere, at the same moment')
    t.is((await login(other.email, other.password, attacker)).status, 200, 'another account, from the same address')
  },
)

test.serial(
  'ever more failures → longer waits, of a minute at most, that tries in between do not prolong',
  async (t) => {
    const user = await shop.user()
    const from = newClient()
    const failed = (failures: number) =>
      query(
        shop.databaseUrl,
        `insert into auth.login_failure (key, failures) values (sha256(convert_to($1, 'UTF8')), $2)
       on conflict on constraint login_failure_pkey do update set failures = excluded.failures, last_at = now()`,
        [`${user.email}|${from}`, failures],
      )
    const waits: number[] = []
    for (const failures of [8, 9, 10, 10_000]) {
      await failed(failures)
      const [first, second] = [await login(user.email, user.password, from), await login(user.email, 'wrong', from)]
      t.deepEqual([first.status, second.status], [429, 429])
      t.is(first.headers['retry-after'], String(first.body.retryAfter))
      t.true(second.body.retryAfter <= first.body.retryAfter)
      waits.push(first.body.retryAfter)
    }
    t.deepEqual(
      waits,
      waits.toSorted((a, b) => a - b),
    )
    t.true((waits.at(-1) as number) > 30 && (waits.at(-1) as number) <= 60)

    await query(shop.databaseUrl, `update auth.login_failure set last_at = now() - interval '61 seconds'`)
    t.is((await login(user.email, user.password, from)).status, 200, 'never locked out')
    t.is((await login(user.email, 'wrong', from)).status, 401, 'and it counts anew')
  },
)

test.serial(
  'wrong codes of ever more accounts from one network → slowed down after 20; nothing else is, nor anyone elsewhere',
  async (t) => {
    const from = newClient()
    const user = await shop.user()
    const guess = (path: string) => post(path, { email: newAddress(), code: '000000' }, from)
    for (let i = 0; i < 10; i++)
      t.deepEqual([(await guess('/auth/login')).status, (await guess('/auth/verify')).status], [401, 400])
    await lengthen()
    await post('/auth/login', { email: user.email })
    const code = codeIn(await shop.mailTo(user.email, { subject: /code/i, fits: (m) => !m.text.includes('token=') }))
    for (const path of ['/auth/login', '/auth/verify']) {
      const slowed = await post(path, { email: user.email, code }, from)
      t.like(slowed, { status: 429, body: { code: 'slow_down' } }, path)
      t.is(slowed.headers['retry-after'], String(slowed.body.retryAfter))
    }
    t.is((await login(user.email, user.password, from)).status, 200, 'by password, from the same network')
    t.is((await post('/auth/login', { email: user.email, code })).status, 200, 'by code, from elsewhere')

    const crowd = newClient()
    const together = await Promise.all(
      Array.from({ length: 40 }, () => post('/auth/login', { email: newAddress(), code: '000000' }, crowd)),
    )
    const tried = together.filter(({ status }) => status === 401).length
    // After the twentieth each needs a second more of its own, which a busy machine may take for a few of them.
    t.true(tried >= 20 && tried <= 23, `${tried} at once`)
  },
)

test.serial('codes from one network while the database stands still → 503 for all, and none is used up', async (t) => {
  t.timeout(60_000)
  const from = newClient()
  const user = await shop.user()
  await post('/auth/login', { email: user.email })
  const code = codeIn(await shop.mailTo(user.email, { subject: /code/i, fits: (m) => !m.text.includes('token=') }))
  const { rows } = await query(
    shop.databaseUrl,
    `select pid from pg_stat_activity where application_name = 'auth' and datname = current_database()`,
  )
  const thaw = freeze(rows.map(({ pid }) => pid))
  t.teardown(thaw)
  const tries = [
    ...Array.from({ length: 7 }, () => ({ email: newAddress(), code: '000000' })),
    { email: user.email, code },
  ]
  const answers = await Promise.all(tries.map((body) => post('/auth/login', body, from)))
  t.deepEqual(
    answers.map(({ status }) => status),
    tries.map(() => 503),
  )
  thaw()
  t.is((await post('/auth/login', { email: user.email, code }, from)).status, 200)
})

/** What of an answer could tell an account that is there from one that is not: all but what differs each time. */
const shown = ({ status, headers: { date: _, 'x-request-id': __, ...headers }, text }: Answer) => ({
  status,
  headers,
  text,
})

test.serial('an unknown account slows down as a known one does', async (t) => {
  const user = await shop.user()
  const asked = [user.email, newAddress()].map((email) => ({ email, from: newClient() }))
  const ask = async () => (await Promise.all(asked.map(({ email, from }) => login(email, 'wrong', from)))).map(shown)
  for (let i = 0; i < 5; i++) {
    const [known, unknown] = await ask()
    t.deepEqual(known, unknown)
  }
  await lengthen()
  // But for the seconds that are left.
  const [known, unknown] = JSON.parse(JSON.stringify(await ask()).replace(/\b\d\d\b/g, 'some'))
  t.is(known.status, 429)
  t.deepEqual(known, unknown)
})

/** How well a time tells which of two groups it is from: 0.5 not at all, 0 or 1 always (the area under the ROC curve). */
function distinguishable(a: number[], b: number[]): number {
  const wins = a.flatMap((x) => b.map((y) => (x > y ? 1 : x === y ? 0.5 : 0) as number))
  return wins.reduce((sum, win) => sum + win, 0) / wins.length
}

const samples = 30
/** Four standard errors of the measure at 30 samples each: nothing but a difference of the work itself gets there. */
const bound = 0.3
const known = Array.from({ length: samples }, newAddress)
test.serial.before('accounts to ask about', async (t) => {
  const answers = await Promise.all(known.map((email) => post('/auth/register', { email, password })))
  t.true(answers.every(({ status }) => status === 202))
})

const byPassword = 'login by a wrong password'
const questions: [string, (email: string) => Promise<Answer>][] = [
  ['register', (email) => post('/auth/register', { email, password })],
  ['forgot', (email) => post('/auth/password/forgot', { email })],
  ['resend', (email) => post('/auth/verify/resend', { email })],
  [byPassword, (email) => login(email, 'not the password')],
  ['login by a mailed code', (email) => post('/auth/login', { email })],
  // After the one before, each account has a code.
  ['login by a wrong code', (email) => post('/auth/login', { email, code: '000000' })],
  ['verify by a wrong code', (email) => post('/auth/verify', { email, code: '000000' })],
]
for (const [what, ask] of questions)
  test.serial(
    `${what}, a known address and an unknown one → the same answer, and no time tells them apart`,
    async (t) => {
      t.timeout(240_000)
      // Mailed some time ago, so that each is mailed again, which takes the most work.
      await query(shop.databaseUrl, `update auth.verification set sent_at = now() - interval '61 seconds'`)

      const times: Record<'known' | 'unknown', number[]> = { known: [], unknown: [] }
      const answers = new Set<string>()
      for (const [i, email] of known.entries()) {
        const pair = [['known', email] as const, ['unknown', newAddress()] as const]
        for (const [who, address] of i % 2 ? pair : pair.toReversed()) {
          const began = performance.now()
          const answer = await ask(address)
          times[who].push(performance.now() - began)
          answers.add(JSON.stringify(shown(answer)))
        }
      }
      t.is(answers.size, 1, [...answers].join('\n'))
      // What takes a few milliseconds more for an account than for none is lost in the noise of a busy machine, and not in
      // that of a patient attacker: all but the hash of a password is evened out.
      if (what !== byPassword) t.true(Math.min(...times.known, ...times.unknown) >= 99)
      const told = distinguishable(times.known, times.unknown)
      t.log(`told apart: ${told.toFixed(2)}`)
      t.true(Math.abs(told - 0.5) < bound, `${told.toFixed(2)}: ${JSON.stringify(times)}`)
    },
  )
