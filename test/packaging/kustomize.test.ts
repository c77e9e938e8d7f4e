import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { parse } from 'yaml'
import { run } from '../e2e/host.ts'
import { type Exception, exceptions } from './exceptions.ts'
import { pods } from './model.ts'
import { kubernetesSchemas } from './python.ts'
import { type Choice, lacking, manifests, output, overlay, type Tool } from './render.ts'

const missing = await lacking('kubectl', 'kubeconform', 'kube-score', 'python3')
if (missing.length > 0) process.stderr.write(`skipped in test/packaging, do not answer: ${missing.join(', ')}\n`)
const testWith = (...tools: Tool[]) => (missing.some((tool) => tools.includes(tool)) ? test.skip : test)

const overlays = ['dev', 'prod', 'prod-standalone'].map((name) => `kustomize/overlays/${name}`)

const none: Choice = { components: [] }
const component = (...components: string[]): Choice => ({ components })
const choices: Choice[][] = [
  [
    component('postgres'),
    component('pgo'),
    { ...component('elsewhere/postgres'), parts: ['DATABASE_URL=postgres://db.example.org:5432/bodega'] },
  ],
  [
    component('nats'),
    component('nats', 'nats-cluster'),
    { ...component('elsewhere/nats'), parts: ['NATS_BROKER_URL=tls://nats.example.org:4222', 'NATS_REPLICAS=3'] },
  ],
  [
    component('objectstore'),
    component('objectstore', 'objectstore-minio'),
    { ...component('elsewhere/objectstore'), settings: ['S3_URL=https://s3.example.org'] },
  ],
  [component('ingress'), component('gateway'), component('node-port'), none],
  [component('hpa'), none],
  [component('monitoring'), none],
]
const all = choices.reduce<Choice[]>(
  (list, options) =>
    list.flatMap((one) =>
      options.map((other) => ({
        components: [...one.components, ...other.components],
        parts: [...(one.parts ?? []), ...(other.parts ?? [])],
        settings: [...(one.settings ?? []), ...(other.settings ?? [])],
      })),
    ),
  [component('network-policy', 'spread')],
)

/** All of them by `make parity`; else each with one of the four of autoscaling and figures, which only add objects. */
const isWhole = process.env.COMBINATIONS === 'all'
const combinations = all.filter((_, i) => isWhole || i % 4 === (Math.floor(i / 4) + Math.floor(i / 16)) % 4)

/** Every combination as an overlay of its own, built by kubectl; three at a time. */
async function build(): Promise<string[]> {
  const texts: string[] = []
  const rest = combinations.entries()
  const work = async () => {
    for (const [i, choice] of rest) texts[i] = await overlay(choice)
  }
  await Promise.all([work(), work(), work()])
  return texts
}
let once: Promise<string[]> | undefined
const built = () => {
  once ??= build()
  return once
}
const shipped = () => Promise.all(overlays.map((folder) => output('kubectl', ['kustomize', folder])))
const separate = (texts: string[]) => [
  ...new Set(texts.flatMap((text) => text.split(/^---$/m)).map((one) => one.trim())),
]

testWith('kubectl')('each overlay, built twice → the same bytes', async (t) => {
  for (const folder of overlays)
    t.is(await output('kubectl', ['kustomize', folder]), await output('kubectl', ['kustomize', folder]), folder)
})

