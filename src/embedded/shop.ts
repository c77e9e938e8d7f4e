import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Reader, type Role, roleNames, settings } from '../platform/config.ts'
import { type Child, type Part, runToEnd, startChild } from './child.ts'
import { startEdge } from './edge.ts'
import { type Mail, startMail } from './mail.ts'
import { type Nats, startNats } from './nats.ts'
import { freePorts } from './ports.ts'
import { createDatabase, dropDatabase, type Postgres, startPostgres } from './postgres.ts'
import { findPrograms } from './programs.ts'
import { type Generated, generatedSecrets, writeSecrets } from './secrets.ts'

const portNames = [
  'edge',
  'inbox',
  'smtp',
  'postgres',
  'nats',
  'natsMonitor',
  ...roleNames.flatMap((role) => [role, `${role}Metrics`] as const),
] as const
export type PortName = (typeof portNames)[number]

/** What the image runs Node.js with, for less memory (Dockerfile, which says why); a test compares the two. */
export const memoryEnv = {
  NODE_OPTIONS: '--max-semi-space-size=4 --v8-pool-size=1',
  MALLOC_ARENA_MAX: '1',
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
}

export interface ShopOptions {
  /** Everything of this shop lies in it: data, secrets, logs. A second start keeps data and secrets. */
  dir: string
  /** Ports to use; the others are chosen free. */
  ports?: Partial<Record<PortName, number>>
  /** Address that the edge and the inbox listen on. */
  host?: string
  /** Settings of the roles and the edge by name, on top of those that make them work together. */
  env?: Record<string, string>
  /**
   * A running PostgreSQL to make the shop's own database `name` on, which goes with the shop; the roles reach it at
   * `poolerUrl` where that is another place.
   */
  postgres?: { adminUrl: string; name: string; poolerUrl?: string }
  /** Settings of the shop's own PostgreSQL, on top of the defaults. */
  postgresSettings?: Record<string, string>
  /** Roles to start; all four when absent. */
  roles?: readonly Role[]
  /** Told about each part when it stands, with the milliseconds it took. */
  onStep?: (name: string, ms: number) => void
  say?: (text: string) => void
  /** Gives up while starting, and stops what has started. */
  signal?: AbortSignal
  /** Told when a part ends that nobody asked to. */
  onEnd?: (how: string, child: Child) => void
}

export interface RoleProcess extends Child {
  /** Its API, reached past the edge. */
  readonly url: string
  readonly metricsUrl: string
}

export interface Shop extends AsyncDisposable {
  readonly dir: string
  readonly ports: Record<PortName, number>
  /** The public door. */
  readonly url: string
  /** Web page of the mail inbox; its API is below /api. */
  readonly inboxUrl: string
  /** The shop's database with a superuser's login. */
  readonly databaseUrl: string
  readonly roles: Record<Role, RoleProcess>
  readonly edge: Child
  readonly nats: Nats
  readonly mail: Mail
  /** Its own PostgreSQL; undefined when it is a guest on another. */
  readonly postgres: Postgres | undefined
  /** Directory with the settings of a role, or of `migrate`, as one file per key. */
  secretsDir(reader: Role | 'migrate'): string
  /** Changes settings of a role for its next start. */
  configure(role: Role, changes: Record<string, string>): void
  /** Runs a file of src/ with the settings of `reader`; resolves with what it printed, throws when it fails. */
  run(reader: Role | 'migrate', file: string, ...args: string[]): Promise<{ stdout: string; stderr: string }>
  close(): Promise<void>
}

/** Who has settings and secrets of its own. */
const readers = [...roleNames, 'migrate'] as const

/** A file of src/. */
const source = (file: string) => join(import.meta.dirname, '..', file)

