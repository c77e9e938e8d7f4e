import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import sharp from 'sharp'
import { type Answer, type Call, call, codeIn, mailsTo, mailTo } from '../../src/embedded/client.ts'
import { eventually, must } from './shop.ts'

export interface Buyer {
  email: string
  password: string
  token: string
  refreshToken: string
  /** Orders that were given up without a last word: each is there or is not. */
  givenUp: number
}
export interface Sale {
  buyer: string
  /** When it was first asked for (ms since 1970). */
  askedAt: number
  /** The Idempotency-Key that it was ordered under. */
  key: string
  items: { productId: string; quantity: number }[]
}

/** One request of a customer's: when it began (ms since 1970), how long it took, and its status, 0 where none came. */
export interface Asked {
  method: string
  path: string
  at: number
  ms: number
  status: number
  /** It is what a working shop answers. */
  good: boolean
}

/** What `call` throws: `reusedSocket` says whether the connection had been used before. */
type Unanswered = NodeJS.ErrnoException & { reusedSocket?: boolean }

/** A new session of a buyer's. */
export async function signIn(url: string, buyer: Pick<Buyer, 'email' | 'password'>) {
  const { email, password } = buyer
  const tokens = await must(url, 200, 'POST', '/auth/login', { body: { email, password } })
  return { token: tokens.accessToken as string, refreshToken: tokens.refreshToken as string }
}

/** A customer who is registered, verified and signed in. */
export async function newBuyer(url: string, inboxUrl: string): Promise<Buyer> {
  const email = `buyer-${randomBytes(5).toString('hex')}@example.org`
  const password = `pass ${randomBytes(8).toString('hex')}`
  await must(url, 202, 'POST', '/auth/register', { body: { email, password } })
  const code = codeIn(await mailTo(inboxUrl, email, { deadline: 60_000 }))
  await must(url, 200, 'POST', '/auth/verify', { body: { email, code } })
  return { email, password, givenUp: 0, ...(await signIn(url, { email, password })) }
}

const is = (status: number) => (answer: Answer) => answer.status === status

/**
 * Customers who look, fill carts and order. Each looks and orders at the same time, so that a part that hangs stops only
 * what asks it. Every order that was answered with 201 is kept in `sales`. A strict one counts whatever is not the answer
 * of a working shop as a failure; another takes an order that got no answer, or 503, up again under its key until it has
 * one, and signs in again where it no longer counts.
 */
