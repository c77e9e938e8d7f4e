import { createPrivateKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import { join } from 'node:path'

/** The four roles; each is a process of its own. */
export const roleNames = ['auth', 'products', 'orders', 'notifications'] as const
export type Role = (typeof roleNames)[number]
/** Who reads a setting: a role, the `migrate` command, or the edge (nginx). */
export type Reader = Role | 'migrate' | 'edge'

/** A setting's type: turns its text into a value, or throws the rule it breaks. `example` is shown with the fault. */
interface Type<T> {
  name: string
  example: string
  parse(text: string): T
}
/** One row of the table of settings. */
export interface Setting {
  type: Type<unknown>
  for: readonly Reader[]
  help: string
  /** Text used when the setting is absent; a setting without one is required, unless it is optional. */
  default?: string
  optional?: true
  secret?: true
}

/** Throws the rule that a value breaks; it ends a fault that begins with `PORT is "80x80", and`. */
function rule(text: string): never {
  throw new Error(text)
}
const wholeNumber = (min: number, max: number, unit: string): Type<number> => ({
  name: unit ? `number of ${unit}` : 'number',
  example: String(Math.max(min, 10)),
  parse: (text) =>
    /^\d{1,9}$/.test(text) && Number(text) >= min && Number(text) <= max
      ? Number(text)
      : rule(`must be a whole number from ${min} to ${max}`),
})
const port: Type<number> = { ...wholeNumber(1, 65535, ''), name: 'port', example: '3000' }
const choice = <const C extends readonly string[]>(...choices: C): Type<C[number]> => ({
  name: choices.join('|'),
  example: choices[0] ?? '',
  parse: (text) => (choices.includes(text) ? text : rule(`must be one of ${choices.join(', ')}`)),
})
const url = (protocols: string[], example: string): Type<string> => ({
  name: 'URL',
  example,
  parse(text) {
    if (!URL.canParse(text) || !protocols.includes(new URL(text).protocol))
      rule(`must be a URL that starts with ${protocols.map((p) => `${p}//`).join(' or ')}`)
    return text.replace(/\/$/, '')
  },
})
const hostName: Type<string> = {
  name: 'host',
  example: 'db.example.org',
  parse(t) {
    const host = isIPv6(t) ? `[${t}]` : t
    const url = `postgres://${host}/`
    return URL.canParse(url) && new URL(url).hostname === host
      ? host
      : rule('must be the name or address of a host, without a port')
  },
}
const text: Type<string> = { name: 'text', example: 'Bodega <shop@example.org>', parse: (t) => t }
const sender: Type<string> = {
  name: 'mail address',
  example: 'Bodega <shop@example.org>',
  parse: (t) =>
    /^(("[^"]*"|[^<>@,;"]*)\s*<[^\s<>@,;"]+@[^\s<>@,;"]+>|[^\s<>@,;"]+@[^\s<>@,;"]+)$/.test(t.trim())
      ? t
      : rule('must be one address, alone or after a name, in angle brackets'),
}
const key: Type<string> = {
  name: 'key',
  example: 'the output of: openssl rand -hex 32',
  parse: (t) => (t.length >= 32 ? t : rule('must have at least 32 characters')),
}
const pem: Type<string> = {
  name: 'PEM certificates',
  example: '-----BEGIN CERTIFICATE-----…',
  parse: (t) => (t.includes('-----BEGIN CERTIFICATE-----') ? t : rule('must hold PEM certificates')),
}
export interface SigningKey {
  kid: string
  state: 'next' | 'active' | 'previous'
  pem: string
}
const signingKeys: Type<SigningKey[]> = {
  name: 'JSON',
  example: '[{"kid":"2026-11","state":"active","pem":"-----BEGIN PRIVATE KEY-----…"}]',
  parse(t) {
    let keys: SigningKey[]
    try {
      keys = JSON.parse(t)
    } catch {
      return rule('must be JSON')
    }
    const whole = (k: SigningKey) =>
      k && typeof k.kid === 'string' && typeof k.pem === 'string' && ['next', 'active', 'previous'].includes(k.state)
    if (!Array.isArray(keys) || !keys.every(whole)) rule('must be a list of {kid, state: next|active|previous, pem}')
    if (keys.filter((k) => k.state === 'active').length !== 1) rule('must have exactly one active key')
    if (new Set(keys.map(({ kid }) => kid)).size < keys.length) rule('must have a kid of its own for each key')
    for (const { kid, pem } of keys) {
      const { asymmetricKeyType, asymmetricKeyDetails } = readKey(pem, kid)
      // No other key signs RS256; of a shorter one jsonwebtoken takes none.
      if (asymmetricKeyType !== 'rsa' || (asymmetricKeyDetails?.modulusLength ?? 0) < 2048)
        rule(`must have an RSA key of 2048 bits or more as the pem of ${kid}`)
    }
    return keys
  },
}
function readKey(pem: string, kid: string) {
  try {
    return createPrivateKey(pem)
  } catch {
    return rule(`must have a private key as the pem of ${kid}; this one cannot be read`)
  }
}

