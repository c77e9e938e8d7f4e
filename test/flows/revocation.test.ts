import { createPublicKey, generateKeyPairSync, type JsonWebKey, randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import test from 'ava'
import jwt from 'jsonwebtoken'
import pg from 'pg'
import { call } from '../../src/embedded/client.ts'
import type { RoleProcess } from '../../src/embedded/shop.ts'
import type { SigningKey } from '../../src/platform/config.ts'
import { eventually, startReplica, startSecondEdge, useShop } from '../support/shop.ts'

/** Two replicas of auth, each with an edge of its own, so that a test says which of them is asked. */
const shop = useShop(test)
let second: RoleProcess
let doors: string[] = []
let close = async () => {}
test.serial.before(async () => {
  await using opening = new AsyncDisposableStack()
  second = opening.use(await startReplica(shop, 'auth', 'auth-second'))
  const edge = opening.use(await startSecondEdge(shop, 'edge-second', { auth: second.url }))
  doors = [shop.url, edge.url]
  const opened = opening.move()
  close = () => opened.disposeAsync()
})
test.after.always(() => close())

const profile = (door: string, token: string) => call(door, 'GET', '/profile', { token })
const authn = (replica: string, token: string) =>
  call(replica, 'POST', '/authn', { headers: { Authorization: `Bearer ${token}` } })
/** Milliseconds until both replicas know, and until both edges refuse; asked all the time, each has just kept a yes. */
async function refusedAfter(token: string, end: () => Promise<unknown>) {
  const refuses = async (ask: () => Promise<{ status: number }>, began: number) => {
    await eventually('401', async () => (await ask()).status === 401, 8000)
    return performance.now() - began
  }
  for (const door of doors) if ((await profile(door, token)).status !== 200) throw new Error('the session is not there')
  await end()
  const began = performance.now()
  const [known, seen] = await Promise.all([
    Promise.all([shop.roles.auth, second].map(({ url }) => refuses(() => authn(url, token), began))),
    Promise.all(doors.map((door) => refuses(() => profile(door, token), began))),
  ])
  for (const door of doors) if ((await profile(door, token)).status !== 401) throw new Error('let in again')
  return { known: Math.max(...known), seen: Math.max(...seen) }
}

for (const bus of ['up', 'down'])
  test.serial(
    `a session ended at one replica, NATS ${bus} → the other knows within 2 s, and every edge refuses within 5 s`,
    async (t) => {
      t.timeout(120_000)
      const user = await shop.user()
      const admin = await shop.admin()
      const ways: [string, (token: string) => Promise<{ status: number }>][] = [
        ['logout', (token) => shop.call('POST', '/auth/logout', { token })],
        [
          'one of the sessions',
          async (token) => {
            const { items } = (await shop.call('GET', '/auth/sessions', { token })).body
            const { id } = items.find(({ current }: { current: boolean }) => current)
            const other = await shop.login(user)
            return shop.call('DELETE', `/auth/sessions/${id}`, { token: other.token })
          },
        ],
        [
          'other roles',
          () =>
            shop.call('PUT', `/user/${user.id}/roles`, { token: admin.token, body: { roles: ['customer', 'staff'] } }),
        ],
      ]
      if (bus === 'down') await shop.nats.kill('SIGKILL')
      try {
        for (const [what, end] of ways) {
          const { token } = await shop.login(user)
          const { known, seen } = await refusedAfter(token, async () => t.true((await end(token)).status < 300, what))
          t.log(`${what}: known after ${Math.round(known)} ms, refused after ${Math.round(seen)} ms`)
          // With half a second for a busy machine.
          t.true(known < 2500, `${what}: ${known} ms`)
          t.true(seen < 5000, `${what}: ${seen} ms`)
        }
      } finally {
        if (bus === 'down') await shop.nats.restart()
      }
    },
  )

test.serial('a session ended at one replica → the other knows by NATS long before it reads of it', async (t) => {
  const user = await shop.user()
  const times: number[] = []
  for (let i = 0; i < 7; i++) {
    const { token } = await shop.login(user)
    t.is((await authn(second.url, token)).status, 204)
    t.is((await shop.call('POST', '/auth/logout', { token })).status, 204)
    const began = performance.now()
    await eventually('401', async () => (await authn(second.url, token)).status === 401)
    times.push(performance.now() - began)
  }
  // By reading alone it would be 750 ms in the middle.
  const [, , , middle = 0] = times.toSorted((a, b) => a - b)
  t.true(middle < 400, `${times}`)
})

test.serial(
  'a session ended while a replica has neither NATS nor the database for more than 30 s → once it has, it knows',
  async (t) => {
    t.timeout(120_000)
    await using admin = await connect()
    const [{ name }] = (await admin.query('select current_database() as name')).rows
    const login = `${name}_third`
    await admin.query(`create role ${login} login password '${login}' in role ${name}_auth`)
    const url = Object.assign(new URL(shop.databaseUrl), { username: login, password: login }).href
    const third = await startReplica(shop, 'auth', 'auth-third', { DATABASE_URL: url })
    t.teardown(async () => {
      await third.stop()
      await using again = await connect()
      await again.query(`drop role ${login}`)
    })
    const { id, token } = await shop.user()
    t.is((await authn(third.url, token)).status, 204)

    await shop.nats.kill('SIGKILL')
    try {
      await admin.query(`alter role ${login} nologin`)
      await admin.query('select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1', [login])
      t.is((await shop.call('POST', '/auth/logout', { token })).status, 204)
      const longAgo = `select from auth.session where user_id = $1 and revoked_at < now() - interval '31 s'`
      await eventually('31 s are over', async () => (await admin.query(longAgo, [id])).rowCount, 40_000)
      t.is((await authn(third.url, token)).status, 204)
      await admin.query(`alter role ${login} login`)
      await eventually('it knows', async () => (await authn(third.url, token)).status === 401, 10_000)
    } finally {
      await shop.nats.restart()
    }
  },
)

/** A connection of the superuser. */
async function connect() {
  const client = new pg.Client({ connectionString: shop.databaseUrl })
  await client.connect()
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() })
}

