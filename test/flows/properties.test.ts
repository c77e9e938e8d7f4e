import { randomUUID } from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import type { Answer } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'

/** The three places where a fault would cost money or an account: many requests at once, as chance has them. */
const shop = useShop(test)
let admin: TestUser
let buyers: TestUser[]
test.serial.before('who buys', async (t) => {
  t.timeout(120_000)
  admin = await shop.admin()
  buyers = await Promise.all([shop.user(), shop.user(), shop.user()])
})

const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
/** Runs of a property; on a failure fast-check says its seed and the smallest example that it found within the time. */
const holds = (property: fc.IAsyncProperty<never>, numRuns: number) =>
  fc.assert(property, { numRuns, interruptAfterTimeLimit: 60_000 })

async function product(stock: number): Promise<string> {
  const body = { sku: randomUUID(), name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock }
  return (await shop.call('POST', '/product', { token: admin.token, body })).body.id
}
const stockOf = async (id: string): Promise<number> => (await shop.call('GET', `/product/${id}`)).body.stock
const order = (buyer: TestUser, items: Line[], key: string = randomUUID()) =>
  shop.call('POST', '/order', { token: buyer.token, body: { items }, headers: { 'Idempotency-Key': key } })
interface Line {
  productId: string
  quantity: number
}

const stocks = fc.array(fc.nat(6), { minLength: 1, maxLength: 3 })
/** Which of the products, in which order, and how many of each. */
const basket = fc.uniqueArray(fc.record({ product: fc.nat(2), quantity: fc.integer({ min: 1, max: 3 }) }), {
  selector: (line) => line.product,
  minLength: 1,
  maxLength: 3,
})
const act = fc.oneof(
  { weight: 6, arbitrary: fc.record({ what: fc.constant('order' as const), buyer: fc.nat(2), basket }) },
  { weight: 2, arbitrary: fc.record({ what: fc.constant('cancel' as const), which: fc.nat(20) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      what: fc.constant('stock' as const),
      product: fc.nat(2),
      change: fc.integer({ min: -2, max: 2 }),
    }),
  },
)
const waves = fc.array(fc.array(act, { minLength: 2, maxLength: 12 }), { minLength: 1, maxLength: 3 })

test.serial(
  'orders, cancellations and changes of stock at once → no item sold twice, none lost, none below zero',
  async (t) => {
    t.timeout(180_000)
    const property = fc.asyncProperty(stocks, waves, async (first, program) => {
      const ids = await Promise.all(first.map(product))
      const idOf = (n: number) => ids[n % ids.length] as string
      const expected = new Map(ids.map((id, i) => [id, first[i] as number]))
      const add = (id: string, n: number) => expected.set(id, (expected.get(id) as number) + n)
      const placed: { buyer: TestUser; id: string; lines: Line[]; cancelled: boolean }[] = []

      for (const wave of program) {
        const before = [...placed]
        const refused: Line[][] = []
        await Promise.all(
          wave.map(async (step) => {
            if (step.what === 'order') {
              const buyer = buyers[step.buyer] as TestUser
              const lines = [...new Map(step.basket.map((l) => [idOf(l.product), l.quantity]))].map(
                ([productId, quantity]) => ({ productId, quantity }),
              )
              const answer = await order(buyer, lines)
              if (answer.status === 201) placed.push({ buyer, id: answer.body.id, lines, cancelled: false })
              else {
                t.like(answer, { status: 409, body: { code: 'out_of_stock' } })
                refused.push(lines)
              }
            } else if (step.what === 'cancel') {
              const target = before[step.which % before.length]
              if (!target) return
              const answer = await shop.call('POST', `/order/${target.id}/cancel`, { token: target.buyer.token })
              t.true(answer.status === 200 || answer.body.code === 'wrong_state', answer.text)
              // Cancelled by two at once, one is told that it is done already.
              if (answer.status === 200) {
                t.false(target.cancelled, 'cancelled twice')
                target.cancelled = true
                for (const { productId, quantity } of target.lines) add(productId, quantity)
              }
            } else {
              const id = idOf(step.product)
              const body = { change: step.change }
              const answer = await shop.call('PUT', `/product/${id}/stock`, { token: admin.token, body })
              t.true(answer.status === 200 || answer.body.code === 'stock_out_of_range', answer.text)
              if (answer.status === 200) {
                t.true(answer.body.stock >= 0)
                add(id, step.change)
              }
            }
          }),
        )
        for (const { lines } of placed.slice(before.length))
          for (const { productId, quantity } of lines) add(productId, -quantity)
        const now = new Map(await Promise.all(ids.map(async (id) => [id, await stockOf(id)] as const)))
        t.deepEqual(now, expected)
        // Where stock could only shrink, an order was refused for want of what is missing still.
        if (wave.every((step) => step.what === 'order'))
          for (const lines of refused)
            t.true(
              lines.some(({ productId, quantity }) => quantity > (now.get(productId) as number)),
              'refused in vain',
            )
      }
    })
    await holds(property as never, 25)
  },
)

