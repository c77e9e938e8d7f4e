import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import anyTest from 'ava'
import { eventually } from '../support/shop.ts'
import { freePort, type Host, lacking, openHost, removeImages, run } from './host.ts'

// The production form: TLS at the edge, then the same with database, bus and object store elsewhere, over TLS too.
const missing = await lacking()
if (missing) process.stderr.write(`skipped, all of test/e2e/compose-prod.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = `e2e-${randomBytes(3).toString('hex')}`
let host: Host
let url = ''
const extra: string[] = []

/** An authority and a certificate of it for localhost and `address`, in `certs` of the host's directory. */
async function makeCertificates(address: string) {
  const dir = join(host.dir, 'certs')
  const openssl = (...args: string[]) => run('openssl', args, { cwd: dir })
  await run('mkdir', ['-p', dir])
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await openssl(
    'req',
    '-x509',
    ...ec,
    '-keyout',
    'ca.key',
    '-out',
    'ca.crt',
    '-days',
    '2',
    '-subj',
    '/CN=Test authority',
  )
  await openssl('req', ...ec, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=server')
  await run('sh', ['-c', `printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:${address}' > extensions`], { cwd: dir })
  await openssl(
    'x509',
    '-req',
    '-in',
    'server.csr',
    '-CA',
    'ca.crt',
    '-CAkey',
    'ca.key',
    '-days',
    '2',
    '-extfile',
    'extensions',
    '-out',
    'server.crt',
  )
  await run('chmod', ['444', 'server.key', 'server.crt', 'ca.crt'], { cwd: dir })
  return dir
}

/** A container that is no part of the shop. */
async function start(name: string, args: string[]) {
  const { out } = await run('docker', ['run', '--detach', '--name', `${host.project}-${name}`, ...args])
  extra.push(out)
  return out
}
/** The mail server that a production form would have somewhere; an inbox shows what came. */
async function startInbox() {
  await start('inbox', [
    ...['--network', `${host.project}_out`, '--network-alias', 'smtp.test', '--tmpfs', '/tmp'],
    ...['--publish', `${new URL(host.inboxUrl).host}:1080`, 'maildev/maildev:3.0.0'],
  ])
  const answers = () =>
    fetch(`${host.inboxUrl}/api/healthz`).then(
      (answer) => answer.ok,
      () => false,
    )
  await eventually('the inbox answers', answers, 60_000)
}
const removeExtra = async () => {
  if (extra.length > 0) await run('docker', ['rm', '--force', '--volumes', ...extra.splice(0)], { any: true })
}
const tour = () => host.tour(url, { NODE_EXTRA_CA_CERTS: join(host.dir, 'certs/ca.crt') })
async function fillCatalogue() {
  host.write(
    'products.csv',
    'sku,name,description,category,price,currency,stock\nlamp,Lamp,A lamp,light,1999,EUR,5000\nchair,Chair,A chair,seats,4999,EUR,5000\n',
  )
  const file = `${join(host.clone, 'products.csv')}:/tmp/products.csv:ro`
  await host.compose([
    'run',
    '--rm',
    '--no-deps',
    '-T',
    '--volume',
    file,
    '--entrypoint',
    'node',
    'products',
    '/app/src/commands.ts',
    'import',
    '/tmp/products.csv',
  ])
}
const fetchInsecure = (where: string) =>
  run('curl', [
    '-s',
    '-k',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code} %{redirect_url} %{ssl_verify_result} %{http_version}',
    where,
  ])

if (!missing) {
  anyTest.serial.before('a clean clone with the secrets of prod, and images', async (t) => {
    t.timeout(600_000)
    host = await openHost({ version })
    url = `https://localhost:${host.port}`
    await host.make(['secrets', 'ENV=prod'], {
      env: { SMTP_URL: 'smtp://smtp.test:1025', SMTP_USER: 'shop', SMTP_PASSWORD: 'mail password' },
    })
    await host.compose(['build'], { seconds: 500, env: { PUBLIC_URL: url, MAIL_FROM: 'x' } })
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(120_000)
    await removeExtra()
    if (host) Object.assign(host.settings, { PUBLIC_URL: url, MAIL_FROM: 'x' })
    await host?.[Symbol.asyncDispose]()
    await removeImages(version)
  })
}

