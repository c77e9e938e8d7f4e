import { randomBytes, randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import test from 'ava'
import type { z } from 'zod'
import { type Answer, type Call, mailsTo } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { roleNames } from '../../src/platform/config.ts'
import type { TableRow } from '../../src/platform/routes.ts'
import { trial } from '../support/cases.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { bodyOf, filled, goodCall, nameOf, rows } from './routes.ts'

/** Texts, numbers and shapes that nobody expects, in every place that the document names; and what the logs make of them. */
const shop = useShop(test, { ownPostgres: true })
let admin: TestUser
let customer: TestUser
let productId: string
test.serial.before('who asks, and for what', async () => {
  admin = await shop.admin()
  customer = await shop.user()
  const body = { sku: 'ONE', name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 1_000_000 }
  productId = (await shop.call('POST', '/product', { token: admin.token, body })).body.id
})
const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
const logsOf = (...without: string[]) =>
  readdirSync(join(shop.dir, 'log'))
    .filter((file) => !without.includes(file))
    .map((file) => [file, readFileSync(join(shop.dir, 'log', file), 'utf8')] as const)

// These would end the sessions that ask.
const asked = rows.filter(({ path }) => !['/auth/logout', '/user/{id}/roles', '/auth/password/reset'].includes(path))
const withBody = asked.filter((row) => bodyOf(row))
/** An id that is there, where a route has one; the users are left alone. */
const pathOf = (row: TableRow) =>
  filled(row, row.path.startsWith('/product/{id}') || row.path.startsWith('/cart/') ? productId : randomUUID())
const ask = (row: TableRow, call: Call): Promise<Answer> => {
  const good = goodCall(row)
  return shop.call(row.method, pathOf(row), {
    token: admin.token,
    ...good,
    ...call,
    headers: { ...good.headers, ...call.headers },
  })
}
const asJson = (body: string | Buffer, headers: Record<string, string> = {}): Call => ({
  body,
  headers: { 'Content-Type': 'application/json', ...headers },
})
/** Several at once, since some answers leave at the next tenth of a second. */
async function each<T>(all: T[], work: (one: T) => Promise<unknown>) {
  for (let i = 0; i < all.length; i += 16) await Promise.all(all.slice(i, i + 16).map(work))
}
const short = (text: string) => JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}… ${text.length}` : text)

/** Bodies that are no good whatever the route; `{…}` stands for the route's own example. */
const broken: [string, (good: string) => string | Buffer, Record<string, string>?][] = [
  ['100,000 levels of lists', () => '['.repeat(100_000) + ']'.repeat(100_000)],
  ['30,000 levels of lists', () => '['.repeat(30_000) + ']'.repeat(30_000)],
  ['30,000 lists that stay open', () => '['.repeat(30_000)],
  ['9,000 levels of objects', () => `${'{"a":'.repeat(9000)}1${'}'.repeat(9000)}`],
  ['a level in each field', (good) => good.replace(/:("[^"]*"|\d+)/g, `:${'['.repeat(2000)}1${']'.repeat(2000)}`)],
  ['60,000 fields', () => `{${Array.from({ length: 6000 }, (_, n) => `"f${n}":1`).join()}}`],
  ['a key of 60,000 letters', () => `{"${'k'.repeat(60_000)}":1}`],
  ['140,000 bytes', (good) => good + ' '.repeat(140_000 - good.length)],
  ['a number of 60,000 digits', () => `{"price":${'9'.repeat(60_000)}}`],
  ['__proto__', (good) => good.replace(/^\{/, '{"__proto__":{"roles":["admin"]},')],
  ['__proto__ alone', () => '{"__proto__":{"email":"a@example.org","everywhere":true}}'],
  ['constructor', (good) => good.replace(/^\{/, '{"constructor":{"prototype":{"roles":["admin"]}},')],
  ['toString', (good) => good.replace(/^\{/, '{"toString":null,"hasOwnProperty":null,')],
  ['a field more', (good) => good.replace(/^\{/, '{"isAdmin":true,')],
  ['a comma more', (good) => good.replace(/\}$/, ',}')],
  ['cut', (good) => good.slice(0, -1)],
  ['something after it', (good) => `${good}x`],
  ['two of them', (good) => `${good}${good}`],
  ['single quotes', (good) => good.replaceAll('"', "'")],
  ['a comment', (good) => `/**/${good}`],
  ['a byte order mark and something', () => '\ufeff{"x":1}'],
  ['NaN', (good) => good.replace(/:("[^"]*"|\d+|true|false)/, ':NaN')],
  ['Infinity', (good) => good.replace(/:("[^"]*"|\d+|true|false)/, ':Infinity')],
  ['null for each', (good) => good.replace(/:("[^"]*"|\d+|true|false)/g, ':null')],
  ['a list for each', (good) => good.replace(/:("[^"]*"|\d+|true|false)/g, ':[]')],
  ['an object for each', (good) => good.replace(/:("[^"]*"|\d+|true|false)/g, ':{"toString":"x","$ne":null}')],
  ['a list of it', (good) => `[${good}]`],
  ['a text of it', (good) => JSON.stringify(good)],
  ['a number', () => '7'],
  ['a NUL before it', (good) => `\0${good}`],
  ['UTF-16', (good) => Buffer.from(good, 'utf16le')],
  ['UTF-16, said so', (good) => Buffer.from(good, 'utf16le'), { 'Content-Type': 'application/json; charset=utf-16le' }],
  ['bytes that are no UTF-8 around it', (good) => Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(good)])],
  ['another type', (good) => good, { 'Content-Type': 'text/plain' }],
  ['a form', () => 'email=a@example.org', { 'Content-Type': 'application/x-www-form-urlencoded' }],
  ['gzip of 50 MB', () => gzipSync(Buffer.alloc(50_000_000, 32)), { 'Content-Encoding': 'gzip' }],
  ['gzip that is none', (good) => good, { 'Content-Encoding': 'gzip' }],
  ['gzip that is cut', (good) => gzipSync(good).subarray(0, 12), { 'Content-Encoding': 'gzip' }],
  ['deflate that is none', (good) => good, { 'Content-Encoding': 'deflate' }],
  ['brotli that is none', (good) => good, { 'Content-Encoding': 'br' }],
  ['brotli that is cut', (good) => brotliCompressSync(good).subarray(0, 9), { 'Content-Encoding': 'br' }],
  ['an encoding that nobody knows', (good) => good, { 'Content-Encoding': 'x' }],
  ['gzip in gzip', (good) => gzipSync(gzipSync(good)), { 'Content-Encoding': 'gzip, gzip' }],
]

test.serial(
  'bodies that are broken, deep, huge or of another shape, on every route → refused, and memory stays',
  async (t) => {
    t.timeout(120_000)
    const { check, also, done } = trial('broken, deep and huge bodies × routes that take one')
    const pids = roleNames.map((role) => shop.roles[role].pid)
    for (const row of withBody) {
      const good = JSON.stringify(bodyOf(row)?.example)
      await each(broken, async ([name, make, headers]) => {
        const body = make(good)
        // Some changes change nothing in a body that has no such field.
        if (body === good && !headers) return
        const answer = await ask(row, asJson(body, headers))
        const isRefused = answer.status >= 400 && answer.status < 500
        check(isRefused, () => `${nameOf(row)}, ${name}: ${answer.status} ${answer.text.slice(0, 300)}`)
      })
    }
    also(String(pids) === String(roleNames.map((role) => shop.roles[role].pid)), () => 'a role began anew')
    for (const role of roleNames) {
      const held =
        Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${shop.roles[role].pid}/status`, 'utf8'))?.[1]) / 1024
      also(held < 350, () => `${role} holds ${held} MB`)
    }
    const { roles } = (await shop.call('GET', '/profile', { token: customer.token })).body
    also(String(roles) === 'customer', () => `a customer is ${roles}`)
    done(t)
  },
)