export function startLoad(options: {
  url: string
  buyers: Buyer[]
  products: string[]
  sales: Map<string, Sale>
  /** The one of the products that may run out. */
  scarce?: string
  strict?: boolean
  /**
   * Customers also ask which mails they get; `admin` puts pictures on products, and they fetch what is in `pictures`: the
   * paths of all that were accepted.
   */
  beside?: { admin: Buyer; pictures: string[] }
  /** Told of each request as it ends. */
  told?: (asked: Asked) => void
}) {
  const { url, buyers, products, sales, scarce, strict = false, beside, told } = options
  const done = new AbortController()
  const failures: string[] = []
  const seen: Record<string, number> = {}
  let requests = 0
  /** When customers give up orders that are not answered. */
  let closes = Number.POSITIVE_INFINITY

  const ask = async (
    method: string,
    path: string,
    isGood: (answer: Answer) => boolean,
    more: Call = {},
  ): Promise<Answer | undefined> => {
    const began = Date.now()
    const once = (fresh: boolean) => call(url, method, path, { ...more, fresh }).catch((error: Unanswered) => error)
    // The server may close a kept connection just as a request leaves on it. Every HTTP client sends what may be repeated
    // a second time then (RFC 9112, 9.3.1), and all of these may; anew, as its other connections may be closing too.
    // A request that is cut while the server works on it looks the same: every other one has a connection of its own,
    // where only that can happen, and is never sent again.
    let answer = await once(++requests % 2 === 0)
    if (answer instanceof Error && answer.reusedSocket && answer.code === 'ECONNRESET') {
      seen.resent = (seen.resent ?? 0) + 1
      answer = await once(true)
    }
    const fault =
      answer instanceof Error ? answer.message : isGood(answer) ? undefined : `${answer.status} ${answer.text}`
    const status = answer instanceof Error ? 0 : answer.status
    told?.({ method, path, at: began, ms: Date.now() - began, status, good: fault === undefined })
    const kind = status === 0 ? 'none' : String(status)
    seen[kind] = (seen[kind] ?? 0) + 1
    if (fault)
      failures.push(
        `${new Date(began).toISOString()} ${method} ${path} after ${Date.now() - began} ms: ${fault.slice(0, 300)}`,
      )
    return answer instanceof Error ? undefined : answer
  }
  const renew = async (buyer: Buyer, path: string, body: Record<string, string>) => {
    const fresh = await ask('POST', path, is(200), { body })
    if (fresh?.status !== 200) return
    buyer.token = fresh.body.accessToken
    buyer.refreshToken = fresh.body.refreshToken
  }
  const signInAgain = (buyer: Buyer) => renew(buyer, '/auth/login', { email: buyer.email, password: buyer.password })
  const isSoldOut = ({ status, body }: Answer) =>
    status === 409 &&
    body.code === 'out_of_stock' &&
    body.lines.every(({ productId }: { productId: string }) => productId === scarce)
  const order = async (buyer: Buyer, n: number) => {
    const items = [
      { productId: products[n % products.length] as string, quantity: 1 + (n % 3) },
      { productId: products[(n + 1) % products.length] as string, quantity: 1 },
    ]
    const key = randomUUID()
    const headers = { 'Idempotency-Key': key }
    const askedAt = Date.now()
    let isUnsure = false
    for (let again = false; ; again = true) {
      const isGood = (answer: Answer) => answer.status === 201 || isSoldOut(answer)
      const answer = await ask('POST', '/order', isGood, { token: buyer.token, body: { items }, headers })
      if (answer?.status === 201) {
        const { id } = answer.body as { id: string }
        const known = sales.get(id)
        if (known) throw new Error(`order ${id} was answered for two keys`)
        sales.set(id, { buyer: buyer.email, askedAt, key, items })
        return
      }
      if (answer && isSoldOut(answer)) return
      const isRunning = answer?.body?.code === 'in_flight'
      isUnsure ||= !answer || answer.status >= 500 || isRunning
      const isTemporary = !answer || [401, 503].includes(answer.status) || isRunning
      if (strict || !isTemporary || (again && Date.now() > closes)) {
        if (isUnsure) buyer.givenUp++
        if (strict || isTemporary) return
        throw new Error(`an order was answered ${answer?.status}: ${answer?.text}`)
      }
      if (answer?.status === 401) await signInAgain(buyer)
      // A shop that is away answers at once: without a pause, thousands of requests would ask for what is not there.
      await sleep(50)
    }
  }

  /** One step after the other, with a pause between them (ms). */
  const repeat = async (pause: number, first: number, step: (n: number) => Promise<unknown>) => {
    for (let n = first; !done.signal.aborted; n++) {
      await step(n)
      await sleep(pause)
    }
  }
  const look = (place: number) =>
    repeat(100, place, async (n) => {
      await ask('GET', `/product/${products[n % products.length]}`, is(200))
      if (n % 8 === 7) await ask('GET', '/product?limit=5&inStock=true', is(200))
    })
  const buy = (buyer: Buyer, place: number) => {
    let refreshedAt = Date.now()
    // People think: the mails of a faster load would fill the inbox.
    return repeat(150, place, async (n) => {
      await order(buyer, n)
      const { token } = buyer
      const item = `/cart/items/${products[n % products.length]}`
      if (n % 4 === 0) await ask('PUT', item, is(200), { token, body: { quantity: 1 + (n % 9) } })
      if (n % 4 === 1) await ask('GET', '/order?limit=5', is(200), { token })
      if (n % 4 === 2) await ask('GET', '/profile', is(200), { token })
      // The edge lets five sign-ins a second pass.
      if (Date.now() - refreshedAt > 2000) {
        refreshedAt = Date.now()
        await renew(buyer, '/auth/refresh', { refreshToken: buyer.refreshToken })
      }
    })
  }
  const prefer = () =>
    repeat(100, 0, async (n) => {
      const { token } = buyers[n % buyers.length] as Buyer
      await ask('GET', '/notification/preferences', is(200), { token })
    })
  const decorate = ({ admin, pictures }: NonNullable<typeof beside>) =>
    // Each makes a message that waits for a day, and is looked at once more in the end.
    repeat(300, 0, async (n) => {
      // A colour of its own, so that hardly two are the same file.
      const background = `#${randomBytes(3).toString('hex')}`
      const body = await sharp({ create: { width: 300, height: 300, channels: 3, background } })
        .png()
        .toBuffer()
      const headers = { 'Content-Type': 'image/png', 'If-Match': '*' }
      const path = `/product/${products[n % products.length]}/image`
      const answer = await ask('PUT', path, is(200), { token: admin.token, body, headers })
      if (answer?.status === 200) pictures.push(answer.body.image.large, answer.body.image.small)
      if (answer?.status === 401) await signInAgain(admin)
    })
  const watch = ({ pictures }: NonNullable<typeof beside>) =>
    repeat(100, 0, async (n) => {
      const path = pictures[n % pictures.length]
      if (path) await ask('GET', path, is(200))
    })
  const loops = [
    ...buyers.flatMap((buyer, place) => [look(place), buy(buyer, place)]),
    ...(beside ? [prefer(), decorate(beside), watch(beside)] : []),
  ]
  const running = Promise.all(loops)
  // Seen where it is awaited.
  running.catch(() => {})

  return {
    failures,
    seen,
    get requests() {
      return requests
    },
    /** Waits until so many more orders were accepted. */
    async orders(count: number, deadline = 90_000) {
      const goal = sales.size + count
      await Promise.race([
        running,
        eventually(
          `${count} more orders; answers: ${JSON.stringify(seen)}; ${failures.at(-1)}`,
          async () => sales.size >= goal,
          deadline,
        ),
      ])
    },
    /** Lets orders that have no answer yet ask for 5 s more, and waits for the last request. Throws what ended a loop. */
    async stop() {
      done.abort()
      closes = Date.now() + 5000
      await Promise.allSettled(loops)
      await running
    },
  }
}