test('what prod needs and does not have → it is named, and nothing is started', async (t) => {
  t.timeout(120_000)
  const up = () => host.compose(['up', '--detach', '--wait'], { any: true })
  const first = await up()
  t.not(first.code, 0)
  t.regex(first.all, /PUBLIC_URL.*say in \.env where customers reach the shop/)
  const dotenv = readFileSync(join(host.clone, '.env'), 'utf8')
  host.write('.env', `${dotenv}PUBLIC_URL=${url}\nMAIL_FROM="Shop <shop@example.org>"\n`)
  await makeCertificates('127.0.0.1')

  const noCertificate = await up()
  t.not(noCertificate.code, 0)
  t.regex(noCertificate.all, /prod\/TLS_(CERT|KEY)/)
  await run(
    'sh',
    ['-c', 'cp server.crt "$1/TLS_CERT" && cp server.key "$1/TLS_KEY"', 'sh', join(host.clone, 'secrets/.plain/prod')],
    { cwd: join(host.dir, 'certs') },
  )

  const other = createServer().listen(host.port, '127.0.0.1')
  const taken = await up()
  t.not(taken.code, 0)
  t.regex(taken.all, new RegExp(`${host.port}.*(already|in use)|(already|in use).*${host.port}`))
  await new Promise((resolve) => other.close(resolve))

  const minio = await host.compose(['config', '--quiet'], { any: true, env: { BODEGA_OBJECTSTORE: 'minio' } })
  t.regex(minio.all, /MinIO has no public image any more/)
})

test('the production form → the tour passes over TLS, and HTTP leads there', async (t) => {
  t.timeout(240_000)
  await host.make(['up'], { seconds: 180 })
  await startInbox()
  await fillCatalogue()
  t.regex(await tour(), /All \d+ steps as promised/)
  t.regex(
    (await fetchInsecure(`http://127.0.0.1:${host.httpPort}/product?limit=1`)).out,
    new RegExp(`^308 ${url}/product\\?limit=1 `),
  )
  t.regex((await fetchInsecure(`${url}/product`)).out, /^200 .* 2$/)
})

test('the production form → only the edge is reachable, everything restarts, rotates its log and has limits', async (t) => {
  for (const id of await host.containers()) {
    const [{ HostConfig, Config }] = JSON.parse((await run('docker', ['inspect', id])).out)
    const service = Config.Labels['com.docker.compose.service']
    t.is(HostConfig.RestartPolicy.Name, 'unless-stopped', service)
    t.deepEqual(HostConfig.LogConfig, { Type: 'json-file', Config: { 'max-file': '5', 'max-size': '10m' } }, service)
    t.true(HostConfig.Memory > 0 && HostConfig.NanoCpus > 0, service)
    t.deepEqual(
      Object.keys(HostConfig.PortBindings ?? {}).sort(),
      service === 'edge' ? ['8080/tcp', '8443/tcp'] : [],
      service,
    )
  }
  const services = (await host.compose(['config', '--services'])).out.split('\n')
  t.false(services.includes('mail') || services.includes('seed'))
})

test('down → every container ends by itself', async (t) => {
  t.timeout(120_000)
  // It holds on to one of the networks.
  await removeExtra()
  const codes = await host.down('--volumes')
  t.true(Object.keys(codes).length >= 8)
  t.deepEqual(
    Object.entries(codes).filter(([, code]) => code !== '0'),
    [],
  )
})