// biome-ignore lint/suspicious/noExplicitAny: a JSON Schema is read here as whoever reads it would
type Schema = any
type Place = { path: (string | number)[]; schema: Schema }
/** The places of a body where a value of a type stands, as the document has them. */
function places(schema: Schema, type: (schema: Schema) => boolean, path: Place['path'] = []): Place[] {
  if (!schema) return []
  const deeper = [
    ...Object.entries(schema.properties ?? {}).flatMap(([name, inner]) => places(inner, type, [...path, name])),
    ...(schema.items ? places(schema.items, type, [...path, 0]) : []),
    ...(schema.anyOf ?? []).flatMap((inner: Schema) => places(inner, type, path)),
  ]
  return type(schema) ? [{ path, schema }, ...deeper] : deeper
}
/** The example of a row with a value, as JSON, in one place; what the example lacks on the way is made. */
function put(row: TableRow, path: Place['path'], value: string): string {
  const root = structuredClone(bodyOf(row)?.example ?? {})
  // Each product that is made has a sku of its own.
  if (nameOf(row) === 'POST /product') root.sku = randomUUID()
  let at = root
  path.slice(0, -1).forEach((step, i) => {
    at[step] ??= typeof path[i + 1] === 'number' ? [] : {}
    at = at[step]
  })
  at[path.at(-1) as string] = '\u0001'
  return JSON.stringify(root).replace('"\\u0001"', () => value)
}

