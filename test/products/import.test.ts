import { randomUUID } from 'node:crypto'
import { createWriteStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import test from 'ava'
import type { Product } from '../../src/products/schema.ts'
import { eventually } from '../support/shop.ts'
import { example, useProducts } from './role.ts'

const { ask, add, command, connect } = useProducts(test)
const dir = mkdtempSync(join(tmpdir(), 'import-'))
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

/** Runs `commands.ts import` on a file of this text. */
async function load(name: string, text: string | Uint8Array) {
  const file = join(dir, `${randomUUID()} ${name}`)
  writeFileSync(file, text)
  return command({}, 'import', file)
}

const inCategory = async (category: string): Promise<Product[]> =>
  (await ask('GET', `/product?${new URLSearchParams({ category, sort: 'name', limit: '100' })}`)).body.items
const refusals = (stderr: string) => stderr.split('\n').filter((line) => line.startsWith('line '))

test('import of CSV → its products, whatever the order of columns, quotes, blank lines and line ends', async (t) => {
  const category = randomUUID()
  const text = [
    '\ufeffname,sku,price,currency,stock,category,description',
    `"Lamp, ""big""",${category}-1,1999,EUR,3,${category},"Two`,
    `lines; and, more"`,
    '',
    ` Bowl ,${category}-2, 500 ,USD,,${category},`,
    `Ölkännchen 🦉,${category}-3,0,JPY,0,${category},x`,
  ].join('\r\n')
  const { code, stdout, stderr } = await load('products.csv', text)
  t.is(stdout, '3 created, 0 changed, 0 unchanged, 0 refused\n', stderr)
  t.is(code, 0)
  const shown = (await inCategory(category)).map((p) => [
    p.name,
    p.price,
    p.currency,
    p.stock,
    p.description,
    p.version,
  ])
  t.deepEqual(shown, [
    ['Bowl', 500, 'USD', 0, '', 1],
    ['Lamp, "big"', 1999, 'EUR', 3, 'Two\nlines; and, more', 1],
    ['Ölkännchen 🦉', 0, 'JPY', 0, 'x', 1],
  ])
})

test('import with bad lines → each refused with number and reason, the others imported, exit code 1', async (t) => {
  const category = randomUUID()
  const line = (n: number, price = '100', rest = 'EUR,1') => `${category}-${n},Name ${n},${category},${price},${rest}`
  const text = [
    'sku,name,category,price,currency,stock',
    line(2),
    line(3, '19.99'),
    line(4, '100', 'XXQ,1'),
    line(5, '100', 'EUR'),
    line(6, '100', 'EUR,1,2'),
    line(2, '300'),
    `${category}-8,"Never closed,${category},100,EUR,1`,
    line(9),
    `${category}-10,5" pipe,${category},100,EUR,1`,
    `${category}-11,"Odd" quotes,${category},100,EUR,1`,
    line(12, '-5'),
    line(13, '100', 'EUR,many'),
    `${category}-14,,${category},100,EUR,1`,
    `${category}-15,"Whole",${category},100,EUR,1`,
    `${category}-16,${'x'.repeat(200_000)},${category},100,EUR,1`,
    line(17),
  ].join('\n')
  const { code, stdout, stderr } = await load('products.csv', text)
  t.is(code, 1)
  t.is(stdout, '4 created, 0 changed, 0 unchanged, 12 refused\n')
  const reasons = refusals(stderr)
  const expected: [number, RegExp][] = [
    [3, /price: must be a whole number from 0/],
    [4, /currency: must be an ISO 4217 currency/],
    [5, /5 fields, and the header 6/],
    [6, /7 fields, and the header 6/],
    [7, /sku: .* is in line 2 already/],
    [8, /quote/],
    [10, /not CSV/],
    [11, /quote/],
    [12, /price: must be a whole number/],
    [13, /stock: must be a whole number/],
    [14, /name: must not be empty/],
    [16, /too long/],
  ]
  for (const [number, reason] of expected)
    t.true(
      reasons.some((r) => r.startsWith(`line ${number} refused: `) && reason.test(r)),
      `${number} ${reason}\n${stderr}`,
    )
  t.is(reasons.length, expected.length)
  t.deepEqual(
    (await inCategory(category)).map((p) => Number(p.sku.slice(37))).sort((a, b) => a - b),
    [2, 9, 15, 17],
  )
})

test('import of JSON lines → as CSV, with its own faults', async (t) => {
  const category = randomUUID()
  const product = (n: number, more = {}) =>
    JSON.stringify({ sku: `${category}-${n}`, name: `Name ${n}`, category, price: n, currency: 'EUR', ...more })
  const text = [
    product(1, { stock: 4, description: 'Text' }),
    product(2, { price: '2' }),
    '{"sku":',
    '[]',
    product(5, { colour: 'red', '\u001b[2J': 1 }),
    '',
    product(7, { name: 'nul\u0000' }),
    product(8, { price: undefined }),
    product(9),
  ].join('\n')
  const { code, stdout, stderr } = await load('products.jsonl', text)
  t.is(code, 1)
  t.is(stdout, '2 created, 0 changed, 0 unchanged, 6 refused\n')
  t.deepEqual(
    refusals(stderr).map((r) => r.replace(/ refused: .*?([a-zA-Z]+).*/, ' $1')),
    ['line 2 price', 'line 3 the', 'line 4 the', 'line 5 colour', 'line 7 name', 'line 8 price'],
  )
  t.regex(stderr, /"colour", "\\u001b\[2J": is not a known field/)
  t.deepEqual(
    (await inCategory(category)).map((p) => [p.name, p.stock, p.description]),
    [
      ['Name 1', 4, 'Text'],
      ['Name 9', 0, ''],
    ],
  )
})

test('import again → nothing written; with changes → only those, and a stock alone keeps the version', async (t) => {
  const category = randomUUID()
  const csv = (...lines: string[]) => ['sku,name,category,price,currency,stock', ...lines].join('\n')
  const line = (n: number, price: number, stock: number | '') =>
    `${category}-${n},N ${n},${category},${price},EUR,${stock}`
  const first = csv(line(1, 10, 1), line(2, 20, 2), line(3, 30, 3), line(4, 40, 4))
  t.is((await load('a.csv', first)).stdout, '4 created, 0 changed, 0 unchanged, 0 refused\n')
  const before = await inCategory(category)
  t.is((await load('a.csv', first)).stdout, '0 created, 0 changed, 4 unchanged, 0 refused\n')
  t.deepEqual(await inCategory(category), before)

  const second = csv(line(1, 11, 1), line(2, 20, 7), line(3, 30, ''), line(5, 50, 5))
  t.is((await load('b.csv', second)).stdout, '1 created, 2 changed, 1 unchanged, 0 refused\n')
  t.deepEqual(
    (await inCategory(category)).map((p) => [p.price, p.stock, p.version]),
    [
      [11, 1, 2],
      [20, 7, 1],
      [30, 3, 1],
      [40, 4, 1],
      [50, 5, 1],
    ],
  )
})

test('import of the sku of a deleted product → a new product', async (t) => {
  const gone = await add({ name: 'Old' })
  await ask('DELETE', `/product/${gone.id}`, { as: 'staff', headers: { 'If-Match': '*' } })
  const category = randomUUID()
  const text = `sku;name;category;price;currency\n${gone.sku};New;${category};1;EUR\n`
  t.is((await load('products.csv', text)).stdout, '1 created, 0 changed, 0 unchanged, 0 refused\n')
  t.not((await inCategory(category))[0]?.id, gone.id)
})

test('import of what cannot be read → one clear error, no stack', async (t) => {
  const cases: [string, string | Uint8Array, RegExp, number][] = [
    ['products.xml', '<a/>', /must end in \.csv, \.jsonl, \.ndjson/, 78],
    ['products.csv', '', /has no header/, 1],
    ['products.csv', 'sku,name,colour\n', /header lacks category, price, currency and has "colour"/, 1],
    ['products.csv', 'sku,name,category,price,currency,sku\n', /has sku twice/, 1],
    [
      'products.csv',
      '\nsku,"name,category,price,currency\nA,B,C,1,EUR\n',
      /the header, line 2: a quote is not closed/,
      1,
    ],
    ['products.csv', Buffer.from('sku,name,category,price,currency\nA,caf\xe9,C,1,EUR\n', 'latin1'), /not UTF-8/, 1],
  ]
  for (const [name, text, message, code] of cases) {
    const ended = await load(name, text)
    t.is(ended.code, code, ended.stderr)
    t.regex(ended.stderr, message)
    t.notRegex(ended.stderr, /\n\s+at /)
    t.is(ended.stdout, '')
  }
  const missing = await command({}, 'import', join(dir, 'nothing.csv'))
  t.is(missing.code, 1)
  t.regex(missing.stderr, /cannot be read \(ENOENT\)/)
  t.is((await command({}, 'import')).code, 78)
})

test('import that cannot write what comes before an unreadable part → the fault of writing is told', async (t) => {
  await using admin = await connect('admin')
  const category = randomUUID()
  await admin.query(
    `create function products.refuse() returns trigger language plpgsql as $$ begin
       raise exception 'no room for it' using errcode = 'disk_full'; end $$;
     create trigger refuse before insert on products.product
       for each row when (new.category = '${category}') execute function products.refuse()`,
  )
  t.teardown(async () => {
    await using again = await connect('admin')
    await again.query('drop function products.refuse cascade')
  })
  const line = (n: number) => `${category}-${n},Name,${category},100,EUR,${'long '.repeat(60)}\n`
  const text = `sku,name,category,price,currency,description\n${Array.from({ length: 1500 }, (_, n) => line(n)).join('')}`
  const ended = await load('products.csv', Buffer.concat([Buffer.from(text), Buffer.from([0xe9, 10])]))
  t.is(ended.code, 1)
  t.regex(ended.stderr, /no room for it/)
  t.notRegex(ended.stderr, /UTF-8|\n\s+at /)
  t.is(ended.stdout, '')
})

for (const victim of ['the import', 'the POST'])
  test.serial(`import and POST in a circle over new words, ${victim} ended → both are done all the same`, async (t) => {
    t.timeout(120_000)
    // Words have no digits; one pass takes these in this order.
    const word = (first: string) => first + randomUUID().replace(/[-\d]/g, '')
    const [a, m, z] = [word('a'), word('m'), word('z')]
    const known = await add()
    const fresh = randomUUID()
    await using admin = await connect('admin')
    /** For `holder`, a statement too, for so many seconds. */
    const waiting = (statement: string, holder = '%', seconds = 0) =>
      eventually(
        `${statement} waits`,
        async () => {
          const { rowCount } = await admin.query(
            `select from pg_locks l join pg_stat_activity s using (pid) where not l.granted and s.datname = current_database()
             and s.query like $1 and l.waitstart < clock_timestamp() - make_interval(secs => $3)
             and exists (select from pg_stat_activity h where h.pid = any (pg_blocking_pids(s.pid)) and h.query like $2)`,
            [statement, holder, seconds],
          )
          return rowCount
        },
        60_000,
      )
    const deadlocks = async () => {
      const { rows } = await admin.query(
        'select deadlocks::int as n from pg_stat_database where datname = current_database()',
      )
      return rows[0].n as number
    }
    const before = await deadlocks()

    await using holder = await connect('admin')
    await holder.query('begin')
    await holder.query('insert into products.word values ($1)', [m])
    // Its updates note their words before its inserts do.
    const text = `sku,name,category,price,currency\n${known.sku},${z},Things,1,EUR\n${fresh},${a},Things,1,EUR\n`
    // The import has started, and stands still before its first word, by the time the POST asks, which waits for some seconds only.
    await using row = await connect('admin')
    await row.query('begin')
    await row.query('select from products.product where id = $1 for update', [known.id])
    const imported = load('products.csv', text)
    await waiting('with input as%')
    const body = { ...example(randomUUID()), name: `${a} ${m} ${z}` }
    const posted = ask('POST', '/product', { as: 'staff', body })
    await waiting('with p as%')
    await row.query('rollback')
    // Whoever has waited for a second looks for a circle, once, and is the one that is ended.
    await waiting('with input as%', 'with p as%', victim === 'the POST' ? 1.5 : 0)
    await holder.query('rollback')
    const [{ status, text: answer }, { code, stdout, stderr }] = await Promise.all([posted, imported])
    t.is(status, 201, answer)
    t.is(stdout, '1 created, 1 changed, 0 unchanged, 0 refused\n', stderr)
    t.is(code, 0)
    await eventually('it was a circle', async () => (await deadlocks()) > before)
  })

test.serial('import of 100,000 products with 40 MiB of memory for all its values → all of them', async (t) => {
  const category = randomUUID()
  const file = join(dir, 'many.csv')
  const about = 'Useful, and said to be so at some length, as every product of a catalogue of this size is'
  const row = (i: number) => `${category}-${i},Product ${i},${category},${i},EUR,${i % 50},"${about} ${i}"\n`
  function* text() {
    yield 'sku,name,category,price,currency,stock,description\n'
    for (let i = 0; i < 100_000; i += 1000) yield Array.from({ length: 1000 }, (_, n) => row(i + n)).join('')
  }
  await pipeline(Readable.from(text()), createWriteStream(file))
  // The file alone has 19 MB, and three times that as objects.
  const begun = performance.now()
  const ended = await command({ NODE_OPTIONS: '--max-old-space-size=40' }, 'import', file)
  t.log(`${Math.round(100_000 / ((performance.now() - begun) / 1000))} products a second, with the start of Node`)
  t.is(ended.stdout, '100,000 created, 0 changed, 0 unchanged, 0 refused\n', ended.stderr)
  t.is(ended.code, 0)
  await using admin = await connect('admin')
  // Each product's price is its place in the file, which a list of the newest keeps.
  const { rows } = await admin.query(
    `select count(*)::int as n, count(*) filter (where price < before)::int as astray
     from (select price, lag(price) over (order by id) as before from products.product where category = $1) p`,
    [category],
  )
  t.deepEqual(rows[0], { n: 100_000, astray: 0 })
})

test('seed → at least 200 products in at least 8 categories, some sold out; again → nothing changes', async (t) => {
  const first = await command({}, 'seed')
  t.is(first.code, 0, first.stderr)
  const created = Number(first.stdout.match(/^(\d+) created, 0 changed, 0 unchanged, 0 refused/)?.[1])
  t.true(created >= 200)
  t.is((await command({}, 'seed')).stdout, `0 created, 0 changed, ${created} unchanged, 0 refused\n`)
  await using admin = await connect('admin')
  const { rows } = await admin.query(
    `select count(distinct category)::int as categories, count(*) filter (where on_hand = 0)::int as none,
       count(*) filter (where on_hand between 1 and 4)::int as low
     from products.product join products.stock on product_id = id where sku ~ '^[A-Z]{3}-[0-9]{2}$'`,
  )
  t.true(rows[0].categories >= 8 && rows[0].none >= 3 && rows[0].low >= 5, JSON.stringify(rows[0]))
  const grinders = await ask('GET', '/product?q=cofee+grinder&category=Coffee')
  t.regex(grinders.body.items[0].name, /^Coffee Grinder/)
})
