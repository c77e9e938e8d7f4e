import { z } from 'zod'
import { Problem, problem } from '../platform/problem.ts'
import { NextCursor } from '../platform/routes.ts'

const statuses = ['pending', 'paid', 'shipped', 'delivered', 'cancelled', 'expired'] as const

const quantity = z.int().min(1).max(99)
const minorUnits = z
  .int()
  .min(0)
  .meta({ description: 'Minor units of the currency', examples: [1250] })
const sku = z.string().meta({ examples: ['MUG-03-BLUE'] })
const name = z.string().meta({ examples: ['Mug, blue'] })
const currency = z.string().meta({ description: 'ISO 4217', examples: ['EUR'] })
const moment = z.iso.datetime()

/** Lines of an order at most, and of a cart. */
export const mostLines = 100

export const NewOrder = z
  .strictObject({
    items: z
      .array(z.strictObject({ productId: z.uuid().toLowerCase(), quantity }))
      .min(1)
      .max(mostLines)
      .refine((items) => new Set(items.map((item) => item.productId)).size === items.length, 'names a product twice')
      .optional()
      .describe('The lines; those of the cart where there are none.'),
    expectedTotal: minorUnits.optional().describe('The order is refused when its total is another.'),
  })
  .meta({
    examples: [{ items: [{ productId: '01935f2e-7c1a-7b3e-9d52-6f0a4c8b1e07', quantity: 2 }], expectedTotal: 2500 }],
  })
export type NewOrder = z.output<typeof NewOrder>

export const Order = z.object({
  id: z.uuid(),
  status: z.enum(statuses),
  currency,
  total: minorUnits,
  items: z.array(z.object({ productId: z.uuid(), sku, name, price: minorUnits, quantity: z.int() })),
  createdAt: moment,
  paidAt: moment.nullable(),
  shippedAt: moment.nullable(),
  deliveredAt: moment.nullable(),
  cancelledAt: moment.nullable(),
  expiredAt: moment.nullable(),
})

export const OrderPage = z.object({ items: z.array(Order), next: NextCursor })

export const OrderQuery = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  cursor: z.string().max(64).optional(),
  user: z.literal('all').optional().describe('Orders of every user, for staff.'),
})

export const CartItemId = z.object({ productId: z.uuid().toLowerCase() })
export const CartQuantity = z.strictObject({ quantity })

export const Cart = z.object({
  items: z.array(
    z.object({
      productId: z.uuid(),
      quantity: z.int(),
      available: z
        .boolean()
        .describe(
          'Whether this many can be bought now; sku, name, price and currency are null where the product is gone.',
        ),
      sku: sku.nullable(),
      name: name.nullable(),
      price: minorUnits.nullable(),
      currency: currency.nullable(),
    }),
  ),
  totals: z
    .array(z.object({ currency, total: minorUnits }))
    .describe('Of the available lines, by currency; an order takes lines of one currency only.'),
  version: z.int(),
  updatedAt: moment.nullable(),
})

/** A position in a list of orders, newest first: the id of the last one shown. */
export const cursorOf = (id: string) => Buffer.from(id.replaceAll('-', ''), 'hex').toString('base64url')

/** The id in a cursor; throws a 400 for what this shop did not make. */
export function positionOf(cursor: string): string {
  const hex = Buffer.from(cursor, 'base64url').toString('hex')
  const id = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  if (id.length !== 36 || cursorOf(id) !== cursor) throw problem.badCursor()
  return id
}

/** Checks the header Idempotency-Key: 1–255 printable ASCII characters. */
export function idempotencyKey(header: string): string {
  if (header === '')
    throw problem.badRequest(
      'idempotency_key_missing',
      'Send an Idempotency-Key, new for each order, the same for each try.',
    )
  if (!/^[\x20-\x7e]{1,255}$/.test(header))
    throw new Problem(400, 'idempotency_key_invalid', 'An Idempotency-Key has 1 to 255 printable ASCII characters.')
  return header
}
