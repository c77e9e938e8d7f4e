import { randomUUID } from 'node:crypto'
import test from 'ava'
import { codeIn } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { dueDay } from '../../src/notifications/digests.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { restSchedules, zoneAt } from './post.ts'

const shop = useShop(test)
const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
const job = async (name: string) => (await shop.run('notifications', 'commands.ts', 'job', name)).stdout

let customer: TestUser
let staff: TestUser
test.serial.before('a customer and a member of the staff', async () => {
  customer = await shop.user({ name: 'Asha' })
  staff = await shop.staff()
  await restSchedules(shop.databaseUrl)
})

async function product(stock: number, price = 1250) {
  const sku = `sku-${randomUUID().slice(0, 8)}`
  const facts = { sku, name: `Thing ${sku}`, category: 'things', price, currency: 'EUR', stock }
  const { body } = await shop.call('POST', '/product', { token: staff.token, body: facts })
  return body as { id: string; sku: string; name: string }
}
const fill = (user: TestUser, productId: string, quantity = 1) =>
  shop.call('PUT', `/cart/items/${productId}`, { token: user.token, body: { quantity } })
const age = (user: TestUser, hours: number) =>
  sql(`update orders.cart set updated_at = now() - make_interval(hours => $2) where user_id = $1`, user.id, hours)
async function order(user: TestUser, productId: string) {
  const { body } = await shop.call('POST', '/order', {
    token: user.token,
    body: { items: [{ productId, quantity: 1 }] },
    headers: { 'Idempotency-Key': randomUUID() },
  })
  return body.id as string
}
/** All mails to a user by now with such a subject, once everything told has become a mail or none. */
async function mails(user: TestUser, subject: RegExp) {
  await eventually('nothing waits', async () => {
    const [{ events }] = await sql('select count(*)::int as events from orders.outbox')
    const lag = await (await fetch(shop.roles.notifications.metricsUrl)).text()
    return events === 0 && !/bus_consumer_lag\{consumer="mailer",state="\w+"\} [1-9]/.test(lag)
  })
  return (await shop.mailsTo(user.email)).filter((mail) => subject.test(mail.subject))
}
const linkIn = (text: string) => new URL(text.match(/http\S+\/unsubscribe\/[0-9a-f-]{36}/)?.[0] ?? '').pathname
const wants = async (user: TestUser) =>
  (await shop.call('GET', '/notification/preferences', { token: user.token })).body

test.serial('a cart of 4 idle hours → one mail of what can still be had; a change and 4 more → another', async (t) => {
  const [there, gone] = [await product(9), await product(1)]
  await fill(customer, there.id, 2)
  await fill(customer, gone.id)
  await shop.call('PUT', `/product/${gone.id}/stock`, { token: staff.token, body: { stock: 0 } })
  await age(customer, 3)
  t.is(await job('remind-carts'), 'remind-carts: {"carts":0}\n')
  await age(customer, 5)
  t.is(await job('remind-carts'), 'remind-carts: {"carts":1}\n')
  const mail = await shop.mailTo(customer.email, { subject: /cart/ })
  t.true(mail.text.startsWith('Hello Asha,'))
  t.true(mail.text.includes(there.name))
  t.regex(mail.text, /2 × €12\.50 = €25\.00/)
  t.false(mail.text.includes(gone.name))
  t.is(await job('remind-carts'), 'remind-carts: {"carts":0}\n')
  t.is((await mails(customer, /cart/)).length, 1)

  await fill(customer, there.id, 3)
  await age(customer, 5)
  t.is(await job('remind-carts'), 'remind-carts: {"carts":1}\n')
  await eventually('the second mail', async () => (await mails(customer, /cart/)).length === 2)
})