const numbers = [
  ...[
    '1e400',
    '-1e400',
    '-0',
    '0.0',
    '-0.0',
    '9007199254740991',
    '9007199254740992',
    '9007199254740993',
    '1e15',
    '1e16',
  ],
  ...[
    '18446744073709551616',
    '2147483648',
    '-2147483649',
    '1.5',
    '0.1e1',
    '1e-400',
    '1E2',
    '100.0',
    '-1',
    '99999999999999999999',
  ],
  ...[
    '"1"',
    '"1e2"',
    '"٣"',
    '"１"',
    'true',
    'null',
    '[1]',
    '{"valueOf":1}',
    '01',
    '+1',
    '0x10',
    '1_000',
    '.5',
    '5.',
    '--1',
  ],
]
test.serial(
  'numbers out of all ranges and of all shapes, in every number of every body → refused, or kept as they are',
  async (t) => {
    t.timeout(120_000)
    const { check, done } = trial('odd numbers × numbers of every body')
    const isNumber = ({ type }: Schema) => type === 'integer' || type === 'number'
    for (const row of withBody)
      for (const { path } of places(bodyOf(row)?.schema, isNumber))
        await each(numbers, async (number) => {
          const { status, body, text } = await ask(row, asJson(put(row, path, number)))
          const kept = body?.[path.at(-1) as string]
          const isKept = typeof kept !== 'number' || path.at(-1) === 'change' || Object.is(kept, JSON.parse(number) + 0)
          check(
            (status >= 400 && status < 500) || (status < 300 && isKept),
            () => `${nameOf(row)} ${path.join('.')} ${number}: ${status} ${text.slice(0, 200)}`,
          )
        })
    done(t)
  },
)

const injections = [
  ...[
    "'",
    "''",
    '"',
    '`',
    "' or '1'='1",
    "' or 1=1 --",
    "'; drop table auth.user; --",
    "' union select password_hash from auth.user --",
  ],
  ...[
    "\\'; select pg_sleep(3); --",
    "' || pg_sleep(3) || '",
    '$1',
    '$$',
    '$1$',
    '??',
    '?',
    ':id',
    ':"orders"',
    '%s %d %n',
    '\\',
    "\\'",
  ],
  ...[
    '{{7*7}}',
    `$\{7*7}`,
    '<%= 7*7 %>',
    '<% throw 1 %>',
    '$t(footer)',
    '#{7*7}',
    '{{constructor.constructor("return 1")()}}',
  ],
  ...[
    '<script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    '../../../../etc/passwd',
    'file:///etc/passwd',
    '|id',
    '$(id)',
    '`id`',
  ],
  ...[
    'a\r\nX-Injected: 1',
    'a\nX-Injected: 1',
    'a\rX-Injected: 1',
    'a\u0085X-Injected: 1',
    'a\u2028X-Injected: 1',
    'a%0d%0aX-Injected: 1',
  ],
  ...[
    'a\r\nBcc: evil@example.org\r\n\r\nnew body',
    '=?utf-8?q?=0d=0aBcc:evil@example.org?=',
    'a嘍嘊X-Injected: 1',
    'a, b <c@example.org>',
  ],
]
const scripts = [
  ...[
    'İstanbul',
    'ıIiİ',
    'ß ẞ ss SS',
    'ﬁ ﬀ',
    'K k',
    'Å Å A\u030a',
    'é e\u0301',
    '１２３',
    '٣٤',
    '½ ² ①',
    'ǅ ǆ',
    'ς σ Σ',
  ],
  ...[
    '👩‍👩‍👧‍👦',
    '🇩🇪🇮🇳',
    '🏴󠁧󠁢󠁥󠁮󠁧󠁿',
    '👍🏽',
    '\u{10ffff}',
    '\u{1f600}'.repeat(20),
    '𝒜𝓃𝓎',
    'नमस्ते',
    'עברית',
    'مرحبا',
    '日本語',
    'ไทย',
  ],
  ...[
    '\u202eevil\u202c',
    '\u2066a\u2069',
    '\u200bzero\u200b',
    'a\u200db',
    '\u00adsoft',
    '\u00a0nbsp\u00a0',
    '\u3000wide\u3000',
    'a\u2028b',
    'a\u2029b',
  ],
  ...[
    '\ufeffmark',
    'a\ufeffb',
    '\ufffe\uffff',
    '\ufffd',
    'a\u0085b',
    'a\u009fb',
    `z${'\u0301'.repeat(40)}`,
    '\u{e0001}\u{e0061}',
  ],
  ...[
    '\0',
    'a\0b',
    '\u0001',
    '\u001b[31m',
    '\u007f',
    'tab\tend',
    'line\nend',
    ' both ',
    '',
    ' ',
    '\ud800',
    'a\udc00b',
    '\ud83d',
    '\udc00\ud800',
  ],
]
/** What the shop says that it makes of a text: blanks around it go, and of line ends one kind is left. */
const normal = (name: string, text: string) => {
  const trimmed = text.trim()
  if (name === 'description') return trimmed.replace(/\r\n?/g, '\n')
  return name === 'email' ? trimmed.toLowerCase() : trimmed
}
const isText = ({ type }: Schema) => type === 'string'
const faulty = /syntax error|SQLSTATE|DatabaseError|PostgreSQL|node_modules|at Object|\/src\/|pg_catalog|knex/i

