import { randomUUID } from 'node:crypto'
import test from 'ava'
import pg from 'pg'
import { eventually, type TestUser, useShop } from '../support/shop.ts'

// Each part of the shop is killed while customers order. What was answered with 201 must be there afterwards, once.
const shop = useShop(test, { ownPostgres: true })

interface Accepted {
  id: string
  user: TestUser
  items: { productId: string; quantity: number }[]
}

const buyers: TestUser[] = []
const stockAtFirst = new Map<string, number>()
const accepted = new Map<string, Accepted>()
let database: () => Promise<pg.Client>

test.serial.before('customers and products', async () => {
  database = async () => {
    const client = new pg.Client({ connectionString: shop.databaseUrl })
    client.on('error', () => {}) // the server is killed under it on purpose
    await client.connect()
    return client
  }
  const staff = await shop.staff()
  for (let i = 0; i < 4; i++) buyers.push(await shop.user())
  // The last one sells out on the way.
  for (const [i, stock] of [100_000, 100_000, 100_000, 60].entries()) {
    const made = await shop.call('POST', '/product', {
      token: staff.token,
      body: {
        sku: `crash-${i}`,
        name: `Thing ${i}`,
        description: '',
        category: 'things',
        price: 100 + i,
        currency: 'EUR',
        stock,
      },
    })
    if (made.status !== 201) throw new Error(made.text)
    stockAtFirst.set(made.body.id, stock)
  }
})

/** One customer who orders until told to stop; an order without an answer is asked for again under the same key. */
async function shopping(user: TestUser, done: AbortSignal, count: (status: number) => void) {
  const products = [...stockAtFirst.keys()]
  for (let n = 0; !done.aborted; n++) {
    const items = products
      .filter((_, i) => i === n % 3 || i === 3 - (n % 2))
      .map((productId, i) => ({ productId, quantity: 1 + ((n + i) % 3) }))
    const key = randomUUID()
    for (;;) {
      const answer = await shop
        .call('POST', '/order', { token: user.token, body: { items }, headers: { 'Idempotency-Key': key } })
        .catch(() => undefined)
      count(answer?.status ?? 0)
      if (answer?.status === 201) {
        accepted.set(answer.body.id, { id: answer.body.id, user, items: answer.body.items })
        break
      }
      if (answer?.status === 409 && answer.body.code === 'out_of_stock') break
      if (answer && answer.status !== 503 && answer.status !== 502 && answer.body?.code !== 'in_flight')
        throw new Error(`an order was answered ${answer.status}: ${answer.text}`)
      if (done.aborted && !answer) break
    }
  }
}

/** Orders run; after some, `strike`; then more must be accepted. */
async function underLoad(strike: () => Promise<void>) {
  const done = new AbortController()
  const seen: Record<number, number> = {}
  const running = Promise.all(
    buyers.map((user) =>
      shopping(user, done.signal, (status) => {
        seen[status] = (seen[status] ?? 0) + 1
      }),
    ),
  )
  try {
    const before = accepted.size
    await eventually('30 orders', async () => accepted.size >= before + 30, 60_000)
    await strike()
    const then = accepted.size
    await eventually(
      `30 orders after it came back; answers so far: ${JSON.stringify(seen)}`,
      async () => accepted.size >= then + 30,
      60_000,
    )
  } finally {
    done.abort()
    await running
  }
}

const strikes: Record<string, () => Promise<void>> = {}
for (const role of ['auth', 'products', 'orders', 'notifications'] as const)
  strikes[role] = async () => {
    await shop.roles[role].kill('SIGKILL')
    await shop.roles[role].restart()
  }
strikes.NATS = async () => {
  await shop.nats.kill('SIGKILL')
  await shop.nats.restart()
}
strikes.PostgreSQL = async () => {
  await shop.postgres?.kill('SIGKILL')
  await shop.postgres?.restart()
}
strikes.nginx = async () => {
  await shop.edge.kill('SIGKILL')
  await shop.edge.restart()
}

for (const [name, strike] of Object.entries(strikes))
  test.serial(`kill -9 of ${name} under an order load → orders go on once it is back`, async (t) => {
    t.timeout(150_000)
    await underLoad(strike)
    t.pass()
  })

test.serial(
  'after all of that → every 201 has its order, stock is exact, nothing is oversold, each order has one mail',
  async (t) => {
    t.timeout(150_000)
    const client = await database()
    t.teardown(() => client.end())

    const { rows: orders } = await client.query('select id, user_id from orders."order"')
    const ids = new Set(orders.map((o) => o.id))
    t.deepEqual(
      [...accepted.keys()].filter((id) => !ids.has(id)),
      [],
      'accepted orders that are lost',
    )

    const { rows: sold } = await client.query(
      'select product_id, sum(quantity)::int as n from orders.order_line group by 1',
    )
    const { rows: stock } = await client.query('select product_id, on_hand from products.stock')
    for (const [productId, first] of stockAtFirst) {
      const left = stock.find((s) => s.product_id === productId)?.on_hand
      const gone = sold.find((s) => s.product_id === productId)?.n ?? 0
      t.is(left, first - gone, 'stock and lines agree')
      t.true(left >= 0)
    }

    await eventually(
      'the outbox is empty',
      async () => (await client.query('select from orders.outbox')).rowCount === 0,
      60_000,
    )
    for (const user of buyers) {
      const own = orders.filter((o) => o.user_id === user.id).map((o) => o.id as string)
      const mails = await eventually(
        `a mail for each of ${own.length} orders of ${user.email}`,
        async () => {
          const all = await shop.mailsTo(user.email)
          return own.every((id) => all.some((mail) => mail.text.includes(id))) && all
        },
        60_000,
      )
      for (const id of own)
        t.is(
          new Set(mails.filter((mail) => mail.text.includes(id)).map((mail) => mail.messageId)).size,
          1,
          `one Message-ID for order ${id}`,
        )
    }
    t.log(`${accepted.size} orders accepted, ${orders.length} in the database`)
  },
)
