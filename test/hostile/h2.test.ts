import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type TLSSocket } from 'node:tls'
import test from 'ava'
import { type Child, plainUser, runToEnd, startChild } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import { findPrograms } from '../../src/embedded/programs.ts'
import { roleNames } from '../../src/platform/config.ts'
import { exchange, seenBy } from '../edge/raw.ts'
import { some, times, trial } from '../support/cases.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import { hidden } from './bytes.ts'
import {
  anyConnection,
  anySmuggler2,
  basic,
  block,
  deafHello,
  frame,
  type Header,
  hello,
  request,
  talk,
  types,
} from './h2.ts'
import { askedFor, inGroups, processesOf, unharmed, workersOf } from './harm.ts'
import { filled, isGuarded, nameOf, rows } from './routes.ts'

/** HTTP/2, which the edge speaks with TLS: a second edge before the same roles. */
const shop = useShop(test)
const source = join(import.meta.dirname, '../../src/edge/render.sh')
const edgeLog = 'tls-edge'
let edge: Child
let url: string
let plainUrl: string
let customer: TestUser
let productId: string

const hasOpenssl = spawnSync('openssl', ['version']).status === 0
const withTls = hasOpenssl ? test.serial : () => {}
if (!hasOpenssl) test.skip('HTTP/2 at the edge (there is no openssl to make a certificate)', () => {})

if (hasOpenssl)
  test.serial.before('an edge with TLS, and something to ask for', async (t) => {
    t.timeout(60_000)
    const admin = await shop.admin()
    const body = { sku: 'ONE', name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 1000 }
    productId = (await shop.call('POST', '/product', { token: admin.token, body })).body.id
    customer = await shop.user()
    const dir = join(shop.dir, edgeLog)
    const secrets = join(dir, 'secrets')
    mkdirSync(secrets, { recursive: true })
    const [key, cert] = [join(secrets, 'TLS_KEY'), join(secrets, 'TLS_CERT')]
    const pair = ['-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', key, '-out', cert, '-subj', '/CN=shop']
    spawnSync('openssl', ['req', '-x509', ...pair])
    chmodSync(key, 0o444)
    const user = plainUser()
    if (user) chownSync(dir, user.uid, user.gid)
    const [plain, tls] = await freePorts(2)
    url = `https://127.0.0.1:${tls}`
    plainUrl = `http://127.0.0.1:${plain}`
    const env = {
      SECRETS_DIR: secrets,
      PUBLIC_URL: 'https://shop.example.org',
      EDGE_WORKERS: '2',
      EDGE_LISTEN: `127.0.0.1:${plain}`,
      EDGE_TLS_LISTEN: `127.0.0.1:${tls}`,
      ...Object.fromEntries(
        roleNames.map((role) => [`${role.toUpperCase()}_UPSTREAM`, `127.0.0.1:${shop.ports[role]}`]),
      ),
    }
    await runToEnd('sh', [source, dir], { env, user })
    const { nginx } = findPrograms()
    // The directive of the nginx that ships (1.25.1 and later); Debian's own is older and says it another way.
    const version = spawnSync(nginx, ['-v'], { encoding: 'utf8' }).stderr
    const [, minor = 0] = (/\/1\.(\d+)/.exec(version) ?? []).map(Number)
    const listen = join(dir, 'listen.conf')
    if (minor < 25)
      writeFileSync(
        listen,
        readFileSync(listen, 'utf8').replace('ssl backlog', 'ssl http2 backlog').replace('http2 on;', ''),
      )
    t.log(version.trim())
    edge = await startChild({
      name: edgeLog,
      command: nginx,
      args: ['-p', dir, '-c', 'nginx.conf', '-e', 'stderr', '-g', 'daemon off;'],
      log: join(shop.dir, 'log', `${edgeLog}.log`),
      user,
      stopSignal: 'SIGQUIT',
      grace: 5000,
      ready: async () => (await fetch(`http://127.0.0.1:${plain}/healthz`)).ok,
    })
    await eventually('two workers', async () => workersOf(edge.pid as number).length === 2)
  })
test.after.always('the edge with TLS stops', () => edge?.stop())

const processes = () => processesOf(shop, edge)
const good = (stream = 1) => request(stream, basic('GET', `/product/${productId}`))
async function answersGood() {
  const { streams } = await talk(url, Buffer.concat([hello, good()]), 1)
  const answer = streams.get(1)
  return answer?.status === 200 && answer.text.includes(productId)
}

