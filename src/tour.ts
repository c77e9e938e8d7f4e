import { randomBytes, randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs, styleText } from 'node:util'
import { type Answer, type Call, call, codeIn, type MailMessage, mailTo } from './embedded/client.ts'
import { moneyIn } from './platform/money.ts'

// Walks through a purchase at any running shop and says what it sees; ends with 1 when a step is not as promised.

const { values: options } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:8080' },
    /** Web address of the MailDev that gets the shop's mails; empty: the code is asked for here. */
    inbox: { type: 'string', default: 'http://127.0.0.1:1080' },
    email: { type: 'string', default: `tour-${randomBytes(4).toString('hex')}@example.org` },
  },
})
const url = options.url.replace(/\/$/, '')
const inbox = options.inbox.replace(/\/$/, '')
const email = options.email.toLowerCase()
const password = `tour ${randomBytes(9).toString('base64url')}`

const began = performance.now()
let steps = 0
try {
  await tour()
  console.log(
    styleText('green', `\nAll ${steps} steps as promised, in ${((performance.now() - began) / 1000).toFixed(1)} s.`),
  )
} catch (error) {
  console.error(styleText('red', `\n✘ Step ${steps}: ${error instanceof Error ? reason(error) : error}`))
  process.exitCode = 1
}
process.exit()

async function tour() {
  for (const [name, value] of Object.entries({ URL: url, ...(inbox ? { INBOX: inbox } : {}) }))
    if (!/^https?:\/\/./.test(value))
      throw new Error(`${name} is ${JSON.stringify(value)}, and must begin with http:// or https://`)
  console.log(`A tour of ${url}, as ${email}\n`)

  step('The shop is open')
  await ask('GET', '/healthz', 200)

  step('Anyone may look: three things that are in stock')
  const { body: page } = await ask('GET', '/product?limit=3&inStock=true', 200)
  expect(page.items.length > 0, 'there is a product in stock (make demo brings a catalogue; a new shop has none)')
  const [first, second = first] = page.items
  for (const item of page.items) say(`${item.name}, ${money(item.price, item.currency)}`)

  step('Search for a word of the first one')
  const word = /\p{L}{4,}/u.exec(first.name)?.[0] ?? first.name
  const found = await ask('GET', `/product?q=${encodeURIComponent(word)}&limit=5`, 200)
  expect(
    found.body.items.some((item: { name: string }) => item.name.toLowerCase().includes(word.toLowerCase())),
    `something with “${word}” is found`,
  )
  for (const item of found.body.items) say(`${item.name}, ${money(item.price, item.currency)}`)

  step('A cart is for signed-in users, and a forged identity does not help')
  const refused = await ask('GET', '/cart', 401, { headers: { 'X-User-Id': randomUUID(), 'X-User-Roles': 'admin' } })
  expect(refused.headers['www-authenticate'], 'the answer says how to sign in')

  step('Register')
  await ask('POST', '/auth/register', 202, { body: { email, password, name: 'Tour Guest' } })

  step('Signing in must wait until the address is verified')
  expect(
    (await ask('POST', '/auth/login', 403, { body: { email, password } })).body.code === 'email_unverified',
    'it says why',
  )

  step('The mail has a code')
  const code = await readCode()

  step('Verify the address')
  await ask('POST', '/auth/verify', 200, { body: { email, code } })

  step('A wrong password is refused')
  await ask('POST', '/auth/login', 401, { body: { email, password: 'not the password' } })

  step('Sign in')
  const { body: tokens } = await ask('POST', '/auth/login', 200, { body: { email, password } })
  const token: string = tokens.accessToken
  expect(token, 'an access token comes')

  step('A customer may not change the catalogue')
  await ask('DELETE', `/product/${first.id}`, 403, { token, headers: { 'If-Match': '*' } })

  step('Fill the cart')
  await ask('PUT', `/cart/items/${first.id}`, 200, { token, body: { quantity: 1 } })
  const { body: cart } = await ask('PUT', `/cart/items/${second.id}`, 200, { token, body: { quantity: 1 } })
  const [sum] = cart.totals
  const expected = first.id === second.id ? first.price : first.price + second.price
  if (first.currency === second.currency)
    expect(sum?.total === expected, `the cart comes to ${money(expected, first.currency)}`)

  step('No cart takes a hundred of a thing')
  await ask('PUT', `/cart/items/${first.id}`, 400, { token, body: { quantity: 100 } })

  const items = [{ productId: first.id, quantity: 1 }]
  step('An order needs a key, so that no retry ever orders twice')
  await ask('POST', '/order', 400, { token, body: { items } })

  step('A price other than expected is refused')
  const wrong = { items, expectedTotal: first.price + 1 }
  const changed = await ask('POST', '/order', 409, { token, body: wrong, headers: { 'Idempotency-Key': randomUUID() } })
  expect(changed.body.code === 'price_changed', 'it says why')

  step('Order')
  const key = randomUUID()
  const order = { items, expectedTotal: first.price }
  const { body: placed } = await ask('POST', '/order', 201, { token, body: order, headers: { 'Idempotency-Key': key } })
  expect(
    placed.status === 'pending' && placed.total === first.price,
    `order over ${money(placed.total, placed.currency)}`,
  )

  step('The same again with the same key is the same order')
  const again = await ask('POST', '/order', 201, { token, body: order, headers: { 'Idempotency-Key': key } })
  expect(again.body.id === placed.id && again.headers['idempotent-replayed'] === 'true', 'nothing was ordered twice')

  step('Another order with that key is refused')
  await ask('POST', '/order', 422, {
    token,
    body: { items: [{ productId: first.id, quantity: 2 }] },
    headers: { 'Idempotency-Key': key },
  })

  step('The order stands')
  expect((await ask('GET', `/order/${placed.id}`, 200, { token })).body.id === placed.id, 'it can be read')

  step('An order that is not ours is not there')
  await ask('GET', `/order/${randomUUID()}`, 404, { token })

  step('A customer may not mark it as paid')
  await ask('POST', `/order/${placed.id}/pay`, 403, { token })

  if (inbox) {
    step('The order mail')
    show(await mailTo(inbox, email, { fits: (mail) => mail.text.includes(first.name), deadline: 20_000 }))
  }

  step('Cancel it')
  expect(
    (await ask('POST', `/order/${placed.id}/cancel`, 200, { token })).body.status === 'cancelled',
    'it is cancelled',
  )

  step('Sign out')
  await ask('POST', '/auth/logout', 204, { token })

  step('The token is worth nothing within 5 seconds')
  const end = performance.now() + 5_000
  let last = 200
  while (last === 200 && performance.now() < end) {
    last = (await call(url, 'GET', '/profile', { token })).status
    await sleep(200)
  }
  await ask('GET', '/profile', 401, { token })
}