test.serial(
  'the link of a mail → a page that changes nothing; its POST in one click, without a login, ends these mails only',
  async (t) => {
    const mail = await shop.mailTo(customer.email, { subject: /cart/ })
    const path = linkIn(mail.text)
    for (const method of ['GET', 'HEAD']) {
      const page = await shop.call(method, path)
      t.is(page.status, 200)
      t.regex(page.headers['content-security-policy'] as string, /default-src 'none'/)
    }
    t.regex((await shop.call('GET', path)).text, /<form method="post"><button>/)
    t.deepEqual(await wants(customer), { cart: true, payment: true, feedback: true, digest: true })

    // As mail programs send it; and again, as some do.
    const oneClick = {
      body: 'List-Unsubscribe=One-Click',
      headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
    }
    for (let i = 0; i < 2; i++) {
      const done = await shop.call('POST', path, oneClick)
      t.is(done.status, 200)
      t.regex(done.text, /no more reminders of your cart/)
    }
    t.deepEqual(await wants(customer), { cart: false, payment: true, feedback: true, digest: true })
    await fill(customer, (await product(9)).id)
    await age(customer, 5)
    t.is(await job('remind-carts'), 'remind-carts: {"carts":1}\n')
    t.is((await mails(customer, /cart/)).length, 2)
  },
)

test.serial('preferences → shown and set for the signed-in user only; a part of them is a 400', async (t) => {
  const all = { cart: true, payment: true, feedback: true, digest: true }
  const put = (body: unknown, token?: string) =>
    shop.call('PUT', '/notification/preferences', { body, ...(token ? { token } : {}) })
  t.is((await put(all)).status, 401)
  t.is((await shop.call('GET', '/notification/preferences')).status, 401)
  t.is((await put({ cart: true }, customer.token)).status, 400)
  t.is((await put({ ...all, other: true }, customer.token)).status, 400)
  t.deepEqual((await put({ ...all, payment: false }, customer.token)).body, { ...all, payment: false })
  t.deepEqual(await wants(customer), { ...all, payment: false })
  t.deepEqual(await wants(staff), all)
})

test.serial('links that are none → 404, whatever they hold', async (t) => {
  for (const token of [randomUUID(), 'x', "'--", randomUUID().toUpperCase()])
    for (const method of ['GET', 'POST']) t.is((await shop.call(method, `/unsubscribe/${token}`)).status, 404, token)
})

test.serial('a reminder to pay that is not wanted → not sent, while the order’s own mails are', async (t) => {
  const id = await order(customer, (await product(9)).id)
  await sql(`update orders.order set created_at = now() - interval '21 minutes' where id = $1`, id)
  await job('remind-unpaid')
  await shop.mailTo(customer.email, { subject: /have received/, fits: (mail) => mail.text.includes(id) })
  t.is((await mails(customer, /unpaid/)).length, 0)
})

test.serial(
  'a reminder to pay → none once the order is due to expire, nor for one paid while the mail waited',
  async (t) => {
    const buyer = await shop.user()
    const [due, paid] = [await order(buyer, (await product(9)).id), await order(buyer, (await product(9)).id)]
    const aged = (id: string, minutes: number) =>
      sql(`update orders.order set created_at = now() - make_interval(mins => $2) where id = $1`, id, minutes)
    await mails(buyer, /received/)
    await aged(due, 31)
    await aged(paid, 21)
    await shop.mail.stop()
    t.is(await job('remind-unpaid'), 'remind-unpaid: {"orders":1}\n')
    t.is((await shop.call('POST', `/order/${paid}/pay`, { token: staff.token })).status, 200)
    await shop.mail.restart()
    await shop.mailTo(buyer.email, { subject: /paid/, fits: (mail) => mail.text.includes(paid) })
    t.is((await mails(buyer, /unpaid/)).length, 0)
  },
)

test.serial(
  'the cart ordered, or the wish gone, while the reminder waited for the mail server → no reminder',
  async (t) => {
    const [orders, declines] = [await shop.user(), await shop.user()]
    for (const buyer of [orders, declines]) {
      await fill(buyer, (await product(9)).id)
      await age(buyer, 5)
    }
    await shop.mail.stop()
    t.is(await job('remind-carts'), 'remind-carts: {"carts":2}\n')
    const held = async () => {
      const text = await (await fetch(shop.roles.notifications.metricsUrl)).text()
      return /mails_total\{kind="cart_abandoned",result="held"\} [1-9]/.test(text)
    }
    await eventually('they are held', held)
    const placed = await shop.call('POST', '/order', {
      token: orders.token,
      body: {},
      headers: { 'Idempotency-Key': randomUUID() },
    })
    t.is(placed.status, 201)
    const wanted = { cart: false, payment: true, feedback: true, digest: true }
    await shop.call('PUT', '/notification/preferences', { token: declines.token, body: wanted })
    await shop.mail.restart()
    await shop.mailTo(orders.email, { subject: /received/ })
    for (const buyer of [orders, declines]) t.is((await mails(buyer, /cart/)).length, 0)
  },
)