test.serial('the same keys at once, with one body or several → one order a key, and one answer for it', async (t) => {
  t.timeout(180_000)
  const tries = fc.array(fc.record({ buyer: fc.nat(1), key: fc.nat(2), quantity: fc.integer({ min: 1, max: 2 }) }), {
    minLength: 4,
    maxLength: 24,
  })
  const property = fc.asyncProperty(tries, async (program) => {
    const productId = await product(1000)
    const run = randomUUID()
    const sent = await Promise.all(
      program.map(async ({ buyer, key, quantity }) => {
        const answer = await order(buyers[buyer] as TestUser, [{ productId, quantity }], `${run}-${key}`)
        return { who: `${buyer} ${key}`, buyer, key, quantity, answer }
      }),
    )
    let taken = 0
    for (const group of Object.values(Object.groupBy(sent, ({ who }) => who)) as (typeof sent)[]) {
      const made = group.filter(({ answer }) => answer.status === 201)
      t.is(made.filter(({ answer }) => answer.headers['idempotent-replayed'] === undefined).length, 1)
      t.is(new Set(made.map(({ answer }) => answer.text)).size, 1)
      t.is(new Set(made.map(({ quantity }) => quantity)).size, 1, 'another body got the answer of this one')
      const [{ buyer, key, quantity, answer } = sent[0] as (typeof sent)[0]] = made
      for (const other of group)
        if (other.answer.status !== 201)
          t.true(
            other.answer.body.code === 'in_flight' ||
              (other.answer.body.code === 'idempotency_mismatch' && other.quantity !== quantity),
            other.answer.text,
          )
      const again = await order(buyers[buyer] as TestUser, [{ productId, quantity }], `${run}-${key}`)
      t.deepEqual([again.status, again.text], [201, answer.text])
      taken += quantity
    }
    t.is(await stockOf(productId), 1000 - taken)
  })
  await holds(property as never, 25)
})

test.serial(
  'one refresh token exchanged by many at once → one chain; a copied one ends the session, told once',
  async (t) => {
    t.timeout(180_000)
    const [user] = buyers as [TestUser]
    const exchange = (refreshToken: string) => shop.call('POST', '/auth/refresh', { body: { refreshToken } })
    const sessionOf = (token: string) =>
      JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString()).sid
    const told = async () =>
      (await shop.mailsTo(user.email)).filter(({ subject }) => /ended one of your/.test(subject)).length
    let runs = 0
    const property = fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 4 }),
      fc.integer({ min: 1, max: 5 }),
      fc.nat(3),
      async (rounds, thieves, stolen) => {
        const session = await shop.login(user)
        const sid = sessionOf(session.token)
        const chain = [session.refreshToken]
        for (const many of rounds) {
          const last = chain.at(-1) as string
          // Retries of the one before are answered as before, even beside the exchange of its successor.
          const earlier = chain.at(-2)
          const [answers, retry] = await Promise.all([
            Promise.all(Array.from({ length: many }, () => exchange(last))),
            earlier === undefined ? undefined : exchange(earlier),
          ])
          for (const answer of answers) t.is(answer.status, 200, answer.text)
          t.is(new Set(answers.map(({ body }) => body.refreshToken)).size, 1)
          if (retry) t.is(retry.body.refreshToken, last)
          chain.push((answers[0] as Answer).body.refreshToken)
        }
        const [row] = await sql(
          'select count(*)::int as all, count(*) filter (where used_at is null)::int as unused from auth.refresh_token where session_id = $1',
          sid,
        )
        t.deepEqual(row, { all: chain.length, unused: 1 })

        await sql(`update auth.refresh_token set used_at = used_at - interval '61 seconds' where session_id = $1`, sid)
        const copied = chain[stolen % (chain.length - 1)] as string
        const newest = chain.at(-1) as string
        const [, ...answers] = await Promise.all([
          exchange(newest),
          ...Array.from({ length: thieves }, () => exchange(copied)),
        ])
        for (const answer of answers) t.like(answer, { status: 401, body: { code: 'bad_refresh_token' } })
        for (const token of chain) t.is((await exchange(token)).status, 401)
        runs++
        await eventually('the mail', async () => (await told()) >= runs)
      },
    )
    await holds(property as never, 12)
    const noted = await sql(`select count(*)::int as n from auth.audit where event = 'session.reused'`)
    t.deepEqual([await told(), noted], [runs, [{ n: runs }]])
  },
)
