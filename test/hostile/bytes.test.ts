import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { roleNames } from '../../src/platform/config.ts'
import { exchange, rawRequest } from '../edge/raw.ts'
import { some, times, trial } from '../support/cases.ts'
import { type TestUser, useShop } from '../support/shop.ts'
import { anyRequest, anySmuggler, hidden } from './bytes.ts'
import { askedFor, inGroups, processesOf, unharmed } from './harm.ts'

/** Bytes that are hardly HTTP, and clients that are slow or say nothing, at the edge and past it. */
const shop = useShop(test)
let admin: TestUser
let productId: string
test.serial.before('something to ask for', async () => {
  admin = await shop.admin()
  const body = { sku: 'ONE', name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 1_000_000 }
  productId = (await shop.call('POST', '/product', { token: admin.token, body })).body.id
  for (let n = 0; n < 99; n++) {
    const long = { ...body, sku: `LONG-${n}`, description: '€'.repeat(10_000) }
    await shop.call('POST', '/product', { token: admin.token, body: long })
  }
})
const doors = () => [['the edge', shop.url] as const, ...roleNames.map((role) => [role, shop.roles[role].url] as const)]

const statuses = (text: string) => [...text.matchAll(/HTTP\/1\.[01] (\d{3})/g)].map((match) => Number(match[1]))

test.serial(
  'requests of any bytes, at the edge and at each role → refused or answered, no fault, nothing left behind',
  async (t) => {
    t.timeout(60_000 + 60_000 * times)
    for (const [name, url] of doors()) {
      const counts = trial(`bytes that are hardly a request, at ${name}`)
      const { check, also, done } = counts
      const before = processesOf(shop)
      await inGroups(some(anyRequest, name === 'the edge' ? 1200 : 300), 60, async (group) => {
        await Promise.all(
          group.map(async (bytes) => {
            const { text, late } = await exchange(url, bytes)
            const show = () => `${JSON.stringify(bytes.toString('latin1').slice(0, 600))}: ${text.slice(0, 300)}`
            const seen = statuses(text)
            check(!late && seen.every((status) => status < 500 || status === 501 || status === 505), show)
            // Whoever reads the answers of the edge reads problems.
            const isBare =
              name === 'the edge' && /^HTTP\/1\.[01] [45]/.test(text) && !/application\/problem\+json/.test(text)
            also(!isBare, () => `no problem document: ${show()}`)
          }),
        )
        const { status } = await rawRequest(url, 'GET', '/healthz')
        also(status === 200, () => `afterwards: ${status}`)
      })
      await unharmed(shop, productId, counts, before)
      done(t)
    }
  },
)

test.serial('a request hidden in another → reaches a role only where its sender gets the answer', async (t) => {
  t.timeout(60_000 + 60_000 * times)
  const asked = () => askedFor(shop.roles.auth, hidden)
  const { also, count, done } = trial('requests hidden in others, at the edge')
  const before = processesOf(shop)
  /** How many of the hidden requests reached auth without an answer to whoever sent them. */
  const stray = async (group: Buffer[], patience?: number) => {
    const first = await asked()
    const [answers, ...others] = await Promise.all([
      Promise.all(group.map((bytes) => exchange(shop.url, bytes, patience))),
      // Other people's requests share the connections to the roles.
      ...Array.from({ length: 10 }, () => shop.call('GET', `/product/${productId}`)),
    ])
    for (const { status, body } of others)
      also(status === 200 && body.id === productId, () => 'a stranger got another answer')
    return (await asked()) - first - answers.reduce((sum, { text }) => sum + text.split('"keys":[').length - 1, 0)
  }
  await inGroups(some(anySmuggler, 600), 40, async (group) => {
    count(group.length)
    if ((await stray(group)) === 0) return
    for (const bytes of group)
      also((await stray([bytes], 1000)) === 0, () => `got through: ${JSON.stringify(bytes.toString('latin1'))}`)
    // Some need another's bytes before them.
    also((await stray(group, 1000)) === 0, () => `got through together: ${group.map((bytes) => bytes.toString('hex'))}`)
  })
  // And one that is no secret is seen: the count can tell.
  t.is(await stray([Buffer.from(`GET ${hidden} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n`)], 10_000), 0)
  t.true((await asked()) > 0)
  await unharmed(shop, productId, { also }, before)
  done(t)
})

