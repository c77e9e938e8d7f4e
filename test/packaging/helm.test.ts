import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import anyTest, { type ExecutionContext } from 'ava'
import { isMap, isScalar, LineCounter, parse, parseAllDocuments, parseDocument } from 'yaml'
import { run } from '../e2e/host.ts'
import { exceptions } from './exceptions.ts'
import { checkov, kubernetesSchemas } from './python.ts'

const chart = join(import.meta.dirname, '../../helm/bodega')
const read = (path: string) => readFileSync(join(import.meta.dirname, '../..', path), 'utf8')

/** The test, or one that is skipped aloud where a program is missing. */
function testWith(...programs: string[]) {
  const found = (program: string) =>
    program === 'pip'
      ? spawnSync('python3', ['-m', 'pip', '--version']).status === 0
      : !spawnSync(program, ['--help']).error
  const missing = programs.filter((program) => !found(program))
  if (missing.length) process.stderr.write(`skipped in test/packaging/helm.test.ts, missing: ${missing.join(', ')}\n`)
  return missing.length ? anyTest.skip : anyTest
}
const test = testWith('helm')

type Values = Record<string, unknown>
interface Rendered {
  /** The manifests, or why there are none. */
  text: string
  failed: boolean
}
const apis = ['monitoring.coreos.com/v1', 'gateway.networking.k8s.io/v1'].flatMap((api) => ['--api-versions', api])
/** What the chart makes of values that are set on top of its own. */
async function render(values: Values = {}, args: string[] = [], program = 'helm'): Promise<Rendered> {
  const { code, out, all } = await run(program, ['template', 'bodega', chart, '-f', '-', ...apis, ...args], {
    input: JSON.stringify(values),
    any: true,
  })
  return code === 0 ? { text: out, failed: false } : { text: all, failed: true }
}
const inTurns = async <In, Out>(list: In[], work: (item: In) => Promise<Out>): Promise<Out[]> => {
  const results: Out[] = []
  const rest = list.entries()
  await Promise.all(
    [1, 2, 3].map(async () => {
      for (const [i, item] of rest) results[i] = await work(item)
    }),
  )
  return results
}
const at = (path: string[], value: unknown): Values => ({
  [path[0] as string]: path.length > 1 ? at(path.slice(1), value) : value,
})
const merged = (a: Values, b: Values): Values => {
  const result = { ...a }
  for (const [key, value] of Object.entries(b))
    result[key] = isPlain(value) && isPlain(result[key]) ? merged(result[key], value) : value
  return result
}
const isPlain = (value: unknown): value is Values =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

interface Schema {
  $ref?: string
  type?: string | string[]
  enum?: unknown[]
  pattern?: string
  properties?: Record<string, Schema>
  items?: Schema
}
const schema = JSON.parse(readFileSync(join(chart, 'values.schema.json'), 'utf8')) as Schema & {
  $defs: Record<string, Schema>
}
const resolved = (node: Schema): Schema => {
  const { $ref, ...own } = node
  return $ref ? (merged({ ...schema.$defs[$ref.replace('#/$defs/', '')] }, own) as Schema) : node
}
const schemaAt = (path: string[]) =>
  path.reduce((node, key) => resolved(node.properties?.[key] ?? {}), resolved(schema))

/** Every value that the chart has, by its path. Maps and lists that an owner fills count as one value. */
const leavesOf = (values: Values, path: string[] = []): string[][] =>
  Object.entries(values).flatMap(([key, value]) => {
    const here = [...path, key]
    return isPlain(value) && Object.keys(value).length ? leavesOf(value, here) : [here]
  })
const documented = parse(readFileSync(join(chart, 'values.yaml'), 'utf8')) as Values
const leaves = leavesOf(documented)

test('helm lint --strict, each file of values → clean', async (t) => {
  for (const args of [[], ['-f', join(chart, 'values-dev.yaml')], ['-f', join(chart, 'values-prod.yaml')]])
    t.regex((await run('helm', ['lint', '--strict', chart, ...args])).all, /0 chart\(s\) failed/)
})