test.serial('an account by make admin → its owner is known, and gets the mails that one gets', async (t) => {
  const email = `${randomUUID()}@example.org`
  const admin = () => shop.run('auth', 'commands.ts', 'admin', email)
  t.regex((await admin()).stdout, /There was no account of this address, and now there is/)
  t.notRegex((await admin()).stdout, /There was no account/)
  await shop.call('POST', '/auth/login', { body: { email } })
  const code = codeIn(await shop.mailTo(email, { subject: /sign-in code/ }))
  const { accessToken: token } = (await shop.call('POST', '/auth/login', { body: { email, code } })).body
  const { id } = (await shop.call('GET', '/profile', { token })).body
  const owner = { id, token, email, password: '', refreshToken: '' }
  await fill(owner, (await product(9)).id)
  await age(owner, 5)
  await job('remind-carts')
  t.is((await mails(owner, /cart/)).length, 1)
})

test.serial('a week after the delivery → asked once how it was; not before, and not long after', async (t) => {
  const [young, due, old] = await Promise.all([1, 2, 3].map(async () => order(customer, (await product(9)).id)))
  for (const id of [young, due, old])
    for (const step of ['pay', 'ship', 'deliver']) {
      const { status } = await shop.call('POST', `/order/${id}/${step}`, { token: staff.token })
      t.is(status, 200)
    }
  for (const [id, days] of [
    [young, 6],
    [due, 8],
    [old, 30],
  ])
    await sql(`update orders.order set delivered_at = now() - make_interval(days => $2) where id = $1`, id, days)
  t.is(await job('ask-feedback'), 'ask-feedback: {"orders":1}\n')
  t.is(await job('ask-feedback'), 'ask-feedback: {"orders":0}\n')
  const mail = await shop.mailTo(customer.email, { subject: /How do you like/ })
  t.true(mail.text.includes(due as string))
  t.is((await mails(customer, /How do you like/)).length, 1)
})

test.serial(
  'send-digests → staff for whom it is 9 or later get one a day, with orders and low stock; others and customers none',
  async (t) => {
    // The hour may turn while the test runs: 10 and 7 are as true a minute later.
    const [late, early, off] = [staff, await shop.staff(), await shop.staff()]
    const live = async (user: TestUser, hour: number, locale = 'de') =>
      shop.call('PATCH', '/profile', { token: user.token, body: { timeZone: zoneAt(hour), locale } })
    await live(late, 10)
    const hindi = await shop.staff()
    await live(hindi, 10, 'hi')
    await live(early, 7)
    await live(off, 10)
    const unwanted = { cart: true, payment: true, feedback: true, digest: false }
    await shop.call('PUT', '/notification/preferences', { token: off.token, body: unwanted })
    const scarce = await product(2)
    await order(customer, scarce.id)
    const toShip = await order(customer, scarce.id)
    await shop.call('POST', `/order/${toShip}/pay`, { token: staff.token })

    const { mails: sent } = JSON.parse((await job('send-digests')).replace('send-digests: ', ''))
    t.true(sent >= 1)
    const mail = await shop.mailTo(late.email, { subject: /tägliche Übersicht/ })
    t.regex(mail.text, /Neue Bestellungen: \d+ \([\d.,]+\s€\)/)
    t.regex(mail.text, /Bezahlt und noch nicht verschickt: [1-9]/)
    t.true(mail.text.includes(`0 × ${scarce.name} (${scarce.sku})`))
    t.true(mail.html.includes(scarce.name))
    const other = await shop.mailTo(hindi.email, { subject: /दैनिक सारांश/ })
    t.regex(other.text, /नए ऑर्डर: \d+/)
    t.regex(other.html, /<html lang="hi">/)
    await shop.call('POST', linkIn(mail.text))
    t.false((await wants(late)).digest)

    t.is(await job('send-digests'), 'send-digests: {"mails":0}\n')
    t.is((await mails(late, /Übersicht/)).length, 1)
    for (const user of [early, off, customer]) t.is((await mails(user, /Übersicht|digest/)).length, 0)
  },
)

