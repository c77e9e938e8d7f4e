import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { arch, cpus, loadavg, platform, tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { call } from '../src/embedded/client.ts'
import { query } from '../src/embedded/postgres.ts'
import { startShop } from '../src/embedded/shop.ts'
import { roleNames } from '../src/platform/config.ts'
import { findGenerator, type Load, type PacedSample, type Sample } from './load.ts'
import { type Figure, median, printFigures, printTargets } from './report.ts'
import {
  type Customer,
  coldStart,
  fillCatalogue,
  importLarge,
  mailLog,
  makeCustomers,
  memoryOf,
  ownMemoryOf,
  settingsOf,
  signIn,
  startBareEdge,
  startBaseline,
  startMailSink,
  startOpenEdge,
  startOrders,
  syncTime,
} from './setup.ts'

/**
 * `make bench`: the shop as it ships and bare servers beside it, on the same database, measured in turns.
 * QUICK=1 is a quick look; OUT= names the JSON file.
 */
const isQuick = Boolean(process.env.QUICK)
const rounds = isQuick ? 2 : 5
const seconds = isQuick ? 1 : 3
const connections = 32
const largeCount = isQuick ? 100_000 : 1_000_000
const out = process.env.OUT || join(import.meta.dirname, '../.cache/bench/results.json')

const begun = performance.now()
const say = (text: string) =>
  console.log(`${String(Math.round((performance.now() - begun) / 1000)).padStart(4)} s  ${text}`)
const dir = mkdtempSync(join(tmpdir(), 'bench-'))
process.once('exit', () => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => {
    console.error(`stopped by ${signal}`)
    process.exit(130)
  })

const machine = {
  date: new Date().toISOString().slice(0, 10),
  cores: cpus().length,
  processor: cpus()[0]?.model,
  memoryGb: Math.round(totalmem() / 2 ** 30),
  system: `${platform()} ${arch()}`,
  node: process.version,
  syncMs: syncTime(dir),
  loadBefore: loadavg()[0] ?? 0,
}
if (machine.loadBefore > 0.3 * machine.cores)
  say(`this machine is busy (load ${machine.loadBefore.toFixed(1)}): times will be worse than they could be`)
const generator = findGenerator(dir, say)
say(`the shop opens in ${dir}; load comes from ${generator.name}`)

await using stack = new AsyncDisposableStack()
// As in the image, where the code is compiled already.
const env = { NODE_COMPILE_CACHE: join(dir, 'compiled') }
const shop = stack.use(await startShop({ dir: join(dir, 'shop'), say, env }))
const bare = async (kind: string) => {
  const { url, child } = await startBaseline(shop, kind)
  stack.use(child)
  return url
}
const memory = () => roleNames.reduce((sum, role) => sum + memoryOf(shop.roles[role].pid), 0)
const ownMemory = () => roleNames.reduce((sum, role) => sum + (ownMemoryOf(shop.roles[role].pid) ?? Number.NaN), 0)

say('starts and memory')
const starts: Record<string, number[]> = Object.fromEntries(roleNames.map((role) => [role, []]))
for (let i = 0; i < (isQuick ? 3 : 5); i++)
  for (const role of roleNames) starts[role]?.push(await coldStart(shop, role, env))
for (const role of roleNames) await shop.roles[role].restart()
await sleep(2000)
const [idle, idleOwn] = [memory(), ownMemory()]

const many = largeCount.toLocaleString('en')
say(`an import of ${many} products, a catalogue of 1,000`)
const large = await importLarge(shop, largeCount)
stack.use(large.role.child)
const products = await fillCatalogue(shop.databaseUrl, 1000)
say(`${many} orders, and 1,000; customers, bare servers`)
const fewOrders = await startOrders(shop, 1000)
const manyOrders = await startOrders(shop, largeCount)
stack.use(fewOrders.role.child)
stack.use(manyOrders.role.child)
const customers = await makeCustomers(shop, 8)
const buyer = customers[0] as Customer
const openEdge = stack.use(await startOpenEdge(shop, buyer))
const [bareHttp, bareProducts, bareOrders] = [await bare('http'), await bare('products'), await bare('orders')]
const barePasswords = await bare('passwords')
const bareEdge = stack.use(await startBareEdge(shop, { products: bareProducts, orders: bareOrders }))
// Mails would run beside whatever is measured next. Without a mail server the events wait in the stream.
await shop.mail.stop()

/** The relay empties the outbox before the next target has its turn. */
const untilRelayed = async (databaseUrl = shop.databaseUrl) => {
  for (const end = Date.now() + 30_000; Date.now() < end; await sleep(100)) {
    const { rows } = await query(databaseUrl, 'select 1 from orders.outbox limit 1')
    if (rows.length === 0) return
  }
  throw new Error('the relay has not emptied the outbox in 30 s')
}

interface Target {
  group: string
  name: string
  load: () => Load
  /** Of a single request, which is made first to see that the answer is what is meant. */
  status?: number
  connections?: number
  after?: () => Promise<void>
}
const { products: productsRole, orders: ordersRole } = shop.roles
const list = '/product?limit=20'
const item = `/product/${products[0]}`
const known = { 'If-None-Match': '"v1"' }
const assertion = { 'X-Auth-Assertion': buyer.assertion }
const orderBy = (url: string, caller: (customer: Customer) => [string, string]) => ({
  load: () => ({ url: `${url}/order`, orders: { callers: customers.map(caller), products: products.slice(0, 200) } }),
  after: () => untilRelayed(),
})
const orderAt = ({ role, products, databaseUrl }: typeof fewOrders) => ({
  load: (): Load => ({
    url: `${role.url}/order`,
    orders: { callers: [['X-Auth-Assertion', buyer.assertion]], products: products.slice(0, 200) },
  }),
  after: () => untilRelayed(databaseUrl),
})
/** One request after the other, which shows what each takes. */
const alone = (what: string, name: string, target: Pick<Target, 'load' | 'status' | 'after'>) => ({
  group: `${what}, unloaded`,
  name,
  connections: 1,
  ...target,
})
const search = '/product?limit=20&q=copper+kettle'
const logins = customers.map(({ email, password }) => JSON.stringify({ email, password }))
/** The generator leaves with 32 passwords still to be hashed, 0.4 s of both cores: they come before one more. */
const loginAt = (url: string) => ({
  load: () => ({ url, bodies: logins }),
  after: async () => {
    await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: logins[0] })
  },
})
const get = (url: string, headers?: Record<string, string>) => ({ load: () => ({ url, headers }), status: 200 })