const prod = ['-f', join(chart, 'values-prod.yaml'), '--set', 'pgo.crdCheck=false']
test('the same values → the same manifests', async (t) => {
  const first = await render({}, prod)
  t.false(first.failed, first.text)
  for (let i = 0; i < 4; i++) t.is((await render({}, prod)).text, first.text)
})
testWith('helm', 'helm3')('the same values, Helm 3 → the same manifests', async (t) => {
  const objects = ({ failed, text }: Rendered) => {
    t.false(failed, text)
    return manifests(text).toSorted((a, b) => id(a).localeCompare(id(b)))
  }
  t.deepEqual(
    objects(await render({}, [...prod, '--kube-version', '1.37.0'], 'helm3')),
    objects(await render({}, prod)),
  )
})

test('files that other targets have too → the same ones', (t) => {
  const nats = read('src/platform/nats.conf')
  for (const place of ['helm/bodega/charts/nats', 'kustomize/components/nats/server'])
    t.is(read(`${place}/nats.conf`), nats, `${place}/nats.conf differs from src/platform/nats.conf`)
  t.is(read('helm/bodega/charts/nats/vars.sh'), read('kustomize/components/nats/server/vars.sh'))
  t.is(
    read('helm/bodega/charts/objectstore/identities.sh'),
    read('kustomize/components/objectstore/server/identities.sh'),
  )
})

test('another configuration or script of a server → its pods are made anew, and those of no other part', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'bodega-chart-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const templates = async (of: string) => {
    const { out } = await run('helm', ['template', 'bodega', of])
    return new Map(manifests(out).map((one) => [id(one), JSON.stringify(one.spec?.template)]))
  }
  const before = await templates(chart)
  for (const [file, part] of Object.entries({
    'nats/nats.conf': 'nats',
    'nats/vars.sh': 'nats',
    'objectstore/identities.sh': 'objectstore',
  })) {
    const copy = join(dir, file.replaceAll('/', '-'))
    cpSync(chart, copy, { recursive: true })
    appendFileSync(join(copy, 'charts', file), '# another\n')
    const changed = [...(await templates(copy))].filter(([name, template]) => template !== before.get(name))
    t.deepEqual(
      changed.map(([name]) => name),
      [`StatefulSet bodega-${part}`],
      file,
    )
  }
})

test('every value of the schema → in values.yaml with a comment, and no other is there', (t) => {
  const paths = (node: Schema, path: string[]): string[] => {
    const { properties } = resolved(node)
    if (!properties) return [path.join('.')]
    return Object.entries(properties).flatMap(([key, child]) => paths(child, [...path, key]))
  }
  // Helm gives each subchart the global values, and the library its place.
  const known = paths(schema, []).filter((path) => path !== 'lib' && !/^\w+\.global\./.test(path))
  const open = (path: string) => {
    const value = path.split('.').reduce<unknown>((node, key) => (node as Values)?.[key], documented)
    return isPlain(value) && Object.keys(value).length === 0
  }
  // An empty map in values.yaml stands for the whole of what its schema knows.
  const shown = (path: string) => {
    const keys = path.split('.')
    const end = keys.findIndex((_, i) => open(keys.slice(0, i + 1).join('.')))
    return end < 0 ? path : keys.slice(0, end + 1).join('.')
  }
  // What no chart of ours asks for by default, such as the ephemeral storage of the operator's pods.
  const unasked = /^pgo\.resources\.\w+\.ephemeral-storage$/
  t.deepEqual(
    leaves.map((path) => path.join('.')).sort(),
    [...new Set(known.map(shown))].filter((path) => !unasked.test(path)).sort(),
  )

  const text = readFileSync(join(chart, 'values.yaml'), 'utf8')
  const lines = text.split('\n')
  const counter = new LineCounter()
  const document = parseDocument(text, { lineCounter: counter })
  const isCommented = (path: string[]) => {
    const map = path.length > 1 ? document.getIn(path.slice(0, -1)) : document.contents
    const pair = isMap(map) ? map.items.find(({ key }) => isScalar(key) && key.value === path.at(-1)) : undefined
    const offset = isScalar(pair?.key) ? pair.key.range?.[0] : undefined
    return offset !== undefined && /^\s*#/.test(lines[counter.linePos(offset).line - 2] ?? '')
  }
  for (const path of leaves) {
    // auth speaks for the four roles.
    const [top, role, ...rest] = path
    const of = top === 'roles' && role !== 'auth' ? ['roles', 'auth', ...rest] : path
    const whole = of.findIndex((key) => ['resources', 'image', 'database'].includes(key))
    const spoken = whole < 0 ? of : of.slice(0, whole + 1)
    t.true(isCommented(spoken) || isCommented(spoken.slice(0, -1)), `${of.join('.')} has no comment in values.yaml`)
  }
})