const newKey = (): SigningKey => ({
  kid: randomBytes(8).toString('hex'),
  state: 'next',
  pem: generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({
    type: 'pkcs8',
    format: 'pem',
  }) as string,
})
/** As `make secrets-rotate WHAT=jwt` does it. */
const rotated = (keys: SigningKey[]): SigningKey[] => {
  const of = (state: SigningKey['state']) => keys.find((key) => key.state === state) as SigningKey
  return [newKey(), { ...of('next'), state: 'active' }, { ...of('active'), state: 'previous' }]
}
const kidOf = (token: string) => jwt.decode(token, { complete: true })?.header.kid

test.serial(
  'signing keys moved twice, one replica after the other, under load → no request refused; then the first key is over',
  async (t) => {
    t.timeout(120_000)
    const user = await shop.user()
    const file = join(shop.secretsDir('auth'), 'JWT_KEYS')
    let keys: SigningKey[] = JSON.parse(readFileSync(file, 'utf8'))
    const jwks = async () => (await call(shop.url, 'GET', '/.well-known/jwks.json')).body.keys as JsonWebKey[]
    const cached = await jwks()
    const first = user.token

    // Customers with every token there is, at every edge whose replica is not just starting, as a balancer would send them.
    const tokens = [first]
    const open = new Set(doors)
    const asking = new Map(doors.map((door) => [door, 0]))
    const count = (door: string, n: number) => asking.set(door, (asking.get(door) as number) + n)
    const answers: number[] = []
    const refused: string[] = []
    const stop = new AbortController()
    const load = Promise.all(
      Array.from({ length: 4 }, async (_, n) => {
        for (let i = n; !stop.signal.aborted; i++) {
          const door = [...open][i % open.size] as string
          const token = tokens[i % tokens.length] as string
          count(door, 1)
          const { status, text } = await call(door, 'GET', `/cart?turn=${n}-${i}`, { token })
          count(door, -1)
          answers.push(status)
          if (status !== 200) refused.push(`${door} ${kidOf(token)} ${status} ${text}`)
          await pause(5)
        }
      }),
    )
    t.teardown(() => {
      stop.abort()
      return load.then(() => {})
    })
    for (let move = 0; move < 2; move++) {
      keys = rotated(keys)
      if (move === 1) tokens.splice(0, 1)
      for (const [i, replica] of [shop.roles.auth, second].entries()) {
        const door = doors[i] as string
        open.delete(door)
        await eventually('its requests are answered', async () => asking.get(door) === 0)
        if (i === 0) shop.configure('auth', { JWT_KEYS: JSON.stringify(keys) })
        else writeFileSync(join(shop.dir, 'auth-second', 'JWT_KEYS'), JSON.stringify(keys))
        await replica.restart()
        open.add(door)
        const { email, password } = user
        tokens.push((await call(door, 'POST', '/auth/login', { body: { email, password } })).body.accessToken)
        const before = answers.length
        await eventually('some requests with it', async () => answers.length > before + 20)
      }
      // Who keeps the list for its five minutes can check what is signed after the move: the key was in it as the next.
      if (move === 0) {
        const fresh = tokens.at(-1) as string
        const key = cached.find(({ kid }) => kid === kidOf(fresh)) as JsonWebKey
        t.notThrows(() => jwt.verify(fresh, createPublicKey({ key, format: 'jwk' }), { algorithms: ['RS256'] }))
        t.not(kidOf(fresh), kidOf(first))
      }
    }
    stop.abort()
    await load
    t.deepEqual(refused, [])
    t.log(`${answers.length} requests`)
    t.deepEqual(
      (await jwks()).map(({ kid }) => kid),
      keys.map(({ kid }) => kid),
    )
    for (const door of doors) t.is((await call(door, 'GET', '/cart?last', { token: first })).status, 401)
  },
)

test.serial(
  'JWKS → may be kept for five minutes, which is shorter than a key waits before it signs; no private part',
  async (t) => {
    const { headers, body } = await shop.call('GET', '/.well-known/jwks.json')
    t.is(headers['cache-control'], 'public, max-age=300')
    t.regex(headers['content-type'] ?? '', /^application\/json/)
    for (const key of body.keys) t.deepEqual(Object.keys(key).sort(), ['alg', 'e', 'kid', 'kty', 'n', 'use'])
  },
)