test.serial('thousands of headers → 431 or 400 at once; as many as the edge takes, the roles take too', async (t) => {
  const { check, done } = trial('requests of up to 10,000 headers')
  const lines = (count: number, line: (n: number) => string) => Array.from({ length: count }, (_, n) => line(n))
  const heads = [
    lines(10_000, (n) => `x-${n}: 1`),
    lines(10_000, () => 'a:b'),
    lines(10_000, () => ':'),
    lines(3000, () => 'X-Forwarded-For: 1.1.1.1'),
    lines(2500, () => 'Host: a'),
    lines(1, () => `Cookie: ${'a=b; '.repeat(20_000)}`),
    lines(3, (n) => `x-${n}: ${'a'.repeat(7000)}`),
    lines(500, (n) => `x-${n}: ${'a'.repeat(50)}`),
  ]
  for (const [name, url] of doors())
    for (const head of heads) {
      const began = Date.now()
      const bytes = Buffer.from(
        ['GET /healthz HTTP/1.1', 'Host: shop', 'Connection: close', ...head, '', ''].join('\r\n'),
      )
      const { text } = await exchange(url, bytes, 10_000)
      const [status] = statuses(text)
      // A connection that is reset while 120 KB are still on their way loses its answer.
      check(
        (status === undefined || [200, 400, 431].includes(status)) && Date.now() - began < 10_000,
        () => `${name}, ${head.length} headers like ${head[0]?.slice(0, 40)}: ${text.slice(0, 200)}`,
      )
    }
  // 31 KiB, which the edge lets pass, on every kind of route.
  for (const path of ['/product', '/profile', '/order', '/notification/preferences', `/product/${'a'.repeat(7000)}`])
    for (const token of [admin.token, 'x'.repeat(7000)]) {
      const head = [...lines(2, (n) => `x-${n}: ${'a'.repeat(7900)}`), `Authorization: Bearer ${token}`]
      const { status, text } = await rawRequest(shop.url, 'GET', path, head)
      const isProblem = status === 200 || text.includes('application/problem+json')
      check([200, 401, 404].includes(status) && isProblem, () => `${path.slice(0, 20)}: ${text.slice(0, 300)}`)
    }
  done(t)
})

interface Slow {
  name: string
  begin: string
  /** What it begins with at a role, where that is something else. */
  beginAtRole?: string
  /** Sent once more each half second. */
  drip?: string
  deaf?: true
  /** Seconds until the edge and a role end it; none where they need not. */
  ends?: [number, number]
}
const post = 'POST /auth/refresh HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n'
const slow: Slow[] = [
  { name: 'says nothing', begin: '', ends: [12, 25] },
  { name: 'half a request line', begin: 'GET /prod', ends: [12, 25] },
  { name: 'headers byte by byte', begin: 'GET /product HTTP/1.1\r\nHost: shop\r\nX: ', drip: 'a', ends: [12, 25] },
  { name: 'headers line by line', begin: 'GET /product HTTP/1.1\r\n', drip: 'X: y\r\n', ends: [12, 25] },
  { name: 'a body that stops', begin: `${post}Content-Length: 1000\r\n\r\n{`, ends: [12, 70] },
  { name: 'a chunk that stops', begin: `${post}Transfer-Encoding: chunked\r\n\r\n5\r\n{`, ends: [12, 70] },
  // nginx has no limit for a whole body, only between two reads: these end with their last byte.
  { name: 'a body byte by byte', begin: `${post}Content-Length: 60000\r\n\r\n`, drip: ' ' },
  { name: 'a body chunk by chunk', begin: `${post}Transfer-Encoding: chunked\r\n\r\n`, drip: '1\r\n \r\n' },
  {
    name: 'waits for leave to go on',
    begin: `${post}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n`,
    ends: [12, 70],
  },
  {
    name: 'never reads',
    // Megabytes of answers, which no buffer on the way takes in; the roles but one have none so long.
    begin: 'GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: shop\r\n\r\n'.repeat(60),
    beginAtRole: 'GET /product?limit=100 HTTP/1.1\r\nHost: shop\r\n\r\n'.repeat(4),
    deaf: true,
    ends: [20, 100],
  },
]

