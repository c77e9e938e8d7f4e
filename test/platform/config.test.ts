import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { ConfigError, config, settings } from '../../src/platform/config.ts'
import { runMain } from '../support/main.ts'

const good = {
  SECRETS_DIR: '/nowhere',
  ROLE: 'orders',
  DATABASE_URL: 'postgres://orders_a:secret-word@db:5432/bodega',
  NATS_BROKER_URL: 'nats://orders:secret-word@bus:4222',
  PUBLIC_URL: 'http://localhost:8080/',
  ASSERTION_KEY: 'k'.repeat(64),
}

test('a whole environment → typed values with their defaults', (t) => {
  const c = config('orders', good)
  t.is(c.LISTEN_PORT, 3000)
  t.is(c.PUBLIC_URL, 'http://localhost:8080')
  t.is(c.DATABASE_CA, undefined)
})

test('several faults → all of them at once, with name, rule and example, and no secret value', (t) => {
  const error = t.throws(
    () =>
      config('orders', {
        ...good,
        LISTEN_PORT: '80x80',
        DATABASE_URL: 'mysql://orders:secret-word@db',
        ASSERTION_KEY: 'secret-word',
        PUBLIC_URL: undefined,
      }),
    { instanceOf: ConfigError },
  )
  t.is(error.faults.length, 4)
  t.regex(error.message, /LISTEN_PORT is "80x80", and must be a whole number from 1 to 65535. Example: 3000/)
  t.regex(error.message, /DATABASE_URL must be a URL that starts with postgres:\/\//)
  t.regex(error.message, /PUBLIC_URL is missing: /)
  t.notRegex(error.message, /secret-word/)
})

test('a file and the environment name the same key → the file counts', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'secrets-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  writeFileSync(join(dir, 'ASSERTION_KEY'), `${'f'.repeat(40)}\n`)
  t.is(config('orders', { ...good, SECRETS_DIR: dir }).ASSERTION_KEY, 'f'.repeat(40))
})

test('host, port and login apart from DATABASE_URL → they take the place of those in it', (t) => {
  const apart = {
    DATABASE_HOST: 'shop-db-pgbouncer.shop.svc',
    DATABASE_PORT: '6432',
    DATABASE_USER: 'orders',
    DATABASE_PASSWORD: 'a/b@c',
  }
  const url = 'postgres://orders:a%2Fb%40c@shop-db-pgbouncer.shop.svc:6432/bodega'
  t.is(config('orders', { ...good, ...apart }).DATABASE_URL, url)
  t.regex(config('orders', { ...good, DATABASE_HOST: 'fd00::5' }).DATABASE_URL, /@?\[fd00::5\]:/)
  for (const DATABASE_HOST of ['db:5432', 'a/b', 'me@db'])
    t.regex(
      t.throws(() => config('orders', { ...good, DATABASE_HOST }), { instanceOf: ConfigError }).message,
      /DATABASE_HOST is .* and must be the name or address of a host, without a port/,
    )
})

