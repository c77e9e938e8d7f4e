import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'
import { query } from '../../src/embedded/postgres.ts'
import { openMarket } from '../support/load.ts'
import { eventually, openShop } from '../support/shop.ts'
import { run } from './host.ts'

const image = 'bodega-test-postgres-ha'
const cluster = parse(
  readFileSync(join(import.meta.dirname, '../../kustomize/components/pgo/postgrescluster.yaml'), 'utf8'),
).spec

/** Why these tests cannot run on this machine, or undefined. */
export async function lackingDocker() {
  try {
    await run('docker', ['info'], { seconds: 20 })
    await run('openssl', ['version'])
  } catch {
    return 'no Docker answers, or openssl is not installed'
  }
}

export type PostgresHa = Awaited<ReturnType<typeof openPostgresHa>>

/**
 * PostgreSQL as the operator runs it, in containers: Patroni with `nodes` instances and the settings of
 * kustomize/components/pgo, an address that follows the leader, PgBouncer in front. All of it speaks TLS only.
 */
export async function openPostgresHa({ nodes }: { nodes: number }) {
  await using opening = new AsyncDisposableStack()
  const net = `bodega-ha-${randomBytes(3).toString('hex')}`
  const secret = () => randomBytes(16).toString('hex')
  const [admin, replicator, pooler] = [secret(), secret(), secret()]
  await run('docker', ['build', '--quiet', '--tag', image, join(import.meta.dirname, 'images/postgres-ha')], {
    seconds: 240,
  })
  const dir = mkdtempSync(join(tmpdir(), 'postgres-ha-'))
  opening.defer(() => rmSync(dir, { recursive: true, force: true }))
  const tls = await certificates(dir)
  await run('docker', ['network', 'create', net])
  opening.defer(async () => void (await run('docker', ['network', 'rm', net], { any: true })))

  const name = (part: string) => `${net}-${part}`
  /** Starts one part; it finds its configuration in /data/config and its certificate beside it. */
  const start = async (part: string, config: string, command: string[], ports: string[] = []) => {
    opening.defer(async () => void (await run('docker', ['rm', '--force', '--volumes', name(part)], { any: true })))
    const env = { ...tls, CONFIG: config, USERS: `"pooler" "${pooler}"\n` }
    const files =
      'umask 077; for file in CA CERTIFICATE KEY CONFIG USERS; do printenv $file >/data/$file; done; exec "$@"'
    await run(
      'docker',
      [
        ...['run', '--detach', '--network', net, '--network-alias', part, '--name', name(part)],
        ...Object.keys(env).flatMap((key) => ['--env', key]),
        ...ports.flatMap((port) => ['--publish', `127.0.0.1::${port}`]),
        ...[image, 'sh', '-c', files, '--', ...command],
      ],
      { env },
    )
  }
  const published = async (part: string) => {
    const { out } = await run('docker', ['port', name(part), '5432'])
    return Number(out.split(':').at(-1))
  }

  const etcd = 'http://etcd:2379'
  await start('etcd', '', [
    ...['etcd', '--data-dir', '/data/etcd', '--unsafe-no-fsync'],
    ...['--listen-client-urls', 'http://0.0.0.0:2379', '--advertise-client-urls', etcd],
  ])
  const instances = Array.from({ length: nodes }, (_, i) => `pg-${i}`)
  for (const instance of instances)
    await start(instance, patroni(instance, { admin, replicator }), ['patroni', '/data/CONFIG'])
  // The address that follows the leader, by Patroni's word. As in Kubernetes, what is open to a dead one stays open.
  await start(
    'bodega-db-primary',
    [
      'defaults',
      ...['mode tcp', 'timeout connect 3s', 'timeout client 1h', 'timeout server 1h'],
      'resolvers docker',
      ...['nameserver docker 127.0.0.11:53', 'hold valid 1s'],
      'listen primary',
      ...['bind :5432', 'option httpchk GET /primary', 'http-check expect status 200'],
      ...['default-server check port 8008 inter 500ms fall 2 rise 1 tcp-ut 5s resolvers docker init-addr none'],
      ...instances.map((instance) => `server ${instance} ${instance}:5432`),
      '',
    ].join('\n'),
    ['haproxy', '-W', '-db', '-f', '/data/CONFIG'],
    ['5432'],
  )
  const adminUrl = `postgres://postgres:${admin}@localhost:${await published('bodega-db-primary')}/postgres?sslmode=verify-full&sslrootcert=${dir}/ca.crt`
  await eventually('the primary answers', () => query(adminUrl, 'select'), 60_000)
  await eventually(
    'every standby streams, one of them in step',
    async () => {
      const { rows } = await query(adminUrl, 'select sync_state from pg_stat_replication')
      return rows.length === nodes - 1 && (nodes === 1 || rows.some((row) => row.sync_state === 'sync'))
    },
    60_000,
  )

  // What the operator makes in each database for its PgBouncer.
  await query(
    adminUrl,
    `create role pooler login password '${pooler}';
     create schema pgbouncer;
     grant usage on schema pgbouncer to pooler;
     create function pgbouncer.get_auth(name text) returns table (username text, password text)
       language sql stable security definer
       return (select row(rolname::text, rolpassword::text) from pg_authid where rolname = name and rolcanlogin and not rolsuper);`,
  )
  await start('bodega-db-pgbouncer', pgbouncer(), ['pgbouncer', '/data/CONFIG'], ['5432'])
  const poolerUrl = `postgres://localhost:${await published('bodega-db-pgbouncer')}`

  const gone = new Set<string>()
  const open = opening.move()
  return {
    adminUrl,
    poolerUrl,
    ca: tls.CA,
    /** Name of the instance that leads, by the word of one that is still reached. */
    async leader() {
      const asked = name(instances.find((instance) => !gone.has(instance)) as string)
      const list = ['patronictl', '-c', '/data/CONFIG', 'list', '-f', 'json']
      const { out } = await run('docker', ['exec', asked, ...list])
      return (JSON.parse(out) as { Member: string; Role: string }[]).find(({ Role }) => Role === 'Leader')?.Member
    },
    /** Its whole container dies at once. */
    async kill(instance: string) {
      gone.add(instance)
      await run('docker', ['kill', '--signal', 'KILL', name(instance)])
    },
    /** Nothing reaches it any more, and nobody is told. */
    async cut(instance: string) {
      gone.add(instance)
      await run('docker', ['network', 'disconnect', '--force', net, name(instance)])
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  }
}

/** A shop whose roles reach that database through its PgBouncer, and customers with a ledger. */
export async function openShopOn({ adminUrl, poolerUrl, ca }: PostgresHa) {
  const env = { DATABASE_CA: ca }
  const { shop, close } = await openShop({ postgres: { adminUrl, poolerUrl, name: 'bodega' }, env })
  const makeAdmin = (email: string) => shop.run('auth', 'commands.ts', 'admin', email)
  const sql = async (statement: string) => {
    const { rows } = await query(shop.databaseUrl, statement)
    return rows.map((row) => Object.values(row).join('|'))
  }
  try {
    const market = await openMarket({ url: shop.url, inboxUrl: shop.inboxUrl, makeAdmin })
    return { shop, market, lost: () => market.lost(sql), [Symbol.asyncDispose]: close }
  } catch (error) {
    await close()
    throw error
  }
}

function patroni(instance: string, { admin, replicator }: { admin: string; replicator: string }) {
  const { dynamicConfiguration, leaderLeaseDurationSeconds: ttl, syncPeriodSeconds: loop_wait } = cluster.patroni
  return JSON.stringify({
    scope: 'bodega-db',
    name: instance,
    etcd3: { hosts: 'etcd:2379' },
    restapi: { listen: '0.0.0.0:8008', connect_address: `${instance}:8008` },
    bootstrap: {
      dcs: {
        ...dynamicConfiguration,
        ttl,
        loop_wait,
        postgresql: {
          use_pg_rewind: true,
          use_slots: false,
          parameters: {
            ...cluster.config.parameters,
            ssl: 'on',
            ssl_cert_file: '/data/CERTIFICATE',
            ssl_key_file: '/data/KEY',
          },
          pg_hba: ['hostssl all all all scram-sha-256', 'hostssl replication replicator all scram-sha-256'],
        },
      },
      initdb: [{ encoding: 'UTF8' }, { locale: 'C.UTF-8' }, 'data-checksums'],
    },
    postgresql: {
      listen: '0.0.0.0:5432',
      connect_address: `${instance}:5432`,
      data_dir: '/data/pg',
      bin_dir: '/usr/lib/postgresql/17/bin',
      authentication: {
        superuser: { username: 'postgres', password: admin },
        replication: { username: 'replicator', password: replicator },
        rewind: { username: 'postgres', password: admin },
      },
    },
  })
}

/** The operator's own settings under those of the component. */
function pgbouncer() {
  const settings = {
    ignore_startup_parameters: 'extra_float_digits',
    auth_file: '/data/USERS',
    auth_query: 'select username, password from pgbouncer.get_auth($1)',
    auth_user: 'pooler',
    client_tls_sslmode: 'require',
    client_tls_cert_file: '/data/CERTIFICATE',
    client_tls_key_file: '/data/KEY',
    client_tls_ca_file: '/data/CA',
    server_tls_sslmode: 'verify-full',
    server_tls_ca_file: '/data/CA',
    listen_addr: '*',
    listen_port: '5432',
    unix_socket_dir: '',
    ...cluster.proxy.pgBouncer.config.global,
  }
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}`)
  return ['[pgbouncer]', ...lines, '[databases]', '* = host=bodega-db-primary port=5432', ''].join('\n')
}

/** An authority, and one certificate for every name here. */
async function certificates(dir: string) {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: dir })
  const elliptic = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
  await openssl('req', '-x509', ...elliptic, '-subj', '/CN=test authority', '-keyout', 'ca.key', '-out', 'ca.crt')
  await openssl(
    ...['req', '-x509', ...elliptic, '-subj', '/CN=bodega-db-primary', '-keyout', 'tls.key', '-out', 'tls.crt'],
    ...['-CA', 'ca.crt', '-CAkey', 'ca.key', '-addext', 'basicConstraints=critical,CA:false'],
    ...['-addext', 'subjectAltName=DNS:bodega-db-primary,DNS:bodega-db-pgbouncer,DNS:localhost'],
  )
  const read = (file: string) => readFileSync(join(dir, file), 'utf8')
  return { CA: read('ca.crt'), CERTIFICATE: read('tls.crt'), KEY: read('tls.key') }
}