const postgres = url(['postgres:', 'postgresql:'], 'postgres://orders_a:password@postgres:5432/bodega')
const nats = url(['nats:', 'tls:'], 'nats://orders:password@nats:4222')
const bucket: Type<string> = {
  name: 'bucket name',
  example: 'bodega',
  parse: (t) =>
    /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(t)
      ? t
      : rule('must have 3 to 63 lower-case letters, digits, dots and hyphens'),
}
const dialects = ['nginx', 'forward', 'envoy'] as const
const everyRole = roleNames
const withMigrate = [...roleNames, 'migrate'] as const
const withObjects = ['auth', 'products'] as const

/** Credentials apart from their URL, where they come from elsewhere: they take the place of those in it. */
const credential = <const R extends readonly Reader[]>(what: string, readers: R) =>
  ({
    type: text,
    for: readers,
    secret: true,
    optional: true,
    help: `${what}, in place of the one in the URL.`,
  }) as const
const login = (role: Role) =>
  ({
    type: text,
    for: ['migrate'],
    secret: true,
    optional: true,
    help: `Login to make for ${role}; none is made without it.`,
  }) as const
const loginPassword = (role: Role) =>
  ({ type: text, for: ['migrate'], secret: true, optional: true, help: `Password of the login of ${role}.` }) as const

