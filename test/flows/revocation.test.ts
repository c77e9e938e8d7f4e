import { cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { startChild } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import { eventually, useShop } from '../support/shop.ts'

const shop = useShop(test)

/** Another replica of auth, beside the shop's, which the edge does not know. */
async function replica() {
  const [port, metrics] = await freePorts(2)
  const dir = join(shop.dir, 'auth-2')
  cpSync(shop.secretsDir('auth'), dir, { recursive: true })
  writeFileSync(join(dir, 'LISTEN_PORT'), String(port))
  writeFileSync(join(dir, 'METRICS_PORT'), String(metrics))
  const url = `http://127.0.0.1:${port}`
  const child = await startChild({
    name: 'auth-2',
    command: process.execPath,
    args: [join(import.meta.dirname, '../../src/main.ts')],
    env: { ROLE: 'auth', SECRETS_DIR: dir },
    log: join(shop.dir, 'log', 'auth-2.log'),
    ready: async () => (await fetch(`${url}/readyz`)).ok,
  })
  return Object.assign(child, { url })
}
const authn = async (url: string, token: string) =>
  (await fetch(`${url}/authn`, { method: 'POST', headers: { Authorization: `Bearer ${token}` } })).status

test.serial(
  'a session ended at one replica, NATS there and then away → the other knows within 2 s, the edge within 5',
  async (t) => {
    await using other = await replica()
    for (const natsIs of ['there', 'away']) {
      const user = await shop.user()
      t.is(await authn(other.url, user.token), 204)
      t.is((await shop.call('GET', '/profile', { token: user.token })).status, 200)
      if (natsIs === 'away') await shop.nats.stop()
      const began = Date.now()
      t.is((await shop.call('POST', '/auth/logout', { token: user.token })).status, 204)
      await eventually('the other replica refuses', async () => (await authn(other.url, user.token)) === 401, 5000)
      const known = Date.now() - began
      await eventually(
        'the edge refuses',
        async () => (await shop.call('GET', '/profile', { token: user.token })).status === 401,
        5000,
      )
      const seen = Date.now() - began
      t.log(`NATS ${natsIs}: the other replica after ${known} ms, the edge after ${seen} ms`)
      // With half a second for a busy machine.
      t.true(known < 2500, `${known} ms`)
      t.true(seen < 5000, `${seen} ms`)
    }
    await shop.nats.restart()
  },
)

test.serial('JWKS → may be kept for five minutes, which is shorter than a key waits before it signs', async (t) => {
  const { headers, body } = await shop.call('GET', '/.well-known/jwks.json')
  t.is(headers['cache-control'], 'public, max-age=300')
  t.true(body.keys.length >= 1)
  for (const key of body.keys) t.deepEqual(Object.keys(key).sort(), ['alg', 'e', 'kid', 'kty', 'n', 'use'])
})
