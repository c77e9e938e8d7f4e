import { randomUUID } from 'node:crypto'
import test from 'ava'
import type { Payload, Subject } from '../../src/events.ts'
import { messageId, orderOf, person, usePost } from './post.ts'

const { sink, tell, publish, mailOf, settled, deadLetters, sql } = usePost(test)

const secrets = { token: 'a-token_of-43-characters', code: '012345' }
/** Every event that becomes a mail, with its subject in each language; {n} is the order's number. */
const subjects: [Subject, Record<string, string>][] = [
  [
    'msg.user.registered',
    { en: 'Confirm your email address', de: 'Bestätigen Sie Ihre E-Mail-Adresse', hi: 'अपने ईमेल पते की पुष्टि करें' },
  ],
  [
    'msg.user.verification_requested',
    { en: 'Confirm your email address', de: 'Bestätigen Sie Ihre E-Mail-Adresse', hi: 'अपने ईमेल पते की पुष्टि करें' },
  ],
  [
    'msg.user.register_repeated',
    { en: 'You already have an account', de: 'Sie haben bereits ein Konto', hi: 'आपका खाता पहले से मौजूद है' },
  ],
  ['msg.user.login_code_requested', { en: 'Your sign-in code', de: 'Ihr Anmeldecode', hi: 'आपका साइन-इन कोड' }],
  [
    'msg.user.password_reset_requested',
    { en: 'Choose a new password', de: 'Wählen Sie ein neues Passwort', hi: 'नया पासवर्ड चुनें' },
  ],
  [
    'msg.user.password_changed',
    { en: 'Your password was changed', de: 'Ihr Passwort wurde geändert', hi: 'आपका पासवर्ड बदल दिया गया है' },
  ],
  [
    'msg.user.session_reused',
    {
      en: 'We have ended one of your sessions',
      de: 'Wir haben eine Ihrer Sitzungen beendet',
      hi: 'हमने आपका एक सत्र समाप्त कर दिया है',
    },
  ],
  [
    'msg.order.placed',
    {
      en: 'We have received your order {n}',
      de: 'Wir haben Ihre Bestellung {n} erhalten',
      hi: 'हमें आपका ऑर्डर {n} मिल गया है',
    },
  ],
  [
    'msg.order.paid',
    { en: 'Your order {n} is paid', de: 'Ihre Bestellung {n} ist bezahlt', hi: 'आपके ऑर्डर {n} का भुगतान हो गया है' },
  ],
  [
    'msg.order.shipped',
    { en: 'Your order {n} is on its way', de: 'Ihre Bestellung {n} ist unterwegs', hi: 'आपका ऑर्डर {n} रवाना हो गया है' },
  ],
  [
    'msg.order.cancelled',
    {
      en: 'Your order {n} was cancelled',
      de: 'Ihre Bestellung {n} wurde storniert',
      hi: 'आपका ऑर्डर {n} रद्द कर दिया गया है',
    },
  ],
  [
    'msg.order.expired',
    {
      en: 'Your order {n} has expired',
      de: 'Ihre Bestellung {n} ist verfallen',
      hi: 'आपके ऑर्डर {n} की समय-सीमा समाप्त हो गई है',
    },
  ],
  [
    'msg.order.unpaid',
    {
      en: 'Your order {n} is still unpaid',
      de: 'Ihre Bestellung {n} ist noch nicht bezahlt',
      hi: 'आपके ऑर्डर {n} का भुगतान अभी बाकी है',
    },
  ],
  [
    'msg.order.feedback_due',
    {
      en: 'How do you like your order {n}?',
      de: 'Wie gefällt Ihnen Ihre Bestellung {n}?',
      hi: 'आपका ऑर्डर {n} आपको कैसा लगा?',
    },
  ],
  [
    'msg.order.cart_abandoned',
    { en: 'Your cart is waiting for you', de: 'Ihr Warenkorb wartet auf Sie', hi: 'आपका कार्ट आपकी प्रतीक्षा कर रहा है' },
  ],
]

