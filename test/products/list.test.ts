import { randomUUID } from 'node:crypto'
import test from 'ava'
import { call } from '../../src/embedded/client.ts'
import type { Product } from '../../src/products/schema.ts'
import { startReplica } from '../support/shop.ts'
import { useProducts } from './role.ts'

const { ask, add, connect, shop } = useProducts(test)
const sorts = ['created', '-created', 'name', '-name', 'price', '-price']

interface Walk {
  limit?: number
  /** Runs after each page. */
  between?: () => Promise<unknown>
  /** Who is asked instead of the shop's own role. */
  url?: string
}

/** Every product of a walk, page by page. */
async function walk(query: Record<string, string>, { limit = 7, between, url }: Walk = {}): Promise<Product[]> {
  const items: Product[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const text = new URLSearchParams({ ...query, limit: String(limit), ...(cursor ? { cursor } : {}) })
    const page = await call(url ?? shop.roles.products.url, 'GET', `/product?${text}`)
    if (page.status !== 200) throw new Error(page.text)
    if (page.body.next !== null && page.body.items.length !== limit) throw new Error('a page but the last is not full')
    items.push(...page.body.items)
    cursor = page.body.next
    await between?.()
  }
  return items
}

/** Products in a category of their own, with ties in every order: names in both cases, few prices, one moment. */
async function shelf(count: number, facts: (i: number) => object = () => ({})) {
  const category = `Shelf ${randomUUID()}`
  await using admin = await connect('admin')
  await admin.query(
    `with line as (
       select gen_random_uuid() as id, i, f from unnest($1::json[]) with ordinality x (f, i)
     ), p as (
       insert into products.product (id, sku, name, description, category, price, currency, created_at)
       select id, $2 || i, coalesce(f->>'name', case i % 3 when 0 then 'alpha' when 1 then 'Alpha' else 'beta' end),
         coalesce(f->>'description', ''), $2, coalesce((f->>'price')::int, i % 4), 'EUR',
         timestamptz '2026-01-01' + (i % 5) * interval '1 ms'
       from line
       returning id
     )
     insert into products.stock select p.id, coalesce((f->>'stock')::int, 5) from p join line using (id)`,
    [Array.from({ length: count }, (_, i) => JSON.stringify(facts(i))), category],
  )
  return category
}

const keys = {
  name: (p: Product) => p.name.toLowerCase(),
  price: (p: Product) => p.price,
  created: (p: Product) => p.createdAt,
}
/** Compares by a sort and then by id, both in its direction. */
const bySort = (sort: string) => (a: Product, b: Product) => {
  const key = keys[sort.replace('-', '') as keyof typeof keys]
  const [x, y] = key(a) === key(b) ? [a.id, b.id] : [key(a), key(b)]
  return (x < y ? -1 : 1) * (sort.startsWith('-') ? -1 : 1)
}

for (const sort of sorts)
  test(`GET /product?sort=${sort}, walked by cursor over ties → every product once, in order`, async (t) => {
    const category = await shelf(60)
    for (const extra of [{}, { inStock: 'true' }, { minPrice: '0' }] as Record<string, string>[]) {
      const found = await walk({ category, sort, ...extra })
      t.is(found.length, 60)
      t.is(new Set(found.map((p) => p.id)).size, 60)
      t.deepEqual(found, found.toSorted(bySort(sort)))
    }
  })

test('GET /product, whichever way the database joins → every product once, in order', async (t) => {
  const category = await shelf(60, () => ({ description: 'joined' }))
  for (const off of ['-c enable_nestloop=off', '-c enable_nestloop=off -c enable_hashjoin=off']) {
    await using replica = await startReplica(shop, 'products', randomUUID(), {}, { PGOPTIONS: off })
    for (const sort of sorts)
      for (const extra of [{}, { inStock: 'true' }, { minPrice: '0' }, { q: 'joined', inStock: 'true' }] as Record<
        string,
        string
      >[]) {
        const found = await walk({ category, sort, ...extra }, { url: replica.url })
        t.is(found.length, 60)
        t.deepEqual(found, found.toSorted(bySort(sort)), `${off}, ${sort} ${JSON.stringify(extra)}`)
      }
  }
})

test('GET /product, products added during the walk → those there before come once each', async (t) => {
  for (const sort of sorts) {
    const category = await shelf(30)
    const before = await walk({ category, sort }, { limit: 100 })
    const found = await walk({ category, sort }, { between: () => add({ category, name: 'Alpha', price: 2 }) })
    const known = new Set(before.map((p) => p.id))
    t.deepEqual(
      found.filter((p) => known.has(p.id)).map((p) => p.id),
      before.map((p) => p.id),
      sort,
    )
  }
})

