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

export const events = {
  'msg.user.registered': z.object({ ...recipient, timeZone: z.string(), token: z.string(), code: z.string() }),
  'msg.user.register_repeated': z.object(recipient),
  'msg.user.verification_requested': z.object({ ...recipient, token: z.string(), code: z.string() }),
  'msg.user.verified': z.object(recipient),
  'msg.user.login_code_requested': z.object({ ...recipient, code: z.string() }),
  'msg.user.password_reset_requested': z.object({ ...recipient, token: z.string() }),
  'msg.user.password_changed': z.object(recipient),
  'msg.user.session_reused': z.object(recipient),
  'msg.user.changed': z.object({ ...recipient, timeZone: z.string() }),
  'msg.order.placed': order,
  'msg.order.paid': order,
  'msg.order.shipped': order,
  'msg.order.delivered': order,
  'msg.order.cancelled': order,
  'msg.order.expired': order,
  'msg.order.unpaid': order,
}
export type Subject = keyof typeof events
export type Payload<S extends Subject> = z.output<(typeof events)[S]>

export const stream = 'messages'

/** Durable pull consumers, made by `migrate`. `maxDeliver` counts deliveries of one message before it is given up. */
export const consumers = {
  mailer: { role: 'notifications', filter: 'msg.>', ackWaitSeconds: 30, maxDeliver: 10, maxAckPending: 256 },
} as const
export type Consumer = keyof typeof consumers