const targets = {
  http: { group: 'node:http', name: 'bare: node:http alone', ...get(`${bareHttp}/`) },
  bareList: { group: 'list of 20', name: 'bare: one statement', ...get(`${bareProducts}/product`) },
  roleList: { group: 'list of 20', name: 'at the role', ...get(productsRole.url + list) },
  edgeList: { group: 'list of 20', name: 'through the edge', ...get(shop.url + list) },
  bareItem: { group: 'product by id', name: 'bare: one statement', ...get(bareProducts + item) },
  roleItem: { group: 'product by id', name: 'at the role', ...get(productsRole.url + item) },
  edgeItem: { group: 'product by id', name: 'through the edge', ...get(shop.url + item) },
  bareKnown: {
    group: '… unchanged (304)',
    name: 'bare: one statement',
    ...get(bareProducts + item, known),
    status: 304,
  },
  roleKnown: { group: '… unchanged (304)', name: 'at the role', ...get(productsRole.url + item, known), status: 304 },
  edgeKnown: { group: '… unchanged (304)', name: 'through the edge', ...get(shop.url + item, known), status: 304 },
  ownOpen: { group: 'own orders', name: 'through an edge without auth', ...get(`${openEdge.url}/order`) },
  ownEdge: {
    group: 'own orders',
    name: 'through the edge, signed in',
    load: () => ({ url: `${shop.url}/order`, headers: { Authorization: `Bearer ${buyer.token}` } }),
    status: 200,
  },
  bareOrder: { group: 'POST /order', name: 'bare: one statement', ...orderBy(bareOrders, (c) => ['X-User-Id', c.id]) },
  roleOrder: {
    group: 'POST /order',
    name: 'at the role',
    ...orderBy(ordersRole.url, (c) => ['X-Auth-Assertion', c.assertion]),
  },
  edgeOrder: {
    group: 'POST /order',
    name: 'through the edge',
    ...orderBy(shop.url, (c) => ['Authorization', `Bearer ${c.token}`]),
  },
  bareLogin: {
    group: 'login',
    name: 'bare: argon2id alone',
    ...loginAt(`${barePasswords}/`),
  },
  roleLogin: {
    group: 'login',
    name: 'at the role',
    ...loginAt(`${shop.roles.auth.url}/auth/login`),
  },
  listSmall: alone('list', 'of 1,000 products', get(productsRole.url + list)),
  listLarge: alone('list', `of ${many} products`, get(large.role.url + list)),
  searchSmall: alone('search', 'of 1,000 products', get(productsRole.url + search)),
  searchLarge: alone('search', `of ${many} products`, get(large.role.url + search)),
  orderSmall: alone('order', 'at 1,000 orders', orderAt(fewOrders)),
  orderLarge: alone('order', `at ${many} orders`, orderAt(manyOrders)),
} satisfies Record<string, Target>
type Name = keyof typeof targets
const names = Object.keys(targets) as Name[]

