import { randomBytes, randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Answer, type Call, codeIn } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { jpeg } from '../objects/corpus.ts'
import { times, trial } from '../support/cases.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { isWrite, nameOf, rows } from './routes.ts'

/** Every route that writes, asked many times at once, and beside what it conflicts with: what must hold, holds. */
const shop = useShop(test)
let admin: TestUser
let buyer: TestUser
test.serial.before('who asks', async () => {
  admin = await shop.admin()
  buyer = await shop.user()
})

const { check: countOne, also: check, findings, done } = trial('requests at once on every route that writes')
const many = 20
const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
type Asked = [method: string, path: string, options?: Call]

/** Asks all at once. An answer of 5xx is a finding. */
async function burst(asked: Asked[]): Promise<Answer[]> {
  const answers = await Promise.all(asked.map(([method, path, options]) => shop.call(method, path, options)))
  answers.forEach(({ status, text }, i) => {
    countOne(status < 500, () => `${asked[i]?.[0]} ${asked[i]?.[1]}: ${text}`)
  })
  return answers
}
const times20 = (make: (n: number) => Asked) => burst(Array.from({ length: many }, (_, n) => make(n)))
const having = (answers: Answer[], status: number) => answers.filter((answer) => answer.status === status).length
/** Says what the answers were, where they are not as they must be: how many of which status. */
function expect(what: string, answers: Answer[], wanted: Record<number, number>) {
  const seen: Record<string, number> = {}
  for (const { status } of answers) seen[status] = (seen[status] ?? 0) + 1
  check(JSON.stringify(seen) === JSON.stringify(wanted), () => `${what}: ${JSON.stringify(seen)}`)
}
const equal = (what: string, seen: unknown, wanted: unknown) =>
  check(JSON.stringify(seen) === JSON.stringify(wanted), () => `${what}: ${JSON.stringify(seen)}`)

