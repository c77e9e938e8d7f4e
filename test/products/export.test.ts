import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { useProducts } from './role.ts'

const { ask, add, command, connect } = useProducts(test)
const dir = mkdtempSync(join(tmpdir(), 'export-'))
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

/** What a field of CSV could be mistaken for, and the longest there is. */
const awkward = {
  name: '=1+1; "quoted", ‘Ölkännchen’ 🦉',
  description: `a, b; "c"\r\nd\re\n\n"\n,\n"";\n${'\n'.repeat(9000)}x`,
  category: 'Ende, gut; alles gut',
}

test.serial.before('a catalogue', async () => {
  await add({ ...awkward, sku: `"${randomUUID()}", 1`, price: Number.MAX_SAFE_INTEGER, currency: 'JPY', stock: 3 })
  await add({ sku: 'plain', description: '', price: 0 })
  const gone = await add({ sku: 'gone' })
  await ask('DELETE', `/product/${gone.id}`, { as: 'staff', headers: { 'If-Match': '*' } })
  await using admin = await connect('admin')
  await admin.query(
    `with made as (insert into products.product (sku, name, category, price, currency)
       select 'many-' || n, 'Thing ' || n, 'many', n, 'EUR' from generate_series(1, 2500) n returning id)
     insert into products.stock (product_id, on_hand) select id, 7 from made`,
  )
})
const versions = async () => {
  await using admin = await connect('admin')
  const { rows } = await admin.query(
    'select p.*, s.on_hand from products.product p join products.stock s on s.product_id = p.id order by p.id',
  )
  return rows
}

for (const name of ['out.csv', 'out.jsonl', 'OUT.NDJSON'])
  test.serial(`export to ${name} → every live product of every page; the import of it changes nothing`, async (t) => {
    const before = await versions()
    const file = join(dir, name)
    const { code, stdout, stderr } = await command({}, 'export', file)
    t.is(code, 0, stderr)
    t.is(stderr, '2,502 products\n')
    t.is(stdout, '')
    t.false(readFileSync(file, 'utf8').includes('gone'))
    const again = await command({}, 'import', file)
    t.is(again.stdout, '0 created, 0 changed, 2,502 unchanged, 0 refused\n', again.stderr)
    t.deepEqual(await versions(), before)
  })

test.serial('export, then all is lost, then import → the same catalogue', async (t) => {
  const facts = async () =>
    (await versions())
      .filter((row) => !row.deleted_at)
      .map((row) => [row.sku, row.name, row.description, row.category, row.price, row.currency, row.on_hand])
      .sort()
  const before = await facts()
  const file = join(dir, 'all.csv')
  await command({}, 'export', file)
  {
    await using admin = await connect('admin')
    await admin.query('truncate products.product cascade')
  }
  t.is((await command({}, 'import', file)).stdout, '2,502 created, 0 changed, 0 unchanged, 0 refused\n')
  t.deepEqual(await facts(), before)
})

test.serial('export of no products → a header, or nothing; the import of it is none', async (t) => {
  await using admin = await connect('admin')
  await admin.query('truncate products.product cascade')
  for (const [name, text] of [
    ['empty.csv', 'sku,name,description,category,price,currency,stock\n'],
    ['empty.jsonl', ''],
  ] as const) {
    const file = join(dir, name)
    await command({}, 'export', file)
    t.is(readFileSync(file, 'utf8'), text)
    t.is((await command({}, 'import', file)).stdout, '0 created, 0 changed, 0 unchanged, 0 refused\n')
  }
})

test.serial('export to what cannot be written → one clear error, and nothing half is left', async (t) => {
  const before = readdirSync(dir)
  for (const [file, code, says] of [
    [undefined, 78, /say which file/],
    [join(dir, 'products.xlsx'), 78, /must end in \.csv/],
    [join(dir, 'nowhere', 'products.csv'), 1, /cannot be written \(ENOENT\)/],
  ] as const) {
    const done = await command({}, 'export', ...(file ? [file] : []))
    t.is(done.code, code)
    t.regex(done.stderr, says)
    t.notRegex(done.stderr, /\n {4}at /)
  }
  const away = await command({ DATABASE_HOST: '127.0.0.1', DATABASE_PORT: '1' }, 'export', join(dir, 'away.csv'))
  t.is(away.code, 1)
  t.regex(away.stderr, /database is out of reach/)
  t.deepEqual(readdirSync(dir), before)
})