/** Makes products of the given stocks as `admin`, and says how many there were of each at first, by id. */
export async function stockProducts(url: string, admin: Buyer, stocks: number[]) {
  const atFirst = new Map<string, number>()
  for (const stock of stocks) {
    const sku = `e2e-${randomBytes(4).toString('hex')}`
    const body = { sku, name: `Thing ${sku}`, category: 'things', price: 100 + atFirst.size, currency: 'EUR', stock }
    const { id } = await must(url, 201, 'POST', '/product', { token: admin.token, body })
    atFirst.set(id, stock)
  }
  return atFirst
}

/**
 * What was promised with a 201 and is not there, what is there without a promise, and the products whose stock is not
 * what was there at first less what was sold: nothing in a shop that keeps its word. `sql` answers a statement with a
 * line a row, fields parted by |.
 */
export async function whatIsLost(
  sql: (statement: string) => Promise<string[]>,
  { buyers, sales, stockAtFirst }: { buyers: Buyer[]; sales: Map<string, Sale>; stockAtFirst: Map<string, number> },
): Promise<string[]> {
  const found: string[] = []
  const orders = await sql('select o.id, u.email from orders."order" o left join auth."user" u on u.id = o.user_id')
  const placed = new Map(orders.map((row) => row.split('|') as [string, string]))
  const lost = [...sales.keys()].filter((id) => !placed.has(id))
  if (lost.length > 0) found.push(`${lost.length} accepted orders lost: ${lost[0]}`)
  for (const { email, givenUp } of buyers) {
    const unasked = [...placed].filter(([id, of]) => of === email && !sales.has(id))
    if (unasked.length > givenUp)
      found.push(`${unasked.length} orders that ${email} knows nothing of, ${givenUp} given up: ${unasked[0]?.[0]}`)
  }
  const rows = await sql(
    `select s.product_id, s.on_hand, coalesce(sum(l.quantity), 0) from products.stock s
       left join (select l.product_id, l.quantity from orders.order_line l join orders."order" o on o.id = l.order_id
         where o.status not in ('cancelled', 'expired')) l on l.product_id = s.product_id
       group by 1, 2`,
  )
  const stock = new Map(rows.map((row) => row.split('|')).map(([id, left, sold]) => [id, [Number(left), Number(sold)]]))
  for (const [id, first] of stockAtFirst) {
    const [left = Number.NaN, sold = Number.NaN] = stock.get(id) ?? []
    if (!stock.has(id)) found.push(`product ${id} is gone`)
    else if (left < 0 || left + sold !== first) found.push(`product ${id}: ${left} left and ${sold} sold of ${first}`)
  }
  return found
}

