import { z } from 'zod'

// The contract between roles: each subject with its payload. A consumer ignores fields it does not know, so that a
// newer publisher may add some; none is ever removed or renamed (old and new code run side by side during an upgrade).

const recipient = {
  userId: z.uuid(),
  email: z.string(),
  name: z.string(),
  /** BCP 47 language of the user's mails. */
  locale: z.string(),
}
const line = z.object({
  productId: z.uuid(),
  sku: z.string(),
  name: z.string(),
  quantity: z.number(),
  /** Minor units of the order's currency, each. */
  price: z.number(),
})
const order = z.object({
  orderId: z.uuid(),
  userId: z.uuid(),
  email: z.string(),
  currency: z.string(),
  /** Minor units. */
  total: z.number(),
  lines: z.array(line),
})

const cart = z.object({
  userId: z.uuid(),
  /** What can still be had of it, at today's prices; there is at least one. */
  lines: z.array(line.extend({ currency: z.string() })),
})

/** SHA-256, in hex, of the two files of a picture. */
export const Picture = z.object({ large: z.string(), small: z.string() })
export type Picture = z.output<typeof Picture>
const pictureChange = {
  /** What it was before. */
  replaced: Picture.nullable(),
  at: z.iso.datetime(),
}

/** The payload of each subject. */
export const events = {
  'msg.user.registered': z.object({ ...recipient, timeZone: z.string(), token: z.string(), code: z.string() }),
  'msg.user.register_repeated': z.object(recipient),
  'msg.user.verification_requested': z.object({ ...recipient, token: z.string(), code: z.string() }),
  'msg.user.verified': z.object(recipient),
  'msg.user.login_code_requested': z.object({ ...recipient, code: z.string() }),
  'msg.user.password_reset_requested': z.object({ ...recipient, token: z.string() }),
  'msg.user.password_changed': z.object(recipient),
  'msg.user.session_reused': z.object(recipient),
  // `at`: when, as PostgreSQL writes it; a publisher of the version before leaves it out.
  'msg.user.changed': z.object({ ...recipient, timeZone: z.string(), at: z.string().optional() }),
  // Of nobody, and of no product: files that were never referred to, whose removal is due.
  'msg.user.avatar_changed': z.object({ userId: z.uuid().nullable(), avatar: Picture.nullable(), ...pictureChange }),
  'msg.product.image_changed': z.object({
    productId: z.uuid().nullable(),
    image: Picture.nullable(),
    ...pictureChange,
  }),
  'msg.order.placed': order,
  'msg.order.paid': order,
  'msg.order.shipped': order,
  'msg.order.delivered': order,
  // `paid`: whether it had been; a publisher of the version before leaves it out.
  'msg.order.cancelled': order.extend({ paid: z.boolean().optional() }),
  'msg.order.expired': order,
  'msg.order.unpaid': order,
  'msg.order.feedback_due': order,
  'msg.order.cart_abandoned': cart,
}
export type Subject = keyof typeof events
export type Payload<S extends Subject> = z.output<(typeof events)[S]>

/** The stream that holds the events of all roles. */
export const stream = 'messages'

const patient = { ackWaitSeconds: 30, maxDeliver: -1, maxAckPending: 50_000 } as const

/** Durable pull consumers, made by `migrate`. `maxDeliver` counts deliveries of one message before it is given up; −1 never. */
export const consumers = {
  // With pauses of up to a minute, 30 deliveries are 24 minutes: greylisting is over by then. Mails that are put off count
  // among the pending, and must not keep others out; how many are in hand each replica bounds itself.
  mailer: { role: 'notifications', filter: 'msg.>', ackWaitSeconds: 30, maxDeliver: 30, maxAckPending: 5000 },
  // Each message waits in hand for a day, see src/platform/pictures.ts, and what is due is found again by any later one.
  avatars: { role: 'auth', filter: 'msg.user.avatar_changed', ...patient },
  images: { role: 'products', filter: 'msg.product.image_changed', ...patient },
} as const
export type Consumer = keyof typeof consumers
