import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import test from 'ava'
import { call } from '../../src/embedded/client.ts'
import { eventually, startSecondEdge, useShop } from '../support/shop.ts'

/** What the edge does with what breaks off: answers of a role that has done its work, and uploads. */
const shop = useShop(test, { env: { TRUSTED_PROXIES: '127.0.0.1/32', EDGE_UPLOADS: '8' } })

/** A way to the role at `url`, on which the first bytes of the next answer cut the connection after `cut()`. */
async function breakable(url: string) {
  const { hostname, port } = new URL(url)
  let isArmed = false
  const server = createServer((client) => {
    const role = connect(Number(port), hostname)
    client.pipe(role)
    role.on('data', (bytes) => {
      if (!isArmed) return client.write(bytes)
      isArmed = false
      client.destroy()
      role.destroy()
    })
    for (const [one, other] of [
      [client, role],
      [role, client],
    ] as const)
      one.on('error', () => undefined).once('close', () => other.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut() {
      isArmed = true
    },
    wasCut: () => !isArmed,
    async [Symbol.asyncDispose]() {
      server.close()
    },
  }
}

test.serial(
  'an answer that is cut off → the edge asks again for what comes to the same, and not for what adds up',
  async (t) => {
    t.timeout(60_000)
    const { token } = await shop.admin()
    await using way = await breakable(shop.roles.products.url)
    await using edge = await startSecondEdge(shop, 'edge-broken', { products: way.url })
    const body = { sku: 'CUT', name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 5 }
    const { id } = (await shop.call('POST', '/product', { token, body })).body
    const stock = async () => (await shop.call('GET', `/product/${id}`)).body.stock
    const ask = async (method: string, path: string, body?: object) => {
      way.cut()
      const answer = await call(edge.url, method, path, { token, body })
      t.true(way.wasCut(), `${method} ${path}`)
      return answer
    }

    t.is((await ask('GET', `/product/${id}`)).status, 200)
    const change = await ask('PUT', `/product/${id}/stock`, { change: 12 })
    t.is(change.status, 503)
    t.is(change.body.code, 'unavailable')
    t.is(await stock(), 17)
    t.is((await ask('PUT', `/product/${id.toUpperCase()}/stock`, { change: 3 })).status, 503)
    t.is(await stock(), 20)
    t.is((await call(edge.url, 'PUT', `/product/${id}/stock`, { token, body: { change: -7 } })).status, 200)
    t.is(await stock(), 13)
  },
)

test.serial('a change of stock while its role is away → 503, and none of it is made later', async (t) => {
  t.timeout(60_000)
  const { token } = await shop.admin()
  const body = { sku: 'ANEW', name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 5 }
  const { id } = (await shop.call('POST', '/product', { token, body })).body
  await shop.roles.products.kill('SIGKILL')
  const away = await shop.call('PUT', `/product/${id}/stock`, { token, body: { change: 1 } })
  t.like(away, { status: 503, body: { code: 'unavailable' } })
  await shop.roles.products.restart()
  t.is((await shop.call('PUT', `/product/${id}/stock`, { token, body: { change: 1 } })).body.stock, 6)
})

test.serial(
  'as many uploads as an address may have, and as the edge has room for, none of which ends → one more is refused at once, and nothing else is',
  async (t) => {
    t.timeout(60_000)
    const { token } = await shop.user()
    const { hostname, port } = new URL(shop.url)
    const head = `PUT /profile/avatar HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer ${token}\r\nContent-Type: image/png\r\n`
    const clients: Socket[] = []
    const begin = (count: number, address: string) => {
      for (let i = 0; i < count; i++) {
        const client = connect(Number(port), hostname).on('error', () => undefined)
        client.write(`${head}X-Forwarded-For: ${address}\r\nContent-Length: 5000000\r\n\r\nPNG`)
        clients.push(client)
      }
    }
    const refusals = (count: number) =>
      eventually(`${count} are refused`, async () => clients.filter(({ bytesRead }) => bytesRead > 0).length === count)
    const upload = (address: string) => {
      const headers = { 'Content-Type': 'image/png', 'X-Forwarded-For': address }
      return shop.call('PUT', '/profile/avatar', { token, body: 'PNG', headers })
    }
    begin(9, '192.0.2.1')
    await refusals(1)
    t.is((await upload('192.0.2.1')).status, 503)
    t.is((await upload('192.0.2.2')).status, 415)
    for (const n of [2, 3, 4, 5]) begin(8, `192.0.2.${n}`)
    begin(4, '192.0.2.6')
    await refusals(5)
    const refused = await upload('192.0.2.7')
    t.is(refused.status, 503)
    t.is(refused.body.code, 'unavailable')
    t.true(Number(refused.headers['retry-after']) > 0)
    t.is((await shop.call('GET', '/profile', { token })).status, 200)
    for (const client of clients) client.destroy()
    await eventually('uploads go on', async () => (await upload('192.0.2.7')).status !== 503)
  },
)
