import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { parse } from 'yaml'
import { roleNames } from '../../src/platform/config.ts'
import { contents, type Market, openMarket, signIn } from '../support/load.ts'
import { type Cluster, lackingCluster, loadImages, newVersion, openCluster } from './cluster.ts'
import { crowding, removeImages, run } from './host.ts'

// The chart on a real cluster, with Helm 4 or the one that HELM names; each test goes on from where the one before it left.
const helm = process.env.HELM ?? 'helm'
const helmVersion = await run(helm, ['version', '--short'], { any: true }).then(
  ({ out }) => out,
  () => undefined,
)
const missing = helmVersion ? await lackingCluster() : `${helm} is not installed`
if (missing) process.stderr.write(`skipped, all of test/e2e/helm.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial
const onFailure = helmVersion?.startsWith('v3') ? '--atomic' : '--rollback-on-failure'

const version = newVersion()
const next = `${version}-next`
let cluster: Cluster
let market: Market

if (!missing) {
  anyTest.serial.before('a clean clone, with images', async (t) => {
    t.timeout(600_000)
    cluster = await openCluster({ version })
    const values = parse(readFileSync(join(cluster.clone, 'helm/bodega/values.yaml'), 'utf8'))
    const servers = [values.postgres.image, values.nats.image, values.objectstore.seaweedfs, values.dev.mailImage]
    await loadImages(
      cluster,
      version,
      servers.map(({ repository, tag }) => `${repository}:${tag}`),
    )
    // The inbox has no port of the nodes in the chart.
    await cluster.k(['apply', '-f', '-'], {
      input: JSON.stringify({
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'inbox' },
        spec: {
          type: 'NodePort',
          selector: { 'app.kubernetes.io/part-of': 'bodega', 'app.kubernetes.io/component': 'mail' },
          ports: [{ port: 1080, nodePort: cluster.ports.mail }],
        },
      }),
    })
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(180_000)
    await cluster?.[Symbol.asyncDispose]()
    await removeImages(version, next)
  })
}

/** Runs Helm on the release, with the values of dev, a tag and a port of the node. */
const release = (command: 'install' | 'upgrade', tag: string, args: string[] = [], any = false) =>
  cluster.on(
    helm,
    [
      ...[
        command,
        'bodega',
        'helm/bodega',
        '--namespace',
        cluster.namespace,
        '--values',
        'helm/bodega/values-dev.yaml',
      ],
      ...['--set-string', `image.tag=${tag},edge.image.tag=${tag}`],
      ...['--set', `edge.service.type=NodePort,edge.service.nodePort=${cluster.ports.edge}`],
      ...args,
    ],
    { seconds: 330, any },
  )
const onRelease = (...args: string[]) => cluster.on(helm, [...args, '--namespace', cluster.namespace], { seconds: 330 })
/** Names and identities of the pods that stay. */
const pods = async () => {
  const { out } = await cluster.k([
    ...['get', 'pods', '--field-selector=status.phase=Running', '-o'],
    'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount}{"\\n"}{end}',
  ])
  return out.split('\n').sort()
}
const images = async () => {
  const { out } = await cluster.k(['get', 'deployments', '-o', 'jsonpath={..containers[*].image}'])
  return [...new Set(out.split(' ').filter((image) => image.startsWith('bodega-')))].sort()
}
const history = async () => JSON.parse((await onRelease('history', 'bodega', '--output', 'json')).out)

test('helm install --wait with images present → the whole shop within 60 s', async (t) => {
  t.timeout(360_000)
  const crowdBefore = await crowding()
  const began = performance.now()
  const { out } = await release('install', version, ['--wait', '--timeout', '5m'])
  const seconds = (performance.now() - began) / 1000
  const crowd = (crowdBefore + (await crowding())) / 2
  t.log(
    `${helmVersion}: ready after ${seconds.toFixed(1)} s on a machine ${crowd.toFixed(1)} times as busy as with this alone`,
  )
  t.true(seconds <= 60 * crowd, `ready after ${seconds} s`)
  t.regex(out, /helm --namespace \S+ test bodega/)
  for (const role of [...roleNames, 'edge'])
    t.is(await cluster.get(`deployment/bodega-${role}`, '.status.readyReplicas'), '1')
  await cluster.settled()
  await cluster.reached()
})

test('helm test → the shop answers through the edge', async (t) => {
  t.timeout(120_000)
  const { out } = await onRelease('test', 'bodega', '--logs')
  t.regex(out, /Phase:\s+Succeeded/)
  t.regex(out, /\/healthz 200 as promised/)
})

test('make tour through a NodePort → every step as promised', async (t) => {
  t.timeout(120_000)
  t.regex(await cluster.tour(), /All \d+ steps as promised/)
})

test('helm upgrade with nothing changed → no pod is restarted, no object changed', async (t) => {
  t.timeout(180_000)
  await cluster.quiet()
  const generations = async () =>
    (
      await cluster.k([
        'get',
        'deployments,statefulsets,services,jobs,configmaps',
        '-o',
        'jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.generation}{"\\n"}{end}',
      ])
    ).out
  const before = [await pods(), await generations()]
  await release('upgrade', version, ['--wait'])
  await cluster.quiet()
  t.deepEqual([await pods(), await generations()], before)
})

test('customers and products', async (t) => {
  t.timeout(180_000)
  market = await openMarket({
    url: cluster.url,
    inboxUrl: cluster.inboxUrl,
    makeAdmin: (email) => cluster.command('auth', 'admin', email),
  })
  t.is(market.buyers.length, 3)
})

test('helm upgrade to the next version under load, and helm rollback → no failed request, nothing lost', async (t) => {
  t.timeout(600_000)
  cluster.write('src/orders/migrations/900_next.sql', 'alter table orders."order" add column note text;\n')
  await loadImages(cluster, next)
  const column = () =>
    cluster.sql(`select 1 from information_schema.columns where table_name = 'order' and column_name = 'note'`)
  const load = await market.during(async () => {
    await release('upgrade', next, ['--wait', '--timeout', '5m'])
    await cluster.settled()
    t.deepEqual(await column(), ['1'])
    t.deepEqual(await images(), [`bodega-app:${next}`, `bodega-edge:${next}`])
    await cluster.quiet()
    await onRelease('rollback', 'bodega', '--wait', '--timeout', '5m')
    await cluster.settled()
    t.deepEqual(await images(), [`bodega-app:${version}`, `bodega-edge:${version}`])
    await cluster.quiet()
  })
  t.log(`${load.requests} requests, ${load.failures.length} failed; ${market.sales.size} orders`)
  t.deepEqual(load.failures, [])
  t.deepEqual(await market.lost(cluster.sql), [])
})

test('an upgrade whose new role never becomes ready → Helm takes it back by itself, and the shop is up all the time', async (t) => {
  t.timeout(400_000)
  const before = await pods()
  const load = await market.during(async () => {
    const broken = ['--set-string', 'roles.orders.extraEnv.LISTEN_PORT=80x80']
    const { code, all } = await release('upgrade', version, [...broken, onFailure, '--wait', '--timeout', '40s'], true)
    t.not(code, 0)
    t.regex(all, /rolled back due to/)
    await cluster.settled()
    await cluster.quiet()
  })
  t.log(`${load.requests} requests, ${load.failures.length} failed`)
  t.deepEqual(load.failures, [])
  t.deepEqual(await pods(), before)
  t.regex((await history()).at(-1).description, /^Rollback to/)
  t.deepEqual(await market.lost(cluster.sql), [])
})

test('new keys and logins by secrets-apply under load, and migrate again → no failed request, and Helm leaves the restart alone', async (t) => {
  t.timeout(500_000)
  const logins = () => cluster.sql(`select distinct usename from pg_stat_activity where usename like 'orders\\_%'`)
  t.deepEqual(await logins(), ['orders_a'])
  const load = await market.during(async () => {
    await cluster.make(['secrets-rotate', 'WHAT=jwt database'])
    await cluster.make(['secrets-apply'])
    await cluster.k(['delete', 'job', '-l', 'app.kubernetes.io/component=migrate'])
    await release('upgrade', version, ['--wait', '--timeout', '5m'])
    await cluster.settled()
    await cluster.quiet()
  })
  t.log(`${load.requests} requests, ${load.failures.length} failed`)
  t.deepEqual(load.failures, [])
  t.deepEqual(await logins(), ['orders_b'])
  const before = await pods()
  await release('upgrade', version, ['--wait'])
  t.deepEqual(await pods(), before)
})

test('helm uninstall → the volumes stay, and another install finds the data', async (t) => {
  t.timeout(400_000)
  const claims = async () =>
    (await cluster.k(['get', 'pvc', '-o', 'jsonpath={range .items[*]}{.metadata.name} {.spec.volumeName}{"\\n"}{end}']))
      .out
  const before = await claims()
  t.is(before.split('\n').length, 3)
  await onRelease('uninstall', 'bodega', '--wait')
  await cluster.k(['wait', '--for=delete', 'pod', '-l', 'app.kubernetes.io/instance=bodega', '--timeout=90s'])
  t.is(await claims(), before)
  await release('install', version, ['--wait', '--timeout', '5m'])
  await cluster.reached()
  for (const buyer of market.buyers) Object.assign(buyer, await signIn(cluster.url, buyer))
  t.deepEqual(await market.lost(cluster.sql), [])
  t.regex((await onRelease('test', 'bodega')).out, /Phase:\s+Succeeded/)
})

test('make backup TARGET=cluster, then another install without volumes and make restore → the same row by row', async (t) => {
  t.timeout(500_000)
  const kept = () => contents(cluster.sql, ['auth', 'products', 'orders'])
  const load = await market.during(() => cluster.make(['backup', 'TARGET=cluster', 'ENV=dev'], { seconds: 200 }))
  t.deepEqual(load.failures, [])
  const before = await kept()
  const { out } = await cluster.make(['backup', 'TARGET=cluster', 'ENV=dev'], { seconds: 200 })
  const file = /backups\/\S+\.tar/.exec(out)?.[0] as string

  await onRelease('uninstall', 'bodega', '--wait')
  await cluster.k(['delete', 'pvc', '-l', 'app.kubernetes.io/instance=bodega', '--timeout=90s'])
  await release('install', version, ['--set', 'dev.seed=false', '--wait', '--timeout', '5m'])
  const restored = await cluster.make(['restore', 'TARGET=cluster', 'ENV=dev', `FILE=${file}`], { seconds: 300 })
  t.log(restored.out.split('\n').at(-1))
  t.deepEqual(await kept(), before)
  await cluster.reached()
  t.regex(await cluster.tour(), /All \d+ steps as promised/)
})