test.serial(
  'a thousand clients that are slow, silent or deaf → others are served as ever, and memory stays',
  async (t) => {
    t.timeout(240_000)
    const counts = trial('slow, silent and deaf clients, at the edge and at the roles')
    const { also, count, done } = counts
    const customer = await shop.user()
    const before = processesOf(shop)
    const began = Date.now()
    const open: { kind: Slow; isEdge: boolean; socket: Socket; ended?: number }[] = []
    for (const kind of slow) {
      const atRole = kind.deaf ? 2 : 10
      const places = [shop.url, ...roleNames.map((role) => shop.roles[role].url)]
      for (const url of places.flatMap((url) => Array(url === shop.url ? 100 : atRole).fill(url) as string[])) {
        const { hostname, port } = new URL(url)
        const isEdge = url === shop.url
        const begin = isEdge ? kind.begin : (kind.beginAtRole ?? kind.begin)
        const socket = connect(Number(port), hostname, () => socket.write(begin))
        const client: (typeof open)[0] = { kind, isEdge, socket }
        socket.on('error', () => {})
        socket.on('close', () => {
          client.ended = (Date.now() - began) / 1000
        })
        if (kind.deaf) socket.pause()
        else socket.resume()
        open.push(client)
      }
    }
    count(open.length)
    const drip = setInterval(() => {
      for (const { kind, socket } of open) if (kind.drip && socket.writable) socket.write(kind.drip)
    }, 500)

    /** What a customer does meanwhile, and how long the slowest answer takes. */
    async function served() {
      let slowest = 0
      for (let n = 0; n < 25; n++) {
        const asked = Date.now()
        const answers = [
          await shop.call('GET', `/product/${productId}`),
          await shop.call('PUT', `/cart/items/${productId}`, { token: customer.token, body: { quantity: 1 } }),
          await shop.call('POST', '/order', { token: customer.token, headers: { 'Idempotency-Key': `${asked} ${n}` } }),
          await shop.call('GET', '/notification/preferences', { token: customer.token }),
        ]
        for (const { status, text } of answers) also(status < 300, () => `meanwhile: ${status} ${text}`)
        slowest = Math.max(slowest, Date.now() - asked)
        await sleep(20)
      }
      also(slowest < 3000, () => `four requests took ${slowest} ms meanwhile`)
      t.log(`the slowest four requests meanwhile: ${slowest} ms`)
    }
    try {
      await served()
      if (times > 1) {
        // As long as the longest timeout; in `make test` this is left out.
        await sleep(105_000 - (Date.now() - began))
        await served()
        // A deaf one hears of its end only now; where it had none, there is more to read than this time takes.
        for (const { kind, socket } of open) if (kind.deaf) socket.resume()
        await sleep(500)
        for (const { kind, isEdge, ended } of open) {
          if (!kind.ends) continue
          const most = kind.deaf ? Number.POSITIVE_INFINITY : kind.ends[isEdge ? 0 : 1]
          also(
            ended !== undefined && ended < most,
            () => `${isEdge ? 'the edge' : 'a role'}, ${kind.name}: ${ended ?? 'not'} instead of ${most} s`,
          )
        }
      }
    } finally {
      clearInterval(drip)
      for (const { socket } of open) socket.destroy()
    }
    await unharmed(shop, productId, counts, before)
    done(t)
  },
)