test.serial(
  'texts of every script, and texts that mean something to someone, in every text of every body → refused, or kept',
  async (t) => {
    t.timeout(180_000)
    const { check, also, done } = trial('odd texts and injections × texts of every body')
    const texts = [...scripts, ...injections]
    for (const row of withBody)
      for (const { path } of places(bodyOf(row)?.schema, isText)) {
        const name = path.at(-1) as string
        await each(texts, async (text) => {
          // As a text in JSON has it: half a surrogate pair as an escape.
          const value = JSON.stringify(text)
          const began = Date.now()
          const answer = await ask(row, asJson(put(row, path, value)))
          const kept = answer.body?.[name]
          const isKept = answer.status >= 300 || typeof kept !== 'string' || kept === normal(name, text)
          const where = () =>
            `${nameOf(row)} ${path.join('.')} ${short(text)}: ${answer.status} ${answer.text.slice(0, 200)}`
          check(answer.status < 500 && isKept, where)
          also(
            answer.headers['x-injected'] === undefined && !answer.headers['set-cookie'],
            () => `a header: ${where()}`,
          )
          also(!faulty.test(answer.text.replaceAll(JSON.stringify(text).slice(1, -1), '')), () => `insides: ${where()}`)
          also(Date.now() - began < 2500, () => `it slept: ${where()}`)
        })
      }
    const [{ n }] = await sql('select count(*)::int as n from auth.user')
    also(n >= 2, () => 'users are gone')
    done(t)
  },
)