/** The one table of settings: the reader below, the reference page and the comparison of the targets are made from it. */
export const settings = {
  ROLE: { type: choice(...roleNames), for: everyRole, help: 'Which of the four roles this process is.' },
  LISTEN_HOST: { type: text, for: everyRole, default: '::', help: 'Address that the role listens on.' },
  LISTEN_PORT: { type: port, for: everyRole, default: '3000', help: 'Port of the API and the health checks.' },
  METRICS_PORT: { type: port, for: everyRole, default: '9090', help: 'Port of /metrics; the edge never exposes it.' },
  LOG_LEVEL: {
    type: choice('trace', 'debug', 'info', 'warn', 'error', 'silent'),
    for: withMigrate,
    default: 'info',
    help: 'Least severity that is logged.',
  },
  SHUTDOWN_GRACE: {
    type: wholeNumber(1, 600, 'seconds'),
    for: everyRole,
    default: '25',
    help: 'Longest time a stop may take before the process exits anyway.',
  },
  DRAIN_DELAY: {
    type: wholeNumber(0, 60, 'seconds'),
    for: everyRole,
    default: '0',
    help: 'How long a role that is told to stop goes on serving, until balancers have noticed; part of SHUTDOWN_GRACE, and at least 6 s less.',
  },
  CONN_TIMEOUT: {
    type: wholeNumber(10, 60_000, 'milliseconds'),
    for: withMigrate,
    default: '3000',
    help: 'Longest wait for a connection to the database, the mail server or the bus (there at least 5 s).',
  },
  DATABASE_URL: {
    type: postgres,
    for: withMigrate,
    secret: true,
    help: 'PostgreSQL with the login of the role; for migrate, of a user that may create schemas and roles.',
  },
  DATABASE_HOST: {
    type: hostName,
    for: withMigrate,
    optional: true,
    help: 'Host of the database, in place of the one in the URL.',
  },
  DATABASE_PORT: {
    type: port,
    for: withMigrate,
    optional: true,
    help: 'Port of the database, in place of the one in the URL.',
  },
  DATABASE_USER: credential('Login of the database', withMigrate),
  DATABASE_PASSWORD: credential('Password of the database', withMigrate),
  DATABASE_CA: { type: pem, for: withMigrate, optional: true, help: 'Authority of the database; makes TLS required.' },
  DATABASE_POOL: {
    type: wholeNumber(2, 200, 'connections'),
    for: everyRole,
    default: '10',
    help: 'Most connections for transactions; fast single statements use a few of their own.',
  },
  NATS_BROKER_URL: { type: nats, for: withMigrate, secret: true, help: 'NATS with the user of the role.' },
  NATS_USER: credential('User of the bus', withMigrate),
  NATS_PASSWORD: credential('Password of the bus', withMigrate),
  NATS_CA: { type: pem, for: withMigrate, optional: true, help: 'Authority of the bus; makes TLS required.' },
  NATS_REPLICAS: { type: choice('1', '3'), for: ['migrate'], default: '1', help: 'Copies of each stream.' },
  NATS_STREAM_SIZE: {
    type: { ...wholeNumber(16, 1_000_000, 'MiB'), example: '1024' },
    for: ['migrate'],
    default: '6144',
    help: 'Space that the bus reserves for events, beside 256 MiB for dead letters; the oldest make room for new ones.',
  },
  PUBLIC_URL: {
    type: url(['http:', 'https:'], 'https://shop.example.org'),
    for: everyRole,
    help: 'Where customers reach the edge; every link in a mail starts with it.',
  },
  ASSERTION_KEY: { type: key, for: everyRole, secret: true, help: 'Signs and checks X-Auth-Assertion (HS256).' },
  ASSERTION_KEY_PREVIOUS: {
    type: key,
    for: everyRole,
    secret: true,
    optional: true,
    help: 'Still accepted while ASSERTION_KEY is being changed.',
  },
  JWT_KEYS: {
    type: signingKeys,
    for: ['auth'],
    secret: true,
    help: 'RSA keys of the access tokens, of 2048 bits or more, with their states.',
  },
  CODE_PEPPER: { type: key, for: ['auth'], secret: true, help: 'Keys the stored form of mailed codes.' },
  CODE_PEPPER_PREVIOUS: {
    type: key,
    for: ['auth'],
    secret: true,
    optional: true,
    help: 'Still accepted while CODE_PEPPER is being changed.',
  },
  REFRESH_KEY: { type: key, for: ['auth'], secret: true, help: 'Derives the successor of a refresh token.' },
  AUTHZ_DIALECT: {
    type: choice(...dialects),
    for: ['auth'],
    default: 'nginx',
    help: "Whose headers /authz believes: nginx X-Original-*, forward X-Forwarded-* (Traefik, Caddy), envoy the request's own.",
  },
  PRODUCT_READ: {
    type: choice('public', 'user'),
    for: ['auth', 'products', 'edge'],
    default: 'public',
    help: 'Who may read one product: anyone, or signed-in users.',
  },
  S3_URL: {
    type: url(['http:', 'https:'], 'http://objectstore:8333'),
    for: withObjects,
    optional: true,
    help: 'S3 that holds the pictures, addressed by path; this or OBJECTS_DIR is required.',
  },
  S3_BUCKET: {
    type: bucket,
    for: withObjects,
    default: 'bodega',
    help: 'Bucket of the pictures; made when it is missing, where the key may.',
  },
  S3_REGION: { type: text, for: withObjects, default: 'us-east-1', help: 'Region that requests are signed for.' },
  S3_ACCESS_KEY: {
    type: text,
    for: withObjects,
    secret: true,
    optional: true,
    help: 'Access key; required with S3_URL.',
  },
  S3_SECRET_KEY: {
    type: text,
    for: withObjects,
    secret: true,
    optional: true,
    help: 'Secret key; required with S3_URL.',
  },
  S3_CA: { type: pem, for: withObjects, optional: true, help: 'Authority of S3_URL, which has to be https://.' },
  OBJECTS_DIR: {
    type: text,
    for: withObjects,
    optional: true,
    help: 'Directory that holds the pictures where there is no S3_URL; for one host, shared by all replicas.',
  },
  SMTP_URL: {
    type: url(['smtp:', 'smtps:'], 'smtp://user:password@mail.example.org:587'),
    for: ['notifications'],
    secret: true,
    help: 'Mail server.',
  },
  SMTP_USER: credential('User of the mail server', ['notifications']),
  SMTP_PASSWORD: credential('Password of the mail server', ['notifications']),
  SMTP_CA: {
    type: pem,
    for: ['notifications'],
    optional: true,
    help: 'Authority of the mail server; makes TLS required.',
  },
  MAIL_FROM: {
    type: sender,
    for: ['notifications'],
    default: 'Bodega <shop@localhost>',
    help: 'Sender of every mail.',
  },
  AUTH_DATABASE_USER: login('auth'),
  AUTH_DATABASE_PASSWORD: loginPassword('auth'),
  PRODUCTS_DATABASE_USER: login('products'),
  PRODUCTS_DATABASE_PASSWORD: loginPassword('products'),
  ORDERS_DATABASE_USER: login('orders'),
  ORDERS_DATABASE_PASSWORD: loginPassword('orders'),
  NOTIFICATIONS_DATABASE_USER: login('notifications'),
  NOTIFICATIONS_DATABASE_PASSWORD: loginPassword('notifications'),
  TRUSTED_PROXIES: {
    type: text,
    for: ['edge'],
    default: '',
    help: 'Comma-separated networks whose X-Forwarded-For counts, for the limits per address.',
  },
} as const satisfies Record<string, Setting>