const measure = async (name: Name, time: number): Promise<Sample> => {
  const target: Target = targets[name]
  const sample = await generator.run(target.load(), time, target.connections ?? connections)
  await target.after?.()
  return sample
}

say('one request of each, then warm-up')
// Enough orders that a page of them is full.
for (let i = 0; i < 25; i++)
  await call(ordersRole.url, 'POST', '/order', {
    headers: { ...assertion, 'Idempotency-Key': `first-${i}` },
    body: { items: [{ productId: products[0], quantity: 1 }] },
  })
for (const name of names) {
  const { load, status }: Target = targets[name]
  if (!status) continue
  const { url, headers } = load()
  const { origin, pathname, search } = new URL(url)
  const answer = await call(origin, 'GET', pathname + search, { headers })
  const isPage = answer.body?.items ? answer.body.items.length === 20 : true
  if (answer.status !== status || !isPage)
    throw new Error(`${url} answers ${answer.status}: ${answer.text.slice(0, 300)}`)
}
for (const name of names) await measure(name, 1)

const samples = Object.fromEntries(names.map((name) => [name, [] as Sample[]])) as Record<Name, Sample[]>
interface Half {
  load: () => Load
  /** The target whose rate of this round is halved. */
  of: Name
  samples: PacedSample[]
}
const halfOf = (load: () => Load, of: Name): Half => ({ load, of, samples: [] })
/** The bare servers behind the edge as it ships show what of a tail comes of standing there. */
const halves = {
  list: {
    bare: halfOf(targets.bareList.load, 'bareList'),
    behind: halfOf(() => ({ url: bareEdge.url + list }), 'bareList'),
    edge: halfOf(targets.edgeList.load, 'edgeList'),
  },
  order: {
    bare: halfOf(targets.bareOrder.load, 'bareOrder'),
    behind: halfOf(orderBy(bareEdge.url, (c) => ['Authorization', `Bearer ${c.token}`]).load, 'bareOrder'),
    edge: halfOf(targets.edgeOrder.load, 'edgeOrder'),
  },
}
const over: (PacedSample & { grown: number })[] = []
/** Requests at set moments, `times` as often as connections of this round got answers from `of`. */
const pace = async (load: () => Load, of: Name, times: number) => {
  const sample = await generator.pace(load(), seconds, (samples[of].at(-1) as Sample).rate * times)
  await untilRelayed()
  return sample
}
for (let round = 1; round <= rounds; round++) {
  say(`round ${round} of ${rounds}: ${names.length} targets, ${seconds} s each`)
  await signIn(shop, customers)
  // There and back again, so that nobody always comes after the same other.
  for (const name of round % 2 ? names : names.toReversed()) samples[name].push(await measure(name, seconds))
  for (const { bare, behind, edge } of Object.values(halves))
    for (const half of round % 2 ? [bare, behind, edge] : [edge, behind, bare])
      half.samples.push(await pace(half.load, half.of, 0.5))
  const before = memory()
  over.push({ ...(await pace(targets.edgeOrder.load, 'edgeOrder', 3)), grown: memory() - before })
}