testWith('kubectl')(
  'the combinations of components → build; each object once, no replicas but those of what is counted',
  async (t) => {
    t.timeout(1_800_000)
    t.is(combinations.length, isWhole ? 432 : 108)
    for (const text of await built()) {
      const objects = manifests(text)
      const names = objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`)
      t.deepEqual(names, [...new Set(names)])
      for (const { kind, metadata, spec } of objects)
        if (kind === 'Deployment')
          t.is(spec?.replicas, undefined, `${metadata.name}: an autoscaler or the overlay says how many`)
    }
  },
)

testWith('kubectl')(
  'overlays/prod-standalone with the component objectstore-minio → the store is MinIO of that image, the rest as it was',
  async (t) => {
    const folder = 'overlays/prod-standalone'
    const before = manifests(await output('kubectl', ['kustomize', `kustomize/${folder}`]))
    const after = manifests(await overlay({ on: folder, components: ['objectstore-minio'] }))
    const changed = after.filter((object, i) => JSON.stringify(object) !== JSON.stringify(before[i]))
    t.deepEqual(
      changed.map(({ kind, metadata }) => `${kind} ${metadata.name}`),
      ['StatefulSet bodega-objectstore'],
    )
    const { containers, initContainers = [] } = changed[0]?.spec?.template?.spec ?? { containers: [] }
    t.deepEqual(
      [...initContainers, ...containers].map(({ image }) => image),
      ['registry.example.org/minio:1'],
    )
  },
)

const page = readFileSync(join(import.meta.dirname, '../../docs/kubernetes.md'), 'utf8')
testWith('kubectl')(
  'the overlay of docs/kubernetes.md → the shop by its own name and certificate, from its own registry',
  async (t) => {
    const [, text = ''] = page.match(/```yaml\n(# kustomize\/overlays\/mine[\s\S]*?)```/) ?? []
    const { resources, components, ...more } = parse(text)
    const on = `overlays/${resources[0].replace('../', '')}`
    const named = components.map((path: string) => path.replace('../../components/', ''))
    const objects = manifests(await overlay({ on, components: named, more }))
    t.like(objects.find(({ kind }) => kind === 'Ingress')?.spec, {
      ingressClassName: 'traefik',
      rules: [{ host: 'shop.example.org' }],
      tls: [{ hosts: ['shop.example.org'], secretName: 'shop-tls' }],
    })
    t.like(objects.find(({ metadata }) => metadata.name.startsWith('bodega-settings-'))?.data, {
      PUBLIC_URL: 'https://shop.example.org',
      TRUSTED_PROXIES: '10.244.0.0/16',
      LOG_LEVEL: 'info',
    })
    const images = pods(objects).flatMap(({ pod }) => pod.containers.map(({ image }) => image))
    for (const image of images.filter((one) => one.includes('bodega-')))
      t.regex(image, /^registry\.example\.org\/shop\/bodega-/)
  },
)

testWith('kubectl')(
  'the login for a registry, as docs/kubernetes.md has it, on overlays/prod → every account',
  async (t) => {
    const [, patches = ''] = page.match(/```yaml\n(patches:[\s\S]*?)```/) ?? []
    const objects = manifests(await overlay({ on: 'overlays/prod', components: [], more: parse(patches) }))
    const accounts = objects.filter(({ kind }) => kind === 'ServiceAccount')
    t.is(accounts.length, 8)
    for (const account of accounts) t.like(account, { imagePullSecrets: [{ name: 'registry' }] }, account.metadata.name)
  },
)

testWith('kubectl')(
  'every pod of every overlay and combination → by the rules of Pod Security restricted; a fixed tag, taken where it is',
  async (t) => {
    t.timeout(1_800_000)
    const texts = [...(await built()), ...(await shipped())]
    const broken = new Set<string>()
    let count = 0
    for (const one of manifests(separate(texts).join('\n---\n')))
      for (const { part, pod } of pods([one])) {
        count += 1
        const say = (rule: string) => broken.add(`${part}: ${rule}`)
        if (pod.hostNetwork || pod.hostPID || pod.hostIPC) say('a namespace of the host')
        if (pod.automountServiceAccountToken !== false) say('a service account token')
        for (const volume of pod.volumes ?? [])
          if (!['configMap', 'emptyDir', 'projected', 'secret'].some((kind) => kind in volume))
            say(`volume ${volume.name}`)
        for (const container of [...(pod.initContainers ?? []), ...pod.containers]) {
          const own = { ...pod.securityContext, ...container.securityContext }
          if (own.runAsNonRoot !== true || !own.runAsUser) say(`${container.name} may be root`)
          if (own.seccompProfile?.type !== 'RuntimeDefault') say(`${container.name} has no seccomp profile`)
          if (own.privileged || own.allowPrivilegeEscalation !== false) say(`${container.name} may get privileges`)
          if (!own.capabilities?.drop?.includes('ALL') || own.capabilities.add)
            say(`${container.name} has capabilities`)
          if (own.readOnlyRootFilesystem !== true) say(`${container.name} may write to its root`)
          if ((container.ports ?? []).some(({ hostPort }) => hostPort))
            say(`${container.name} takes a port of the host`)
          if (container.imagePullPolicy !== 'IfNotPresent')
            say(`${container.name} is pulled ${container.imagePullPolicy}`)
          if (!/(:(?!latest)[\w.-]+|@sha256:\w+)$/.test(container.image)) say(`${container.name} is ${container.image}`)
          const { limits, requests } = container.resources ?? {}
          for (const what of ['cpu', 'memory', 'ephemeral-storage'])
            if (!limits?.[what] || !requests?.[what]) say(`${container.name} has no request or limit of ${what}`)
        }
      }
    t.true(count > 20, `${count} pods`)
    t.deepEqual([...broken], [])
  },
)

testWith(
  'kubectl',
  'kubeconform',
  'python3',
)('all of them → valid for every Kubernetes from 1.30 on', async (t) => {
  t.timeout(1_800_000)
  const { versions, location } = await kubernetesSchemas('1.30')
  const texts = [...(await built()), ...(await shipped())]
  const input = separate(texts).join('\n---\n')
  for (const version of versions) {
    const args = ['-strict', '-summary', '-kubernetes-version', version.slice(1), '-schema-location', location]
    const { code, all } = await run('kubeconform', [...args, '-skip', 'PostgresCluster,PodMonitor,HTTPRoute', '-'], {
      input,
      any: true,
    })
    t.is(code, 0, `${version}: ${all}`)
    if (version === versions.at(-1)) t.log(`${versions.join(' ')}: ${all.trim()}`)
  }
})

/** What kube-score finds here beside what it finds of the chart, and the shop keeps. */
const own: Exception[] = [
  {
    tool: 'kube-score',
    check: 'service-type',
    objects: /bodega-edge$/,
    because: 'The component node-port is for a cluster without a balancer.',
  },
  {
    tool: 'kube-score',
    check: 'networkpolicy-targets-pod',
    objects: /bodega-(postgres|objectstore)$/,
    because: 'One component of policies serves every form; a server that runs elsewhere has no pods to name.',
  },
]

testWith('kubectl', 'kube-score')(
  'every combination that production has → kube-score finds nothing but the exceptions',
  async (t) => {
    t.timeout(1_800_000)
    const production = (await built()).filter((_, i) =>
      ['nats-cluster', 'hpa'].every((name) => combinations[i]?.components.includes(name)),
    )
    const findings = new Set<string>()
    const used = new Set<Exception>()
    for (const input of [...production, ...(await shipped()).slice(1)]) {
      const { out } = await run('kube-score', ['score', '--output-format', 'json', '-'], { input, any: true })
      for (const { object_name, checks } of JSON.parse(out))
        for (const { check, grade, skipped } of checks) {
          if (skipped || grade >= 7) continue
          const reason = [...own, ...exceptions].find(
            (one) => one.tool === 'kube-score' && one.check === check.id && (one.objects?.test(object_name) ?? true),
          )
          if (reason) used.add(reason)
          else findings.add(`${object_name}: ${check.id} (${check.name})`)
        }
    }
    t.deepEqual([...findings], [])
    t.deepEqual(
      own.filter((exception) => !used.has(exception)),
      [],
    )
  },
)