async function must(method: string, path: string, options: Call = {}) {
  const answer = await shop.call(method, path, options)
  if (answer.status > 299) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`)
  return answer.body
}
const address = () => `racer-${randomBytes(6).toString('hex')}@example.org`
const password = 'correct horse battery'
const sidOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()).sid
const told = () => eventually('outboxes are empty', async () => (await sql('select 1 from auth.outbox')).length === 0)
/** Lets the last mail of each purpose be older than the pause between two. */
const pass = (email: string) =>
  sql(
    `update auth.verification set sent_at = sent_at - interval '61 seconds'
     where user_id = (select id from auth.user where email = $1)`,
    email,
  )
async function registered() {
  const email = address()
  await must('POST', '/auth/register', { body: { email, password } })
  const mail = await shop.mailTo(email)
  return { email, code: codeIn(mail), token: /token=([\w-]{43})/.exec(mail.text)?.[1] as string }
}
async function forgotten() {
  const user = await shop.user()
  await must('POST', '/auth/password/forgot', { body: { email: user.email } })
  const { text } = await shop.mailTo(user.email, { subject: /new password/ })
  return { ...user, reset: /token=([\w-]{43})/.exec(text)?.[1] as string }
}

const facts = (change: object = {}) => ({
  sku: randomUUID(),
  name: 'Thing',
  category: 'things',
  price: 100,
  currency: 'EUR',
  stock: 1000,
  ...change,
})
const byAdmin = (more: Call = {}): Call => ({ token: admin.token, headers: { 'If-Match': '*' }, ...more })
const product = async (change: object = {}) => (await must('POST', '/product', byAdmin({ body: facts(change) }))).id
const stockOf = async (id: string) => (await must('GET', `/product/${id}`)).stock
const ordering = (items?: object[], user = buyer): Asked => [
  'POST',
  '/order',
  { token: user.token, body: items ? { items } : {}, headers: { 'Idempotency-Key': randomUUID() } },
]
const ordered = async (productId: string, quantity = 3) => {
  const [method, path, options] = ordering([{ productId, quantity }])
  return (await must(method, path, options)).id as string
}
const photo = async (shade: number, side = 32) => ({
  body: await jpeg(side + shade, side),
  headers: { 'Content-Type': 'image/jpeg', 'If-Match': '*' },
})
/** A picture that is said to be there has both its files. */
async function whole(what: string, links: { large: string; small: string } | null) {
  for (const path of links ? Object.values(links) : [])
    check((await shop.call('GET', path)).status === 200, () => `${what}: ${path} is not there`)
}

/** Steps of an order at once; its stock, its state and its history must tell one story. */
async function steps(from: 'pending' | 'paid' | 'shipped', verbs: string[], beside?: (id: string) => Promise<unknown>) {
  const productId = await product()
  const id = await ordered(productId, 3)
  for (const verb of from === 'pending' ? [] : from === 'paid' ? ['pay'] : ['pay', 'ship'])
    await must('POST', `/order/${id}/${verb}`, byAdmin())
  const asked = verbs.map((verb): Asked => ['POST', `/order/${id}/${verb}`, byAdmin()])
  const [answers] = await Promise.all([burst(asked), beside?.(id)])
  for (const verb of new Set(verbs)) {
    const good = answers.filter(({ status }, i) => status === 200 && verbs[i] === verb).length
    check(good <= 1, () => `${verb} was done ${good} times`)
  }
  const [{ status }] = await sql('select status from orders.order where id = $1', id)
  const history = (await sql('select status from orders.order_event where order_id = $1 order by at', id)).map(
    (event) => event.status,
  )
  const path = ['pending', 'paid', 'shipped', 'delivered']
  const isBack = ['cancelled', 'expired'].includes(status)
  const before = isBack ? path.slice(0, history.length - 1) : path.slice(0, path.indexOf(status) + 1)
  equal(`${verbs} of a ${from} order, its history`, history, isBack ? [...before, status] : before)
  equal(`${verbs} of a ${from} order, the stock`, await stockOf(productId), isBack ? 1000 : 997)
}

type Race = () => Promise<unknown>
const races: Record<string, Race> = {
  'POST /auth/register': async () => {
    const email = address()
    const answers = await times20(() => ['POST', '/auth/register', { body: { email, password } }])
    expect('register', answers, { 202: many })
    await told()
    equal('accounts', await sql('select count(*)::int as n from auth.user where email = $1', email), [{ n: 1 }])
    const mail = await shop.mailTo(email, { subject: /./, fits: (m) => /\b\d{6}\b/.test(m.text) })
    await must('POST', '/auth/verify', { body: { email, code: codeIn(mail) } })
    const withCode = (await shop.mailsTo(email)).filter((m) => /token=/.test(m.text))
    equal('mails with a code', withCode.length, 1)
    check((await shop.mailsTo(email)).length <= 2, () => 'more mails than one of each kind')
  },
  'POST /auth/verify': async () => {
    const one = await registered()
    const answers = await times20((n) => [
      'POST',
      '/auth/verify',
      { body: n % 2 ? { token: one.token } : { email: one.email, code: one.code } },
    ])
    expect('link and code', answers, { 200: 1, 400: many - 1 })

    const other = await registered()
    // Twenty failures slow down the codes of a network.
    await sql('delete from auth.login_failure')
    const guess = String((Number(other.code) + 1) % 1_000_000).padStart(6, '0')
    const guesses = await times20(() => ['POST', '/auth/verify', { body: { email: other.email, code: guess } }])
    expect('wrong codes', guesses, { 400: many })
    await sql('delete from auth.login_failure')
    const after = await shop.call('POST', '/auth/verify', { body: { email: other.email, code: other.code } })
    check(after.status === 400, () => 'the right code, after twenty wrong ones at once, is good')
  },
  'POST /auth/verify/resend': async () => {
    const { email } = await registered()
    await pass(email)
    expect('resend', await times20(() => ['POST', '/auth/verify/resend', { body: { email } }]), { 202: many })
    await told()
    await eventually('the second mail', async () => (await shop.mailsTo(email)).length >= 2)
    const sent = await sql(
      'select sent_count as n from auth.verification v join auth.user u on u.id = v.user_id where u.email = $1',
      email,
    )
    equal('mails', [(await shop.mailsTo(email)).length, sent], [2, [{ n: 2 }]])
  },
  'POST /auth/login': async () => {
    const { email, password } = await shop.user()
    const login = (body: object): Asked => ['POST', '/auth/login', { body: { email, ...body } }]
    expect('asked for a code', await times20(() => login({})), { 202: many })
    const isCode = { subject: /code/i, fits: (m: { text: string }) => !m.text.includes('token=') }
    const code = codeIn(await shop.mailTo(email, isCode))
    await told()
    equal('mails with a code', (await shop.mailsTo(email)).filter((m) => isCode.fits(m)).length, 1)
    // Five failures slow down the others.
    const byCode = await times20(() => login({ code }))
    check(having(byCode, 200) === 1, () => `one code let ${having(byCode, 200)} in`)
    check(having(byCode, 401) + having(byCode, 429) === many - 1, () => 'another answer to a used code')
    await sql('delete from auth.login_failure')
    const signedIn = await times20(() => login({ password }))
    expect('by password', signedIn, { 200: many })
    equal('sessions', new Set(signedIn.map(({ body }) => sidOf(body.accessToken))).size, many)
    const wrong = await times20((n) => login({ password: `wrong password ${n}` }))
    check(
      wrong.every(({ status }) => status === 401 || status === 429),
      () => 'a wrong password got in',
    )
    // None is forgotten, so that many at once slow down as many one after the other.
    equal('failures', await sql('select failures from auth.login_failure'), [{ failures: having(wrong, 401) }])
    await sql('delete from auth.login_failure')
  },
  'POST /auth/refresh': async () => {
    for (let round = 0; round < 5 * times; round++) {
      const session = await shop.login(buyer)
      const refresh: Asked = ['POST', '/auth/refresh', { body: { refreshToken: session.refreshToken } }]
      const logout: Asked = ['POST', '/auth/logout', { token: session.token }]
      const answers = await burst([refresh, refresh, logout, refresh, refresh])
      check(answers[2]?.status === 204, () => `logout: ${answers[2]?.text}`)
      for (const { status, body } of answers)
        if (status === 200) {
          const again = await shop.call('POST', '/auth/refresh', { body: { refreshToken: body.refreshToken } })
          check(again.status === 401, () => 'a session went on after its logout')
        }
    }
    const { refreshToken } = await shop.login(buyer)
    const answers = await times20(() => ['POST', '/auth/refresh', { body: { refreshToken } }])
    expect('one token', answers, { 200: many })
    equal('successors', new Set(answers.map(({ body }) => body.refreshToken)).size, 1)
  },
  'POST /auth/logout': async () => {
    const { token, refreshToken } = await shop.login(buyer)
    const answers = await times20((n) => ['POST', '/auth/logout', { token, body: n % 2 ? {} : { everywhere: false } }])
    check(having(answers, 204) > 0 && having(answers, 204) + having(answers, 401) === many, () => 'not ended')
    check((await shop.call('POST', '/auth/refresh', { body: { refreshToken } })).status === 401, () => 'not ended')
    const ended = await sql(
      `select count(*)::int as n from auth.audit where event = 'session.ended' and detail::text like $1`,
      `%${sidOf(token)}%`,
    )
    equal('entries of the audit', ended, [{ n: 1 }])
  },
  'POST /auth/password/forgot': async () => {
    const { email } = await shop.user()
    expect('forgot', await times20(() => ['POST', '/auth/password/forgot', { body: { email } }]), { 202: many })
    await shop.mailTo(email, { subject: /new password/ })
    await told()
    equal('mails', (await shop.mailsTo(email)).filter(({ subject }) => /new password/.test(subject)).length, 1)
  },
  'POST /auth/password/reset': async () => {
    const { email, reset, refreshToken } = await forgotten()
    const passwords = Array.from({ length: many }, (_, n) => `new password ${n}`)
    const answers = await times20((n) => [
      'POST',
      '/auth/password/reset',
      { body: { token: reset, password: passwords[n] } },
    ])
    expect('reset', answers, { 204: 1, 400: many - 1 })
    const winner = passwords[answers.findIndex(({ status }) => status === 204)] as string
    for (const password of [winner, passwords.find((one) => one !== winner) as string]) {
      const { status } = await shop.call('POST', '/auth/login', { body: { email, password } })
      check(status === (password === winner ? 200 : 401), () => `${password} of ${winner}: ${status}`)
    }
    check(
      (await shop.call('POST', '/auth/refresh', { body: { refreshToken } })).status === 401,
      () => 'a session lives',
    )

    // Whoever has the old password signs in at the same time: none of these sessions may outlive it.
    for (let round = 0; round < 3 * times; round++) {
      const user = await forgotten()
      const login: Asked = ['POST', '/auth/login', { body: { email: user.email, password: user.password } }]
      const change: Asked = ['POST', '/auth/password/reset', { body: { token: user.reset, password } }]
      const [changed, ...logins] = await burst([change, ...Array.from({ length: 9 }, () => login)])
      check(changed?.status === 204, () => `reset: ${changed?.text}`)
      for (const { status, body } of logins)
        if (status === 200) {
          const again = await shop.call('POST', '/auth/refresh', { body: { refreshToken: body.refreshToken } })
          check(again.status === 401, () => 'a session by the old password outlives it')
        }
    }
  },
  'DELETE /auth/sessions/{id}': async () => {
    const [mine, other] = [await shop.login(buyer), await shop.login(buyer)]
    const path = `/auth/sessions/${sidOf(other.token)}`
    expect('a session', await times20(() => ['DELETE', path, { token: mine.token }]), { 204: 1, 404: many - 1 })
  },
  'PATCH /profile': async () => {
    const user = await shop.user()
    const answers = await times20((n) => ['PATCH', '/profile', { token: user.token, body: { name: `Name ${n}` } }])
    expect('names', answers, { 200: many })
    const { name } = await must('GET', '/profile', { token: user.token })
    check(/^Name \d+$/.test(name), () => `the name is ${name}`)
    // Whoever writes to the user knows the name that won.
    const known = () => sql('select name from notifications.recipient where user_id = $1', user.id)
    await told()
    await eventually('the name is known', async () => (await known())[0]?.name === name, 5000).catch(async () =>
      check(false, () => `the name is ${name}, and mails would have another`),
    )
  },
  'PUT /profile/avatar': async () => {
    const user = await shop.user()
    const put = await Promise.all([0, 1, 2, 3, 4, 5].map((n) => photo(n)))
    const asked = put.flatMap((picture): Asked[] => [
      ['PUT', '/profile/avatar', { token: user.token, ...picture }],
      ['DELETE', '/profile/avatar', { token: user.token }],
    ])
    const answers = await burst(asked)
    check(
      answers.every(({ status }) => status < 300),
      () => 'an upload was refused',
    )
    await whole('avatar', (await must('GET', '/profile', { token: user.token })).avatar)
  },
  'DELETE /profile/avatar': async () => {
    const user = await shop.user()
    await must('PUT', '/profile/avatar', { token: user.token, ...(await photo(9)) })
    expect('avatar', await times20(() => ['DELETE', '/profile/avatar', { token: user.token }]), { 204: many })
    const events = await sql(
      `select count(*)::int as n from auth.audit where user_id = $1 and event like 'avatar%'`,
      user.id,
    )
    check(events[0].n <= 1, () => `removed ${events[0].n} times`)
  },
  'PUT /user/{id}/roles': async () => {
    const roles = (id: string, token: string, ...names: string[]): Asked => [
      'PUT',
      `/user/${id}/roles`,
      { token, body: { roles: names } },
    ]
    // Two admins who take each other's rights.
    for (let round = 0; round < 3 * times; round++) {
      const other = await shop.user()
      await must(...roles(other.id, admin.token, 'admin'))
      const { token } = await shop.login(other)
      const answers = await burst([roles(other.id, admin.token, 'customer'), roles(admin.id, token, 'customer')])
      const admins = await sql(`select id from auth.user where 'admin' = any(roles)`)
      check(admins.length > 0 && having(answers, 200) > 0, () => `${admins.length} admins are left`)
      await shop.run('auth', 'commands.ts', 'admin', admin.email)
      Object.assign(admin, await shop.login(admin))
      await must(...roles(other.id, admin.token, 'customer'))
    }
    // Whoever signs in while roles are taken has no session with the old ones.
    for (let round = 0; round < 3 * times; round++) {
      const staff = await shop.staff()
      const login: Asked = ['POST', '/auth/login', { body: { email: staff.email, password: staff.password } }]
      const [changed, ...logins] = await burst([
        roles(staff.id, admin.token, 'customer'),
        ...Array.from({ length: 9 }, () => login),
      ])
      check(changed?.status === 200, () => `roles: ${changed?.text}`)
      for (const { status, body } of logins) {
        if (status !== 200) continue
        const claims = JSON.parse(Buffer.from(body.accessToken.split('.')[1], 'base64url').toString())
        const [{ ended }] = await sql(
          'select revoked_at is not null as ended from auth.session where id = $1',
          claims.sid,
        )
        check(ended || !claims.roles.includes('staff'), () => 'a session goes on with roles that were taken')
      }
    }
  },
  'POST /product': async () => {
    const body = facts()
    expect('one sku', await times20(() => ['POST', '/product', byAdmin({ body })]), { 201: 1, 409: many - 1 })
    // And by the import of a file with it.
    const file = join(shop.dir, 'race.csv')
    const other = facts()
    writeFileSync(file, `sku,name,category,price,currency,stock\n${other.sku},Thing,things,100,EUR,5\n`)
    const [answers] = await Promise.all([
      burst(Array.from({ length: 200 }, () => ['POST', '/product', byAdmin({ body: other })])),
      shop.run('products', 'commands.ts', 'import', file),
    ])
    check(having(answers, 201) <= 1, () => 'one sku was added twice')
    equal('products', await sql('select count(*)::int as n from products.product where sku = $1', other.sku), [
      { n: 1 },
    ])
  },
  'PUT /product/{id}': async () => {
    const id = await product()
    const { stock: _, ...rest } = facts()
    const answers = await times20((n) => [
      'PUT',
      `/product/${id}`,
      byAdmin({ body: { ...rest, name: `Thing ${n}` }, headers: { 'If-Match': '"v1"' } }),
    ])
    expect('one version', answers, { 200: 1, 412: many - 1 })
  },
  'DELETE /product/{id}': async () => {
    for (let round = 0; round < 3 * times; round++) {
      const id = await product({ stock: 50 })
      const { stock: _, ...rest } = facts()
      const at1 = { headers: { 'If-Match': '"v1"' } }
      const answers = await burst([
        ['PUT', `/product/${id}`, byAdmin({ body: rest, ...at1 })],
        ['DELETE', `/product/${id}`, byAdmin(at1)],
        ['DELETE', `/product/${id}/image`, byAdmin(at1)],
        ['DELETE', `/product/${id}`, byAdmin(at1)],
      ])
      check(answers.filter(({ status }) => status < 300).length === 1, () => `${answers.map(({ status }) => status)}`)
    }
    // While it is bought.
    const id = await product({ stock: 50 })
    const answers = await burst([
      ...Array.from({ length: many }, () => ordering([{ productId: id, quantity: 1 }])),
      ['DELETE', `/product/${id}`, byAdmin()],
      ...Array.from({ length: many }, () => ordering([{ productId: id, quantity: 1 }])),
    ])
    const [{ left }] = await sql('select on_hand as left from products.stock where product_id = $1', id)
    equal('stock of a product that went', left, 50 - having(answers, 201))
    const after = await shop.call(...ordering([{ productId: id, quantity: 1 }]))
    check(after.status === 409, () => `ordered after it went: ${after.status}`)
  },
  'PUT /product/{id}/image': async () => {
    const id = await product()
    const put = await Promise.all([0, 1, 2, 3, 4, 5].map((n) => photo(n, 48)))
    const at1 = { 'If-Match': '"v1"' }
    const asked = put.flatMap(({ body, headers }): Asked[] => [
      ['PUT', `/product/${id}/image`, byAdmin({ body, headers: { ...headers, ...at1 } })],
      ['DELETE', `/product/${id}/image`, byAdmin({ headers: at1 })],
    ])
    const answers = await burst(asked)
    check(answers.filter(({ status }) => status < 300).length === 1, () => `${answers.map(({ status }) => status)}`)
    await whole('image', (await must('GET', `/product/${id}`)).image)
  },
  'DELETE /product/{id}/image': async () => {
    const id = await product()
    await must('PUT', `/product/${id}/image`, byAdmin(await photo(7, 48)))
    const answers = await times20(() => [
      'DELETE',
      `/product/${id}/image`,
      byAdmin({ headers: { 'If-Match': '"v2"' } }),
    ])
    expect('image', answers, { 204: 1, 412: many - 1 })
  },
  'PUT /product/{id}/stock': async () => {
    const id = await product({ stock: 10 })
    const less = await times20(() => ['PUT', `/product/${id}/stock`, byAdmin({ body: { change: -1 } })])
    expect('the last ten', less, { 200: 10, 409: 10 })
    await must('PUT', `/product/${id}/stock`, byAdmin({ body: { stock: 10 } }))
    const mixed = await burst(
      Array.from({ length: many }, (_, n) =>
        n % 2
          ? ordering([{ productId: id, quantity: 1 }])
          : ['PUT', `/product/${id}/stock`, byAdmin({ body: { change: -1 } })],
      ),
    )
    equal('sold and taken', [having(mixed, 201) + having(mixed, 200), await stockOf(id)], [10, 0])
  },
  'PUT /cart/items/{productId}': async () => {
    const user = await shop.user()
    const id = await product()
    const answers = await times20((n) => ['PUT', `/cart/items/${id}`, { token: user.token, body: { quantity: n + 1 } }])
    expect('one line', answers, { 200: many })
    const { items } = await must('GET', '/cart', { token: user.token })
    equal('lines', items.length, 1)
    // The last places of a cart, and more who want them.
    await sql(
      `with made as (insert into products.product (id, sku, name, category, price, currency)
         select gen_random_uuid(), gen_random_uuid()::text, 'Thing', 'many', 100, 'EUR' from generate_series(1, 120) returning id)
       insert into products.stock (product_id, on_hand) select id, 10 from made`,
    )
    const some = (await sql(`select id from products.product where category = 'many'`)).map((row) => row.id)
    const put = (productId: string): Asked => [
      'PUT',
      `/cart/items/${productId}`,
      { token: user.token, body: { quantity: 1 } },
    ]
    for (const productId of some.slice(0, 94)) await must(...put(productId))
    const last = await burst(some.slice(94, 94 + many).map(put))
    expect('the last five places', last, { 200: 5, 422: many - 5 })
    equal('lines', (await must('GET', '/cart', { token: user.token })).items.length, 100)
  },
  'DELETE /cart/items/{productId}': async () => {
    const user = await shop.user()
    const id = await product()
    const answers = await times20((n) =>
      n % 2
        ? ['DELETE', `/cart/items/${id}`, { token: user.token }]
        : ['PUT', `/cart/items/${id}`, { token: user.token, body: { quantity: 5 } }],
    )
    expect('put and taken', answers, { 200: 10, 204: 10 })
    const { items } = await must('GET', '/cart', { token: user.token })
    check(items.length === 0 || (items.length === 1 && items[0].quantity === 5), () => JSON.stringify(items))
  },
  'DELETE /cart': async () => {
    const user = await shop.user()
    const id = await product()
    const put: Asked = ['PUT', `/cart/items/${id}`, { token: user.token, body: { quantity: 2 } }]
    for (let round = 0; round < 3 * times; round++) {
      await must(...put)
      const before = await stockOf(id)
      const answers = await burst([
        ['DELETE', '/cart', { token: user.token }],
        ordering(undefined, user),
        ['DELETE', '/cart', { token: user.token }],
        put,
        ordering(undefined, user),
      ])
      const sold = 2 * having(answers, 201)
      equal('stock', await stockOf(id), before - sold)
    }
  },
  'POST /order': async () => {
    const user = await shop.user()
    const id = await product({ stock: 1000 })
    await must('PUT', `/cart/items/${id}`, { token: user.token, body: { quantity: 2 } })
    expect('one cart', await times20(() => ordering(undefined, user)), { 201: 1, 422: many - 1 })
    const [method, path, options] = ordering([{ productId: id, quantity: 1 }], user)
    const same = await times20(() => [method, path, options])
    check(having(same, 201) >= 1 && having(same, 201) + having(same, 409) === many, () => 'one key')
    const placed = new Set(same.filter(({ status }) => status === 201).map(({ body }) => body.id))
    equal('orders of one key, and stock', [placed.size, await stockOf(id)], [1, 997])
    // One key of two people is two keys.
    const [, , theirs] = ordering([{ productId: id, quantity: 1 }])
    const both = await burst([
      [method, path, { ...theirs, headers: options?.headers }],
      ['POST', '/order', { ...theirs, token: user.token }],
    ])
    equal('one key of two people', new Set(both.map(({ body }) => body.id)).size, 2)
    // Whose session ends meanwhile: each order is whole or not there.
    const session = await shop.login(user)
    const before = await stockOf(id)
    const answers = await burst([
      ...Array.from({ length: many }, () => ordering([{ productId: id, quantity: 1 }], { ...user, ...session })),
      ['POST', '/auth/logout', { token: session.token }],
    ])
    equal('stock', await stockOf(id), before - having(answers, 201))
  },
  'POST /order/{id}/cancel': async () => {
    await steps('pending', Array(many).fill('cancel'))
    for (let round = 0; round < 3 * times; round++) {
      await steps('pending', ['cancel', 'pay', 'cancel', 'pay'])
      await steps('paid', ['cancel', 'ship', 'cancel', 'ship'])
      const expire = async (id: string) => {
        await sql(`update orders.order set created_at = now() - interval '31 minutes' where id = $1`, id)
        await sql('select orders.expire_due()')
      }
      await steps('pending', ['cancel', 'pay'], expire)
    }
  },
  'POST /order/{id}/pay': async () => {
    await steps('pending', Array(many).fill('pay'))
    await steps('pending', ['pay', 'ship', 'deliver', 'cancel', 'pay', 'ship', 'deliver', 'cancel'])
  },
  'POST /order/{id}/ship': () => steps('paid', [...Array(many).fill('ship'), 'pay', 'deliver']),
  'POST /order/{id}/deliver': () => steps('shipped', [...Array(many).fill('deliver'), 'cancel', 'ship']),
  'PUT /notification/preferences': async () => {
    const user = await shop.user()
    const all = (wanted: boolean) => ({ cart: wanted, payment: wanted, feedback: wanted, digest: wanted })
    const answers = await times20((n) => [
      'PUT',
      '/notification/preferences',
      { token: user.token, body: all(n % 2 === 0) },
    ])
    expect('preferences', answers, { 200: many })
    const now = await must('GET', '/notification/preferences', { token: user.token })
    check(new Set(Object.values(now)).size === 1, () => `half of one and half of the other: ${JSON.stringify(now)}`)
  },
  'POST /unsubscribe/{token}': async () => {
    const user = await shop.user()
    const all = { cart: true, payment: true, feedback: true, digest: true }
    await must('PUT', '/notification/preferences', { token: user.token, body: all })
    const [{ token }] = await sql(
      `select token from notifications.subscription where user_id = $1 and topic = 'cart'`,
      user.id,
    )
    expect('unsubscribe', await times20(() => ['POST', `/unsubscribe/${token}`]), { 200: many })
    const now = await must('GET', '/notification/preferences', { token: user.token })
    equal('what is wanted', now, { ...all, cart: false })
  },
}

test('every route of the table that writes → has a race here, and no other has', (t) => {
  t.deepEqual(Object.keys(races).sort(), rows.filter(isWrite).map(nameOf).sort())
})

for (const [name, race] of Object.entries(races))
  test.serial(`${name}, many times at once and beside what it conflicts with → one story`, async (t) => {
    t.timeout(120_000 * times)
    const before = findings.length
    await race()
    t.deepEqual(findings.slice(before), [])
  })

test.serial('after all of them → every role and the edge have served on', async (t) => {
  for (const { url } of Object.values(shop.roles)) t.is((await fetch(`${url}/readyz`)).status, 200)
  done(t)
})
