import { randomBytes, randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { connect } from 'nats'
import { type Answer, type Call, codeIn } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { roleNames } from '../../src/platform/config.ts'
import { rawRequest } from '../edge/raw.ts'
import { trial } from '../support/cases.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { bodyOf, filled, goodCall, nameOf, rows } from './routes.ts'

/** What nobody may read later, in every place where it can be typed: none of it is in a log, a metric or a refusal. */
const shop = useShop(test, { ownPostgres: true })
/** What opens something, and what belongs to somebody; each with where it was typed. */
const secrets = new Map<string, string>()
const facts = new Map<string, string>()
const plant = (where: string, length = 20, of = secrets) => {
  const canary = randomBytes(length).toString('base64url').slice(0, length)
  of.set(canary, where)
  return canary
}
const answers: { what: string; answer: Answer }[] = []
async function call(method: string, path: string, options?: Call) {
  const answer = await shop.call(method, path, options)
  answers.push({ what: `${method} ${path}`, answer })
  return answer
}
const sql = async (text: string) => (await query(shop.databaseUrl, text)).rows
const linkIn = (text: string) => /token=([\w-]{43})/.exec(text)?.[1] as string

/** An account's life, with what goes wrong in it. */
async function live() {
  const email = `${plant('address', 12, facts).toLowerCase()}@example.org`
  facts.set(email, 'address')
  const first = plant('password of an account')
  const name = plant('name of a user', 20, facts)
  await call('POST', '/auth/register', { body: { email, password: first, name } })
  await call('POST', '/auth/register', { body: { email, password: plant('password for a taken address'), name } })
  await call('POST', '/auth/register', {
    body: { email: 'no address', password: plant('password of a refused body'), name },
  })
  await call('POST', '/auth/register', {
    body: `{"password":"${plant('password in broken JSON')}",`,
    headers: { 'Content-Type': 'application/json' },
  })
  await call('POST', '/auth/register', {
    body: `password=${plant('password in a form')}`,
    headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
  })
  const mail = await shop.mailTo(email, { fits: (m) => m.text.includes('token=') })
  const [code, token] = [codeIn(mail), linkIn(mail.text)]
  secrets.set(code, 'code of a mail').set(token, 'token of a mail')
  await call('POST', '/auth/verify', { body: { token: plant('token that nobody gave', 43) } })
  await call('GET', `/auth/verify?token=${token}`)
  await call('HEAD', `/auth/verify?token=${token}`)
  await call('DELETE', `/auth/verify?token=${token}`)
  await call('POST', '/auth/login', { body: { email, password: first } })
  await call('POST', '/auth/verify', { body: { email, code } })
  await call('POST', '/auth/verify', { body: { email, code } })
  await call('POST', '/auth/login', { body: { email, password: plant('wrong password') } })
  await call('POST', '/auth/login', { body: { email, password: first, code } })
  await call('POST', '/auth/login', { body: { email } })
  const login = codeIn(await shop.mailTo(email, { fits: (m) => !m.text.includes('token=') }))
  secrets.set(login, 'code to log in with')
  await call('POST', '/auth/login', { body: { email, code: login } })
  const inCookie = await call('POST', '/auth/login', { body: { email, password: first, cookie: true } })
  const cookie = /refresh=([\w-]+)/.exec(String(inCookie.headers['set-cookie']))?.[1] as string
  secrets.set(cookie, 'refresh token in a cookie').set(inCookie.body.accessToken, 'access token')
  const bring = { Cookie: `__Secure-refresh=${cookie}` }
  await call('POST', '/auth/refresh', { headers: bring })
  await call('POST', '/auth/refresh', { headers: { ...bring, Origin: 'https://evil.example' } })
  const again = await call('POST', '/auth/refresh', { headers: { ...bring, Origin: shop.url } })
  const session = (await call('POST', '/auth/login', { body: { email, password: first } })).body
  secrets.set(session.accessToken, 'access token').set(session.refreshToken, 'refresh token')
  const next = (await call('POST', '/auth/refresh', { body: { refreshToken: session.refreshToken } })).body
  secrets.set(next.accessToken, 'access token').set(next.refreshToken, 'refresh token')
  await sql(`update auth.refresh_token set used_at = used_at - interval '61 seconds'`)
  const copied = await call('POST', '/auth/refresh', { body: { refreshToken: session.refreshToken } })
  await call('POST', '/auth/refresh', { body: { refreshToken: plant('refresh token that nobody gave', 43) } })
  await call('GET', `/profile?access_token=${next.accessToken}`)
  await call('GET', '/profile', { token: `${next.accessToken}x` })
  await call('POST', '/auth/password/forgot', { body: { email } })
  const reset = linkIn((await shop.mailTo(email, { subject: /new password/ })).text)
  secrets.set(reset, 'token to set a password')
  await call('GET', `/auth/password/reset?token=${reset}&again=${reset}`)
  await call('POST', '/auth/password/reset', { body: { token: reset, password: plant('short', 9) } })
  return { email, reset, cookie: again.status, copied: copied.status }
}

/** Each route with canaries in every place that a request has. */
async function ask(row: (typeof rows)[0], token: string) {
  const where = nameOf(row)
  const texts = (value: unknown): unknown => {
    if (typeof value === 'string') return plant(`a text of the body of ${where}`, 24, facts)
    if (Array.isArray(value)) return value.map(texts)
    if (value && typeof value === 'object')
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, texts(inner)]))
    return value
  }
  const example = bodyOf(row)?.example
  const headers = {
    Cookie: `__Secure-refresh=${plant(`cookie of ${where}`, 43)}`,
    'User-Agent': plant(`User-Agent of ${where}`, 20, facts),
    Referer: `https://shop.example/auth/password/reset?token=${plant(`Referer of ${where}`, 43)}`,
    'X-Auth-Assertion': plant(`assertion of ${where}`),
    'Proxy-Authorization': `Basic ${plant(`Proxy-Authorization of ${where}`)}`,
    'X-Request-Id': plant(`X-Request-Id of ${where}`, 20, facts),
    'Idempotency-Key': plant(`Idempotency-Key of ${where}`, 20, facts),
    'If-Match': `"${plant(`If-Match of ${where}`, 20, facts)}"`,
  }
  const path = `${filled(row, row.path.startsWith('/unsubscribe') ? uuidCanary(where) : randomUUID())}`
  const query = `?token=${plant(`query of ${where}`, 43)}&password=${plant(`query of ${where}`)}`
  for (const auth of [token, plant(`token of ${where}`)])
    for (const body of example === undefined
      ? [undefined]
      : [example, texts(example), { password: plant(`a field that ${where} has not`) }])
      await call(row.method, `${path}${query}`, {
        token: auth,
        ...goodCall(row),
        ...(body === undefined ? {} : { body }),
        headers,
      })
  if (row.upload)
    await call(row.method, path, {
      token,
      body: Buffer.from(plant(`bytes of ${where}`, 60)),
      headers: { 'Content-Type': 'image/png', 'If-Match': '*' },
    })
}
const uuidCanary = (where: string) => {
  const id = randomUUID()
  secrets.set(id, `path of ${where}`)
  return id
}