say('the mails of these orders go out')
const sink = stack.use(await startMailSink(shop))
const mailsSent = async () => {
  const { rows } = await query(
    shop.databaseUrl,
    'select count(*) as count from notifications.mail_delivery where sent_at is not null',
  )
  return Number(rows[0].count)
}
/** No event waits for its mail. */
const untilMailed = async () => {
  await untilRelayed()
  const metrics = `http://127.0.0.1:${settingsOf(shop, 'notifications').METRICS_PORT}/metrics`
  for (const end = Date.now() + 300_000; Date.now() < end; await sleep(100)) {
    const text = await (await fetch(metrics)).text()
    const lags = text.match(/(?<=^bus_consumer_lag\{.*consumer="mailer".*\} )\d+/gm) ?? []
    if (lags.length > 0 && lags.every((lag) => lag === '0')) return
  }
  throw new Error('there are events without their mail after 5 minutes')
}
const before = await mailsSent()
for (const end = Date.now() + 20_000; (await mailsSent()) === before; await sleep(100))
  if (Date.now() > end) throw new Error('no mail was sent in 20 s')
const drained: number[] = []
for (let i = 0; i < rounds; i++) {
  const [from, began] = [await mailsSent(), performance.now()]
  await sleep(seconds * 1000)
  drained.push(((await mailsSent()) - from) / ((performance.now() - began) / 1000))
}
await untilMailed()
say('orders while their mails go out')
await signIn(shop, customers)
const mailsFrom = await mailsSent()
const mailing = await generator.run(targets.edgeOrder.load(), seconds * 2, connections)
const mails = ((await mailsSent()) - mailsFrom) / (seconds * 2)
const [loaded, loadedOwn] = [memory(), ownMemory()]
await untilMailed()
say('from the order to its mail')
const { rows: clock } = await query(shop.databaseUrl, 'select now()')
await generator.pace(targets.edgeOrder.load(), seconds * 2, 100)
await untilMailed()
const taken = new Map(
  readFileSync(mailLog(shop), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(' ') as [string, string])
    .map(([at, order]) => [order, Number(at)]),
)
const { rows: placed } = await query(
  shop.databaseUrl,
  `select id, extract(epoch from created_at)::float8 * 1000 as at from orders.order where created_at > '${clock[0].now.toISOString()}'`,
)
const delays = placed.map(({ id, at }) => (taken.get(id) ?? Number.POSITIVE_INFINITY) - at).toSorted((a, b) => a - b)
await sink.stop()

