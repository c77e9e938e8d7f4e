import { createHash } from 'node:crypto'
import { v7 as newId } from 'uuid'
import { type Db, hasState, violates } from '../platform/db.ts'
import type { User } from '../platform/identity.ts'
import { problem } from '../platform/problem.ts'
import type { NewOrder } from './schema.ts'
import { type Placed, place } from './store.ts'

/**
 * Places an order of the given lines, or of the cart, in one transaction and one round trip. A repeated key brings back
 * the first answer. Throws 409 in_flight, out_of_stock, price_changed; 422 idempotency_mismatch, cart_empty,
 * mixed_currency, total_too_large; nothing is changed then, and the key stays free.
 */
export async function placeOrder(db: Db, user: User, key: string, input: NewOrder): Promise<Placed> {
  // The order of lines is no part of what is ordered: sorted, a client that shuffles them still repeats itself.
  const lines = input.items?.toSorted((a, b) => (a.productId < b.productId ? -1 : 1))
  const same = JSON.stringify([lines?.map((line) => [line.productId, line.quantity]), input.expectedTotal])
  try {
    return await place(db, {
      userId: user.id,
      email: user.email,
      key,
      fingerprint: createHash('sha256').update(same).digest(),
      orderId: newId(),
      lines,
      expectedTotal: input.expectedTotal,
    })
  } catch (error) {
    throw refusal(error) ?? error
  }
}

function refusal(error: unknown) {
  if (hasState(error, 'BO001')) {
    const lines = JSON.parse(error.detail ?? '[]')
    return problem.conflict('out_of_stock', 'Some lines are not available in the quantity asked for.', { lines })
  }
  if (hasState(error, 'BO002'))
    return problem.conflict(
      'in_flight',
      'The first request with this key is still running.',
      {},
      { 'Retry-After': '1' },
    )
  if (hasState(error, 'BO003'))
    return problem.unprocessable('idempotency_mismatch', 'This key was used for another order.')
  if (hasState(error, 'BO004')) return problem.unprocessable('cart_empty', 'The cart is empty.')
  if (hasState(error, 'BO005'))
    return problem.unprocessable('mixed_currency', 'An order takes lines of one currency only.')
  if (hasState(error, 'BO006')) {
    const total = Number(error.detail)
    return problem.conflict('price_changed', `The total is ${total} now.`, { total })
  }
  if (violates(error, 'order_total'))
    return problem.unprocessable('total_too_large', 'The total is more than an order may have.')
  return undefined
}
