import { LRUCache } from 'lru-cache'
import type { Payload, Subject } from '../events.ts'
import { moneyIn } from '../platform/money.ts'
import type { Mail } from './mime.ts'
import type { Topic } from './schema.ts'
import { fallback, languageOf, openTemplates, openTexts } from './templates.ts'

export type Kind =
  | 'verification'
  | 'already_registered'
  | 'login_code'
  | 'password_reset'
  | 'password_changed'
  | 'session_reused'
  | `order_${'placed' | 'paid' | 'shipped' | 'cancelled' | 'expired' | 'unpaid' | 'feedback'}`
  | 'cart_abandoned'
  | 'staff_digest'

/** Kinds of mail that a user may do without. */
export const topics: { [K in Kind]?: Topic } = {
  cart_abandoned: 'cart',
  order_unpaid: 'payment',
  order_feedback: 'feedback',
  staff_digest: 'digest',
}

type Recipient = Payload<'msg.user.verified'>
type Order = Payload<'msg.order.cancelled'>

type Cart = Payload<'msg.order.cart_abandoned'>

export interface Digest {
  since: Date
  timeZone: string
  placed: { currency: string; orders: number; total: number }[]
  toShip: number
  low: { count: number; products: { sku: string; name: string; stock: number }[] }
}

/** A mail before it has words: what it is about, and for whom. Without an address it goes to the one that is known. */
export type Draft = { userId: string; email?: string; locale?: string; name?: string; unsubscribe?: string } & (
  | { kind: 'verification' | 'password_reset'; template: 'link'; path: string; code?: string }
  | { kind: 'login_code'; template: 'code-only'; code: string }
  | { kind: 'already_registered' | 'password_changed' | 'session_reused'; template: 'notice' }
  | { kind: Extract<Kind, `order_${string}`>; template: 'order'; order: Order }
  | { kind: 'cart_abandoned'; template: 'cart'; cart: Cart }
  | { kind: 'staff_digest'; template: 'digest'; digest: Digest }
)

const withToken = (path: string, token: string) => `${path}?token=${encodeURIComponent(token)}`
// No name: whoever registers a stranger's address must not get words of their own into the stranger's inbox.
const verification = ({ userId, email, locale, token, code }: Payload<'msg.user.verification_requested'>): Draft => ({
  userId,
  email,
  locale,
  kind: 'verification',
  template: 'link',
  path: withToken('/auth/verify', token),
  code,
})
const loginCode = ({ userId, email, name, locale, code }: Payload<'msg.user.login_code_requested'>): Draft => ({
  userId,
  email,
  name,
  locale,
  kind: 'login_code',
  template: 'code-only',
  code,
})
const passwordReset = ({
  userId,
  email,
  name,
  locale,
  token,
}: Payload<'msg.user.password_reset_requested'>): Draft => ({
  userId,
  email,
  name,
  locale,
  kind: 'password_reset',
  template: 'link',
  path: withToken('/auth/password/reset', token),
})
const notice =
  (kind: Extract<Draft, { template: 'notice' }>['kind']) =>
  ({ userId, email, name, locale }: Recipient): Draft => ({ userId, email, name, locale, kind, template: 'notice' })
const order =
  (kind: Extract<Draft, { template: 'order' }>['kind']) =>
  (payload: Order): Draft => ({ userId: payload.userId, email: payload.email, kind, template: 'order', order: payload })

/** The mail that an event becomes; other events become none. */
export const drafts: { [S in Subject]?: (payload: Payload<S>) => Draft } = {
  'msg.user.registered': verification,
  'msg.user.verification_requested': verification,
  'msg.user.register_repeated': notice('already_registered'),
  'msg.user.login_code_requested': loginCode,
  'msg.user.password_reset_requested': passwordReset,
  'msg.user.password_changed': notice('password_changed'),
  'msg.user.session_reused': notice('session_reused'),
  'msg.order.placed': order('order_placed'),
  'msg.order.paid': order('order_paid'),
  'msg.order.shipped': order('order_shipped'),
  'msg.order.cancelled': order('order_cancelled'),
  'msg.order.expired': order('order_expired'),
  'msg.order.unpaid': order('order_unpaid'),
  'msg.order.feedback_due': order('order_feedback'),
  'msg.order.cart_abandoned': (cart) => ({ userId: cart.userId, kind: 'cart_abandoned', template: 'cart', cart }),
}

export interface Composer {
  /** The mail of a draft. Throws on what cannot be written. */
  compose(draft: Draft, eventId: string): Mail
  /** The page of a link that ends mails of a topic: asking, or, `done`, saying so. */
  page(topic: Topic, locale: string | undefined, done: boolean): string
}