type Table = typeof settings
type Value<S extends Setting> =
  | (S['type'] extends Type<infer T> ? T : never)
  | (S extends { optional: true } ? undefined : never)
/** What a reader gets: the parsed value of each setting that is for it. */
export type Config<R extends Reader = Role> = {
  [K in keyof Table as R extends Table[K]['for'][number] ? K : never]: Value<Table[K]>
}

/** Every fault of the environment at once; the process ends with exit code 78 (EX_CONFIG). */
export class ConfigError extends Error {
  override name = 'ConfigError'
  readonly faults: string[]
  constructor(reader: string, faults: string[]) {
    super(
      [
        `${faults.length === 1 ? 'A setting' : `${faults.length} settings`} of ${reader} cannot be used:`,
        ...faults.map((f) => `  - ${f}`),
      ].join('\n'),
    )
    this.faults = faults
  }
}

/**
 * Reads all settings of `reader`: $SECRETS_DIR/KEY (default /secrets) where there is such a file, else the environment.
 * Throws ConfigError with every fault. Values of secrets are never part of a message.
 */
export function config<R extends Reader>(reader: R, env: NodeJS.ProcessEnv = process.env): Config<R> {
  const faults: string[] = []
  const values: Values = {}
  for (const [name, setting] of Object.entries<Setting>(settings)) {
    if (!setting.for.includes(reader)) continue
    try {
      values[name] = readSetting(name, setting, env)
    } catch (error) {
      faults.push((error as Error).message)
    }
  }
  faults.push(...objectFaults(reader, values, env), ...drainFaults(values), ...loginFaults(values))
  if (values.DATABASE_CA && values.DATABASE_URL)
    try {
      values.DATABASE_URL = withoutTlsWords(values.DATABASE_URL as string)
    } catch (error) {
      faults.push((error as Error).message)
    }
  if (faults.length > 0) throw new ConfigError(reader, faults)
  putIntoUrls(values)
  return values as Config<R>
}

/** Values by name, as they are read. */
type Values = Record<string, unknown>