async function readCode() {
  if (inbox) {
    const mail = await mailTo(inbox, email, { fits: (m) => /\b\d{6}\b/.test(m.text), deadline: 20_000 })
    show(mail)
    return codeIn(mail)
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  const code = await terminal.question(`    The six digits of the mail to ${email}: `)
  terminal.close()
  return code.trim()
}

function step(title: string) {
  steps++
  console.log(`${styleText('bold', `${String(steps).padStart(2)}  ${title}`)}`)
}

function say(text: string) {
  console.log(`      ${text}`)
}

/** Sends a request, shows it and its answer, and insists on the status. */
async function ask(method: string, path: string, status: number, options: Call = {}): Promise<Answer> {
  console.log(`    ${styleText('cyan', `${method} ${path}`)}`)
  for (const [name, value] of Object.entries(options.headers ?? {})) say(styleText('dim', `${name}: ${value}`))
  if (options.token) say(styleText('dim', 'Authorization: Bearer (our access token)'))
  if (options.body) say(brief(options.body))
  const answer = await call(url, method, path, options)
  const asPromised = answer.status === status
  console.log(`    ${styleText(asPromised ? 'green' : 'red', `→ ${answer.status}`)} ${summary(answer)}`)
  if (!asPromised)
    throw new Error(`${method} ${path} answered ${answer.status}, and should have answered ${status}: ${answer.text}`)
  return answer
}

/** Says what holds; ends the tour where it does not. */
function expect(kept: unknown, what: string) {
  if (!kept) throw new Error(`not so: ${what}`)
  say(`${styleText('green', '✔')} ${what}`)
}

/** What an answer says: a problem by its code and words, a list by its length, anything else as it is. */
function summary({ text, body }: Answer) {
  if (!text) return ''
  if (body.code && body.detail) return `${body.code}: ${body.detail}`
  if (Array.isArray(body.items) && 'next' in body)
    return `${body.items.length} items${body.next ? ', and there are more' : ''}`
  return brief(body)
}

/** A body on one line or two: passwords and tokens hidden, long texts and lists cut. */
function brief(body: unknown) {
  const hidden = /^(password|token|accessToken|refreshToken)$/
  const text = JSON.stringify(body, (key, value) => {
    if (typeof value === 'string') return hidden.test(key) ? '…' : value.length > 60 ? `${value.slice(0, 59)}…` : value
    return value
  })
  return text.length > 300 ? `${text.slice(0, 299)}…` : text
}

function show(mail: MailMessage) {
  say(styleText('bold', mail.subject))
  for (const line of mail.text.trim().split('\n')) say(styleText('dim', `│ ${line}`))
}

function money(minor: number, currency: string) {
  return moneyIn('en', currency)(minor)
}

function reason(error: Error) {
  const code = (error as NodeJS.ErrnoException).code ?? (error.cause as NodeJS.ErrnoException | undefined)?.code
  if (code === 'ECONNREFUSED')
    return `nothing answers at ${url} or ${inbox}. Start a shop with make demo, or say URL= and INBOX=`
  return error.message
}
