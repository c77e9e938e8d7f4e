import type { Db } from '../platform/db.ts'
import type { User } from '../platform/identity.ts'
import type { Relay } from '../platform/outbox.ts'
import { problem } from '../platform/problem.ts'
import { allows, Id, type Route, route } from '../platform/routes.ts'
import { placeOrder } from './place-order.ts'
import {
  Cart,
  CartItemId,
  CartQuantity,
  cursorOf,
  idempotencyKey,
  mostLines,
  NewOrder,
  Order,
  OrderPage,
  OrderQuery,
  positionOf,
} from './schema.ts'
import {
  listAll,
  listOwn,
  move,
  putCartItem,
  removeCartItems,
  type Shown,
  show,
  showCart,
  type Target,
} from './store.ts'

export interface Deps {
  db: Db
  relay: Relay
}

const mayManage = (user: User) => allows('order:manage', user.roles)

/** The room's part of the route table; what it is given is used only when a handler runs. */
export const routes = ({ db, relay }: Deps): Route[] => {
  /** The order, where the user may see it; another's is a 404, like one that is not there. */
  const find = async (id: string, user: User): Promise<Shown> => {
    const order = await show(db, id)
    if (!order || (order.userId !== user.id && !mayManage(user))) throw problem.notFound('order', id)
    return order
  }
  const change = async (id: string, target: Target, user: User) => {
    await find(id, user)
    const moved = await move(db, id, target, user.id)
    if (moved) relay.wake()
    const order = await find(id, user)
    if (!moved)
      throw problem.conflict('wrong_state', `The order is ${order.status}; it cannot become ${target}.`, {
        current: order.status,
      })
    return order.body
  }
  const transition = (verb: string, target: Target, access: 'user' | 'order:manage', summary: string) =>
    route({
      method: 'POST',
      path: `/order/{id}/${verb}`,
      access,
      summary,
      params: Id,
      answers: { 200: Order },
      problems: ['404 not_found', '409 wrong_state'],
      handle: ({ params, user }) => change(params.id, target, user),
    })

  return [
    route({
      method: 'GET',
      path: '/cart',
      access: 'user',
      summary: 'Show the cart with current prices',
      answers: { 200: Cart },
      handle: ({ user }) => showCart(db, user.id),
    }),
    route({
      method: 'DELETE',
      path: '/cart',
      access: 'user',
      summary: 'Empty the cart',
      answers: { 204: null },
      async handle({ user }) {
        await removeCartItems(db, user.id)
      },
    }),
    route({
      method: 'PUT',
      path: '/cart/items/{productId}',
      access: 'user',
      summary: 'Set the quantity of a product in the cart',
      params: CartItemId,
      body: CartQuantity,
      answers: { 200: Cart },
      problems: ['404 not_found', '422 cart_full'],
      async handle({ params, body, user }) {
        const done = await putCartItem(db, user.id, params.productId, body.quantity, mostLines)
        if (!done?.known) throw problem.notFound('product', params.productId)
        if (!done.put) throw problem.unprocessable('cart_full', `A cart takes ${mostLines} products.`)
        return showCart(db, user.id)
      },
    }),
    route({
      method: 'DELETE',
      path: '/cart/items/{productId}',
      access: 'user',
      summary: 'Take a product out of the cart',
      params: CartItemId,
      answers: { 204: null },
      async handle({ params, user }) {
        await removeCartItems(db, user.id, params.productId)
      },
    }),
    route({
      method: 'POST',
      path: '/order',
      access: 'user',
      summary: 'Order the given lines, or the cart',
      headers: ['Idempotency-Key!'],
      body: NewOrder.prefault({}),
      sends: ['Location', 'Idempotent-Replayed'],
      answers: { 201: Order },
      problems: [
        '400 idempotency_key_missing',
        '400 idempotency_key_invalid',
        '409 in_flight',
        '409 out_of_stock',
        '409 price_changed',
        '422 cart_empty',
        '422 idempotency_mismatch',
        '422 mixed_currency',
        '422 total_too_large',
      ],
      async handle({ ctx, body, user }) {
        const key = idempotencyKey(ctx.get('idempotency-key'))
        const placed = await placeOrder(db, user, key, body)
        if (placed.replayed) ctx.set('Idempotent-Replayed', 'true')
        else relay.wake()
        ctx.set('Location', `/order/${placed.id}`)
        return placed.body
      },
    }),
    route({
      method: 'GET',
      path: '/order',
      access: 'user',
      summary: 'List own orders, newest first; staff may list those of all users',
      query: OrderQuery,
      answers: { 200: OrderPage },
      problems: ['400 bad_cursor', '403 forbidden'],
      async handle({ query, user }) {
        if (query.user && !mayManage(user))
          throw problem.forbidden('forbidden', 'Orders of all users need the permission order:manage.')
        const before = query.cursor === undefined ? undefined : positionOf(query.cursor)
        // One more than asked for tells whether there is a next page.
        const most = query.limit + 1
        const rows = await (query.user ? listAll(db, before, most) : listOwn(db, user.id, before, most))
        const shown = rows.slice(0, query.limit)
        const last = rows.length === most ? shown.at(-1) : undefined
        const next = last ? JSON.stringify(cursorOf(last.id)) : 'null'
        return `{"items":[${shown.map((order) => order.body).join(',')}],"next":${next}}`
      },
    }),
    route({
      method: 'GET',
      path: '/order/{id}',
      access: 'user',
      summary: 'Show an order',
      params: Id,
      answers: { 200: Order },
      problems: ['404 not_found'],
      handle: async ({ params, user }) => (await find(params.id, user)).body,
    }),
    transition('cancel', 'cancelled', 'user', 'Cancel an order that is pending or paid; its stock returns'),
    transition('pay', 'paid', 'order:manage', 'Note that a pending order is paid'),
    transition('ship', 'shipped', 'order:manage', 'Note that a paid order is shipped'),
    transition('deliver', 'delivered', 'order:manage', 'Note that a shipped order is delivered'),
  ]
}