/** The value of one setting; undefined where it is optional and absent. Throws its fault as a sentence for people. */
function readSetting(name: string, setting: Setting, env: NodeJS.ProcessEnv): unknown {
  let text: string | undefined
  try {
    text = secretFile(name, env) ?? env[name]
  } catch (error) {
    throw new Error(`${name}: its file cannot be read (${(error as NodeJS.ErrnoException).code}); give it mode 0444`)
  }
  text ||= setting.default
  if (!text) {
    if (setting.optional) return undefined
    if (text === '') return ''
    throw new Error(`${name} is missing: ${setting.help} Example: ${setting.type.example}`)
  }
  try {
    return setting.type.parse(text)
  } catch (error) {
    const shown = setting.secret ? '' : ` is ${JSON.stringify(text)}, and`
    throw new Error(`${name}${shown} ${(error as Error).message}. Example: ${setting.type.example}`)
  }
}

/** Pictures need a place; a setting that has a fault of its own is not asked for again. */
function objectFaults(reader: Reader, values: Values, env: NodeJS.ProcessEnv): string[] {
  if (!(withObjects as readonly Reader[]).includes(reader)) return []
  if (values.S3_URL) {
    const faults = ['S3_ACCESS_KEY', 'S3_SECRET_KEY']
      .filter((name) => !values[name])
      .map((name) => `${name} is missing: S3_URL needs it`)
    if (values.S3_CA && !String(values.S3_URL).startsWith('https:'))
      faults.push('S3_CA would not be used: S3_URL is not https://')
    if (new URL(String(values.S3_URL)).pathname !== '/')
      faults.push('S3_URL has a path, which would not be used: the bucket is addressed at the root of the host')
    return faults
  }
  return values.OBJECTS_DIR || env.S3_URL
    ? []
    : [`S3_URL is missing: ${settings.S3_URL.help} Example: ${settings.S3_URL.type.example}`]
}

/** After the delay, requests that run get a second at the least, and what closes after them 5 s (http.ts). */
function drainFaults({ DRAIN_DELAY: delay, SHUTDOWN_GRACE: grace }: Values): string[] {
  return delay && grace && Number(delay) > Number(grace) - 6
    ? [`DRAIN_DELAY is ${delay}, and must be at least 6 s less than SHUTDOWN_GRACE, which is ${grace}`]
    : []
}

const loginFaults = (values: Values) =>
  roleNames
    .map((role) => [`${role.toUpperCase()}_DATABASE_USER`, `${role.toUpperCase()}_DATABASE_PASSWORD`] as const)
    .filter(([user, password]) => Boolean(values[user]) !== Boolean(values[password]))
    .map(([user, password]) => `${user} and ${password} come together, or not at all`)

/** pg would take the words on TLS in the URL instead of DATABASE_CA; those that ask for less than it contradict it. */
function withoutTlsWords(text: string) {
  const url = new URL(text)
  const mode = url.searchParams.get('sslmode') ?? ''
  if (['disable', 'allow', 'prefer', 'no-verify'].includes(mode))
    rule(`DATABASE_URL says sslmode=${mode}, and DATABASE_CA asks for TLS with this authority: leave one of them out`)
  for (const word of ['ssl', 'sslmode', 'sslrootcert', 'uselibpqcompat']) url.searchParams.delete(word)
  return url.href
}

/** Hosts, ports and credentials that are settings of their own take the place of those in the URLs. */
function putIntoUrls(values: Values) {
  for (const [name, prefix] of Object.entries({
    DATABASE_URL: 'DATABASE',
    NATS_BROKER_URL: 'NATS',
    SMTP_URL: 'SMTP',
  })) {
    if (!values[name]) continue
    const url = new URL(values[name] as string)
    if (values[`${prefix}_HOST`]) url.hostname = String(values[`${prefix}_HOST`])
    for (const part of ['port', 'username', 'password'] as const) {
      const value = values[`${prefix}_${part === 'username' ? 'USER' : part.toUpperCase()}`]
      if (value) url[part] = encodeURIComponent(String(value))
    }
    values[name] = url.href.replace(/\/$/, '')
  }
}

/** The content of a secret's file without its last line end; undefined where there is no such file. */
function secretFile(name: string, env: NodeJS.ProcessEnv): string | undefined {
  try {
    return readFileSync(join(env.SECRETS_DIR ?? '/secrets', name), 'utf8').replace(/\r?\n$/, '')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw error
  }
}
