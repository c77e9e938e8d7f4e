import { execFileSync } from 'node:child_process'
import { createPrivateKey } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { config } from '../../src/platform/config.ts'
import { madeClone, newClone, readTemplate, testWith } from './clone.ts'

const secretsTest = testWith('sops', 'age-keygen')
const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

secretsTest(
  'make secrets, nothing there → identity, sealed file and unpacked files, each for whom it is',
  async (t) => {
    const clone = newClone()
    const made = await clone.make('secrets')
    t.is(made.code, 0, made.out)
    t.is(mode(clone.identity), '600')
    t.true(clone.read('.sops.yaml').includes(`- ${clone.recipient()} #`))
    t.deepEqual(Object.keys(clone.sealed()), Object.keys(readTemplate()))
    for (const [key, value] of Object.entries(clone.sealed())) t.regex(value, /^(ENC\[AES256_GCM,.*|"")$/, key)
    t.true(clone.read('secrets/dev/kustomization.yaml').includes('- bodega.sops.yaml'))

    const values = clone.decrypt()
    t.is(mode(clone.path('secrets/.plain/dev')), '700')
    for (const [key, value] of Object.entries(values)) {
      t.is(clone.plain(key), value, key)
      t.is(mode(clone.path(`secrets/.plain/dev/${key}`)), '444', key)
    }
    t.regex(values.POSTGRES_PASSWORD as string, /^[a-z][A-Za-z0-9_-]{43}$/)
    t.regex(values.ASSERTION_KEY as string, /^[0-9a-f]{64}$/)
    t.is(values.ORDERS_DATABASE_USER, 'orders_a')
    const keys = JSON.parse(values.JWT_KEYS as string) as { state: string; pem: string }[]
    t.deepEqual(
      keys.map(({ state, pem }) => [state, createPrivateKey(pem).asymmetricKeyDetails?.modulusLength]),
      [
        ['next', 2048],
        ['active', 2048],
      ],
    )
    for (const role of ['auth', 'products', 'orders', 'notifications', 'migrate', 'nats', 'postgres', 'objectstore'])
      t.regex(clone.read('.env'), new RegExp(`^BODEGA_HASH_${role.toUpperCase()}=[0-9a-f]{16}$`, 'm'))
    t.regex(clone.read('.env'), /^BODEGA_ENV=dev$/m)
    // Nothing but the sealed form may be committed.
    t.deepEqual(clone.git('status', '--porcelain', '-uall').match(/secrets\/(dev|\.plain)\S*|\.env/g), [
      'secrets/dev/bodega.sops.yaml',
      'secrets/dev/hashes/kustomization.yaml',
      'secrets/dev/hashes/values.yaml',
      'secrets/dev/kustomization.yaml',
    ])
  },
)

secretsTest('the unpacked files, mounted as the template says → every role starts with its settings', async (t) => {
  const clone = await madeClone()
  for (const reader of ['auth', 'products', 'orders', 'notifications', 'migrate'] as const) {
    const dir = mkdtempSync(join(tmpdir(), 'mounts-'))
    for (const [key, { used }] of Object.entries(readTemplate()))
      if (used[reader]) writeFileSync(join(dir, used[reader]), clone.plain(key))
    const c = config(reader, {
      SECRETS_DIR: dir,
      ROLE: reader,
      PUBLIC_URL: 'http://shop.example.org',
      DATABASE_URL: 'postgres://postgres/bodega',
      NATS_BROKER_URL: `nats://${reader}@nats:4222`,
      S3_URL: 'http://objectstore:8333',
    })
    t.is(new URL(c.NATS_BROKER_URL).password, clone.plain(`${reader.toUpperCase()}_NATS_PASSWORD`))
  }
})

secretsTest('make secrets, again → not a byte and not a file is new', async (t) => {
  const clone = await madeClone()
  const stamp = () => statSync(clone.path('secrets/.plain/dev/JWT_KEYS')).ino
  const [files, inode] = [clone.files(), stamp()]
  const again = await clone.make('secrets')
  t.is(again.code, 0)
  t.regex(again.out, /nothing to do/)
  t.deepEqual(clone.files(), files)
  t.is(stamp(), inode)
})

secretsTest(
  'make secrets, a key added to the template → only that one is added, the others keep their ciphertext',
  async (t) => {
    const clone = await madeClone()
    const [sealed, dotenv] = [clone.sealed(), clone.read('.env')]
    clone.write(
      'secrets/template.yaml',
      `${clone.read('secrets/template.yaml')}\nNEW_KEY:\n  used: { orders: NEW_KEY }\n  make: key\n  help: New.\n`,
    )
    const added = await clone.sh('make', ['dev'])
    t.is(added.code, 0, added.out)
    t.regex(added.out, /added NEW_KEY/)
    const { NEW_KEY, ...others } = clone.sealed()
    t.regex(NEW_KEY as string, /^ENC\[/)
    t.deepEqual(others, sealed)
    t.regex(clone.plain('NEW_KEY'), /^[0-9a-f]{64}$/)
    const changed = clone
      .read('.env')
      .split('\n')
      .filter((line) => !dotenv.includes(line))
    t.deepEqual(
      changed.map((line) => line.split('=')[0]),
      ['BODEGA_HASH_ORDERS'],
    )
  },
)

secretsTest('make secrets, an identity there → it is used and stays as it is', async (t) => {
  const clone = newClone()
  mkdirSync(join(clone.identity, '..'), { recursive: true })
  execFileSync('age-keygen', ['-o', clone.identity], { stdio: 'ignore' })
  const before = readFileSync(clone.identity, 'utf8')
  t.is((await clone.sh('make', ['dev'])).code, 0)
  t.is(readFileSync(clone.identity, 'utf8'), before)
  t.true(clone.read('secrets/dev/bodega.sops.yaml').includes(clone.recipient()))
})

secretsTest('make secrets, into another folder than before → says where the files from before still are', async (t) => {
  const clone = await madeClone()
  const BODEGA_SECRETS = join(clone.base, 'run')
  const moved = await clone.sh('make', ['dev'], { BODEGA_SECRETS })
  t.is(moved.code, 0, moved.out)
  t.regex(moved.out, /secrets\/\.plain\/dev still has the secrets from before.*next: make roll, then rm -r/)
  rmSync(clone.path('secrets/.plain/dev'), { recursive: true })
  t.notRegex((await clone.sh('make', ['dev'])).out, /still has/)
})

secretsTest('make secrets, lines of the operator in .env and files of his own → they stay', async (t) => {
  const clone = newClone()
  clone.write('.env', 'PUBLIC_URL=https://shop.example.org\n\n# mine\nBODEGA_ENV=old\nMAIL_FROM=a b\n')
  const target = join(clone.base, 'run/bodega')
  mkdirSync(target, { recursive: true, mode: 0o700 })
  writeFileSync(join(target, 'TLS_KEY'), 'mine')
  const made = await clone.sh('make', ['dev'], { BODEGA_SECRETS: target })
  t.is(made.code, 0, made.out)
  t.true(
    clone.read('.env').startsWith('PUBLIC_URL=https://shop.example.org\n\n# mine\nMAIL_FROM=a b\nBODEGA_ENV=dev\n'),
  )
  t.true(clone.read('.env').includes(`BODEGA_SECRETS=${target}\n`))
  t.false(clone.has('secrets/.plain'))

  // Where it unpacks to is kept in .env; what it unpacked once and is no more goes, what it did not stays.
  const template = clone.read('secrets/template.yaml')
  clone.write('secrets/template.yaml', template)
  writeFileSync(join(target, '.unpacked'), `OLD_KEY\n${readFileSync(join(target, '.unpacked'), 'utf8')}`)
  writeFileSync(join(target, 'OLD_KEY'), 'stale')
  clone.write(
    '.env',
    clone.read('.env').replace(`BODEGA_SECRETS=${target}`, `export BODEGA_SECRETS = "${target}" # RAM`),
  )
  t.is((await clone.sh('make', ['dev'])).code, 0)
  t.true(clone.read('.env').includes(`BODEGA_SECRETS=${target}\n`))
  t.is(readFileSync(join(target, 'TLS_KEY'), 'utf8'), 'mine')
  t.false(readdirSync(target).includes('OLD_KEY'))
})

secretsTest(
  'make secrets ENV=prod, the mail server not given → nothing sealed; given → sealed, dev has nothing of it',
  async (t) => {
    const clone = await madeClone()
    const without = await clone.make('secrets', 'ENV=prod')
    t.not(without.code, 0)
    t.regex(without.out, /SMTP_URL is yours to give[\s\S]*next: /)
    t.false(clone.has('secrets/prod'))
    t.regex(clone.read('.env'), /BODEGA_ENV=dev/)

    const given = { SMTP_URL: 'smtp://mail.example.org:587', SMTP_USER: 'shop', SMTP_PASSWORD: 'q"uo\\te $x ünï' }
    const made = await clone.sh('make', ['prod'], given)
    t.is(made.code, 0, made.out)
    for (const [key, value] of Object.entries(given)) t.is(clone.plain(key, 'prod'), value)
    t.regex(clone.read('.env'), /BODEGA_ENV=prod/)
    t.not(clone.plain('ASSERTION_KEY', 'prod'), clone.plain('ASSERTION_KEY'))
  },
)

secretsTest('make secrets without ENV on a host of prod → it stays one; with ENV=dev → it becomes one', async (t) => {
  const clone = newClone()
  await clone.sh('make', ['prod'], { SMTP_URL: 'smtp://mail.example.org:587' })
  const files = clone.files()
  const again = await clone.make('secrets')
  t.is(again.code, 0, again.out)
  t.regex(again.out, /secrets of prod: nothing to do/)
  t.deepEqual(clone.files(), files)
  t.regex((await clone.make('secrets-rotate', 'WHAT=jwt')).out, /^secrets\/prod\/bodega\.sops\.yaml: changed JWT_KEYS/m)
  t.regex((await clone.make('secrets', 'ENV=dev')).out, /\.env: this host runs dev/)
  t.regex((await clone.make('secrets')).out, /secrets of dev: nothing to do/)
})

secretsTest('make secrets ENV=prod UNPACK=no → sealed, and nothing in the clear on this machine', async (t) => {
  const clone = newClone()
  const made = await clone.sh('make', ['prod'], { UNPACK: 'no', SMTP_URL: 'smtp://mail.example.org:587' })
  t.is(made.code, 0, made.out)
  t.true(clone.has('secrets/prod/bodega.sops.yaml'))
  t.false(clone.has('secrets/.plain'))
  t.false(clone.has('.env'))
})

testWith(
  'sops',
  'age-keygen',
  'nats-server',
)('nats.vars beside the configuration → the bus takes exactly these', async (t) => {
  const clone = await madeClone()
  const text = readFileSync(join(import.meta.dirname, '../../src/platform/nats.conf'), 'utf8')
  clone.write('secrets/.plain/dev/nats.conf', `include nats.vars\n${text}`)
  const checked = await clone.run(['nats-server', '-t', '-c', 'secrets/.plain/dev/nats.conf'])
  t.is(checked.code, 0, checked.out)
})
