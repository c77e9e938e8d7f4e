import { LRUCache } from 'lru-cache'
import type { Payload, Subject } from '../events.ts'
import type { Mail } from './mailer.ts'
import { fallback, languageOf, openTemplates, openTexts, type Translate } from './templates.ts'

export type Kind =
  | 'verification'
  | 'already_registered'
  | 'login_code'
  | 'password_reset'
  | 'password_changed'
  | 'session_reused'
  | `order_${'placed' | 'paid' | 'shipped' | 'cancelled' | 'expired' | 'unpaid'}`

type Recipient = Payload<'msg.user.verified'>
type Order = Payload<'msg.order.placed'>

/** A mail before it has words: what it is about, and for whom. */
export type Draft = { userId: string; email: string; locale?: string; name?: string } & (
  | { kind: 'verification' | 'password_reset'; template: 'link'; path: string; code?: string }
  | { kind: 'login_code'; template: 'code-only'; code: string }
  | { kind: 'already_registered' | 'password_changed' | 'session_reused'; template: 'notice' }
  | { kind: Extract<Kind, `order_${string}`>; template: 'order'; order: Order }
)

const withToken = (path: string, token: string) => `${path}?token=${encodeURIComponent(token)}`
const verification = ({ userId, email, locale, token, code }: Payload<'msg.user.registered'>): Draft => ({
  // No name: whoever registers a stranger's address must not get words of their own into the stranger's inbox.
  ...{ userId, email, locale, kind: 'verification', template: 'link' },
  ...{ path: withToken('/auth/verify', token), code },
})
const notice =
  (kind: 'already_registered' | 'password_changed' | 'session_reused') =>
  ({ userId, email, name, locale }: Recipient): Draft => ({ userId, email, name, locale, kind, template: 'notice' })
const order =
  (kind: Extract<Kind, `order_${string}`>) =>
  (payload: Order): Draft => ({ userId: payload.userId, email: payload.email, kind, template: 'order', order: payload })

/** The mail that each event becomes; null where it becomes none. */
export const drafts: { [S in Subject]: ((payload: Payload<S>) => Draft) | null } = {
  'msg.user.registered': verification,
  'msg.user.verification_requested': (payload) => verification({ ...payload, timeZone: '' }),
  'msg.user.verified': null,
  'msg.user.register_repeated': notice('already_registered'),
  'msg.user.login_code_requested': ({ userId, email, name, locale, code }) => ({
    ...{ userId, email, name, locale, code },
    ...{ kind: 'login_code', template: 'code-only' },
  }),
  'msg.user.password_reset_requested': ({ userId, email, name, locale, token }) => ({
    ...{ userId, email, name, locale, path: withToken('/auth/password/reset', token) },
    ...{ kind: 'password_reset', template: 'link' },
  }),
  'msg.user.password_changed': notice('password_changed'),
  'msg.user.session_reused': notice('session_reused'),
  'msg.user.changed': null,
  'msg.order.placed': order('order_placed'),
  'msg.order.paid': order('order_paid'),
  'msg.order.shipped': order('order_shipped'),
  'msg.order.delivered': null,
  'msg.order.cancelled': order('order_cancelled'),
  'msg.order.expired': order('order_expired'),
  'msg.order.unpaid': order('order_unpaid'),
}

/** Turns drafts into mails: words in the user's language, amounts as the locale writes them. Throws on what cannot be written. */
export async function openComposer({ publicUrl, from }: { publicUrl: string; from: string }) {
  const texts = await openTexts()
  const templates = openTemplates()
  const shop = from.match(/^\s*"?([^"<]+?)"?\s*</)?.[1] ?? new URL(publicUrl).host

  return (draft: Draft, eventId: string): Mail => {
    const language = languageOf(draft.locale)
    const t = texts.of[language]
    const name = plain(draft.name ?? '').slice(0, 100)
    const values = draft.template === 'order' ? orderValues(draft.order, formatsOf(draft.locale)) : {}
    const number = draft.template === 'order' ? shortNumber(draft.order.orderId) : undefined
    const text = (key: string) => t(`${draft.kind}.${key}`, { shop, number })
    const has = (key: string) => texts.has(`${draft.kind}.${key}`)
    const subject = text('subject')
    const all = {
      ...{ language, shop, t: ((key) => t(key, { shop })) as Translate, text, has },
      ...{ subject, title: has('title') ? text('title') : subject, preview: text('intro') },
      greeting: name ? t('greetingName', { name }) : t('greeting'),
      url: draft.template === 'link' ? publicUrl + draft.path : undefined,
      code: 'code' in draft ? draft.code : undefined,
      ...values,
    }
    return {
      to: { name, address: addressOf(draft.email) },
      subject: plain(subject),
      html: templates.html(draft.template, all),
      text: templates.text(draft.template, all),
      // The event's id makes every try of a mail the same mail to whoever receives it.
      messageId: `<${eventId.replace(/[^\w.-]/g, '.')}@${new URL(publicUrl).hostname}>`,
    }
  }
}

/** The first part of an order's id, for people to say. */
const shortNumber = (orderId: string) => orderId.slice(0, 8).toUpperCase()

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
  locale: string
  number(value: number): string
  /** Minor units of an ISO 4217 currency, which has digits of its own: 0 for JPY, 3 for KWD. */
  money(minor: number, currency: string): string
}
const known = new LRUCache<string, Formats>({ max: 200 })

/** How a locale writes numbers and amounts. A locale without texts is written as English. */
function formatsOf(locale: string | undefined): Formats {
  const key = locale ?? fallback
  const found = known.get(key)
  if (found) return found
  const language = languageOf(locale)
  const wanted = Intl.NumberFormat.supportedLocalesOf(isLocale(key) ? [key] : [])[0]
  const used = wanted && languageOf(wanted) === language && locale ? wanted : language
  const plainNumber = new Intl.NumberFormat(used)
  const currencies = new Map<string, { digits: number; format: Intl.NumberFormat }>()
  const formats: Formats = {
    locale: used,
    number: (value) => plainNumber.format(value),
    money(minor, currency) {
      let known = currencies.get(currency)
      if (!known) {
        const format = new Intl.NumberFormat(used, { style: 'currency', currency })
        known = { format, digits: format.resolvedOptions().maximumFractionDigits ?? 2 }
        currencies.set(currency, known)
      }
      return known.format.format(minor / 10 ** known.digits)
    },
  }
  known.set(key, formats)
  return formats
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
