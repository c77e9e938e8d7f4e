import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { writeVersion } from '../../scripts/version.ts'
import { call } from '../../src/embedded/client.ts'
import { roleNames } from '../../src/platform/config.ts'
import { contents, type Market, openMarket } from '../support/load.ts'
import { eventually } from '../support/shop.ts'
import { type Cluster, lackingCluster, loadImages, newVersion, openCluster } from './cluster.ts'
import { crowding, removeImages } from './host.ts'

// The production form by Kustomize on a real cluster; each test goes on from where the one before it left.
const missing = await lackingCluster()
if (missing) process.stderr.write(`skipped, all of test/e2e/cluster.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = newVersion()
const next = `${version}-next`
const overlay = 'kustomize/overlays/mine'
let cluster: Cluster
let market: Market

if (!missing) {
  anyTest.serial.before('a clean clone, with images', async (t) => {
    t.timeout(600_000)
    cluster = await openCluster({ version })
    writeOverlay({ tag: version })
    const { out } = await cluster.k(['kustomize', overlay])
    const images = [...out.matchAll(/^ *(?:- )?image: "?([^\s"]+)/gm)].map(([, image]) => image as string)
    await loadImages(
      cluster,
      version,
      [...new Set(images)].filter((image) => !image.startsWith('bodega-')),
    )
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(180_000)
    await cluster?.[Symbol.asyncDispose]()
    await removeImages(version, next)
  })
}

/** What the inbox and the catalogue of dev need beside the policies of prod, where a cluster enforces them. */
const part = (...components: string[]) => ({
  matchLabels: { 'app.kubernetes.io/part-of': 'bodega' },
  matchExpressions: [{ key: 'app.kubernetes.io/component', operator: 'In', values: components }],
})
const policy = (name: string, spec: object) => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name },
  spec,
})
const policies = {
  apiVersion: 'v1',
  kind: 'List',
  items: [
    policy('mine', {
      podSelector: part('mail', 'seed'),
      ingress: [{}],
      egress: [{}],
      policyTypes: ['Ingress', 'Egress'],
    }),
    policy('mine-to-mail', {
      podSelector: part('notifications'),
      policyTypes: ['Egress'],
      egress: [{ to: [{ podSelector: part('mail') }], ports: [{ port: 1025 }] }],
    }),
    policy('mine-from-seed', {
      podSelector: part('products', 'postgres', 'nats', 'objectstore'),
      policyTypes: ['Ingress'],
      ingress: [{ from: [{ podSelector: part('seed') }] }],
    }),
  ],
}

/** prod-standalone as an owner would make it his own, with the inbox and the catalogue of dev, on ports of the node. */
function writeOverlay({ tag, seed = true }: { tag: string; seed?: boolean }) {
  mkdirSync(join(cluster.clone, overlay), { recursive: true })
  cluster.write(`${overlay}/policies.yaml`, JSON.stringify(policies))
  cluster.write(
    `${overlay}/kustomization.yaml`,
    `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../prod-standalone, ../dev/mail${seed ? ', ../dev/seed' : ''}, policies.yaml]
components: [../../components/node-port]
images:
  - { name: bodega-app, newTag: ${tag} }
  - { name: bodega-edge, newTag: ${tag} }
patches:
  - target: { kind: Service, name: bodega-edge }
    patch: |
      - { op: add, path: /spec/ports/0/nodePort, value: ${cluster.ports.edge} }
  - target: { kind: Service, name: mail }
    patch: |
      - { op: add, path: /spec/type, value: NodePort }
      - { op: add, path: /spec/ports/1/nodePort, value: ${cluster.ports.mail} }
