import type { Db, Statement } from '../platform/db.ts'

export interface Placed {
  id: string
  /** The answer as JSON. */
  body: string
  replayed: boolean
}

interface Attempt {
  userId: string
  email: string
  key: string
  fingerprint: Buffer
  orderId: string
  /** Sorted by product; undefined: the cart. */
  lines: { productId: string; quantity: number }[] | undefined
  expectedTotal: number | undefined
}

const placing: Statement = {
  name: 'place',
  text: 'select order_id as id, body, replayed from orders.place($1, $2, $3, $4, $5, $6::uuid[], $7::int[], $8)',
}
/** Runs orders.place; its refusals are errors with the states BO001 to BO006. */
export async function place(db: Db, attempt: Attempt): Promise<Placed> {
  const { userId, email, key, fingerprint, orderId, lines, expectedTotal } = attempt
  const ids = lines?.map((line) => line.productId)
  const quantities = lines?.map((line) => line.quantity)
  const rows = await db.run<Placed>(placing, [userId, email, key, fingerprint, orderId, ids, quantities, expectedTotal])
  return rows[0] as Placed
}

// The order as the API shows it, in the shape that orders.place answers with; `o` is the row of orders.order.
const document = `
  (select row_to_json(document)::text
     from (select o.id, o.status, o.currency, o.total,
                  (select json_agg(line order by line."productId")
                     from (select l.product_id as "productId", l.sku, l.name, l.price, l.quantity
                             from orders.order_line l where l.order_id = o.id) line) as items,
                  orders.iso(o.created_at) as "createdAt", orders.iso(o.paid_at) as "paidAt",
                  orders.iso(o.shipped_at) as "shippedAt", orders.iso(o.delivered_at) as "deliveredAt",
                  orders.iso(o.cancelled_at) as "cancelledAt", orders.iso(o.expired_at) as "expiredAt") document)`

export interface Shown {
  id: string
  userId: string
  status: string
  /** JSON. */
  body: string
}

const showing: Statement = {
  name: 'show',
  text: `select o.id, o.user_id as "userId", o.status, ${document} as body from orders.order o where o.id = $1`,
}
/** One order, whoever's it is. */
export const show = async (db: Db, id: string): Promise<Shown | undefined> => (await db.run<Shown>(showing, [id]))[0]

// Without a cursor the greatest id of all.
const start = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
type Listed = Pick<Shown, 'id' | 'body'>

const listingOwn: Statement = {
  name: 'list own',
  text: `select o.id, ${document} as body from orders.order o
         where o.user_id = $1 and o.id < $2 order by o.id desc limit $3`,
}
/** Orders of a user, newest first, from below the id `before`. */
export const listOwn = (db: Db, userId: string, before = start, limit = 20) =>
  db.run<Listed>(listingOwn, [userId, before, limit])

const listingAll: Statement = {
  name: 'list all',
  text: `select o.id, ${document} as body from orders.order o where o.id < $1 order by o.id desc limit $2`,
}
/** Orders of all users, newest first, from below the id `before`. */
export const listAll = (db: Db, before = start, limit = 20) => db.run<Listed>(listingAll, [before, limit])

export type Target = 'paid' | 'shipped' | 'delivered' | 'cancelled'
const moving: Statement = { name: 'move', text: 'select from orders.move(array[$1::uuid], $2, $3)' }
/** Moves an order to a status, with its event, and its stock back where it is cancelled; false: it may not go there. */
export const move = async (db: Db, id: string, target: Target, actor: string) =>
  (await db.run(moving, [id, target, actor])).length === 1

const showingCart: Statement = {
  name: 'show cart',
  text: `
    with line as (
      select i.product_id as "productId", i.quantity, coalesce(q.on_hand >= i.quantity, false) as available,
             q.sku, q.name, q.price, q.currency
        from orders.cart_item i
        left join products.quote(array(select product_id from orders.cart_item where user_id = $1)) q
          on q.product_id = i.product_id
       where i.user_id = $1
       order by i.added_at, i.product_id
    ), sum as (
      select currency, sum(price * quantity) as total from line where available group by currency order by currency
    )
    select row_to_json(cart)::text as body
      from (select coalesce((select json_agg(line) from line), '[]') as items,
                   coalesce((select json_agg(sum) from sum), '[]') as totals,
                   coalesce(c.version, 0) as version, orders.iso(c.updated_at) as "updatedAt"
              from (select $1::uuid as user_id) buyer left join orders.cart c on c.user_id = buyer.user_id) cart`,
}
/** The cart with today's names and prices, as JSON. */
export const showCart = async (db: Db, userId: string) =>
  (await db.run<{ body: string }>(showingCart, [userId]))[0]?.body as string

const putting: Statement = {
  name: 'put cart item',
  text: 'select known, put from orders.put_cart_item($1, $2, $3, $4)',
}
/** Sets the quantity of a product in the cart. `known`: there is such a product; `put`: there was room for it. */
export const putCartItem = async (db: Db, userId: string, productId: string, quantity: number, most: number) =>
  (await db.run<{ known: boolean; put: boolean }>(putting, [userId, productId, quantity, most]))[0]

const removing: Statement = {
  name: 'remove cart items',
  text: `
    with cart as (
      -- Before its lines, as whoever puts or orders them locks it.
      select user_id from orders.cart where user_id = $1 for update
    ), removed as (
      delete from orders.cart_item i using cart
       where i.user_id = cart.user_id and ($2::uuid is null or i.product_id = $2) returning i.user_id
    )
    update orders.cart c set version = c.version + 1, updated_at = now()
     where c.user_id in (select user_id from removed)`,
}
/** Takes a product out of the cart, or everything. */
export const removeCartItems = (db: Db, userId: string, productId?: string) => db.run(removing, [userId, productId])
