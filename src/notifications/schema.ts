import { z } from 'zod'

/** Optional mails, by what they are about. */
export const topics = ['cart', 'payment', 'feedback', 'digest'] as const
export type Topic = (typeof topics)[number]

/** Which optional mails a user wants; all of them until they say otherwise. */
export const Preferences = z.strictObject({
  cart: z.boolean().describe('A reminder of a cart that lay for four hours'),
  payment: z.boolean().describe('A reminder of an order that is not paid yet'),
  feedback: z.boolean().describe('A question how it was, a week after a delivery'),
  digest: z.boolean().describe('For staff: orders and low stock, every morning'),
})
export type Preferences = z.output<typeof Preferences>

export const UnsubscribeToken = z.object({ token: z.uuid() })