test('every value that a template names → in values.yaml', (t) => {
  const files = readdirSync(chart, { recursive: true, encoding: 'utf8' }).filter((path) =>
    /\.(yaml|tpl|txt)$/.test(path),
  )
  for (const file of files) {
    if (!file.includes('templates/')) continue
    const subchart = /^charts\/(\w+)\//.exec(file)?.[1]
    for (const [, name = ''] of readFileSync(join(chart, file), 'utf8').matchAll(/\.Values((?:\.\w+)+)/g)) {
      const path = name.slice(1).split('.')
      if (subchart && subchart !== 'lib' && path[0] !== 'global') path.unshift(subchart)
      const value = path.reduce<unknown>((node, key) => (isPlain(node) ? node[key] : undefined), documented)
      t.not(value, undefined, `${file} uses ${path.join('.')}, which values.yaml does not have`)
    }
  }
})

const elsewhere = {
  postgres: { postgres: { enabled: false }, external: { databaseUrl: 'postgres://db.example.org:5433/bodega' } },
  nats: { nats: { enabled: false }, external: { natsUrl: 'tls://nats.example.org:4443' } },
  objectstore: { objectstore: { enabled: false }, external: { s3Url: 'https://s3.example.org' } },
}
const operator = { postgres: { enabled: false }, pgo: { enabled: true, crdCheck: false } }
const minio = { objectstore: { kind: 'minio', minio: { repository: 'registry.example.org/minio', tag: '1' } } }

/** Where a value has its effect. */
function around([top, second, third]: string[]): Values {
  if (top === 'pgo') return operator
  if (top === 'objectstore' && second === 'minio') return minio
  if (top === 'external' && second === 'databaseUrl') return elsewhere.postgres
  if (top === 'external' && second?.startsWith('nats')) return elsewhere.nats
  if (top === 'external') return elsewhere.objectstore
  if (third === 'nodePort' || third === 'externalTrafficPolicy') return { edge: { service: { type: 'NodePort' } } }
  if (top === 'dev') return { dev: { mail: true } }
  if (['autoscaling', 'metrics', 'ingress', 'gateway'].includes(top as string))
    return { [top as string]: { enabled: true } }
  return {}
}
/** Another value than `value` that the schema takes. */
function other(path: string[], value: unknown): unknown {
  const node = schemaAt(path)
  if (path.at(-1) === 'parentRefs') return [{ name: 'other' }]
  if (path.at(-1) === 'resources') return { requests: { cpu: '51m' } }
  if (path.at(-1) === 'nodePort') return 30080
  if (path.at(-1) === 'settings') return ['S3_URL', 'MAIL_FROM']
  if (path.at(-1) === 'tolerations') return [{ key: 'other' }]
  if (node.enum) return node.enum.find((one) => one !== value)
  if (typeof value === 'boolean') return !value
  if (typeof value === 'number') return value + 1
  if (Array.isArray(value)) return ['OTHER']
  if (isPlain(value)) return { OTHER: 'x' }
  const texts = [
    'other',
    'https://other.example.org',
    'postgres://other.example.org/x',
    'nats://other.example.org',
    '9',
    '9Gi',
    '9s',
    '5 4 * * 1',
    '10.0.0.0/8',
    `sha256:${'0'.repeat(64)}`,
  ]
  return texts.find((text) => text !== value && (!node.pattern || new RegExp(node.pattern).test(text)))
}