test.serial('the same in every query, path and header → refused or answered, never believed', async (t) => {
  t.timeout(180_000)
  const { check, also, done } = trial('odd texts and injections × queries, paths and headers')
  const all = (await shop.call('GET', '/product?limit=100')).body.items.length
  const good = (answer: Answer, text: string, began: number) =>
    answer.status < 500 &&
    answer.headers['x-injected'] === undefined &&
    !/\r|\n/.test(String(answer.headers.location ?? '')) &&
    !faulty.test(answer.text.replaceAll(JSON.stringify(text).slice(1, -1), '')) &&
    Date.now() - began < 2500
  const texts = [...scripts.filter((text) => text.isWellFormed()), ...injections]
  for (const row of asked) {
    const names = row.query ? Object.keys((row.query as z.ZodObject).shape ?? {}) : []
    const tries = texts.flatMap((text): [string, string][] => [
      ...(row.path.includes('{') ? [[text, filled(row, text)] as [string, string]] : []),
      ...names.map((name): [string, string] => [text, `${pathOf(row)}?${name}=${encodeURIComponent(text)}`]),
    ])
    await each(tries, async ([text, path]) => {
      const began = Date.now()
      const answer = await shop.call(row.method, path, { token: admin.token, ...goodCall(row) })
      check(good(answer, text, began), () => `${row.method} ${path}: ${answer.status} ${answer.text.slice(0, 200)}`)
      if (path.startsWith('/product?q=') && /or '?1|union/.test(text))
        also(answer.body.items.length < all, () => `${path} found everything`)
    })
    // A header takes bytes, and no line ends.
    const sendable = injections.filter((one) => !/[\r\n]/.test(one))
    await each(sendable, async (text) => {
      const bytes = Buffer.from(text).toString('latin1')
      const names = ['User-Agent', 'Accept-Language', 'Cookie', 'Origin', 'Referer', 'X-Request-Id', 'X-Real-IP']
      const headers = Object.fromEntries(
        [...names, ...(row.headers ?? []).map((name) => name.replace('!', ''))].map((name) => [name, bytes]),
      )
      const began = Date.now()
      const call = goodCall(row)
      const answer = await shop.call(row.method, pathOf(row), {
        token: admin.token,
        ...call,
        headers: { ...call.headers, ...headers },
      })
      check(
        good(answer, text, began),
        () => `${nameOf(row)} headers ${short(text)}: ${answer.status} ${answer.text.slice(0, 200)}`,
      )
    })
  }
  done(t)
})

test.serial(
  'names and products of such texts, and a Host of a stranger → mails to one address, with our links and headers',
  async (t) => {
    t.timeout(120_000)
    const { check, also, done } = trial('injections × mails')
    const isOurs = ({ html, text, headers, to, subject }: Awaited<ReturnType<typeof mailsTo>>[0], address: string) =>
      to.length === 1 &&
      to[0]?.address === address &&
      !Object.keys(headers).some((name) => /^(bcc|cc|x-injected|reply-to)$/i.test(name)) &&
      !/[\r\n]/.test(subject) &&
      !/<script|<img src=x|evil\.example/i.test(html) &&
      !text.includes('evil.example') &&
      (`${html} ${text}`.match(/https?:\/\/[^\s"'<>)]+/g) ?? []).every(
        (link) => link.startsWith(shop.url) || !/token|verify|reset|unsub/.test(link),
      )
    for (const text of injections) {
      const facts = { sku: randomUUID(), name: text, category: 'odd', price: 100, currency: 'EUR', stock: 10 }
      const made = await shop.call('POST', '/product', { token: admin.token, body: facts })
      const named = await shop.call('PATCH', '/profile', { token: customer.token, body: { name: text } })
      check(made.status < 500 && named.status < 500, () => `${short(text)}: ${made.status} ${named.status}`)
      if (made.status !== 201) continue
      const body = { items: [{ productId: made.body.id, quantity: 1 }] }
      await shop.call('POST', '/order', { token: customer.token, body, headers: { 'Idempotency-Key': randomUUID() } })
    }
    const hosts: Record<string, string>[] = [
      { Host: 'evil.example' },
      { Host: 'evil.example:80' },
      { Host: `${new URL(shop.url).host}@evil.example` },
      { 'X-Forwarded-Host': 'evil.example' },
      { 'X-Forwarded-Proto': 'evil.example', Forwarded: 'host=evil.example' },
      { Origin: 'https://evil.example', Referer: 'https://evil.example/' },
    ]
    const others: string[] = []
    for (const headers of hosts) {
      const email = `host-${randomBytes(4).toString('hex')}@example.org`
      const answer = await shop.call('POST', '/auth/register', {
        body: { email, password: 'correct horse battery' },
        headers,
      })
      check([202, 400].includes(answer.status), () => `${JSON.stringify(headers)}: ${answer.status}`)
      if (answer.status === 202) others.push(email)
    }
    for (const email of others) await shop.mailTo(email)
    const orders = await sql('select count(*)::int as n from orders.order where user_id = $1', customer.id)
    await eventually(
      'the mails',
      async () =>
        (await shop.mailsTo(customer.email)).filter(({ subject }) => /order/i.test(subject)).length >= orders[0].n,
    )
    for (const address of [customer.email, ...others])
      for (const mail of await shop.mailsTo(address))
        check(isOurs(mail, address), () => `${mail.subject}: ${JSON.stringify(mail.headers)} ${mail.text}`)
    const strangers = await mailsTo(shop.inboxUrl, 'evil@example.org')
    also(strangers.length === 0, () => 'a mail to a stranger')
    done(t)
  },
)

test.serial(
  'all of the above → the database has seen no statement that it could not read, and no role a fault',
  async (t) => {
    for (const [file, log] of logsOf()) {
      t.notRegex(log, /syntax error|unterminated|invalid input syntax|operator does not exist/i, file)
      t.notRegex(log, /"level":"(error|fatal)"/, file)
    }
  },
)