test.serial(
  'canaries in every password, token, code, link, header and field, while all goes well and while parts fail → in no log, metric or refusal',
  async (t) => {
    t.timeout(180_000)
    const { check, done } = trial('canaries × logs, metrics, refusals and dead letters')
    const admin: TestUser = await shop.admin()
    const { email, reset, cookie, copied } = await live()
    t.is(cookie, 200)
    t.is(copied, 401)
    for (const row of rows.filter(({ path }) => path !== '/auth/logout')) await ask(row, admin.token)

    // What the edge answers by itself.
    for (const [method, path, head] of [
      ['GET', `/nowhere?token=${reset}`, []],
      ['BREW', `/auth/verify?token=${reset}`, []],
      ['GET', `/auth/verify?token=${reset}&long=${'a'.repeat(9000)}`, []],
      ['GET', `/auth/verify?token=${reset}`, [`X: ${'a'.repeat(9000)}`]],
      ['GET', `/auth//verify?token=${reset}`, []],
      ['POST', `/auth/verify?token=${reset}`, ['Content-Length: 200000']],
      ['POST', `/auth/verify?token=${reset}`, ['Transfer-Encoding: gzip']],
      ['PUT', `/unsubscribe/${uuidCanary('a method that it has not')}`, ['Content-Length: 0']],
    ] as [string, string, string[]][])
      await rawRequest(shop.url, method, path, head).catch(() => {})

    // A fault of the database that nobody foresaw, where secrets are written.
    await sql(
      `create function bodega.refuse() returns trigger language plpgsql as $$ begin raise exception 'refused by the test'; end $$`,
    )
    const tables = [
      'auth.outbox',
      'auth.session',
      'auth.user',
      'auth.verification',
      'auth.refresh_token',
      'orders.order',
      'notifications.subscription',
      'products.product',
    ]
    for (const table of tables) {
      await sql(
        `create trigger refuse before insert or update on ${table} for each row execute function bodega.refuse()`,
      )
      const other = `${plant(`address, ${table} refuses`, 12, facts).toLowerCase()}@example.org`
      await call('POST', '/auth/register', {
        body: { email: other, password: plant(`password, ${table} refuses`), name: plant('name', 20, facts) },
      })
      await call('POST', '/auth/password/forgot', { body: { email } })
      await call('POST', '/auth/login', { body: { email, password: plant(`password, ${table} refuses`) } })
      await call('POST', '/auth/login', { body: { email: admin.email, password: admin.password } })
      await call('POST', '/auth/refresh', { body: { refreshToken: admin.refreshToken } })
      await call('POST', '/auth/password/reset', {
        body: { token: reset, password: plant(`new password, ${table} refuses`) },
      })
      await call('PATCH', '/profile', {
        token: admin.token,
        body: { name: plant(`name, ${table} refuses`, 20, facts) },
      })
      await call('PUT', '/notification/preferences', {
        token: admin.token,
        body: { cart: true, payment: true, feedback: true, digest: true },
      })
      const thing = {
        sku: plant('sku', 20, facts),
        name: plant('product', 20, facts),
        category: 'x',
        price: 1,
        currency: 'EUR',
      }
      await call('POST', '/product', { token: admin.token, body: thing })
      await sql(`drop trigger refuse on ${table}`)
    }
    t.true(answers.filter(({ answer }) => answer.status === 500).length >= 5)
    secrets
      .set(admin.password, 'password of the admin')
      .set(admin.token, 'token of the admin')
      .set(admin.refreshToken, 'refresh token of the admin')

    // A message with secrets that cannot be a mail, and one that is none.
    const migrate = readFileSync(join(shop.secretsDir('migrate'), 'NATS_BROKER_URL'), 'utf8')
    const { host, username, password } = new URL(migrate)
    const nc = await connect({ servers: host, user: username, pass: password, inboxPrefix: '_INBOX.migrate' })
    const poison = {
      userId: 'nobody',
      email,
      token: plant('token of a dead letter', 43),
      code: plant('code of a dead letter'),
    }
    await nc.jetstream().publish('msg.user.registered', JSON.stringify(poison))
    await nc.jetstream().publish(
      'msg.user.registered',
      JSON.stringify({
        ...poison,
        userId: randomUUID(),
        name: 'x',
        locale: 'en',
        timeZone: 'UTC',
        email: 'two@example.org, of@example.org',
      }),
    )
    const jsm = await nc.jetstreamManager()
    const letters = await eventually('dead letters', async () => {
      const { messages } = (await jsm.streams.info('dlq')).state
      return messages >= 2 && messages
    })
    const spoken: [string, string][] = []
    for (let seq = 1; seq <= letters; seq++) {
      spoken.push([`dead letter ${seq}`, (await jsm.streams.getMessage('dlq', { seq })).string()])
      const { stdout, stderr } = await shop.run('migrate', 'commands.ts', 'dlq', 'show', String(seq))
      spoken.push([`make dlq SHOW=${seq}`, `${stdout}${stderr}`])
    }
    const list = await shop.run('migrate', 'commands.ts', 'dlq')
    spoken.push(['make dlq', list.stdout])
    await nc.close()

    // Parts that are away.
    await shop.postgres?.kill('SIGKILL')
    await call('POST', '/auth/login', { body: { email, password: plant('password, no database') } })
    await call('POST', '/auth/register', { body: { email: 'x@example.org', password: plant('password, no database') } })
    await call('POST', '/auth/password/reset', { body: { token: reset, password: plant('new password, no database') } })
    await call('GET', `/unsubscribe/${uuidCanary('unsubscribe, no database')}`)
    await shop.postgres?.restart()
    await shop.nats.kill('SIGKILL')
    await eventually(
      'auth answers',
      async () =>
        (await shop.call('POST', '/auth/refresh', { body: { refreshToken: plant('token, no bus', 43) } })).status ===
        401,
    )
    await call('POST', '/auth/register', {
      body: {
        email: `${plant('address, no bus', 12, facts).toLowerCase()}@example.org`,
        password: plant('password, no bus'),
      },
    })
    await shop.nats.restart()
    for (const role of ['auth', 'notifications'] as const) await shop.roles[role].kill('SIGKILL')
    await call('GET', `/auth/password/reset?token=${reset}`)
    await call('GET', `/auth/verify?token=${plant('token of a link, auth away', 43)}`)
    await call('POST', '/auth/login', { body: { email, password: plant('password, auth away') } })
    await call('GET', `/unsubscribe/${uuidCanary('unsubscribe, notifications away')}`)
    await call('POST', `/unsubscribe/${uuidCanary('unsubscribe, notifications away')}`, {
      body: 'List-Unsubscribe=One-Click',
    })
    await call('GET', '/profile', { token: plant('token, auth away') })
    for (const role of ['auth', 'notifications'] as const) await shop.roles[role].restart()

    // What the processes were given to begin with.
    for (const reader of [...roleNames, 'migrate'] as const)
      for (const file of readdirSync(shop.secretsDir(reader))) {
        const value = readFileSync(join(shop.secretsDir(reader), file), 'utf8').trim()
        const parts = /_URL$/.test(file)
          ? [URL.canParse(value) ? decodeURIComponent(new URL(value).password) : '']
          : /(KEY|PEPPER|PASSWORD)/.test(file)
            ? [value]
            : []
        const pems =
          file === 'JWT_KEYS'
            ? JSON.parse(value).flatMap(({ pem }: { pem: string }) =>
                pem.split('\n').filter((line) => line.length > 40),
              )
            : parts
        for (const part of pems) if (part.length > 12) secrets.set(part, file)
      }
    for (const [name, child] of Object.entries({ ...shop.roles, edge: shop.edge, nats: shop.nats }))
      spoken.push([`command of ${name}`, readFileSync(`/proc/${child.pid}/cmdline`, 'utf8')])
    for (const role of roleNames)
      spoken.push([`metrics of ${role}`, await (await fetch(shop.roles[role].metricsUrl)).text()])
    for (const role of roleNames) await shop.roles[role].stop()
    const logs = readdirSync(join(shop.dir, 'log')).map((file): [string, string] => [
      file,
      readFileSync(join(shop.dir, 'log', file), 'utf8'),
    ])
    for (const [file, log] of logs) t.true(log.length > 0 || file === 'mail.log', file)

    // Six digits are in many numbers: alone is what counts.
    const says = (text: string, canary: string) =>
      /^\d{6}$/.test(canary) ? new RegExp(`(?<![\\w.])${canary}(?!\\w)`).test(text) : text.includes(canary)
    const lineWith = (text: string, canary: string) =>
      text
        .split('\n')
        .find((line) => says(line, canary))
        ?.slice(0, 600)
    const refusals = answers
      .filter(({ answer }) => answer.status >= 400)
      .map(({ what, answer }): [string, string] => [`the refusal of ${what.split('?')[0]}`, answer.text])
    // That says what there is not, to whoever asked for it.
    const told = [...logs, ...spoken, ...refusals.filter(([name]) => !name.includes('/unsubscribe/'))]
    for (const [canary, where] of secrets) {
      const found = told.filter(([, text]) => says(text, canary))
      check(found.length === 0, () =>
        found.map(([name, text]) => `${where} is in ${name}: ${lineWith(text, canary)}`).join('\n'),
      )
    }
    // The inbox shows what was sent to it.
    const ours = [
      ...logs.filter(([name]) => name !== 'mail.log'),
      ...spoken.filter(([name]) => !/dlq|letter/.test(name)),
    ]
    for (const [canary, where] of facts) {
      const found = ours.filter(([, text]) => text.includes(canary))
      check(found.length === 0, () =>
        found.map(([name, text]) => `${where} is in ${name}: ${lineWith(text, canary)}`).join('\n'),
      )
    }
    done(t)
  },
)