test('GET /product, walked over the longest names there are → every product once', async (t) => {
  const category = await shelf(3, () => ({ name: '😀'.repeat(200) }))
  t.is((await walk({ category, sort: 'name' }, { limit: 1 })).length, 3)
})

test('GET /product without anything → 20, the newest first', async (t) => {
  const category = await shelf(30)
  const newest = await add({ category })
  const page = await ask('GET', `/product?category=${encodeURIComponent(category)}`)
  t.is(page.body.items.length, 20)
  t.deepEqual(page.body.items[0], newest)
  t.is((await ask('GET', '/product')).body.items.length, 20)
})

test('GET /product, cursor with another filter or sort → 400 cursor_mismatch; another limit → as it is', async (t) => {
  const category = await shelf(10)
  const list = (query: object) =>
    ask('GET', `/product?${new URLSearchParams({ category, limit: '3', ...query } as Record<string, string>)}`)
  const { next: cursor } = (await list({ q: 'alpha', sort: 'price' })).body
  const same = { q: 'alpha', sort: 'price', cursor }
  t.is((await list({ ...same, limit: '5' })).status, 200)
  const others = [
    { q: 'beta' },
    { q: '' },
    { sort: '-price' },
    { sort: 'name' },
    { category: 'Other' },
    { minPrice: '1' },
    { maxPrice: '1' },
    { inStock: 'true' },
  ]
  for (const change of others) {
    const answer = await list({ ...same, ...change })
    t.is(answer.status, 400, JSON.stringify(change))
    t.is(answer.body.code, 'cursor_mismatch')
  }
  const made = JSON.parse(Buffer.from(cursor, 'base64url').toString())
  const forged = [{ ...made, k: 'x' }, { ...made, i: 'x' }, { ...made, k: undefined }, { f: made.f }]
  const written = (cursor: object) => Buffer.from(JSON.stringify(cursor)).toString('base64url')
  for (const bad of ['x', 'e30', ...forged.map(written)]) {
    const answer = await list({ ...same, cursor: bad })
    t.is(answer.status, 400, bad)
    t.is(answer.body.code, 'bad_cursor')
  }

  const newest = { q: 'alpha', sort: '-created' }
  const moment = JSON.parse(Buffer.from((await list(newest)).body.next, 'base64url').toString())
  const inOtherZone = moment.k.replace('+00:00', '-00:30')
  for (const k of [moment.k, inOtherZone])
    t.is((await list({ ...newest, cursor: written({ ...moment, k }) })).status, 200, k)
  const none = ['0000-01-01T00:00:00Z', '2024-01-01T00:00:00+23:59', `2024-01-01T00:00:00.${'1'.repeat(300)}+00:00`, '']
  for (const k of none) t.is((await list({ ...newest, cursor: written({ ...moment, k }) })).status, 400, k)

  const named = { q: 'alpha', sort: 'name' }
  const name = JSON.parse(Buffer.from((await list(named)).body.next, 'base64url').toString())
  t.is((await list({ ...named, cursor: written({ ...name, k: 'a\0' }) })).body.code, 'bad_cursor')
})

test('GET /product with faulty parameters → 400 that names each', async (t) => {
  const cases = {
    limit: ['0', '101', '-1', 'x', '1e1', ''],
    sort: ['size', 'Price', '--price'],
    minPrice: ['-1', '1.5', '9007199254740992', ''],
    maxPrice: ['x'],
    inStock: ['yes', '1'],
    q: ['a\u0000b', 'x'.repeat(201)],
    colour: ['red'],
  }
  for (const [name, values] of Object.entries(cases))
    for (const value of values) {
      const answer = await ask('GET', `/product?${new URLSearchParams({ [name]: value })}`)
      t.is(answer.status, 400, `${name}=${value}`)
      t.deepEqual(
        answer.body.errors.map((e: { field: string }) => e.field),
        [name],
      )
    }
  t.is((await ask('GET', '/product?limit=1&limit=2')).status, 400)
})