test.serial(
  'a mail server that is down → the digest waits, and is sent once when it is back, as things are then',
  async (t) => {
    const reader = await shop.staff()
    await shop.call('PATCH', '/profile', { token: reader.token, body: { timeZone: zoneAt(10) } })
    await shop.mail.stop()
    const running = job('send-digests')
    t.is(await Promise.race([running, new Promise((resolve) => setTimeout(resolve, 2000, 'waits'))]), 'waits')
    t.is((await sql('select from notifications.digest where user_id = $1', reader.id)).length, 0)
    const scarce = await product(0)
    await shop.mail.restart()
    await running
    t.true((await shop.mailTo(reader.email, { subject: /digest/ })).text.includes(scarce.sku))
    t.is(await job('send-digests'), 'send-digests: {"mails":0}\n')
  },
)

// The day is that of the user's clock, 23 or 25 hours long where it is changed: what came due stays due until its end.
const clocks: [string, string, string | undefined][] = [
  // Europe/Berlin: forward on 29 March, back on 25 October.
  ['Europe/Berlin', '2026-03-28T07:59:59Z', undefined],
  ['Europe/Berlin', '2026-03-28T08:00:00Z', '2026-03-28'],
  ['Europe/Berlin', '2026-03-29T06:59:59Z', undefined],
  ['Europe/Berlin', '2026-03-29T07:00:00Z', '2026-03-29'],
  ['Europe/Berlin', '2026-03-29T21:59:59Z', '2026-03-29'],
  ['Europe/Berlin', '2026-03-29T22:00:00Z', undefined],
  ['Europe/Berlin', '2026-10-25T07:59:59Z', undefined],
  ['Europe/Berlin', '2026-10-25T08:00:00Z', '2026-10-25'],
  ['Europe/Berlin', '2026-10-25T22:59:59Z', '2026-10-25'],
  // America/New_York: 8 March and 1 November.
  ['America/New_York', '2026-03-08T12:59:59Z', undefined],
  ['America/New_York', '2026-03-08T13:00:00Z', '2026-03-08'],
  ['America/New_York', '2026-11-01T13:59:59Z', undefined],
  ['America/New_York', '2026-11-01T14:00:00Z', '2026-11-01'],
  // Half an hour forward on 4 October, back on 5 April.
  ['Australia/Lord_Howe', '2026-10-03T21:59:59Z', undefined],
  ['Australia/Lord_Howe', '2026-10-03T22:00:00Z', '2026-10-04'],
  ['Australia/Lord_Howe', '2026-04-04T22:29:59Z', undefined],
  ['Australia/Lord_Howe', '2026-04-04T22:30:00Z', '2026-04-05'],
  // Never changed, and not by whole hours.
  ['Asia/Kathmandu', '2026-06-01T03:14:59Z', undefined],
  ['Asia/Kathmandu', '2026-06-01T03:15:00Z', '2026-06-01'],
  ['No/Such_Zone', '2026-06-01T09:00:00Z', '2026-06-01'],
]
for (const [zone, at, day] of clocks)
  test(`digest in ${zone} at ${at} → ${day ? `that of ${day}` : 'not due'}`, (t) => {
    t.is(dueDay(zone, new Date(at)), day)
  })

test('every day of a year in zones that change their clocks → due once, by quarter hours', (t) => {
  for (const zone of ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata']) {
    const days = new Set<string>()
    let due = 0
    let last: string | undefined
    for (let at = Date.UTC(2026, 0, 1); at < Date.UTC(2027, 0, 1); at += 15 * 60_000) {
      const day = dueDay(zone, new Date(at))
      if (day && day !== last) due++
      if (day) days.add(day)
      last = day
    }
    t.is(days.size, due, zone)
    t.true(days.size >= 365, zone)
  }
})