withTls('at the door that leads to TLS, a large body → shown the way; what cannot be read → a problem', async (t) => {
  const ask = async (line: string) =>
    (await exchange(plainUrl, Buffer.from(`${line} HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n`))).text
  const large = await ask('PUT /profile/avatar?a=b')
  t.regex(large, /^HTTP\/1\.1 308 [\s\S]*\r\nLocation: https:\/\/shop\.example\.org\/profile\/avatar\?a=b\r\n/)
  for (const [path, status, code] of [
    ['/%zz', 400, 'bad_request'],
    [`/${'a'.repeat(20_000)}`, 414, 'uri_too_long'],
  ] as const) {
    const text = await ask(`GET ${path}`)
    t.true(text.startsWith(`HTTP/1.1 ${status} `), text)
    t.true(text.includes('application/problem+json') && text.includes(`"code":"${code}"`), text)
  }
})

withTls('HTTP/2 of any frames and headers → refused or answered, no fault, nothing left behind', async (t) => {
  t.timeout(60_000 + 60_000 * times)
  const counts = trial('frames and headers that are hardly HTTP/2, at the edge')
  const before = processes()
  counts.also(await answersGood(), () => 'a good request is not answered')
  const seen = new Map<number, number>()
  let refused = 0
  await inGroups(some(anyConnection, 600), 40, async (group) => {
    await Promise.all(
      group.map(async (bytes) => {
        const { streams, refusals, late } = await talk(url, bytes)
        refused += refusals
        const show = () => `${bytes.toString('hex').slice(0, 1200)}: ${JSON.stringify([...streams]).slice(0, 400)}`
        const all = [...streams.values()]
        for (const { status } of all) seen.set(status, (seen.get(status) ?? 0) + 1)
        counts.check(!late && all.every(({ status }) => status < 500 || status === 501 || status === 505), show)
        // An answer that has begun may be cut by what the connection does next.
        const bare = all.find(({ status, text }) => status >= 400 && text && !text.startsWith('{'))
        counts.also(!bare, () => `no problem document: ${show()}`)
      }),
    )
    counts.also(await answersGood(), () => 'afterwards, a good request is not answered')
  })
  t.log(JSON.stringify([...seen]), refused)
  await unharmed(shop, productId, counts, before, { edge, edgeLog })
  counts.done(t)
})

withTls('a request hidden in one of HTTP/2 → reaches no role', async (t) => {
  t.timeout(60_000 + 60_000 * times)
  const { also, count, done } = trial('requests hidden in those of HTTP/2, at the edge')
  const before = processes()
  const stray = async (group: Buffer[], answers?: number) => {
    const first = await askedFor(shop.roles.auth, hidden)
    const [, ...others] = await Promise.all([
      Promise.all(group.map((bytes) => talk(url, bytes, answers))),
      ...Array.from({ length: 5 }, answersGood),
    ])
    also(others.every(Boolean), () => 'a stranger got another answer')
    return (await askedFor(shop.roles.auth, hidden)) - first
  }
  await inGroups(some(anySmuggler2, 300), 40, async (group) => {
    count(group.length)
    if ((await stray(group)) === 0) return
    for (const bytes of group)
      also((await stray([bytes])) === 0, () => `got through: ${JSON.stringify(bytes.toString('latin1'))}`)
    // Some need another's bytes before them.
    also((await stray(group)) === 0, () => `got through together: ${group.map((bytes) => bytes.toString('hex'))}`)
  })
  // One that is not hidden is seen: the count can tell.
  t.is(await stray([Buffer.concat([hello, request(1, basic('GET', hidden))])], 1), 1)
  await unharmed(shop, productId, { also }, before, { edge, edgeLog })
  done(t)
})

withTls('headers that claim an identity, in HTTP/2 → 401, and no role is asked', async (t) => {
  const { check, also, done } = trial('headers that claim an identity in HTTP/2 × guarded routes')
  const claims: Header[][] = [
    [['x-auth-assertion', 'a.b.c']],
    [['x-user-id', customer.id]],
    [['x-original-uri', '/product']],
    [['x-original-method', 'GET']],
    [['cookie', `token=${customer.token}`]],
    [
      ['authorization', 'Bearer '],
      ['authorization', `Bearer ${customer.token}`],
    ],
    [
      ['host', 'shop'],
      ['x-forwarded-for', '127.0.0.1'],
    ],
    [['x_auth_assertion', 'a.b.c']],
  ]
  const seen = async () => {
    const counts = await Promise.all(roleNames.map((role) => seenBy(shop.roles[role])))
    return counts.reduce((sum, count) => sum + count, 0)
  }
  const first = await seen()
  for (const row of rows.filter(isGuarded)) {
    const path = filled(row, productId)
    const all = claims.map((claim, n) => request(2 * n + 1, [...basic(row.method, path), ...claim]))
    const { streams } = await talk(url, Buffer.concat([hello, ...all]), all.length)
    claims.forEach((claim, n) => {
      const answer = streams.get(2 * n + 1)
      // Two of one header are a bad request to nginx of the image, and no token to that of Debian.
      const refused = claim.length > 1 ? [400, 401] : [401]
      check(
        answer !== undefined && refused.includes(answer.status),
        () => `${nameOf(row)}, ${claim}: ${answer?.status}`,
      )
    })
  }
  also((await seen()) === first, () => 'a role was asked')
  // With the token, the same way in is open.
  const token: Header = ['authorization', `Bearer ${customer.token}`]
  const { streams } = await talk(url, Buffer.concat([hello, request(1, [...basic('GET', '/order'), token])]), 1)
  t.is(streams.get(1)?.status, 200)
  done(t)
})

