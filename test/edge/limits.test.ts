import test from 'ava'
import { jpeg } from '../objects/corpus.ts'
import { eventually, useShop } from '../support/shop.ts'

// Two sign-ins, one mail and one picture of a burst, and hardly any more: what a client may do in a moment.
const limits = {
  ...{ EDGE_SIGN_IN_RATE: '1r/m', EDGE_SIGN_IN_BURST: '2' },
  ...{ EDGE_MAIL_RATE: '1r/m', EDGE_MAIL_BURST: '1' },
  ...{ EDGE_PICTURE_RATE: '1r/m', EDGE_PICTURE_BURST: '1' },
}
const shop = useShop(test, { env: { ...limits, TRUSTED_PROXIES: '127.0.0.1/32' } })

const from = (address: string) => ({ 'X-Forwarded-For': address })
const signIn = (address: string, email = 'someone@example.org') =>
  shop.call('POST', '/auth/login', { body: { email, password: 'not it' }, headers: from(address) })
const askForMail = (address: string, path: string) =>
  shop.call('POST', path, { body: { email: 'someone@example.org' }, headers: from(address) })

test('sign-ins of one address beyond its limit → 429 with Retry-After before auth is asked; another address goes on', async (t) => {
  const statuses = []
  for (let i = 0; i < 5; i++) statuses.push((await signIn('192.0.2.1', `user-${i}@example.org`)).status)
  t.deepEqual(statuses, [401, 401, 401, 429, 429])
  const refused = await signIn('192.0.2.1')
  t.is(refused.body.code, 'slow_down')
  t.is(refused.headers['content-type'], 'application/problem+json')
  t.true(Number(refused.headers['retry-after']) > 0)
  t.is((await signIn('192.0.2.2')).status, 401)
  // Only what signs in counts.
  t.is((await shop.call('GET', '/.well-known/jwks.json', { headers: from('192.0.2.1') })).status, 200)
})

test('addresses of one network of IPv6 → count as one; another network goes on', async (t) => {
  const statuses = []
  for (let i = 1; i < 6; i++) statuses.push((await signIn(`2001:db8:0:a::${i}`, `six-${i}@example.org`)).status)
  t.deepEqual(statuses, [401, 401, 401, 429, 429])
  t.is((await signIn('2001:db8:0:b::1')).status, 401)
})

test('addresses of IPv4 as a proxy on a socket of both kinds writes them → each counts by itself', async (t) => {
  const statuses = []
  for (let i = 1; i < 6; i++) statuses.push((await signIn(`::ffff:192.0.2.${i + 10}`, `both-${i}@example.org`)).status)
  t.deepEqual(statuses, [401, 401, 401, 401, 401])
  statuses.length = 0
  for (let i = 0; i < 3; i++) statuses.push((await signIn('::ffff:192.0.2.11', `both-${i}@example.org`)).status)
  t.deepEqual(statuses, [401, 401, 429])
})

test('mails asked for by one address beyond its limit, on whatever path → 429; another address goes on', async (t) => {
  const statuses = []
  for (const path of ['/auth/password/forgot', '/auth/verify/resend', '/auth/password/forgot'])
    statuses.push((await askForMail('192.0.2.3', path)).status)
  t.deepEqual(statuses, [202, 202, 429])
  t.is((await askForMail('192.0.2.4', '/auth/password/forgot')).status, 202)
})

test('pictures of users from one address beyond its limit → 429; of products, and from another address, they go on', async (t) => {
  const { token } = await shop.admin()
  const body = await jpeg(40, 40)
  const headers = { 'Content-Type': 'image/jpeg', 'If-Match': '*' }
  const put = (path: string, address: string) =>
    shop.call('PUT', path, { token, body, headers: { ...headers, ...from(address) } })
  for (const status of [200, 200, 429]) t.is((await put('/profile/avatar', '192.0.2.5')).status, status)
  // Of the three a minute that there are unless set, the next.
  t.is((await put('/profile/avatar', '192.0.2.5')).headers['retry-after'], '20')
  t.is((await put('/profile/avatar', '192.0.2.6')).status, 200)
  const facts = { sku: 'LIMIT', name: 'Thing', category: 'things', price: 100, currency: 'EUR' }
  const { id } = (await shop.call('POST', '/product', { token, body: facts })).body
  for (let i = 0; i < 3; i++) t.is((await put(`/product/${id}/image`, '192.0.2.5')).status, 200)
})

// Serial, so that it has the role for itself.
test.serial(
  'more at once than a replica is asked, which stands still → 256 wait for it, the rest get 503 with Retry-After at once',
  async (t) => {
    await shop.roles.auth.kill('SIGSTOP')
    const asked = Array.from({ length: 300 }, () => shop.call('GET', '/.well-known/jwks.json'))
    const refused: Awaited<(typeof asked)[number]>[] = []
    for (const answer of asked) void answer.then((one) => one.status === 503 && refused.push(one))
    await eventually('all that is too much is refused', async () => refused.length === 300 - 256)
    await shop.roles.auth.kill('SIGCONT')
    const statuses = (await Promise.all(asked)).map(({ status }) => status)
    t.is(statuses.filter((status) => status === 200).length, 256)
    for (const { body, headers } of refused) {
      t.is(body.code, 'unavailable')
      t.true(Number(headers['retry-after']) > 0)
    }
  },
)
