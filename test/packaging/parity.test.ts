import test from 'ava'
import { roles } from '../../src/roles.ts'
import { faults } from './faults.ts'
import { pods, toModel, toModels } from './model.ts'
import { mutations } from './mutations.ts'
import {
  clusters,
  type Form,
  forms,
  helm,
  kustomize,
  lacking,
  type Manifest,
  manifests,
  overlay,
  type Rendered,
  render,
  type Target,
  targets,
} from './render.ts'

const missing = await lacking('docker', 'kubectl', 'helm')
if (missing.length > 0) process.stderr.write(`skipped in test/packaging, do not answer: ${missing.join(', ')}\n`)
const parity = missing.length > 0 ? test.skip : test
const rendered =
  missing.length > 0 ? ({} as Record<Form, Rendered>) : { prod: await render('prod'), dev: await render('dev') }

for (const form of forms)
  parity(
    `the three targets, rendered for ${form} → equal, but for the differences with a reason, each of which is still one`,
    (t) => {
      t.deepEqual(faults(rendered[form], form), [])
    },
  )

const prod = ['--values', 'helm/bodega/values-prod.yaml']
const alike = (rendered: Pick<Rendered, 'kustomize' | 'helm'>) =>
  clusters.map((target) => toModel(target, { ...rendered, compose: { services: {}, secrets: {} } }))

parity('MinIO in place of SeaweedFS, by Kustomize and by Helm → every part alike', async (t) => {
  const image = { repository: 'registry.example.org/minio', tag: '1' }
  const objectstore = JSON.stringify({ kind: 'minio', minio: image, resources: { limits: { memory: '1Gi' } } })
  const [one, other] = alike({
    kustomize: manifests(await overlay({ on: 'overlays/prod-standalone', components: ['objectstore-minio'] })),
    helm: await helm(
      ...prod,
      ...['--set', 'postgres.enabled=true,pgo.enabled=false', '--set-json', `objectstore=${objectstore}`],
    ),
  })
  t.deepEqual(one, other)
})

parity(
  'PostgreSQL by the operator, by Kustomize and by Helm → the same cluster, and every part alike that uses it',
  async (t) => {
    const rendered = {
      kustomize: await kustomize('kustomize/overlays/prod'),
      helm: await helm(...prod, '--set', 'pgo.crdCheck=false'),
    }
    const [one, other] = alike(rendered)
    t.deepEqual(one, other)
    const cluster = (objects: Manifest[]) => {
      const { users, ...spec } = objects.find(({ kind }) => kind === 'PostgresCluster')?.spec ?? {}
      return { ...spec, users: (users as { name: string }[]).toSorted((a, b) => a.name.localeCompare(b.name)) }
    }
    t.deepEqual(cluster(rendered.kustomize), cluster(rendered.helm))
  },
)

for (const target of clusters)
  parity(`each role and the edge, rendered for prod by ${target} → an autoscaler and a budget for each`, (t) => {
    for (const kind of ['HorizontalPodAutoscaler', 'PodDisruptionBudget'])
      for (const part of [...Object.keys(roles), 'edge'])
        t.true(
          rendered.prod[target].some((object) => object.kind === kind && object.metadata.name === `bodega-${part}`),
          `${part} has no ${kind} in ${target}`,
        )
  })

for (const form of forms)
  parity(`each service of Compose, rendered for ${form} → a limit of memory, of processor time and of its log`, (t) => {
    for (const [name, { deploy, logging }] of Object.entries(rendered[form].compose.services)) {
      const { cpus, memory } = deploy?.resources?.limits ?? {}
      t.true(Number(cpus) > 0 && Number(memory) > 0, `${name}: ${cpus} processors, ${memory} bytes`)
      t.deepEqual(logging?.options, { 'max-file': '5', 'max-size': '10m' }, name)
    }
  })