/** What keeps a server busy at little cost. */
const floods: Record<string, () => Buffer> = {
  'requests reset at once': () =>
    Buffer.concat([
      hello,
      ...Array.from({ length: 20_000 }, (_, n) =>
        Buffer.concat([good(2 * n + 1), frame(types.reset, 0, 2 * n + 1, Buffer.from([0, 0, 0, 8]))]),
      ),
    ]),
  'headers without end': () => {
    const piece = block(Array.from({ length: 100 }, (): Header => ['x', 'y'.repeat(100)]))
    return Buffer.concat([
      hello,
      frame(types.headers, 1, 1, block(basic('GET', '/product'))),
      ...Array.from({ length: 2000 }, () => frame(types.more, 0, 1, piece)),
    ])
  },
  'empty pieces of headers': () =>
    Buffer.concat([
      hello,
      frame(types.headers, 1, 1, block(basic('GET', '/product'))),
      ...Array.from({ length: 200_000 }, () => frame(types.more, 0, 1)),
    ]),
  // One entry of the table of 4 KiB, named in each of 12,000 fields: 48 MB in 16 KB.
  'a header from the table, again and again': () => {
    const entry = Buffer.concat([Buffer.from([0x40]), block([['x', 'y'.repeat(4000)]]).subarray(1)])
    const all = Buffer.concat([block(basic('GET', '/product')), entry, Buffer.alloc(12_000, 0xbe)])
    return Buffer.concat([hello, frame(types.headers, 5, 1, all)])
  },
  pings: () =>
    Buffer.concat([hello, ...Array.from({ length: 200_000 }, () => frame(types.ping, 0, 0, Buffer.alloc(8)))]),
  settings: () => Buffer.concat([hello, ...Array.from({ length: 200_000 }, () => frame(types.settings, 0, 0))]),
  priorities: () =>
    Buffer.concat([
      hello,
      ...Array.from({ length: 100_000 }, (_, n) => frame(types.priority, 0, 2 * n + 1, Buffer.from([0, 0, 0, 0, 1]))),
    ]),
  'empty pieces of a body': () =>
    Buffer.concat([
      hello,
      frame(types.headers, 4, 1, block([...basic('POST', '/auth/refresh'), ['content-type', 'application/json']])),
      ...Array.from({ length: 200_000 }, () => frame(types.data, 0, 1)),
    ]),
  'more requests at once than allowed': () =>
    Buffer.concat([hello, ...Array.from({ length: 5000 }, (_, n) => good(2 * n + 1))]),
  'requests whose answers are never taken': () =>
    Buffer.concat([
      deafHello,
      ...Array.from({ length: 100 }, (_, n) => request(2 * n + 1, basic('GET', '/docs/swagger-ui-bundle.js'))),
    ]),
}

withTls('floods of HTTP/2 → others are served, memory stays, and who floods is let go', async (t) => {
  t.timeout(240_000)
  const counts = trial('floods of HTTP/2, at the edge')
  const { also, count, done } = counts
  const before = processes()
  const { hostname, port } = new URL(url)
  const options = { host: hostname, port: Number(port), ALPNProtocols: ['h2'], rejectUnauthorized: false }
  const clients: { name: string; socket: TLSSocket; ended: Promise<unknown> }[] = []
  try {
    for (const [name, flood] of Object.entries(floods)) {
      const bytes = flood()
      for (let n = 0; n < 5; n++) {
        const socket = connect(options, () => socket.write(bytes))
        const ended = new Promise((resolve) => socket.once('close', resolve))
        socket.on('error', () => {}).resume()
        clients.push({ name, socket, ended })
      }
      for (let n = 0; n < 20; n++) also(await answersGood(), () => `${name}: a good request is not answered meanwhile`)
    }
    count(clients.length)
    if (times > 1) {
      // An answer that is not taken ends after 15 s, a connection without requests after 65; `make test` leaves this out.
      const patience = new AbortController()
      await Promise.race([
        Promise.all(clients.map(({ ended }) => ended)),
        sleep(100_000, undefined, { signal: patience.signal }),
      ])
      patience.abort()
      for (const { name, socket } of clients) also(socket.closed, () => `${name}: not let go in 100 s`)
    }
  } finally {
    for (const { socket } of clients) socket.destroy()
  }
  await unharmed(shop, productId, counts, before, { edge, edgeLog })
  done(t)
})