for (const locale of ['en-GB', 'de-AT', 'hi'])
  for (const [subject, texts] of subjects)
    test(`${subject}, a user of ${locale} → one mail in that language, with the event's Message-ID`, async (t) => {
      const user = person(locale)
      const order = orderOf(user)
      await tell('msg.user.changed', { ...user, timeZone: 'Europe/Vienna' })
      await settled()
      // What is paid or over is not reminded of.
      if (subject === 'msg.order.unpaid')
        await sql(
          'insert into orders.order (id, user_id, email, currency, total) values ($1, $2, $3, $4, $5)',
          ...[order.orderId, user.userId, user.email, order.currency, order.total],
        )
      if (subject === 'msg.order.cart_abandoned') {
        await sql('insert into orders.cart (user_id, reminded_version) values ($1, 1)', user.userId)
        await sql(
          'insert into orders.cart_item (user_id, product_id, quantity) values ($1, gen_random_uuid(), 1)',
          user.userId,
        )
      }
      const lines = order.lines.map((line) => ({ ...line, currency: 'EUR' }))
      const payload = subject.startsWith('msg.order')
        ? { ...order, lines }
        : { ...user, ...secrets, timeZone: 'Europe/Vienna' }
      const id = await tell(subject, payload as Payload<typeof subject>)
      const mail = await mailOf(id)

      const number = order.orderId.slice(-8).toUpperCase()
      t.is(mail.subject, texts[locale.slice(0, 2)]?.replace('{n}', number))
      t.deepEqual(mail.recipients, [user.email])
      t.is(mail.messageId, messageId(id))
      t.is(mail.from?.text, '"Kiosk" <mail@example.org>')
      t.is(mail.headers.get('auto-submitted'), 'auto-generated')
      t.regex(mail.html || '', new RegExp(`<html lang="${locale.slice(0, 2)}"`))
      // One click in the mail program ends it (RFC 8058), where it is not one that the order or the account needs.
      const link = mail.text?.match(/https:\/\/shop\.example\.org\/unsubscribe\/[0-9a-f-]{36}/)?.[0]
      t.is(link !== undefined, /unpaid|feedback|cart/.test(subject))
      t.is(mail.headerLines.find(({ key }) => key === 'list-unsubscribe')?.line, link && `List-Unsubscribe: <${link}>`)
      t.is(
        mail.headerLines.find(({ key }) => key === 'list-unsubscribe-post')?.line,
        link && 'List-Unsubscribe-Post: List-Unsubscribe=One-Click',
      )
      t.is((mail.html || '').includes(`href="${link}"`), link !== undefined)
      // No word of a stranger's choice reaches an address that is not proven to be theirs.
      const greeted = !/registered|verification/.test(subject)
      for (const body of [mail.html || '', mail.text ?? '']) {
        t.is(body.includes('Ada Lovelace'), greeted)
        t.notRegex(body, /undefined|NaN|\{\{|\[object|(verification|order|session|password|login)_?\w*\.\w+/)
      }
      t.is(sink.taken.filter((other) => other.messageId === mail.messageId).length, 1)
    })

test('an order cancelled that had been paid → the mail says that the money comes back; of another it does not', async (t) => {
  const back = { en: 'paid back', de: 'zurückgezahlt', hi: 'लौटा दी' }
  for (const [locale, words] of Object.entries(back)) {
    const user = person(locale)
    await tell('msg.user.changed', { ...user, timeZone: 'UTC' })
    await settled()
    for (const paid of [true, false]) {
      const mail = await mailOf(await tell('msg.order.cancelled', { ...orderOf(user), paid }))
      for (const body of [mail.html || '', mail.text ?? '']) t.is(body.includes(words), paid)
    }
  }
})

test('registered → the mail has the link, which the page of auth opens, and the code', async (t) => {
  const id = await tell('msg.user.registered', { ...person('en'), ...secrets, timeZone: 'UTC' })
  const mail = await mailOf(id)
  const link = 'https://shop.example.org/auth/verify?token=a-token_of-43-characters'
  for (const body of [mail.html || '', mail.text ?? '']) {
    t.true(body.includes(link))
    t.true(body.includes('012345'))
  }
})

test('password reset requested → the mail has the link and no code', async (t) => {
  const mail = await mailOf(await tell('msg.user.password_reset_requested', { ...person('de'), token: 'one&two' }))
  t.true(mail.text?.includes('https://shop.example.org/auth/password/reset?token=one%26two'))
})

test('an HTML mail → loads nothing from elsewhere', async (t) => {
  const user = person('en')
  const ids = await Promise.all([
    tell('msg.order.placed', orderOf(user)),
    tell('msg.user.registered', { ...user, ...secrets, timeZone: 'UTC' }),
  ])
  for (const id of ids) {
    const html = (await mailOf(id)).html || ''
    t.notRegex(html, /<(img|script|link|iframe)|@import|url\(|src=/i)
    t.regex(html, /prefers-color-scheme: dark/)
  }
})

const amounts: [string, string, number, string][] = [
  ['en-GB', 'EUR', 123_456, '€1,234.56'],
  ['de-DE', 'EUR', 123_456, '1.234,56 €'],
  ['de-AT', 'EUR', 123_456, '€ 1.234,56'],
  ['hi-IN', 'INR', 12_345_678, '₹1,23,456.78'],
  ['en-US', 'JPY', 1234, '¥1,234'],
  ['en-US', 'KWD', 1_234_567, 'KWD 1,234.567'],
  // Digits of ISO 4217; Intl alone would write none of either.
  ['en-US', 'HUF', 125_000, 'HUF 1,250.00'],
  ['de-DE', 'HUF', 125_050, '1.250,50 HUF'],
  ['en-US', 'IQD', 1_250_500, 'IQD 1,250.500'],
  ['fr-FR', 'USD', 123_456, '$1,234.56'],
  ['not a locale', 'USD', 123_456, '$1,234.56'],
]
for (const [locale, currency, total, expected] of amounts)
  test(`order placed, ${total} minor units of ${currency} for ${locale} → ${expected}`, async (t) => {
    const user = person(locale)
    await tell('msg.user.changed', { ...user, timeZone: 'UTC' })
    await settled()
    const mail = await mailOf(await tell('msg.order.placed', orderOf(user, { currency, total, lines: [] })))
    t.true(mail.text?.replace(/\s/g, ' ').includes(expected), mail.text)
  })

test('order placed, of a user never heard of → English, to the address in the event, without a name', async (t) => {
  const user = person('de')
  const mail = await mailOf(await tell('msg.order.placed', orderOf(user)))
  t.true(mail.text?.startsWith('Hello,\n'), mail.text)
  t.deepEqual(mail.recipients, [user.email])
})

test('what is known of a user, events in the wrong order → the latest stage of life counts, and fills the gaps', async (t) => {
  const user = person('de', 'New Name')
  await tell('msg.user.changed', { ...user, timeZone: 'Asia/Kolkata' })
  await settled()
  await tell('msg.user.verified', { ...user, name: 'Old Name', locale: 'en' })
  await settled()
  await tell('msg.user.registered', { ...user, ...secrets, name: 'Oldest Name', locale: 'hi', timeZone: 'UTC' })
  await settled()
  t.deepEqual(
    await sql('select email, name, locale, time_zone from notifications.recipient where user_id = $1', user.userId),
    [{ email: user.email, name: 'New Name', locale: 'de', time_zone: 'Asia/Kolkata' }],
  )

  const early = person('en')
  await tell('msg.user.verified', early)
  await settled()
  await tell('msg.user.registered', { ...early, ...secrets, locale: 'hi', timeZone: 'Asia/Tokyo' })
  await settled()
  t.deepEqual(await sql('select locale, time_zone from notifications.recipient where user_id = $1', early.userId), [
    { locale: 'en', time_zone: 'Asia/Tokyo' },
  ])
})

test('changes of a user, the later one told first → the later one counts; one without a moment, of an older publisher, too', async (t) => {
  const user = person('en')
  const change = async (name: string, at?: string) => {
    await tell('msg.user.changed', { ...user, name, timeZone: 'UTC', ...(at ? { at } : {}) })
    await settled()
    return (await sql('select name from notifications.recipient where user_id = $1', user.userId))[0].name
  }
  t.is(await change('Second', '2026-11-25 09:30:00.000002+00'), 'Second')
  t.is(await change('First', '2026-11-25 09:30:00.000001+00'), 'Second')
  t.is(await change('Third', '2026-11-25 09:30:00.000003+00'), 'Third')
  t.is(await change('Fourth'), 'Fourth')
})

test('names with markup, placeholders and line breaks → stay text in the mail and touch no header', async (t) => {
  const nasty = '<script>alert(1)</script> {{shop}} $t(footer)\r\nBcc: evil@example.org\u202e'
  const user = person('en', nasty)
  await tell('msg.user.changed', { ...user, timeZone: 'UTC' })
  await settled()
  const lines = [{ productId: randomUUID(), sku: 'X', name: nasty, quantity: 1, price: 100 }]
  const mail = await mailOf(await tell('msg.order.placed', orderOf(user, { lines })))
  const shown = '<script>alert(1)</script> {{shop}} $t(footer) Bcc: evil@example.org'
  t.is(mail.text?.split(shown).length, 3)
  t.notRegex(mail.html || '', /<script/)
  t.is(
    (mail.html || '').split('&lt;script&gt;alert(1)&lt;/script&gt; {{shop}} $t(footer) Bcc: evil@example.org').length,
    3,
  )
  t.deepEqual(mail.recipients, [user.email])
  t.false(mail.headers.has('bcc'))
})

test('events that are no mails → are acknowledged in silence', async (t) => {
  const user = person('en')
  const before = sink.taken.length
  await publish([
    { subject: 'msg.order.delivered', data: orderOf(user), id: randomUUID() },
    { subject: 'msg.user.verified', data: user, id: randomUUID() },
    { subject: 'msg.product.image_changed', data: { any: 'thing' }, id: randomUUID() },
  ])
  await settled()
  t.false(sink.taken.slice(before).some((mail) => mail.recipients.includes(user.email)))
})

const poison: [string, string, unknown, RegExp][] = [
  ['not JSON', 'msg.order.placed', 'not json', /not JSON/],
  ['a payload of another shape', 'msg.user.registered', { userId: 'me', token: 'secret' }, /userId/],
  [
    'an address that is two',
    'msg.user.password_changed',
    { ...person('en'), email: 'a@b.example, c@d.example' },
    /address/,
  ],
  [
    'an address with a header',
    'msg.user.password_changed',
    { ...person('en'), email: 'a@b.example\r\nBcc: c@d.example' },
    /address/,
  ],
  ['a currency that is none', 'msg.order.placed', orderOf(person('en'), { currency: 'nothing' }), /written/],
]
for (const [what, subject, data, reason] of poison)
  test(`a message with ${what} → in the dead letters at once, with its reason and no secret`, async (t) => {
    const [seq] = await publish([{ subject, data, id: randomUUID() }])
    await settled()
    const letter = (await deadLetters()).find((dead) => dead.seq === seq)
    t.regex(letter?.reason ?? '', reason)
    t.notRegex(letter?.reason ?? '', /secret/)
  })