test('GET /product by category, price and stock → those that fit, alone and together', async (t) => {
  const category = await shelf(40, (i) => ({ price: i * 10, stock: i % 2 }))
  const prices = async (query: Record<string, string>) =>
    (await walk({ category, sort: 'price', ...query })).map((p) => p.price / 10)
  const range = (from: number, to: number, fits = (_: number) => true) =>
    Array.from({ length: to - from + 1 }, (_, i) => from + i).filter(fits)
  t.deepEqual(await prices({ minPrice: '350' }), range(35, 39))
  t.deepEqual(await prices({ maxPrice: '55' }), range(0, 5))
  t.deepEqual(await prices({ minPrice: '100', maxPrice: '130' }), range(10, 13))
  t.deepEqual(await prices({ minPrice: '130', maxPrice: '100' }), [])
  t.deepEqual(
    await prices({ inStock: 'true' }),
    range(0, 39, (n) => n % 2 === 1),
  )
  t.deepEqual(
    await prices({ inStock: 'false', minPrice: '300' }),
    range(30, 39, (n) => n % 2 === 0),
  )
  t.deepEqual(await prices({ minPrice: '100', sort: '-created', maxPrice: '120' }).then((p) => p.sort()), [10, 11, 12])
  t.deepEqual((await walk({ category: category.toLowerCase() })).length, 0)
})

test('GET /product?q=, words of name, description, category or sku → found, newest first', async (t) => {
  const word = `w${randomUUID().slice(0, 8).replace(/\d/g, 'x')}`
  const one = await add({ name: `Copper Kettles ${word}`, description: 'Boils fast' })
  const two = await add({ name: `Kettle of steel ${word}`, description: 'For grandmothers' })
  const search = async (q: string) =>
    (await ask('GET', `/product?${new URLSearchParams({ q })}`)).body.items.map((p: Product) => p.id)
  t.deepEqual(await search(`${word} kettle`), [two.id, one.id])
  t.deepEqual(await search(`COPPER ${word}`), [one.id])
  t.deepEqual(await search(`${word} grandmother`), [two.id])
  t.deepEqual(await search(`"copper kettle" ${word}`), [one.id])
  t.deepEqual(await search(`${word} -copper`), [two.id])
  t.deepEqual(await search(one.sku), [one.id])
  t.deepEqual(await search(`${word} things`), [two.id, one.id])
  const oven = await add({ name: 'Dutch Oven' })
  await add({ name: 'Pour-Over set' })
  t.true((await search('ove')).includes(oven.id))
  for (const odd of [`' & | !`, '((', ':*', '"', '%', 'the', '\\', '🦉', 'É'])
    t.is((await ask('GET', `/product?${new URLSearchParams({ q: odd })}`)).status, 200, odd)
})

test('GET /product?q=, mistyped or only begun → what is spelled alike, by cursor to the end', async (t) => {
  const category = await shelf(30, (i) => ({ name: i % 2 ? `Zwetschgenmus No ${i}` : `Marmelade ${i}` }))
  const names = async (q: string) =>
    (await walk({ category, q, sort: 'name' }, { limit: 4 })).map((p) => p.name.split(' ')[0])
  for (const q of ['Zwetschgenmuss', 'zwetchgenmus', 'zwetsch', 'Zwetschenmus no']) {
    const found = await names(q)
    t.is(found.length, 15, q)
    t.deepEqual([...new Set(found)], ['Zwetschgenmus'])
  }
  t.deepEqual(await names('kettensäge'), [])
  const cafe = await add({ category, name: 'Café crème' })
  t.deepEqual(
    (await walk({ category, q: 'cafe' })).map((p) => p.id),
    [cafe.id],
  )
})

test('GET /product?q=, more products than are read in order → every match once, in order', async (t) => {
  const word = 'quagga'
  const category = await shelf(7000, (i) => ({ name: i % 700 === 5 ? `Rare ${word} ${i}` : 'Common', price: i }))
  for (const sort of ['price', '-price', 'name', '-created']) {
    const found = await walk({ category, q: word, sort }, { limit: 3 })
    t.is(found.length, 10)
    t.deepEqual(found, found.toSorted(bySort(sort)))
  }
})

test('GET /product after a change of name → found by the new one only', async (t) => {
  const { id, sku } = await add({ name: 'Wuchtbrumme' })
  const body = { sku, name: 'Ziegenglocke', category: 'Things', price: 1, currency: 'EUR' }
  await ask('PUT', `/product/${id}`, { as: 'staff', body, headers: { 'If-Match': '*' } })
  const ids = async (q: string) => (await walk({ q })).map((p) => p.id)
  t.deepEqual(await ids('ziegenglocke'), [id])
  t.deepEqual(await ids('ziegenglokce'), [id])
  t.deepEqual(await ids('wuchtbrumme'), [])
})
