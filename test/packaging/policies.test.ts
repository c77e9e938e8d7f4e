import test from 'ava'
import { allowed, hasEnds, policiesOf, used } from './arrows.ts'
import { helm, kustomize, lacking, type Manifest, manifests, overlay, type Tool } from './render.ts'

const elsewhere = ['25', '465', '587', '2525'].map((port) => `outside:${port}`)
const policies = ['--set', 'networkPolicy.enabled=true']
const forms: { name: string; tool: Tool; smtp?: string[]; render(): Promise<Manifest[]> }[] = [
  { name: 'overlays/prod-standalone', tool: 'kubectl', render: () => kustomize('kustomize/overlays/prod-standalone') },
  { name: 'overlays/prod', tool: 'kubectl', render: () => kustomize('kustomize/overlays/prod') },
  {
    name: 'an overlay with all parts elsewhere',
    tool: 'kubectl',
    render: async () =>
      manifests(
        await overlay({
          components: ['network-policy', 'elsewhere/postgres', 'elsewhere/nats', 'elsewhere/objectstore'],
          parts: ['DATABASE_URL=postgres://db.example.org:5432/bodega', 'NATS_BROKER_URL=tls://nats.example.org:4222'],
          settings: ['S3_URL=https://s3.example.org'],
        }),
      ),
  },
  {
    name: 'the chart with values-prod.yaml',
    tool: 'helm',
    render: () => helm('--values', 'helm/bodega/values-prod.yaml', '--set', 'pgo.crdCheck=false'),
  },
  {
    name: 'the chart with values-prod.yaml and a PostgreSQL of its own',
    tool: 'helm',
    render: () => helm('--values', 'helm/bodega/values-prod.yaml', '--set', 'pgo.enabled=false,postgres.enabled=true'),
  },
  { name: 'the chart with one of each', tool: 'helm', render: () => helm(...policies) },
  {
    name: 'the chart with all parts elsewhere',
    tool: 'helm',
    render: () =>
      helm(
        ...policies,
        ...['--set', 'postgres.enabled=false,external.databaseUrl=postgres://db.example.org:5433/bodega'],
        ...['--set', 'nats.enabled=false,external.natsUrl=tls://nats.example.org:4443'],
        ...['--set', 'objectstore.enabled=false,external.s3Url=https://s3.example.org'],
      ),
  },
  {
    name: 'the chart with values-dev.yaml',
    tool: 'helm',
    // The inbox's address is sealed in the secrets of dev; a mail server elsewhere may take its place.
    smtp: ['mail:1025', ...elsewhere],
    render: () => helm(...policies, '--values', 'helm/bodega/values-dev.yaml'),
  },
]
const missing = await lacking('kubectl', 'helm')
if (missing.length > 0) process.stderr.write(`skipped in test/packaging, do not answer: ${missing.join(', ')}\n`)

for (const { name, tool, smtp = elsewhere, render } of forms) {
  const proof = missing.includes(tool) ? test.skip : test
  proof(`${name} → every arrow that the code uses is allowed, and no other`, async (t) => {
    const objects = await render()
    const arrows = used(objects, smtp)
    t.deepEqual(allowed(objects), arrows)
    const ends = Map.groupBy(arrows, (arrow) => arrow.split(' → ')[0])
    for (const [from, all] of ends) t.log(`${from} → ${all.map((arrow) => arrow.split(' → ')[1]).join(', ')}`)

    // Each rule is there for an arrow: without it, or with another port, the arrows differ.
    const all = policiesOf(objects)
    for (const [i, policy] of all.entries())
      for (const way of ['ingress', 'egress'] as const)
        for (const [j, rule] of (policy[way] ?? []).entries()) {
          if (!hasEnds(objects, policy, rule)) continue
          const without = { ...policy, [way]: policy[way]?.toSpliced(j, 1) }
          t.notDeepEqual(allowed(objects, all.with(i, without)), arrows, `${way} ${j} of policy ${i} is of no use`)
          for (const [k] of (rule.ports ?? []).entries()) {
            const ports = rule.ports?.with(k, { port: 1 })
            const other = { ...policy, [way]: policy[way]?.with(j, { ...rule, ports }) }
            t.notDeepEqual(
              allowed(objects, all.with(i, other)),
              arrows,
              `port ${k} of ${way} ${j} of policy ${i} is of no use`,
            )
          }
        }
  })
}