test('each value, another one → other manifests', async (t) => {
  t.timeout(600_000)
  const bases = new Map<string, Promise<Rendered>>()
  const base = (values: Values) => {
    const key = JSON.stringify(values)
    if (!bases.has(key)) bases.set(key, render(values))
    return bases.get(key) as Promise<Rendered>
  }
  await inTurns(leaves, async (path) => {
    const name = path.join('.')
    const values = around(path)
    const before = await base(values)
    t.false(before.failed, before.text)
    const now = path.reduce<unknown>((node, key) => (isPlain(node) ? node[key] : undefined), merged(documented, values))
    const value = other(path, now)
    t.not(value, undefined, `this test knows no other value for ${name}`)
    const after = await render(merged(values, at(path, value)))
    t.notRegex(after.text, /values don't meet/, `${name}: ${JSON.stringify(value)}`)
    t.not(after.text, before.text, `${name}: ${JSON.stringify(value)} changes nothing`)
  })
})

test('a migrate that goes past a pooler, a bus named by its IPv6 address → their ports are the ones that are open', async (t) => {
  const { text } = await render({
    networkPolicy: { enabled: true },
    postgres: { enabled: false },
    nats: { enabled: false },
    external: { databaseUrl: 'postgres://pooler:6432/bodega', natsUrl: 'nats://[2001:db8::5]:4333' },
    migrate: { extraEnv: { DATABASE_URL: 'postgres://server:5433/bodega' } },
  })
  const policy = text.split('---').find((one) => /name: \S+-clients$/m.test(one))
  t.deepEqual(policy?.match(/port: \d+/g), ['port: 6432', 'port: 5433', 'port: 4333'])
})

test('null for what a pod may take, in each part, and for what an owner may add → neither of them is there', async (t) => {
  const none = { resources: { requests: { memory: null }, limits: { cpu: null } } }
  const of = (parts: string[]) => Object.fromEntries(parts.map((part) => [part, none]))
  const roles = Object.keys(documented.roles as Values)
  const parts = ['edge', 'migrate', 'postgres', 'nats', 'objectstore']
  for (const [values, changed] of [
    [of([...parts, 'roleDefaults']), [...parts, ...roles]],
    [{ roles: of(roles) }, roles],
  ] as const) {
    const { text, failed } = await render(values)
    t.false(failed, text)
    const pods = manifests(text).filter(
      ({ metadata, spec }) => spec?.template && changed.some((part) => metadata.name.startsWith(`bodega-${part}`)),
    )
    t.is(pods.length, changed.length)
    for (const { metadata, spec } of pods) {
      const { limits, requests } = spec?.template?.spec.containers[0]?.resources ?? {}
      t.deepEqual(Object.keys({ ...limits }), ['ephemeral-storage', 'memory'], metadata.name)
      t.deepEqual(Object.keys({ ...requests }), ['cpu', 'ephemeral-storage'], metadata.name)
    }
  }
  // As a file has it in which every line below is a comment.
  const empty = { extraEnv: null }
  const { text } = await render({ edge: empty, migrate: empty, roles: { orders: { ...empty, resources: null } } })
  t.is(text, (await render()).text)
  const nowhere = { global: { nodeSelector: null, tolerations: null, affinity: null } }
  t.is((await render(merged(operator, nowhere))).text, (await render(operator)).text)
})

test('a role without authorities, or with the one that the operator brings → no key of their Secret', async (t) => {
  const none = { auth: { authorities: [] }, notifications: { authorities: null } }
  const authorities = { roles: { ...none, orders: { authorities: ['DATABASE_CA'] } } }
  for (const [values, keys] of [
    [
      authorities,
      { auth: [], notifications: [], orders: ['DATABASE_CA'], products: ['DATABASE_CA', 'NATS_CA', 'S3_CA'] },
    ],
    [merged(authorities, operator), { auth: [], notifications: [], orders: [], products: ['NATS_CA', 'S3_CA'] }],
  ] as const) {
    const { text } = await render(values)
    for (const [role, expected] of Object.entries(keys)) {
      const pod = manifests(text).find((one) => id(one) === `Deployment bodega-${role}`)?.spec?.template?.spec
      const sources = pod?.volumes?.[0]?.projected?.sources ?? []
      const found = sources.filter(({ secret }) => secret.name === 'bodega-authorities')
      t.deepEqual(
        found.map(({ secret }) => secret.items?.map(({ key }) => key)),
        expected.length ? [expected] : [],
        role,
      )
    }
  }
})

/** As much of a cluster as Helm asks when it renders: which kinds there are, and these Deployments. Returns its KUBECONFIG. */
async function answering(t: ExecutionContext, deployments: Record<string, object>) {
  const apis: Record<string, Record<string, string>> = {
    v1: { configmaps: 'ConfigMap', serviceaccounts: 'ServiceAccount', services: 'Service' },
    'apps/v1': { deployments: 'Deployment', statefulsets: 'StatefulSet' },
    'autoscaling/v2': { horizontalpodautoscalers: 'HorizontalPodAutoscaler' },
    'batch/v1': { jobs: 'Job' },
  }
  const answers: Record<string, object> = {
    '/version': { major: '1', minor: '37', gitVersion: 'v1.37.0' },
    '/api': { kind: 'APIVersions', versions: ['v1'] },
    '/apis': {
      kind: 'APIGroupList',
      groups: Object.keys(apis).flatMap((groupVersion) => {
        const [name = '', version] = groupVersion.split('/')
        return version ? [{ name, versions: [{ groupVersion, version }] }] : []
      }),
    },
  }
  for (const [groupVersion, kinds] of Object.entries(apis))
    answers[`/${groupVersion === 'v1' ? 'api' : 'apis'}/${groupVersion}`] = {
      kind: 'APIResourceList',
      groupVersion,
      resources: Object.entries(kinds).map(([name, kind]) => ({ name, kind, namespaced: true, verbs: ['get'] })),
    }
  for (const [name, deployment] of Object.entries(deployments))
    answers[`/apis/apps/v1/namespaces/default/deployments/${name}`] = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      ...deployment,
    }
  const server = createServer(({ url = '' }, response) => {
    const found = answers[url.split('?')[0] as string]
    response.writeHead(found ? 200 : 404, { 'Content-Type': 'application/json' })
    response.end(JSON.stringify(found ?? { kind: 'Status', apiVersion: 'v1', reason: 'NotFound', code: 404 }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const dir = mkdtempSync(join(tmpdir(), 'bodega-kube-'))
  t.teardown(() => {
    server.close()
    rmSync(dir, { recursive: true })
  })
  const cluster = { server: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
  const config = {
    clusters: [{ name: 'it', cluster }],
    contexts: [{ name: 'it', context: { cluster: 'it', user: '' } }],
    'current-context': 'it',
  }
  writeFileSync(join(dir, 'config'), JSON.stringify(config))
  return join(dir, 'config')
}

test('an autoscaler, and whose the number of pods is in the cluster → the chart says one only where it is its own', async (t) => {
  const number = { 'f:spec': { 'f:replicas': {} } }
  const other = { 'f:spec': { 'f:template': {} } }
  const scaled = { manager: 'kube-controller-manager', operation: 'Update', subresource: 'scale', fieldsV1: number }
  const helm = (operation: string, fieldsV1: object) => ({ manager: 'helm', operation, fieldsV1 })
  const owners = {
    // Said before there was an autoscaler.
    auth: [helm('Apply', number)],
    // The autoscaler has changed it since, or said it from the first day.
    products: [helm('Apply', other), scaled],
    orders: [helm('Apply', {}), scaled],
    // Helm 3 does not know whose it is, and what goes away is 1.
    notifications: [helm('Update', other), scaled],
  }
  const there = Object.entries(owners).map(([role, managedFields]) => {
    const name = `bodega-${role}`
    const release = { 'meta.helm.sh/release-name': 'bodega', 'meta.helm.sh/release-namespace': 'default' }
    const of = { labels: { 'app.kubernetes.io/managed-by': 'Helm' }, annotations: release }
    return [name, { metadata: { name, ...of, managedFields }, spec: { replicas: 5 } }]
  })
  const KUBECONFIG = await answering(t, Object.fromEntries(there))
  const args = ['--dry-run=server', '--disable-openapi-validation', '--set', 'autoscaling.enabled=true']
  const { out } = await run('helm', ['template', 'bodega', chart, ...args], { env: { KUBECONFIG } })
  const said = manifests(out).filter(({ kind }) => kind === 'Deployment')
  t.deepEqual(Object.fromEntries(said.map(({ metadata, spec }) => [metadata.name.slice(7), spec?.replicas])), {
    edge: undefined,
    auth: 5,
    products: undefined,
    orders: undefined,
    notifications: 5,
  })
})

test('the greatest stream → its size in digits, as migrate reads it', async (t) => {
  t.regex((await render({ migrate: { natsStreamSize: 1_000_000 } })).text, /NATS_STREAM_SIZE, value: "1000000"/)
})

test('a misspelt or wrong value → refused at once, with its path', async (t) => {
  const wrong: [Values, RegExp][] = [
    [{ edge: { replica: 2 } }, /at '\/edge': additional properties 'replica' not allowed/],
    [{ edge: { replicas: 'two' } }, /at '\/edge\/replicas': got string, want integer/],
    [{ roles: { order: {} } }, /at '\/roles': additional properties 'order' not allowed/],
    [{ roles: { auth: { extraEnv: { LIMIT: 5 } } } }, /at '\/roles\/auth\/extraEnv\/LIMIT': got number, want string/],
    [{ global: { imageRegistri: 'x' } }, /global\.imageRegistri is no value of this chart/],
    [{ postgres: { size: '5Gi' } }, /at '\/postgres': additional properties 'size' not allowed/],
    [{ nats: { replicas: 2 } }, /at '\/nats\/replicas': value must be one of 1, 3/],
    [{ nats: { resources: { limits: { memory: '300M' } } } }, /at '\/nats\/resources\/limits\/memory'/],
    [{ objectstore: { kind: 's3' } }, /at '\/objectstore\/kind': value must be one of 'seaweedfs', 'minio'/],
    [{ image: { tag: 1.2 } }, /at '\/image\/tag': got number, want string/],
    [{ ingress: { enabled: 'yes' } }, /at '\/ingress\/enabled': got string, want boolean/],
    [{ settings: { publicUrl: 'shop.example.org' } }, /at '\/settings\/publicUrl'/],
    // A line without a value, as a file of one's own may have it; a pod would get the text <nil>.
    [{ settings: { trustedProxies: null } }, /at '\/settings': missing property 'trustedProxies'/],
    [{ edge: { workers: null } }, /at '\/edge': missing property 'workers'/],
    [{ migrate: { natsStreamSize: null } }, /at '\/migrate': missing property 'natsStreamSize'/],
    [{ external: { natsReplicas: null } }, /at '\/external': missing property 'natsReplicas'/],
    [{ migrate: { database: { user: null } } }, /at '\/migrate\/database': missing property 'user'/],
    [{ external: { databaseUrl: 'postgres://me:secret@db/bodega' } }, /at '\/external\/databaseUrl'/],
    [{ objectstore: { kind: 'minio' } }, /objectstore\.minio\.repository is empty/],
    [
      merged(minio, { objectstore: { minio: { tag: '' } } }),
      /registry\.example\.org\/minio has neither a tag nor a digest/,
    ],
    [{ nats: { enabled: false } }, /external\.natsUrl is empty/],
    [{ objectstore: { enabled: false } }, /external\.s3Url is empty/],
    [{ postgres: { enabled: false } }, /external\.databaseUrl is empty/],
    [{ pgo: { enabled: true } }, /postgres\.enabled and pgo\.enabled: there is one database/],
    [merged(operator, { pgo: { crdCheck: true } }), /no Crunchy PGO 6[\s\S]*next: make operator/],
    [{ external: { s3Url: 'https://s3.example.org' } }, /external\.s3Url would not be used/],
    [{ autoscaling: { min: 5, max: 4 } }, /autoscaling\.min is 5, more than autoscaling\.max, 4/],
  ]
  await inTurns(wrong, async ([values, words]) => {
    const { text, failed } = await render(values)
    t.true(failed, JSON.stringify(values))
    t.regex(text, words)
  })
})

interface Manifest {
  kind: string
  metadata: { name: string }
  spec?: {
    replicas?: number
    template?: { spec: PodSpec }
  }
}
interface PodSpec {
  containers: Container[]
  initContainers?: Container[]
  imagePullSecrets?: unknown
  volumes?: { projected?: { sources: { secret: { name: string; items?: { key: string }[] } }[] } }[]
}
interface Container {
  name: string
  image: string
  resources?: Record<string, Record<string, string>>
  env?: { name: string; value?: string }[]
}
const manifests = (text: string) =>
  parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest)
    .filter(Boolean)
const id = ({ kind, metadata }: Manifest) => `${kind} ${metadata.name}`
const containersOf = ({ spec }: Manifest) => [
  ...(spec?.template?.spec.containers ?? []),
  ...(spec?.template?.spec.initContainers ?? []),
]

test('registry, digest, pull secrets and extraEnv → in every pod, and each variable once', async (t) => {
  const digest = `sha256:${'a'.repeat(64)}`
  const { text, failed } = await render({
    global: { imageRegistry: 'registry.example.org/shop/', imagePullSecrets: ['registry'] },
    image: { digest },
    objectstore: { seaweedfs: { repository: 'ghcr.io/mine/seaweedfs' } },
    roles: { orders: { extraEnv: { LOG_LEVEL: 'debug', ORDER_TTL: '60' } } },
    dev: { mail: true, seed: true },
  })
  t.false(failed, text)
  for (const manifest of manifests(text)) {
    if (!manifest.spec?.template) continue
    t.deepEqual(manifest.spec.template.spec.imagePullSecrets, [{ name: 'registry' }], manifest.metadata.name)
    for (const { image, env = [] } of containersOf(manifest)) {
      const isOwn = manifest.metadata.name === 'bodega-objectstore'
      t.true(image.startsWith(isOwn ? 'ghcr.io/mine/seaweedfs:' : 'registry.example.org/shop/'), image)
      if (image.includes('bodega-app')) t.is(image, `registry.example.org/shop/bodega-app@${digest}`)
      const names = env.map(({ name }) => name)
      t.deepEqual(names, [...new Set(names)], manifest.metadata.name)
    }
    if (manifest.metadata.name === 'bodega-orders')
      t.like(Object.fromEntries(containersOf(manifest)[0]?.env?.map(({ name, value }) => [name, value]) ?? []), {
        LOG_LEVEL: 'debug',
        ORDER_TTL: '60',
      })
  }
})

// Every way that the parts combine, as production runs them.
const choices: Values[][] = [
  [{}, operator, elsewhere.postgres],
  [{ nats: { replicas: 1 } }, { nats: { replicas: 3 } }, elsewhere.nats],
  [{}, minio, elsewhere.objectstore],
  [{ ingress: { enabled: true, host: 'shop.example.org', tlsSecret: 'tls' } }, { gateway: { enabled: true } }, {}],
  [{ autoscaling: { enabled: true } }, {}],
  [{ metrics: { enabled: true } }, {}],
]
const production: Values = {
  networkPolicy: { enabled: true },
  disruptionBudget: { enabled: true },
  edge: { replicas: 2 },
  roles: Object.fromEntries(Object.keys(documented.roles as Values).map((role) => [role, { replicas: 2 }])),
}
const combinations = choices.reduce<Values[]>(
  (list, options) => list.flatMap((values) => options.map((option) => merged(values, option))),
  [production],
)
const custom = ['PostgresCluster', 'PodMonitor', 'HTTPRoute']
let every: Promise<string[]> | undefined
/** All combinations rendered, once. */
const renderings = () => {
  every ??= inTurns(combinations, async (values) => {
    const { text, failed } = await render(values)
    if (failed) throw new Error(`${JSON.stringify(values)}: ${text}`)
    return text
  })
  return every
}
const distinct = async () => [
  ...new Set((await renderings()).flatMap((text) => text.split(/^---$/m)).map((one) => one.trim())),
]

test('all 324 combinations → no replicas where an autoscaler rules, and each object once', async (t) => {
  t.timeout(600_000)
  t.is(combinations.length, 324)
  for (const [i, text] of (await renderings()).entries()) {
    const objects = manifests(text)
    const names = objects.map(id)
    t.deepEqual(names, [...new Set(names)])
    const isScaled = text.includes('kind: HorizontalPodAutoscaler')
    for (const { kind, metadata, spec } of objects)
      if (kind === 'Deployment') t.is(spec?.replicas, isScaled ? undefined : 2, `${metadata.name} of ${i}`)
  }
})

testWith(
  'helm',
  'kubeconform',
  'python3',
)('all 324 combinations → valid for every Kubernetes from 1.30 on', async (t) => {
  t.timeout(600_000)
  const { versions, location } = await kubernetesSchemas('1.30')
  t.true(versions.length >= 8, versions.join(' '))
  const input = (await distinct()).join('\n---\n')
  for (const version of versions) {
    const args = ['-strict', '-summary', '-kubernetes-version', version.slice(1), '-schema-location', location]
    const { code, all } = await run('kubeconform', [...args, '-skip', custom.join(','), '-'], { input, any: true })
    t.is(code, 0, `${version}: ${all}`)
    if (version === versions.at(-1)) t.log(`${versions.join(' ')}: ${all.trim()}`)
  }
})

interface Finding {
  tool: string
  check: string
  name: string
  object: string
}
const excepted = ({ tool, check, object }: Finding) =>
  exceptions.find((one) => one.tool === tool && one.check === check && (one.objects?.test(object) ?? true))
const unused = (tool: string, findings: Finding[]) => {
  const used = new Set(findings.map(excepted))
  return exceptions.filter((one) => one.tool === tool && !used.has(one))
}

testWith('helm', 'kube-score')('all 324 combinations → kube-score finds nothing but the exceptions', async (t) => {
  t.timeout(600_000)
  const findings = new Map<string, Finding>()
  await inTurns(await renderings(), async (input) => {
    const { out } = await run('kube-score', ['score', '--output-format', 'json', '-'], { input, any: true })
    for (const { object_name, checks } of JSON.parse(out))
      for (const { check, grade, skipped } of checks)
        if (!skipped && grade < 7)
          findings.set(`${check.id} ${object_name}`, {
            tool: 'kube-score',
            check: check.id,
            name: check.name,
            object: object_name,
          })
  })
  const found = [...findings.values()]
  t.deepEqual(
    found.filter((finding) => !excepted(finding)),
    [],
  )
  t.deepEqual(unused('kube-score', found), [])
})

testWith('helm', 'pip')('all 324 combinations → checkov finds nothing but the exceptions', async (t) => {
  t.timeout(600_000)
  const dir = mkdtempSync(join(tmpdir(), 'bodega-checkov-'))
  try {
    const file = join(dir, 'all.yaml')
    writeFileSync(file, (await distinct()).join('\n---\n'))
    const found = (await checkov(file)).map((finding) => ({ tool: 'checkov', ...finding }))
    t.deepEqual(
      found.filter((finding) => !excepted(finding)),
      [],
    )
    t.deepEqual(unused('checkov', found), [])
  } finally {
    rmSync(dir, { recursive: true })
  }
})

testWith('helm', 'gitleaks')('all 324 combinations → gitleaks finds no secret', async (t) => {
  t.timeout(600_000)
  const { code, all } = await run('gitleaks', ['stdin', '--no-banner', '--redact'], {
    input: (await distinct()).join('\n---\n'),
    any: true,
  })
  t.is(code, 0, all)
})