test('database, bus and object store elsewhere, over TLS with a private authority → the tour passes, backup and restore too', async (t) => {
  t.timeout(300_000)
  const address = (
    await run('docker', ['network', 'inspect', 'bridge', '--format', '{{(index .IPAM.Config 0).Gateway}}'])
  ).out
  const certs = await makeCertificates(address)
  await run(
    'sh',
    [
      '-c',
      'cp server.crt "$1/TLS_CERT.new" && cp server.key "$1/TLS_KEY.new" && mv -f "$1/TLS_CERT.new" "$1/TLS_CERT" && mv -f "$1/TLS_KEY.new" "$1/TLS_KEY"',
      'sh',
      join(host.clone, 'secrets/.plain/prod'),
    ],
    { cwd: certs },
  )
  const secrets = join(host.clone, 'secrets/.plain/prod')
  const [database, bus, store] = [await freePort(), await freePort(), await freePort()]
  const mounts = ['--volume', `${certs}:/certs:ro`, '--volume', `${secrets}:/unpacked:ro`]

  // The server refuses a key that others may read, so it gets a copy of its own.
  const postgres = await start('database', [
    ...[...mounts, '--publish', `${address}:${database}:5432`, '--user', '0', '--entrypoint', 'bash'],
    ...[
      '--env',
      `POSTGRES_PASSWORD=${readFileSync(join(secrets, 'POSTGRES_PASSWORD'), 'utf8')}`,
      '--env',
      'POSTGRES_DB=bodega',
      'postgres:18',
      '-c',
    ],
    'install -o postgres -m 400 /certs/server.key /tmp/server.key && exec docker-entrypoint.sh postgres -c ssl=on -c ssl_cert_file=/certs/server.crt -c ssl_key_file=/tmp/server.key',
  ])
  host.write(
    'bus.conf',
    `${readFileSync(join(host.clone, 'src/platform/nats.conf'), 'utf8')}\ntls { cert_file: "/certs/server.crt", key_file: "/certs/server.key" }\n`,
  )
  await start('bus', [
    ...[...mounts, '--publish', `${address}:${bus}:4222`, '--user', '0'],
    ...['--volume', `${join(host.clone, 'bus.conf')}:/etc/elsewhere/bus.conf:ro`],
    ...['--volume', `${join(secrets, 'nats.vars')}:/etc/elsewhere/nats.vars:ro`],
    ...['nats:2.14-alpine', 'nats-server', '-c', '/etc/elsewhere/bus.conf', '-sd', '/tmp/bus'],
  ])
  await start('store', [
    ...[
      ...mounts,
      '--publish',
      `${address}:${store}:8333`,
      '--user',
      '0',
      '--entrypoint',
      '/usr/bin/weed',
      'chrislusf/seaweedfs:4.48',
    ],
    ...[
      '-logtostderr=true',
      'mini',
      '-dir=/data',
      '-ip=127.0.0.1',
      '-ip.bind=0.0.0.0',
      '-master.peers=none',
      '-master.telemetry=false',
      '-admin.ui=false',
      '-webdav=false',
    ],
    ...[
      '-s3.port=8333',
      '-s3.port.iceberg=0',
      '-s3.port.lance=0',
      '-s3.config=/unpacked/s3.json',
      '-s3.cert.file=/certs/server.crt',
      '-s3.key.file=/certs/server.key',
    ],
  ])
  await eventually(
    'the database answers',
    async () =>
      (
        await run(
          'docker',
          ['exec', postgres, 'psql', '-U', 'postgres', '-h', '127.0.0.1', '-d', 'bodega', '-c', 'select 1'],
          { any: true },
        )
      ).all.includes('password'),
    60_000,
  )
  Object.assign(host.settings, {
    BODEGA_PARTS: 'external',
    DATABASE_URL: `postgres://${address}:${database}/bodega`,
    NATS_BROKER_URL: `tls://${address}:${bus}`,
    S3_URL: `https://${address}:${store}`,
    DATABASE_CA_FILE: join(certs, 'ca.crt'),
    NATS_CA_FILE: join(certs, 'ca.crt'),
    S3_CA_FILE: join(certs, 'ca.crt'),
  })
  const services = (await host.compose(['config', '--services'])).out.split('\n')
  t.deepEqual(
    services.filter((service) => ['postgres', 'nats', 'objectstore'].includes(service)),
    [],
  )
  await host.make(['up'], { seconds: 180 })
  await startInbox()
  await fillCatalogue()
  t.regex(await tour(), /All \d+ steps as promised/)
  t.regex(
    (
      await host.compose([
        'exec',
        '-T',
        'products',
        'node',
        '-e',
        "require('http').get('http://127.0.0.1:3002/readyz', (r) => r.pipe(process.stdout))",
      ])
    ).out,
    /"objects":"ok"/,
  )

  const connections = await run('docker', [
    'exec',
    postgres,
    'psql',
    '-X',
    '-A',
    '-t',
    '-U',
    'postgres',
    '-h',
    '/var/run/postgresql',
    '-d',
    'bodega',
    '-c',
    "select ssl, count(*) from pg_stat_ssl join pg_stat_activity using (pid) where usename like '%\\_a' group by 1",
  ])
  t.regex(connections.out, /^t\|\d+$/)

  const { out } = await host.make(['backup'])
  const file = /backups\/\S+\.tar/.exec(out)?.[0] as string
  await run('docker', [
    'exec',
    postgres,
    'psql',
    '-X',
    '-U',
    'postgres',
    '-h',
    '/var/run/postgresql',
    '-d',
    'postgres',
    '-c',
    'drop database bodega with (force)',
  ])
  await run('docker', [
    'exec',
    postgres,
    'psql',
    '-X',
    '-U',
    'postgres',
    '-h',
    '/var/run/postgresql',
    '-d',
    'postgres',
    '-c',
    'create database bodega',
  ])
  t.regex(
    (await host.make(['restore', `FILE=${file}`], { seconds: 180 })).out,
    /restored, \d+ rows in \d+ tables compared/,
  )
  t.regex(await tour(), /All \d+ steps as promised/)
})