const rateOf = (name: Name) => median(samples[name].map((sample) => sample.rate))
const ratio = (what: string, of: Name, to: Name, goal: Figure['goal'], by: keyof Sample = 'rate'): Figure => ({
  what,
  values: samples[of].map((sample, round) => sample[by] / (samples[to][round] as Sample)[by]),
  goal,
})
const figures: Figure[] = [
  ratio('list of 20 at the role ÷ bare statement', 'roleList', 'bareList', { least: 1 }),
  ratio('list of 20 through the edge ÷ bare statement', 'edgeList', 'bareList', { least: 0.7 }),
  ratio('product at the role ÷ bare statement', 'roleItem', 'bareItem', { least: 1 }),
  ratio('product through the edge ÷ bare statement', 'edgeItem', 'bareItem', { least: 0.7 }),
  ratio('product unchanged at the role ÷ bare', 'roleKnown', 'bareKnown', { least: 1 }),
  ratio('product unchanged through the edge ÷ bare', 'edgeKnown', 'bareKnown', { least: 0.7 }),
  ratio('own orders signed in ÷ without auth', 'ownEdge', 'ownOpen', { least: 0.9 }),
  ratio('orders at the role ÷ bare statement', 'roleOrder', 'bareOrder', { least: 0.5 }),
  {
    what: 'orders through the edge, mails waiting',
    values: samples.edgeOrder.map((s) => s.rate),
    unit: '/s',
    goal: { least: 1100 },
  },
  { what: 'orders through the edge, mails going out', values: [mailing.rate], unit: '/s' },
  { what: 'mails sent meanwhile', values: [mails], unit: '/s' },
  ratio('login ÷ bare argon2id', 'roleLogin', 'bareLogin', { least: 0.9 }),
  {
    what: 'from the order to the mail server, p99',
    values: [delays[Math.floor(delays.length * 0.99)] ?? Number.NaN],
    unit: ' ms',
    goal: { most: 150 },
  },
  { what: 'events drained to mails by one replica', values: drained, unit: '/s', goal: { least: 2000 } },
  ratio(`list p50 of ${many} products ÷ of 1,000`, 'listLarge', 'listSmall', { most: 1.2 }, 'p50'),
  ratio(`search p50 of ${many} products ÷ of 1,000`, 'searchLarge', 'searchSmall', { most: 2 }, 'p50'),
  ratio(`order p50 at ${many} orders ÷ at 1,000`, 'orderLarge', 'orderSmall', { most: 1.2 }, 'p50'),
  ...Object.entries(halves).flatMap(([what, { bare, behind, edge }]) => {
    const tails = ({ samples }: Half) => samples.map(({ p50, p99 }) => p99 / p50)
    const late = ({ samples }: Half) => samples.map(({ p99 }) => p99)
    return [
      { what: `p99 ÷ p50 at half the top rate: ${what}`, values: tails(edge), goal: { most: 4 } },
      { what: '… the bare statement at half of its own', values: tails(bare) },
      { what: '… the bare statement behind the same edge', values: tails(behind) },
      { what: '… p99 through the edge', values: late(edge), unit: ' ms' },
      { what: '… p99 of the bare statement', values: late(bare), unit: ' ms' },
      { what: '… p99 of it behind the same edge', values: late(behind), unit: ' ms' },
    ]
  }),
  {
    what: 'orders served at 3 × the top rate ÷ the top rate',
    values: over.map(({ rate }, round) => rate / (samples.edgeOrder[round] as Sample).rate),
    goal: { least: 0.8 },
  },
  { what: '… p99 of what is served', values: over.map(({ p99 }) => p99), unit: ' ms' },
  { what: '… refused', values: over.map(({ refusedShare }) => refusedShare * 100), unit: ' %' },
  { what: '… p99 of a refusal', values: over.map(({ refusedP99 }) => refusedP99), unit: ' ms' },
  {
    what: '… refusals with Retry-After',
    values: over.map((s) => s.hintedShare * 100),
    unit: ' %',
    goal: { least: 100 },
  },
  { what: '… memory of the four roles grown', values: over.map(({ grown }) => grown), unit: ' MB' },
  { what: `import of ${many} products`, values: [large.rate], unit: '/s', goal: { least: 20_000 } },
  { what: '… its memory after a tenth', values: [large.early], unit: ' MB' },
  { what: '… at most', values: [large.most], unit: ' MB' },
  ...roleNames.map((role) => ({
    what: `cold start to ready: ${role}`,
    values: starts[role] as number[],
    unit: ' ms',
    goal: { most: 400 },
  })),
  { what: 'memory of the four roles, idle', values: [idle], unit: ' MB', goal: { most: 260 } },
  { what: '… shared pages counted once', values: [idleOwn], unit: ' MB' },
  { what: 'memory of the four roles, loaded', values: [loaded], unit: ' MB', goal: { most: 390 } },
  { what: '… shared pages counted once', values: [loadedOwn], unit: ' MB' },
]

console.log(`
${machine.cores} cores (${machine.processor}), ${machine.memoryGb} GB, ${machine.system}, Node.js ${machine.node}; a page is on the disk after ${machine.syncMs.toFixed(2)} ms.
${rounds} rounds of ${seconds} s in turns, ${connections} connections (the unloaded lists: 1), load from ${generator.name} on the same cores.
A request to node:http alone costs ${(1e6 / rateOf('http')).toFixed(0)} µs, the generator's own part in it; one at a set
moment costs its generator on Node.js ${median(over.map(({ cost }) => cost)).toFixed(0)} µs.
`)
printTargets(names.map((name) => ({ ...targets[name], samples: samples[name] })))
printFigures(figures)
mkdirSync(dirname(out), { recursive: true })
const measured = names.map((name) => ({
  target: name,
  group: targets[name].group,
  name: targets[name].name,
  samples: samples[name],
}))
writeFileSync(
  out,
  `${JSON.stringify({ machine, generator: generator.name, rounds, seconds, connections, isQuick, figures, targets: measured }, null, 2)}\n`,
)
say(`all of it is in ${out}`)
