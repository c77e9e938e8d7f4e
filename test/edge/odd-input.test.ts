import { randomUUID } from 'node:crypto'
import test from 'ava'
import type { TableRow } from '../../src/platform/routes.ts'
import { table } from '../../src/table.ts'
import { trial } from '../support/cases.ts'
import { type TestUser, useShop } from '../support/shop.ts'

const shop = useShop(test)
let staff: TestUser
let admin: TestUser
test.serial.before('who may call everything', async () => {
  staff = await shop.staff()
  admin = await shop.admin()
})

const odd = [
  '\u0000',
  'a\u0000b',
  '%00',
  "' or 1=1 --",
  '9'.repeat(400),
  '-1',
  '1e999',
  'NaN',
  '[]',
  'null',
  '😀'.repeat(60),
  '\u202e',
  '../../etc',
  '1'.repeat(20),
]
const parameters = ['q', 'cursor', 'limit', 'category', 'minPrice', 'sort', 'token', 'inStock', 'user']
const tags = ['', 'x'.repeat(300), 'é', '"v1', '*', 'W/"v1"', '"v99999999999999999999"']
const bodies = (text: string): unknown[] => [
  text,
  [text],
  { [text]: text },
  null,
  1,
  { email: `${text}@x.org`, password: text.padEnd(12, 'x') },
  { email: 'a@x.org', password: text.padEnd(12, 'x'), name: text },
  { sku: text, name: text, description: text, category: text, price: 1, currency: 'EUR', stock: 1 },
  { sku: randomUUID(), name: 'x', description: text, category: text, price: 1, currency: 'EUR', stock: 1 },
  { items: [{ productId: text, quantity: 1 }] },
  { items: [{ productId: randomUUID(), quantity: 1 }] },
  { name: text },
  { quantity: 99 },
  { roles: [text] },
  { change: Number.MAX_SAFE_INTEGER },
  { stock: 2 ** 31 },
  { stock: Number.MAX_SAFE_INTEGER },
]
const filled = (row: TableRow, value: string) => row.path.replace(/\{\w+\}/g, encodeURIComponent(value))

test('odd paths, queries, bodies and headers on every route → never an answer of 5xx', async (t) => {
  t.timeout(240_000)
  const { check, done } = trial('odd values in paths, queries, bodies and conditions of every route')
  const ask = async (row: TableRow, path: string, body?: unknown, headers: Record<string, string> = {}) => {
    const { token } = row.access === 'user:manage' ? admin : staff
    const answer = await shop.call(row.method, path, {
      token,
      ...(row.body && body !== undefined ? { body: JSON.stringify(body) } : {}),
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': randomUUID(), 'If-Match': '"v1"', ...headers },
    })
    check(answer.status < 500, () => `${row.method} ${path} ${JSON.stringify(body)?.slice(0, 100)}: ${answer.text}`)
  }
  for (const row of await table()) {
    // These would end the sessions that ask.
    if (row.internal || row.path === '/auth/logout' || row.path === '/user/{id}/roles') continue
    for (const text of odd) {
      await ask(row, filled(row, text), {})
      const path = filled(row, randomUUID())
      if (row.query) for (const name of parameters) await ask(row, `${path}?${name}=${encodeURIComponent(text)}`)
      if (row.body) for (const body of bodies(text)) await ask(row, path, body)
    }
    for (const tag of tags)
      await ask(row, filled(row, randomUUID()), {}, { 'If-Match': tag, 'If-None-Match': tag, 'Idempotency-Key': tag })
  }
  done(t)
})