/** Turns drafts into mails: words in the user's language, amounts as the locale writes them. */
export async function openComposer({ publicUrl, from }: { publicUrl: string; from: string }): Promise<Composer> {
  const { host, hostname } = new URL(publicUrl)
  const shop = from.match(/^\s*"?([^"<]+?)"?\s*</)?.[1] ?? host
  const texts = await openTexts(shop)
  const templates = openTemplates()

  const compose: Composer['compose'] = (draft, eventId) => {
    const language = languageOf(draft.locale)
    const { text: common, fill, has: exists } = texts[language]
    const text = (key: string) => common(`${draft.kind}.${key}`)
    const has = (key: string) => exists(`${draft.kind}.${key}`)
    const name = plain(draft.name ?? '').slice(0, 100)
    const isOrder = draft.template === 'order'
    const subject = isOrder
      ? fill(`${draft.kind}.subject`, { number: orderNumber(draft.order.orderId) })
      : text('subject')
    const values = {
      language,
      shop,
      subject,
      title: isOrder ? text('title') : subject,
      footer: common(draft.kind === 'order_feedback' ? 'footerAnswer' : 'footer'),
      greeting: name ? fill('greetingName', { name }) : common('greeting'),
      common,
      text,
      has,
      url: draft.template === 'link' ? publicUrl + draft.path : undefined,
      code: 'code' in draft ? draft.code : undefined,
      note: isOrder ? text(draft.kind === 'order_cancelled' && draft.order.paid ? 'notePaid' : 'note') : undefined,
      order: isOrder ? orderValues(draft.order, formatsOf(draft.locale)) : undefined,
      lines: draft.template === 'cart' ? cartLines(draft.cart, formatsOf(draft.locale)) : undefined,
      digest: draft.template === 'digest' ? digestValues(draft.digest, formatsOf(draft.locale), fill) : undefined,
      unsubscribe: draft.unsubscribe,
    }
    return {
      to: { name, address: addressOf(draft.email ?? '') },
      subject,
      html: templates.html(draft.template, values),
      text: templates.text(draft.template, values),
      // The event's id makes every try of a mail the same mail to whoever receives it.
      messageId: `<${eventId.replace(/[^\w.-]/g, '.')}@${hostname}>`,
      unsubscribe: draft.unsubscribe,
    }
  }
  return {
    compose,
    page(topic, locale, done) {
      const language = languageOf(locale)
      const { text, fill } = texts[language]
      const mails = text(`unsubscribe.${topic}`)
      return templates.html('page', {
        language,
        style: pageStyle,
        title: text('unsubscribe.title'),
        words: fill(done ? 'unsubscribe.done' : 'unsubscribe.ask', { mails }),
        button: done ? undefined : text('unsubscribe.button'),
      })
    },
  }
}

/** Of the page, which loads nothing else: its hash is in the policy that the page comes with. */
export const pageStyle = `body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:15vh auto;padding:0 1rem;color-scheme:light dark}
button{font:inherit;padding:.6rem 1rem;border-radius:.4rem;width:100%;background:#14532d;color:#fff;border:0;cursor:pointer}`

/** The end of an order's id, short enough to say: its beginning is the time, the same for all orders of a minute. */
const orderNumber = (orderId: string) => orderId.slice(-8).toUpperCase()

/** One line of words: no control characters, and none that turn the writing direction of what follows. */
const plain = (text: string) =>
  text
    .replace(/[\p{Cc}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+/gu, ' ')
    .replace(/ {2,}/g, ' ')
    .trim()

/** One address and nothing more: what could be read as several, or as a header, is refused. */
function addressOf(email: string) {
  if (!/^[^\s@<>(),;:"\\[\]]+@[^\s@<>(),;:"\\[\]]+$/.test(email) || email.length > 254 || plain(email) !== email)
    throw new Error('the recipient is not one mail address')
  return email
}

interface Formats {
  number(value: number): string
  /** Day and time in a time zone; in UTC where the zone is none. */
  moment(value: Date, timeZone: string): string
  /** Minor units of an ISO 4217 currency. */
  money(minor: number, currency: string): string
}
const formats = new LRUCache<string, Formats>({ max: 200 })

/** How a locale writes numbers and amounts: `de-AT` its own way, one without texts as English, like its mails. */
function formatsOf(locale: string = fallback): Formats {
  const found = formats.get(locale)
  if (found) return found
  const language = languageOf(locale)
  const used = isLocale(locale) && languageOf(locale) === locale.split('-', 1)[0] ? locale : language
  const numbers = new Intl.NumberFormat(used)
  const currencies = new Map<string, (minor: number) => string>()
  const made: Formats = {
    number: (value) => numbers.format(value),
    moment(value, timeZone) {
      const options = { dateStyle: 'medium', timeStyle: 'short' } as const
      try {
        return new Intl.DateTimeFormat(used, { ...options, timeZone }).format(value)
      } catch {
        return new Intl.DateTimeFormat(used, { ...options, timeZone: 'UTC' }).format(value)
      }
    },
    money(minor, currency) {
      let write = currencies.get(currency)
      if (!write) {
        write = moneyIn(used, currency)
        currencies.set(currency, write)
      }
      return write(minor)
    },
  }
  formats.set(locale, made)
  return made
}

const isLocale = (text: string) => {
  try {
    return Intl.getCanonicalLocales(text).length === 1
  } catch {
    return false
  }
}

const orderValues = ({ orderId, lines, total, currency }: Order, { number, money }: Formats) => ({
  orderId,
  lines: lines.map((line) => ({
    name: plain(line.name),
    quantity: number(line.quantity),
    price: money(line.price, currency),
    sum: money(line.price * line.quantity, currency),
  })),
  total: money(total, currency),
})

const cartLines = ({ lines }: Cart, { number, money }: Formats) =>
  lines.map(({ name, quantity, price, currency }) => ({
    name: plain(name),
    quantity: number(quantity),
    price: money(price, currency),
    sum: money(price * quantity, currency),
  }))

const digestValues = (
  { since, timeZone, placed, toShip, low }: Digest,
  { number, money, moment }: Formats,
  fill: (key: string, values: Record<string, string>) => string,
) => ({
  intro: fill('staff_digest.intro', { since: moment(since, timeZone) }),
  placed: placed.map(({ currency, orders, total }) => ({ orders: number(orders), total: money(total, currency) })),
  toShip: number(toShip),
  low: low.products.map(({ sku, name, stock }) => ({ sku, name: plain(name), stock: number(stock) })),
  more: low.count > low.products.length ? number(low.count - low.products.length) : undefined,
})