/** A copy in which one target's orders, or what is made of it, is other than in the rest. */
function copy(target: Target, edit: { role?: string; env?: string; secret?: [key: string, path: string] }): Rendered {
  const it = structuredClone(rendered.prod)
  if (target === 'compose') {
    const { services, secrets } = it.compose
    const orders = services.orders as (typeof services)[string]
    if (edit.role) services[edit.role] = { ...orders, environment: { ...orders.environment, ROLE: edit.role } }
    if (edit.env) orders.environment = { ...orders.environment, [edit.env]: '1' }
    if (edit.secret) {
      secrets[edit.secret[0]] = { file: `/run/bodega/${edit.secret[0]}` }
      orders.secrets?.push({ source: edit.secret[0], target: `/secrets/${edit.secret[1]}` })
    }
    return it
  }
  const { object, pod } = pods(it[target]).find(({ part }) => part === 'orders') as ReturnType<typeof pods>[number]
  const container = pod.containers[0] as (typeof pod.containers)[number]
  if (edit.env) container.env?.push({ name: edit.env, value: '1' })
  if (edit.secret)
    pod.volumes
      ?.find(({ name }) => name === 'secrets')
      ?.projected?.sources[1]?.secret?.items?.push({ key: edit.secret[0], path: edit.secret[1] })
  if (edit.role) {
    const role = JSON.parse(JSON.stringify(object).replaceAll('"orders"', JSON.stringify(edit.role)))
    it[target].push(role)
  }
  return it
}

for (const target of targets) {
  const others = targets.filter((other) => other !== target).join(' and ')

  parity(`a role in ${target} alone → the fault names it, and where it is missing`, (t) => {
    const found = faults(copy(target, { role: 'returns' }), 'prod')
    t.is(found[0], `returns: missing in ${others}, there in ${target}`)
    t.is(found[1], `returns: a role in ${target}; src/roles.ts has none of that name`)
    t.true(found.some((fault) => /^returns: .* is not its own \(secrets\/template\.yaml\)$/.test(fault)))
  })

  parity(`a role of the code that ${target} does not run → the fault names it`, (t) => {
    const it = structuredClone(rendered.prod)
    if (target === 'compose') delete it.compose.services.orders
    else it[target] = it[target].filter((object) => !pods([object]).some(({ part }) => part === 'orders'))
    const found = faults(it, 'prod')
    t.true(found.includes(`orders: missing in ${target}, there in ${others}`), found.join('\n'))
    t.true(found.includes(`orders: missing in ${target}; src/roles.ts has it`))
  })

  parity(
    `an environment key in ${target} alone → the fault names it; and one that the role does not know, again`,
    (t) => {
      t.deepEqual(faults(copy(target, { env: 'CONN_TIMEOUT' }), 'prod'), [
        `orders: env CONN_TIMEOUT: missing in ${others}, 1 in ${target}`,
      ])
      t.deepEqual(faults(copy(target, { env: 'MAIL_FROM' }), 'prod'), [
        `orders: env MAIL_FROM: missing in ${others}, 1 in ${target}`,
        `orders: env MAIL_FROM in ${target} is no setting of orders (src/platform/config.ts)`,
      ])
    },
  )

  parity(`a secret in ${target} alone → the fault names it, and that the template gives it to others`, (t) => {
    t.deepEqual(faults(copy(target, { secret: ['SMTP_URL', 'SMTP_URL'] }), 'prod'), [
      `orders: secret /secrets/SMTP_URL: missing in ${others}, bodega/SMTP_URL in ${target}`,
      `orders: bodega/SMTP_URL at /secrets/SMTP_URL in ${target} is not its own (secrets/template.yaml)`,
    ])
  })

  parity(`each compared field of each part, changed in ${target} → the comparison fails every time`, (t) => {
    t.timeout(600_000)
    const models = { prod: toModels(rendered.prod), dev: toModels(rendered.dev) }
    const { prod, dev } = models
    // What both forms have is changed in the one with more of it.
    const parts = {
      prod: Object.keys(prod.helm),
      dev: Object.keys(dev.helm).filter((part) => !prod.helm[part]),
    }
    const missed: string[] = []
    let count = 0
    for (const form of forms)
      for (const { name, apply } of mutations(rendered[form], target, parts[form])) {
        const changed = { ...rendered[form], [target]: structuredClone(rendered[form][target]) }
        apply(changed)
        count += 1
        const found = faults(changed, form, { ...models[form], [target]: toModel(target, changed) })
        if (found.length === 0) missed.push(name)
      }
    t.log(`${count - missed.length} of ${count} changes in ${target} caught`)
    t.deepEqual(missed, [])
    t.true(count > 500, `only ${count} changes were made`)
  })
}