/** Of each table of `schemas` that a backup keeps, the number and a checksum of its rows, in any order. */
export async function contents(sql: (statement: string) => Promise<string[]>, schemas: string[]) {
  const rows = await sql(
    `select format('select %L, count(*), coalesce(md5(string_agg(md5(t::text), $$$$ order by md5(t::text))), $$$$) from %I.%I t',
       schemaname || '.' || tablename, schemaname, tablename)
     from pg_tables where schemaname in (${schemas.map((name) => `'${name}'`).join()})
       and tablename not in ('cron_run', 'outbox') \\gexec`,
  )
  return rows.sort()
}

/** Under which Message-IDs the mails to an address say of which orders that they were received. */
export async function orderMails(inboxUrl: string, address: string) {
  const told = new Map<string, Set<string>>()
  for (const { subject, text, messageId } of await mailsTo(inboxUrl, address)) {
    // Where a clock was off, others tell of the same order: that it is unpaid, or has expired.
    if (!subject.startsWith('We have received your order ')) continue
    for (const [id] of text.matchAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g))
      told.set(id, (told.get(id) ?? new Set()).add(messageId))
  }
  return told
}

interface Place {
  url: string
  inboxUrl: string
  /** The operator's command. */
  makeAdmin: (email: string) => Promise<unknown>
}

/** An admin, and products with what there is of them at first, by id. */
export async function openCatalogue({ url, inboxUrl, makeAdmin }: Place, stocks: number[]) {
  const admin = await newBuyer(url, inboxUrl)
  await makeAdmin(admin.email)
  Object.assign(admin, await signIn(url, admin))
  return { admin, stockAtFirst: await stockProducts(url, admin, stocks) }
}

export type Market = Awaited<ReturnType<typeof openMarket>>

/** Three customers, four products that do not run out, one that does, and a ledger of what was sold. */
export async function openMarket(place: Place) {
  const { url, inboxUrl } = place
  const { admin, stockAtFirst } = await openCatalogue(place, [1e6, 1e6, 1e6, 1e6, 40])
  const products = [...stockAtFirst.keys()]
  const scarce = products.pop() as string
  const buyers: Buyer[] = []
  for (let i = 0; i < 3; i++) buyers.push(await newBuyer(url, inboxUrl))
  const sales = new Map<string, Sale>()

  const market = {
    admin,
    buyers,
    products,
    scarce,
    sales,
    /** Signs the customers in anew and lets them order; strict as in `startLoad`. */
    async load({ strict = true, of = products } = {}) {
      for (const buyer of buyers) Object.assign(buyer, await signIn(url, buyer))
      return startLoad({ url, buyers, products: of, scarce, sales, strict })
    },
    /** Runs `work` while customers order, and until they have ordered some more after it. */
    async during(work: () => Promise<unknown>, { strict = true, orders = 20 } = {}) {
      const load = await market.load({ strict })
      try {
        await load.orders(orders)
        await work()
        await load.orders(orders)
      } finally {
        await load.stop()
      }
      return load
    },
    lost: (sql: (statement: string) => Promise<string[]>) => whatIsLost(sql, { buyers, sales, stockAtFirst }),
  }
  return market
}