/** Starts the whole shop as real processes and waits until each part is ready. What started last closes first. */
export async function startShop(options: ShopOptions): Promise<Shop> {
  const { dir, host = '127.0.0.1', onStep = () => {}, say, roles = roleNames, signal } = options
  await using opening = new AsyncDisposableStack()
  const step = async <T>(name: string, work: Promise<T>) => {
    const begun = performance.now()
    const result = await work
    onStep(name, performance.now() - begun)
    return result
  }
  const part = (name: string): Part => ({ log: join(dir, 'log', `${name}.log`), signal, onEnd: options.onEnd })
  mkdirSync(dir, { recursive: true, mode: 0o700 })

  const programs = findPrograms(say)
  const ports = await choosePorts(options.ports)
  const generated = await generatedSecrets(join(dir, 'secrets'))
  const { passwords } = generated

  const [postgres, nats, mail] = await together(opening, [
    options.postgres
      ? undefined
      : step(
          'PostgreSQL',
          startPostgres({
            dir: join(dir, 'postgres'),
            ...part('postgres'),
            port: ports.postgres,
            password: passwords.postgres as string,
            settings: options.postgresSettings,
          }),
        ),
    step(
      'NATS JetStream',
      startNats({
        program: programs.nats,
        dir: join(dir, 'nats'),
        ...part('nats'),
        port: ports.nats,
        monitorPort: ports.natsMonitor,
        passwords: Object.fromEntries(
          readers.map((user) => [`${user.toUpperCase()}_NATS_PASSWORD`, passwords[`${user}_nats`] as string]),
        ),
      }),
    ),
    step(
      'MailDev',
      startMail({ dir: join(dir, 'mail'), ...part('mail'), smtpPort: ports.smtp, webPort: ports.inbox, host }),
    ),
  ])

  const adminUrl = options.postgres?.adminUrl ?? (postgres as Postgres).adminUrl
  const database = options.postgres?.name ?? 'bodega'
  const databaseUrl = await createDatabase(adminUrl, database)
  if (options.postgres) opening.defer(() => dropDatabase(adminUrl, database).then(() => {}))

  const url = `http://${publicHost(host)}:${ports.edge}`
  const settingsOf = settingsOfReaders({
    generated,
    ports,
    databaseUrl,
    poolerUrl: options.postgres?.poolerUrl ?? databaseUrl,
    publicUrl: url,
    smtpUrl: mail.smtpUrl,
    objectsDir: join(dir, 'objects'),
    env: options.env ?? {},
  })
  const secretsDir = (reader: Role | 'migrate') => join(dir, 'secrets', reader)
  for (const reader of readers) writeSecrets(secretsDir(reader), settingsOf[reader])

  const readerEnv = (reader: Role | 'migrate') => ({
    ...onlyFor(undefined, options.env ?? {}),
    SECRETS_DIR: secretsDir(reader),
    ...(reader === 'migrate' ? {} : { ROLE: reader }),
  })
  const run: Shop['run'] = (reader, file, ...args) =>
    runToEnd(process.execPath, [source(file), ...args], { env: readerEnv(reader), signal })
  await step('database and streams', run('migrate', 'main.ts', 'migrate'))

  const startRole = async (role: Role): Promise<RoleProcess> => {
    const roleUrl = `http://127.0.0.1:${ports[role]}`
    const child = await startChild({
      name: role,
      command: process.execPath,
      args: [source('main.ts')],
      env: { ...memoryEnv, ...readerEnv(role) },
      ...part(role),
      grace: 30_000,
      ready: async () => (await fetch(`${roleUrl}/readyz`)).ok,
    })
    return Object.assign(child, { url: roleUrl, metricsUrl: `http://127.0.0.1:${ports[`${role}Metrics`]}/metrics` })
  }
  const processes = await together(
    opening,
    roles.map((role) => step(role, startRole(role))),
  )
  const edge = opening.use(
    await step(
      'nginx',
      startEdge({
        program: programs.nginx,
        dir: join(dir, 'edge'),
        ...part('nginx'),
        listen: `${host}:${ports.edge}`,
        env: {
          ...Object.fromEntries(
            roleNames.map((role) => [`${role.toUpperCase()}_UPSTREAM`, `127.0.0.1:${ports[role]}`]),
          ),
          ...options.env,
        },
      }),
    ),
  )

  const open = opening.move()
  const close = () => open.disposeAsync()
  return {
    dir,
    ports,
    url,
    inboxUrl: mail.inboxUrl,
    databaseUrl,
    roles: Object.fromEntries(roles.map((role, i) => [role, processes[i]])) as Shop['roles'],
    edge,
    nats,
    mail,
    postgres,
    secretsDir,
    configure(role, changes) {
      Object.assign(settingsOf[role], changes)
      writeSecrets(secretsDir(role), settingsOf[role])
    },
    run,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** Of each reader of settings, those that make the parts of a shop work together, under those of `env`. */
function settingsOfReaders({
  generated: { jwtKeys, keys, passwords },
  ports,
  databaseUrl,
  poolerUrl,
  publicUrl,
  smtpUrl,
  objectsDir,
  env,
}: {
  generated: Generated
  ports: Record<PortName, number>
  /** The shop's database, with a superuser's login. */
  databaseUrl: string
  /** Where the roles reach that database. */
  poolerUrl: string
  publicUrl: string
  smtpUrl: string
  objectsDir: string
  env: Record<string, string>
}): Record<Role | 'migrate', Record<string, string>> {
  const { pathname } = new URL(databaseUrl)
  const login = (role: Role) => `${pathname.slice(1)}_${role}_a`
  const natsUrl = (user: Role | 'migrate') => `nats://${user}:${passwords[`${user}_nats`]}@127.0.0.1:${ports.nats}`
  const shared: Record<string, string> = {
    ...keys,
    JWT_KEYS: jwtKeys,
    LISTEN_HOST: '127.0.0.1',
    PUBLIC_URL: publicUrl,
    SMTP_URL: smtpUrl,
    OBJECTS_DIR: objectsDir,
  }
  for (const role of roleNames) {
    shared[`${role.toUpperCase()}_DATABASE_USER`] = login(role)
    shared[`${role.toUpperCase()}_DATABASE_PASSWORD`] = passwords[`${role}_database`] as string
  }
  Object.assign(shared, env)
  const ownOf = (reader: Role | 'migrate'): Record<string, string> =>
    reader === 'migrate'
      ? { DATABASE_URL: databaseUrl, NATS_BROKER_URL: natsUrl('migrate') }
      : {
          ROLE: reader,
          DATABASE_URL: Object.assign(new URL(poolerUrl), {
            username: login(reader),
            password: passwords[`${reader}_database`],
            pathname,
          }).href,
          NATS_BROKER_URL: natsUrl(reader),
          LISTEN_PORT: String(ports[reader]),
          METRICS_PORT: String(ports[`${reader}Metrics`]),
        }
  return Object.fromEntries(
    readers.map((reader) => [reader, { ...onlyFor(reader, shared), ...ownOf(reader) }]),
  ) as Record<Role | 'migrate', Record<string, string>>
}

/** Starts parts at the same time; when one fails, the others are stopped. They close at the same time too. */
async function together<T extends readonly unknown[]>(
  stack: AsyncDisposableStack,
  parts: readonly [...{ [I in keyof T]: Promise<T[I]> | T[I] }],
): Promise<T> {
  const settled: PromiseSettledResult<unknown>[] = await Promise.allSettled(parts)
  const started = settled.flatMap((part) =>
    part.status === 'fulfilled' ? [part.value as unknown as Child | undefined] : [],
  )
  stack.defer(async () => {
    await Promise.all(started.map((part) => part?.stop()))
  })
  const failed = settled.find((part) => part.status === 'rejected')
  if (failed) throw failed.reason
  return settled.map((part) => (part as PromiseFulfilledResult<unknown>).value) as unknown as T
}

async function choosePorts(given: ShopOptions['ports'] = {}): Promise<Record<PortName, number>> {
  const missing = portNames.filter((name) => given[name] === undefined)
  const free = await freePorts(missing.length)
  return { ...Object.fromEntries(missing.map((name, i) => [name, free[i]])), ...given } as Record<PortName, number>
}

/** Of `values`, those that the table of settings gives to `reader`; without a reader, those that the table does not know. */
const onlyFor = (reader: Reader | undefined, values: Record<string, string>) =>
  Object.fromEntries(
    Object.entries(values).filter(([key]) => {
      const readers: readonly Reader[] | undefined = (settings as Record<string, { for: readonly Reader[] }>)[key]?.for
      return reader ? readers?.includes(reader) : !readers
    }),
  )

const publicHost = (host: string) => (host === '0.0.0.0' ? 'localhost' : host)