test('no place for pictures → auth and products name what they need, the other roles need none', (t) => {
  const faultsOf = (env: NodeJS.ProcessEnv) => {
    try {
      config('products', { ...good, ROLE: 'products', ...env })
      return ''
    } catch (error) {
      return (error as ConfigError).message
    }
  }
  t.regex(faultsOf({}), /^A setting of products.*\n {2}- S3_URL is missing: .*OBJECTS_DIR/)
  t.regex(faultsOf({ S3_URL: 'ftp://x' }), /^A setting.*\n.*S3_URL is "ftp:/)
  t.regex(
    faultsOf({ S3_URL: 'http://s3:1' }),
    /^2 settings.*\n.*S3_ACCESS_KEY is missing.*\n.*S3_SECRET_KEY is missing/,
  )
  t.regex(faultsOf({ OBJECTS_DIR: '/objects', S3_BUCKET: 'Not A Bucket' }), /S3_BUCKET/)
  t.is(faultsOf({ OBJECTS_DIR: '/objects' }), '')
  const s3 = { S3_ACCESS_KEY: 'a', S3_SECRET_KEY: 'b', S3_CA: '-----BEGIN CERTIFICATE-----' }
  t.regex(faultsOf({ ...s3, S3_URL: 'http://s3:1' }), /S3_CA would not be used: S3_URL is not https/)
  const keys = { S3_ACCESS_KEY: 'a', S3_SECRET_KEY: 'b' }
  t.is(faultsOf({ ...keys, S3_URL: 'https://s3.example.org' }), '')
  t.regex(faultsOf({ ...keys, S3_URL: 'https://x.example.org/storage/v1/s3' }), /S3_URL has a path, which would not/)
})

test('DRAIN_DELAY that leaves a stop less than 6 s → refused; without one any grace is taken', (t) => {
  const stopping = (DRAIN_DELAY: string, SHUTDOWN_GRACE: string) => () =>
    config('orders', { ...good, DRAIN_DELAY, SHUTDOWN_GRACE })
  for (const taken of [stopping('19', '25'), stopping('1', '7'), stopping('0', '1')]) t.notThrows(taken)
  for (const refused of [stopping('20', '25'), stopping('60', '')])
    t.regex(
      t.throws(refused, { instanceOf: ConfigError }).message,
      /DRAIN_DELAY is \d+, and must be at least 6 s less than SHUTDOWN_GRACE, which is 25/,
    )
})

test('logins for migrate of which only half is set → each is named', (t) => {
  const half = { AUTH_DATABASE_USER: 'auth_a', ORDERS_DATABASE_PASSWORD: 'secret-word' }
  const whole = { PRODUCTS_DATABASE_USER: 'products_a', PRODUCTS_DATABASE_PASSWORD: 'secret-word' }
  const { faults } = t.throws(() => config('migrate', { ...good, ...half, ...whole }), { instanceOf: ConfigError })
  t.deepEqual(faults, [
    'AUTH_DATABASE_USER and AUTH_DATABASE_PASSWORD come together, or not at all',
    'ORDERS_DATABASE_USER and ORDERS_DATABASE_PASSWORD come together, or not at all',
  ])
})

for (const keys of [
  '[]',
  '{',
  '[{"kid":"a","state":"next","pem":"x"}]',
  '[{"kid":1}]',
  '[{"kid":"a","state":"active","pem":"-----BEGIN PRIVATE KEY-----\\nMIIE"}]',
])
  test(`JWT_KEYS ${keys} → refused`, (t) => {
    const error = t.throws(() => config('auth', { ...good, JWT_KEYS: keys }), { instanceOf: ConfigError })
    t.regex(error.message, /JWT_KEYS must /)
  })

test('JWT_KEYS with two keys of one name, or a key that cannot sign RS256 → refused; of 2048 bits → taken', (t) => {
  const pemOf = ({ privateKey }: { privateKey: KeyObject }) => privateKey.export({ type: 'pkcs8', format: 'pem' })
  const good2048 = pemOf(generateKeyPairSync('rsa', { modulusLength: 2048 }))
  const parse = (...keys: [kid: string, state: string, pem: unknown][]) =>
    settings.JWT_KEYS.type.parse(JSON.stringify(keys.map(([kid, state, pem]) => ({ kid, state, pem }))))
  t.is(parse(['a', 'active', good2048], ['b', 'next', good2048]).length, 2)
  t.throws(() => parse(['a', 'active', good2048], ['a', 'next', good2048]), { message: /a kid of its own for each/ })
  for (const pem of [
    pemOf(generateKeyPairSync('rsa', { modulusLength: 1024 })),
    pemOf(generateKeyPairSync('ec', { namedCurve: 'P-256' })),
  ])
    t.throws(() => parse(['a', 'active', good2048], ['b', 'next', pem]), {
      message: /2048 bits or more as the pem of b/,
    })
})

test('a sender without one address → refused; with a name or without, taken', (t) => {
  const mail = { ...good, SMTP_URL: 'smtp://mail:25' }
  for (const MAIL_FROM of ['My Shop', 'a@x.org, b@x.org', 'Shop <a@x.org', '<>'])
    t.regex(
      t.throws(() => config('notifications', { ...mail, MAIL_FROM }), { instanceOf: ConfigError }).message,
      /MAIL_FROM is .* and must be one address/,
    )
  for (const MAIL_FROM of ['a@x.org', '<a@x.org>', 'Käse & Co <a@x.org>', '"Shop, Inc." <a@x.org>'])
    t.is(config('notifications', { ...mail, MAIL_FROM }).MAIL_FROM, MAIL_FROM)
})

test('words on TLS in DATABASE_URL beside DATABASE_CA → the authority counts; one that asks for less is refused', (t) => {
  const withMode = (mode: string) => ({
    ...good,
    DATABASE_URL: `${good.DATABASE_URL}?sslmode=${mode}&x=1`,
    DATABASE_CA: '-----BEGIN CERTIFICATE-----',
  })
  t.is(config('orders', withMode('require')).DATABASE_URL, `${good.DATABASE_URL}?x=1`)
  for (const mode of ['disable', 'no-verify'])
    t.regex(
      t.throws(() => config('orders', withMode(mode)), { instanceOf: ConfigError }).message,
      new RegExp(`DATABASE_URL says sslmode=${mode}, and DATABASE_CA`),
    )
})

test('each setting → has readers, one line of help, and a default unless it is required', (t) => {
  for (const [name, setting] of Object.entries(settings)) {
    t.true(setting.for.length > 0, name)
    t.regex(setting.help, /^[A-Z].*\.$/, name)
    t.false('default' in setting && 'optional' in setting, name)
  }
})

test('the process with an unknown ROLE → exit code 78 and the four roles', async (t) => {
  const { code, stderr } = await runMain([], { ROLE: 'cashier' })
  t.is(code, 78)
  t.regex(stderr, /ROLE is cashier, and must be one of auth, products, orders, notifications/)
})

test('the process with nothing set → exit code 78 and every missing setting', async (t) => {
  const { code, stderr } = await runMain([], { ROLE: 'auth' })
  t.is(code, 78)
  for (const name of [
    'DATABASE_URL',
    'NATS_BROKER_URL',
    'PUBLIC_URL',
    'ASSERTION_KEY',
    'JWT_KEYS',
    'CODE_PEPPER',
    'REFRESH_KEY',
  ])
    t.regex(stderr, new RegExp(`${name} is missing`))
})

test('main.ts with an unknown command → exit code 78 and what there is', async (t) => {
  const { code, stderr } = await runMain(['migrat'], {})
  t.is(code, 78)
  t.regex(stderr, /migrat is unknown; say migrate/)
})
