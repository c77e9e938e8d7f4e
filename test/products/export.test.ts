import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { eventually } from '../support/shop.ts'
import { useProducts } from './role.ts'

const { ask, add, command, connect, shop } = useProducts(test)
const dir = mkdtempSync(join(tmpdir(), 'export-'))
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

/** Runs a line of sh within the directory; in it `bodega` is src/commands.ts with the settings of the role. */
const sh = (line: string) =>
  new Promise<{ stdout: string; stderr: string }>((resolve) => {
    const commands = join(import.meta.dirname, '../../src/commands.ts')
    const env = { PATH: process.env.PATH, SECRETS_DIR: shop.secretsDir('products') }
    execFile(
      'sh',
      ['-c', `bodega() { '${process.execPath}' '${commands}' "$@"; }; ${line}`],
      { cwd: dir, env },
      (_, stdout, stderr) => resolve({ stdout, stderr }),
    )
  })

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

for (const end of ['csv', 'jsonl'])
  test.serial(
    `export as ${end} to standard output → the bytes of a file, and no file; the import of it from a pipe changes nothing`,
    async (t) => {
      await command({}, 'export', join(dir, `whole.${end}`))
      const before = readdirSync(dir)
      t.deepEqual(await sh(`bodega export -.${end} | cmp - whole.${end}`), { stdout: '', stderr: '2,502 products\n' })
      const piped = await sh(`bodega export -.${end} | bodega import -.${end}`)
      t.is(piped.stdout, '0 created, 0 changed, 2,502 unchanged, 0 refused\n', piped.stderr)
      t.deepEqual(readdirSync(dir), before)
    },
  )

test.serial('export to a reader that pauses for longer than a transaction may → all of it', async (t) => {
  await using products = await connect('products')
  const { user } = (await products.query('select current_user as user')).rows[0]
  const mayIdle = async (time: string) => {
    await using admin = await connect('admin')
    await admin.query(`alter role ${user} set idle_in_transaction_session_timeout = '${time}'`)
  }
  await command({}, 'export', join(dir, 'whole.jsonl'))
  await mayIdle('300ms')
  t.teardown(() => mayIdle('15s'))
  // A page is more than a pipe holds.
  t.deepEqual(await sh('bodega export -.jsonl | (dd bs=1 count=1 2>/dev/null; sleep 1; cat) | cmp - whole.jsonl'), {
    stdout: '',
    stderr: '2,502 products\n',
  })
})

test.serial(
  'export to standard output, the database goes away → that is said, and not of standard output',
  async (t) => {
    const done = sh(
      'mkfifo go && bodega export -.jsonl | (dd bs=1 count=1 2>/dev/null; read -r _ <go; cat) > part.jsonl',
    )
    await using admin = await connect('admin')
    await eventually('the export is in the middle', async () => {
      const { rows } = await admin.query(
        `select pg_terminate_backend(pid, 5000) from pg_stat_activity
       where datname = current_database() and state = 'idle in transaction' and query like 'select p.id, p.sku%'`,
      )
      return rows.length > 0
    })
    await sh('echo >go')
    t.regex((await done).stderr, /^-\.jsonl: the database is out of reach \(/)
  },
)

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
  const broken = await sh('{ bodega export -.csv; echo $? >&2; } | true')
  t.is(broken.stderr, 'export: standard output cannot be written (EPIPE)\n1\n')
  if (process.platform === 'linux') {
    const full = await sh('for c in "export -.csv" objects-export; do bodega $c >/dev/full; echo $? >&2; done')
    t.is(
      full.stderr,
      ['export', 'objects-export'].map((c) => `${c}: standard output cannot be written (ENOSPC)\n1\n`).join(''),
    )
  }
  const away = await command({ DATABASE_HOST: '127.0.0.1', DATABASE_PORT: '1' }, 'export', join(dir, 'away.csv'))
  t.is(away.code, 1)
  t.regex(away.stderr, /database is out of reach/)
  t.deepEqual(readdirSync(dir), before)
})