`,
  )
}
const apply = () => cluster.k(['apply', '-k', overlay])
const since = (began: number) => `${((performance.now() - began) / 1000).toFixed(1)} s`

/** Generation of each object with a name, which grows with every change of what is wanted of it. */
async function generations() {
  const { out } = await cluster.k([
    ...['get', 'deployments,statefulsets,services,configmaps,jobs,hpa,pdb,networkpolicies,serviceaccounts', '-o'],
    'jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.metadata.creationTimestamp}{"\\n"}{end}',
  ])
  return out.split('\n').sort()
}
/** Everything that was promised is there, and every order was told of by mail. */
async function nothingLost() {
  const counts = async () =>
    await cluster.sql(`select (select count(*) from orders."order"),
      (select count(*) from notifications.mail_delivery where kind = 'order_placed' and sent_at is not null)`)
  await eventually(
    'a mail for each order',
    async () => {
      const [orders, mails] = ((await counts())[0] as string).split('|')
      return orders === mails
    },
    120_000,
  )
  return market.lost(cluster.sql)
}
/** How long until an order is accepted again, from now. */
async function recovery() {
  const began = performance.now()
  const before = market.sales.size
  await eventually('an order is accepted', async () => market.sales.size > before, 120_000)
  return since(began)
}
/** Ends a pod as a lost node would: nobody waits for it. */
const kill = (pod: string) => cluster.k(['delete', 'pod', pod, '--grace-period=0', '--force', '--wait=false'])

test('kubectl apply -k with images present → the whole shop without a hand; what starts first waits and says for what', async (t) => {
  t.timeout(400_000)
  const crowd = await crowding()
  const began = performance.now()
  await apply()
  await cluster.settled(390)
  t.log(`ready after ${since(began)}, on a machine ${crowd.toFixed(1)} times as busy as with this alone`)
  const { out } = await cluster.k([
    ...['get', 'pods', '-o'],
    'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{"\\n"}{end}',
  ])
  t.deepEqual(
    out.split('\n').filter((line) => !line.endsWith(' 0')),
    [],
  )
  // Which of them has to wait depends on how soon the servers are up; none of them is up before all others have begun.
  const logs = await Promise.all(
    ['migrate', ...roleNames].map((component) =>
      cluster.k(['logs', '-l', `app.kubernetes.io/component=${component}`, '--tail=-1']),
    ),
  )
  t.regex(logs.map(({ out }) => out).join('\n'), /waiting for (the database|the bus|dependencies)/)
})

test('apply -k once more → changes nothing', async (t) => {
  t.timeout(120_000)
  // The autoscalers come to their least number by themselves.
  for (const part of [...roleNames, 'edge'])
    await eventually(`three of ${part}`, async () => (await cluster.pods(part)).length === 3, 90_000)
  const before = await generations()
  await apply()
  t.deepEqual(await generations(), before)
  // It ends with 1 where the cluster would change anything.
  await cluster.k(['diff', '-k', overlay])
})

test('make tour through a NodePort → every step as promised', async (t) => {
  t.timeout(120_000)
  await cluster.reached()
  t.regex(await cluster.tour(), /All \d+ steps as promised/)
})

test('the namespace and every pod → restricted is enforced, no token of a service account, a root that is read-only', async (t) => {
  const refused = await cluster.k(['run', 'careless', `--image=bodega-app:${version}`], { any: true })
  t.not(refused.code, 0)
  t.regex(refused.all, /violates PodSecurity "restricted/)
  const { items } = JSON.parse((await cluster.k(['get', 'pods', '-o', 'json'])).out)
  t.true(items.length > 20)
  for (const { metadata, spec } of items) {
    const { name } = metadata
    t.false(spec.automountServiceAccountToken, name)
    t.notRegex(JSON.stringify(spec.volumes), /serviceAccountToken/, name)
    for (const container of [...spec.containers, ...(spec.initContainers ?? [])])
      t.true(container.securityContext.readOnlyRootFilesystem, `${name} ${container.name}`)
  }
  const [pod] = (await cluster.pods('orders')) as [string]
  const attempt = 'fs.writeFileSync("/app/x", ""); console.log(fs.existsSync("/var/run/secrets/kubernetes.io"))'
  t.regex((await cluster.k(['exec', pod, '--', 'node', '-e', attempt], { any: true })).all, /EROFS/)
})

test('a rolling restart of the edge under load → no failed request', async (t) => {
  t.timeout(240_000)
  market = await openMarket({
    url: cluster.url,
    inboxUrl: cluster.inboxUrl,
    makeAdmin: (email) => cluster.command('auth', 'admin', email),
  })
  const customers = await market.during(async () => {
    await cluster.k(['rollout', 'restart', 'deployment/bodega-edge'])
    await cluster.settled()
    await cluster.quiet()
  })
  t.deepEqual(customers.failures, [])
  t.log(`${customers.requests} requests, ${customers.failures.length} failed`)
})

test('a NATS node, a pod of each role and the database killed under load → orders go on, nothing is lost', async (t) => {
  t.timeout(400_000)
  const customers = await market.during(
    async () => {
      const [node] = (await cluster.pods('nats')) as [string]
      await kill(node)
      t.log(`after a NATS node: an order in ${await recovery()}`)
      for (const role of roleNames) {
        const [pod] = (await cluster.pods(role)) as [string]
        await kill(pod)
        t.log(`after a pod of ${role}: an order in ${await recovery()}`)
      }
      await cluster.settled()
      const [database] = (await cluster.pods('postgres')) as [string]
      await kill(database)
      t.log(`after the database: an order in ${await recovery()}`)
      await cluster.settled()
    },
    { strict: false },
  )
  t.log(`${customers.requests} requests, answers ${JSON.stringify(customers.seen)}`)
  t.deepEqual(await nothingLost(), [])
})

test('another mail server by secrets-apply → exactly the role that mounts it rolls', async (t) => {
  t.timeout(180_000)
  const before = await generations()
  const env = { SMTP_URL: 'smtp://mail:1025', SMTP_USER: 'shop', SMTP_PASSWORD: 'new password' }
  await cluster.make(['secrets-rotate', 'WHAT=smtp'], { env })
  const { out } = await cluster.make(['secrets-apply'])
  t.regex(out, /restarted: Deployment\/bodega-notifications\s*$/m)
  const after = await generations()
  t.deepEqual(
    after.filter((line) => !before.includes(line)).map((line) => line.split(' ')[0]),
    ['Deployment/bodega-notifications'],
  )
  await cluster.settled()
})

test('rotate every secret under load → NATS, object store and roles restart, no failed request, nothing lost', async (t) => {
  t.timeout(600_000)
  const logins = () => cluster.sql(`select distinct usename from pg_stat_activity where usename like 'orders\\_%'`)
  t.deepEqual(await logins(), ['orders_a'])
  const customers = await market.during(async () => {
    const began = performance.now()
    await cluster.make(['secrets-rotate', 'WHAT=jwt assertion pepper database nats s3'])
    const { out } = await cluster.make(['secrets-apply'], { seconds: 400 })
    t.regex(out, /restarted: StatefulSet\/bodega-nats StatefulSet\/bodega-objectstore /)
    t.log(`NATS and object store after ${since(began)}`)
    // As secrets-apply says: migrate makes the new logins.
    t.regex(out, /next: run the migrate Job again.*make deploy/)
    await cluster.make(['deploy', 'OVERLAY=mine'], { seconds: 300 })
    await cluster.make(['secrets-rotate', 'WHAT=assertion pepper'])
    await cluster.make(['secrets-apply'])
    await cluster.settled()
    await cluster.quiet()
    t.log(`all after ${since(began)}`)
  })
  t.deepEqual(customers.failures, [])
  t.log(`${customers.requests} requests, ${customers.failures.length} failed`)
  t.deepEqual(await logins(), ['orders_b'])
  t.deepEqual(await nothingLost(), [])
})

test('more load than three pods are meant for → the autoscaler adds some, and takes them away after it', async (t) => {
  t.timeout(300_000)
  // Figures for a small machine; what is proven is that the autoscaler finds the role and its processor time.
  await cluster.k([
    ...['patch', 'hpa', 'bodega-products', '-p'],
    JSON.stringify({
      spec: {
        maxReplicas: 5,
        metrics: [
          { type: 'Resource', resource: { name: 'cpu', target: { type: 'AverageValue', averageValue: '50m' } } },
        ],
        behavior: { scaleDown: { stabilizationWindowSeconds: 0 } },
      },
    }),
  ])
  const wanted = async () => Number(await cluster.get('deployment/bodega-products', '.spec.replicas'))
  const done = new AbortController()
  const answers: number[] = []
  const crowd = Array.from({ length: 6 }, async () => {
    while (!done.signal.aborted) answers.push((await call(cluster.url, 'GET', '/product?limit=50')).status)
  })
  try {
    await eventually('more than three', async () => (await wanted()) > 3, 120_000)
    await cluster.settled()
    t.log(`${await wanted()} replicas`)
  } finally {
    done.abort()
    await Promise.all(crowd)
  }
  await eventually('three again', async () => (await wanted()) === 3, 120_000)
  t.deepEqual(
    answers.filter((status) => status !== 200),
    [],
  )
  t.log(`${answers.length} requests`)
  await cluster.quiet()
})

test('the next version by apply -k under load, and back → no failed request, old and new side by side', async (t) => {
  t.timeout(600_000)
  // What a git pull brings: code, a migration, and the Jobs' new names.
  cluster.write('src/orders/migrations/900_next.sql', 'alter table orders."order" add column note text;\n')
  const health = readFileSync(join(cluster.clone, 'src/platform/health.ts'), 'utf8')
  cluster.write('src/platform/health.ts', `${health}\nexport const next = true\n`)
  await loadImages(cluster, next)
  const { version: now } = JSON.parse(readFileSync(join(cluster.clone, 'package.json'), 'utf8'))
  const column = () =>
    cluster.sql(`select 1 from information_schema.columns where table_name = 'order' and column_name = 'note'`)
  const customers = await market.during(async () => {
    const began = performance.now()
    writeVersion(cluster.clone, '99.0.0')
    writeOverlay({ tag: next })
    await apply()
    await cluster.settled()
    t.log(`next after ${since(began)}`)
    t.deepEqual(await column(), ['1'])
    writeVersion(cluster.clone, now)
    writeOverlay({ tag: version })
    await apply()
    await cluster.settled()
    await cluster.quiet()
    t.log(`and back after ${since(began)}`)
  })
  t.deepEqual(customers.failures, [])
  t.log(`${customers.requests} requests, ${customers.failures.length} failed`)
  t.is(
    await cluster.get('deployment/bodega-orders', '.spec.template.spec.containers[0].image'),
    `bodega-app:${version}`,
  )
  t.deepEqual(await nothingLost(), [])
})

const onCluster = (target: string, ...more: string[]) =>
  cluster.make([target, 'TARGET=cluster', 'ENV=dev', ...more], { seconds: 300 })

test('make backup TARGET=cluster under load → a whole backup, no failed request, and status shows it', async (t) => {
  t.timeout(180_000)
  const customers = await market.during(() => onCluster('backup'))
  t.deepEqual(customers.failures, [])
  const { out } = await onCluster('status')
  t.regex(out, /^orders +3 +3 +bodega-app:/m)
  t.regex(out, /^outbox +orders \d+/m)
  t.regex(out, /last backup +backups\/bodega-dev-/)
  t.regex((await onCluster('dlq')).out, /There are no dead letters/)
  t.log(out)
})

test('delete -k, then apply -k → the data volumes stayed, and the shop has its data', async (t) => {
  t.timeout(400_000)
  await cluster.k(['delete', '-k', overlay, '--timeout=120s'], { seconds: 150 })
  const { out } = await cluster.k(['get', 'pvc', '-o', 'name'])
  t.deepEqual(out.split('\n').sort(), [
    'persistentvolumeclaim/data-bodega-nats-0',
    'persistentvolumeclaim/data-bodega-nats-1',
    'persistentvolumeclaim/data-bodega-nats-2',
    'persistentvolumeclaim/data-bodega-objectstore-0',
    'persistentvolumeclaim/data-bodega-postgres-0',
  ])
  // Without the old migration of the next version, which only adds, and with the catalogue that is there.
  const began = performance.now()
  await apply()
  await cluster.settled()
  t.log(`ready again after ${since(began)}`)
  t.deepEqual(await market.lost(cluster.sql), [])
  await cluster.reached()
  t.regex(await cluster.tour(), /All \d+ steps as promised/)
})

test('make restore TARGET=cluster → refused over data; into an empty shop the same row by row', async (t) => {
  t.timeout(500_000)
  const kept = () => contents(cluster.sql, ['auth', 'products', 'orders'])
  const before = await kept()
  await onCluster('backup')
  const file = `backups/${readdirSync(join(cluster.clone, 'backups')).sort().at(-1)}`
  t.regex(
    (await cluster.make(['restore', 'TARGET=cluster', 'ENV=dev', `FILE=${file}`], { any: true })).all,
    /this shop has data/,
  )
  t.deepEqual(await kept(), before)

  await cluster.k(['delete', '-k', overlay, '--timeout=120s'], { seconds: 150 })
  await cluster.k(['delete', 'pvc', '--all', '--timeout=60s'])
  writeOverlay({ tag: version, seed: false })
  await apply()
  await cluster.settled()
  const began = performance.now()
  const { out } = await onCluster('restore', `FILE=${file}`)
  t.log(`${out.split('\n').at(-1)}, in ${since(began)}`)
  t.deepEqual(await kept(), before)
  await cluster.reached()
  t.regex(await cluster.tour(), /All \d+ steps as promised/)
})
