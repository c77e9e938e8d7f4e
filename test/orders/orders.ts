import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestFn } from 'ava'
import type { NatsConnection } from 'nats'
import { type Answer, call } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { events, type Subject, stream } from '../../src/events.ts'
import { assert, type User } from '../../src/platform/identity.ts'
import { onBusAt } from '../support/bus.ts'
import { useShop } from '../support/shop.ts'

export interface Event {
  subject: Subject
  // biome-ignore lint/suspicious/noExplicitAny: the test looks at what came
  data: any
}

/** The orders role alone, on real PostgreSQL and NATS, with what tests need to make goods and to look behind it. */
export function useOrders(test: TestFn) {
  const shop = useShop(test, { roles: ['orders'] })
  const secret = (reader: 'orders' | 'notifications' | 'migrate', name: string) =>
    readFileSync(join(shop.secretsDir(reader), name), 'utf8')
  const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows

  const person = (...roles: string[]): User => {
    const id = randomUUID()
    return { id, email: `${id}@example.org`, roles: ['customer', ...roles], sid: randomUUID() }
  }
  /** One request to the role, as the edge would send it for `user`. */
  const as = (user: User, method: string, path: string, body?: unknown, headers: Record<string, string> = {}) =>
    call(shop.roles.orders.url, method, path, {
      body,
      headers: { 'X-Auth-Assertion': assert(user, secret('orders', 'ASSERTION_KEY')), ...headers },
    })
  const onBus = <T>(work: (nc: NatsConnection) => Promise<T>) => onBusAt(secret('migrate', 'NATS_BROKER_URL'), work)
  return {
    shop,
    sql,
    as,
    onBus,
    customer: () => person(),
    staff: () => person('staff'),
    /** A live product; its id. */
    async product({ stock = 100, price = 1000, currency = 'EUR' } = {}): Promise<string> {
      const id = randomUUID()
      await sql(
        `with made as (insert into products.product (id, sku, name, category, price, currency)
                       values ($1, $1::uuid::text, 'Thing ' || left($1::uuid::text, 4), 'things', $2, $3))
         insert into products.stock (product_id, on_hand) values ($1, $4)`,
        id,
        price,
        currency,
        stock,
      )
      return id
    },
    stock: async (id: string): Promise<number> =>
      (await sql('select on_hand from products.stock where product_id = $1', id))[0].on_hand,
    /** POST /order of lines, with a key of its own unless one is given. */
    order: (user: User, body: unknown, attempt: string = randomUUID()): Promise<Answer> =>
      as(user, 'POST', '/order', body, { 'Idempotency-Key': attempt }),
    /** Makes an order look as old as `minutes`. */
    age: (id: string, minutes: number) =>
      sql(`update orders.order set created_at = now() - make_interval(mins => $2) where id = $1`, id, minutes),
    /** One statement with the login of a role. */
    loginAs: (role: 'orders' | 'notifications', text: string, ...values: unknown[]) =>
      query(secret(role, 'DATABASE_URL'), text, values),
    /** All events about a user's orders that are in the stream by now, oldest first, each as the contract describes it. */
    eventsOf: (user: User) =>
      onBus(async (nc) => {
        const jsm = await nc.jetstreamManager()
        const { state } = await jsm.streams.info(stream)
        const found: Event[] = []
        for (let seq = Math.max(state.first_seq, 1); seq <= state.last_seq; seq++) {
          const message = await jsm.streams.getMessage(stream, { seq })
          const subject = message.subject as Subject
          const data = events[subject].parse(message.json())
          if ('userId' in data && data.userId === user.id) found.push({ subject, data })
        }
        return found
      }),
  }
}
