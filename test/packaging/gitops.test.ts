import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { parseAllDocuments } from 'yaml'
import { run } from '../e2e/host.ts'
import { newClone, testWith } from '../secrets/clone.ts'

const root = join(import.meta.dirname, '../..')
const examples = 'docs/gitops'

// biome-ignore lint/suspicious/noExplicitAny: manifests of any kind
type Manifest = any
const parse = (text: string): Manifest[] =>
  parseAllDocuments(text)
    .map((document) => document.toJS())
    .filter(Boolean)
const read = (name: string) => parse(readFileSync(join(root, examples, name), 'utf8'))

/** A fork with the secrets of prod, as the controllers would check it out, and what they would make of it. */
async function openFork() {
  const { base, env, identity } = newClone()
  const dir = join(base, 'fork')
  await run('git', ['clone', '--quiet', root, dir])
  const own = { ...env, SMTP_URL: 'smtp://mail.example.org', SOPS_AGE_KEY_FILE: identity } as Record<string, string>
  const on = (command: string, ...args: string[]) => run(command, args, { cwd: dir, env: own })
  await on('make', '-s', 'secrets', 'ENV=prod', 'UNPACK=no')
  return {
    on,
    /** A path with components relative to it. */
    async build(path: string, components: string[]) {
      const beside = join(dir, path, '../.build')
      mkdirSync(beside, { recursive: true })
      const resource = `../${path.split('/').at(-1)}`
      writeFileSync(join(beside, 'kustomization.yaml'), JSON.stringify({ resources: [resource], components }))
      return parse((await on('kubectl', 'kustomize', beside)).out)
    },
    async template(chart: string, files: string[], values: object) {
      const inline = join(base, 'values.json')
      writeFileSync(inline, JSON.stringify(values))
      const args = [...files, inline].flatMap((file) => ['-f', file])
      return parse((await on('helm', 'template', 'bodega', chart, '-n', 'bodega', ...args)).out)
    },
  }
}
type Fork = Awaited<ReturnType<typeof openFork>>

/** What each example makes of a fork. */
const targets: Record<string, (fork: Fork) => Promise<Manifest[]>> = {
  'flux.yaml': ({ build }) => {
    const { spec } = read('flux.yaml').find(
      ({ kind, metadata }) => kind === 'Kustomization' && metadata.name === 'bodega',
    )
    return build(spec.path, spec.components)
  },
  'flux-helm.yaml': ({ template }) => {
    const { chart, values } = read('flux-helm.yaml')[0].spec
    return template(chart.spec.chart, chart.spec.valuesFiles, values)
  },
  'argo-cd.yaml': ({ build }) => {
    const { path, kustomize } = read('argo-cd.yaml')[0].spec.source
    return build(path, kustomize.components)
  },
  'argo-cd-helm.yaml': ({ template }) => {
    const { path, helm } = read('argo-cd-helm.yaml')[0].spec.source
    const files = helm.valueFiles.map((file: string) => join(path, file))
    return template(path, files, helm.valuesObject)
  },
}
/** Part → what its pods say of its secrets. */
const hashes = (manifests: Manifest[]): Record<string, string | undefined> =>
  Object.fromEntries(
    manifests
      .filter(({ kind }) => ['Deployment', 'StatefulSet', 'Job'].includes(kind))
      .map(({ metadata, spec }) => [
        metadata.labels['app.kubernetes.io/component'],
        spec.template.metadata.annotations?.['bodega.secrets'],
      ]),
  )
const jobOf = (manifests: Manifest[]) => manifests.find(({ kind }) => kind === 'Job')

test('every example → is one of those tested here', (t) => {
  t.deepEqual(readdirSync(join(root, examples)).sort(), Object.keys(targets).sort())
})

testWith(
  'sops',
  'age-keygen',
  'kubectl',
  'helm',
)(
  'each example in a fork → renders, and a commit of a changed secret changes exactly the pods that mount it',
  async (t) => {
    t.timeout(240_000)
    const fork = await openFork()
    const [, , secrets, shop] = read('flux.yaml')
    const [sealed] = parse((await fork.on('kubectl', 'kustomize', secrets.spec.path)).out)
    t.is(sealed.kind, 'Secret')
    t.truthy(sealed.sops, 'Flux would find nothing to open')

    const known: Record<string, Record<string, string | undefined>> = {}
    const jobs: Record<string, string> = {}
    for (const [example, render] of Object.entries(targets)) {
      const manifests = await render(fork)
      const { edge, postgres, ...rest } = hashes(manifests)
      t.is(edge, undefined)
      t.is(postgres, undefined)
      const mounting = ['auth', 'migrate', 'nats', 'notifications', 'objectstore', 'orders', 'products']
      t.deepEqual(Object.keys(rest).sort(), mounting, example)
      for (const [part, hash] of Object.entries(rest))
        t.regex(String(hash), /^sha256-[0-9a-f]{16}$/, `${example}: ${part}`)
      known[example] = rest
      jobs[example] = jobOf(manifests).metadata.name
      if (example === 'flux.yaml')
        for (const { name, kind } of shop.spec.healthChecks)
          t.true(
            manifests.some((m) => m.kind === kind && m.metadata.name === name),
            `healthChecks: ${name}`,
          )
    }
    t.deepEqual(known['flux-helm.yaml'], known['flux.yaml'])

    for (const [what, users] of Object.entries({
      jwt: ['auth'],
      database: ['auth', 'migrate', 'notifications', 'orders', 'products'],
      s3: ['auth', 'objectstore', 'products'],
    })) {
      await fork.on('make', '-s', 'secrets-rotate', 'ENV=prod', `WHAT=${what}`)
      for (const [example, render] of Object.entries(targets)) {
        const manifests = await render(fork)
        const now = hashes(manifests)
        const changed = Object.keys(now).filter((part) => now[part] !== known[example]?.[part])
        t.deepEqual(changed.sort(), users, `${example}: ${what}`)
        known[example] = now
        // Its template cannot be changed, so it gets another name, or is marked as one to be made anew.
        const { name, annotations } = jobOf(manifests).metadata
        if (example.includes('helm')) t.is(name !== jobs[example], users.includes('migrate'), `${example}: ${what}`)
        else {
          t.is(annotations['kustomize.toolkit.fluxcd.io/force'], 'enabled')
          t.is(annotations['argocd.argoproj.io/sync-options'], 'Force=true,Replace=true')
        }
        jobs[example] = name
      }
    }
  },
)

testWith('kubectl', 'helm')(
  'the operator’s database, by overlay and by chart → no commit and no uninstall deletes it',
  async (t) => {
    const values = ['-f', 'helm/bodega/values-prod.yaml', '--set', 'pgo.crdCheck=false']
    for (const [target, { out }] of Object.entries({
      'kustomize.toolkit.fluxcd.io/prune: disabled': await run('kubectl', ['kustomize', 'kustomize/overlays/prod']),
      'helm.sh/resource-policy: keep': await run('helm', ['template', 'bodega', 'helm/bodega', ...values]),
    })) {
      const { metadata } = parse(out).find(({ kind }) => kind === 'PostgresCluster')
      const words = Object.entries(metadata.annotations).map((entry) => entry.join(': '))
      // Argo CD keeps what Helm is told to keep when the Application goes, and not when a commit no longer has it.
      t.deepEqual(words.sort(), ['argocd.argoproj.io/sync-options: Prune=false,Delete=false', target])
    }
  },
)

// CRDs of Flux and Argo CD, one YAML file each, such as config/crd/bases of their repositories.
const crds = process.env.GITOPS_CRDS ?? ''
if (!crds) process.stderr.write('skipped in test/packaging/gitops.test.ts: GITOPS_CRDS names no folder of CRDs\n')
const crdTest = crds ? testWith('kubeconform') : test.skip

/** A schema that takes no field which it does not name. */
function strict(schema: Manifest): Manifest {
  if (Array.isArray(schema)) return schema.map(strict)
  if (typeof schema !== 'object' || schema === null) return schema
  const made = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, strict(value)]))
  if (schema.type === 'object' && schema.properties && !schema['x-kubernetes-preserve-unknown-fields'])
    made.additionalProperties ??= false
  return made
}

crdTest('every example → as the CRDs say, and a field that they do not know is seen', async (t) => {
  const schemas = mkdtempSync(join(tmpdir(), 'gitops-'))
  for (const file of readdirSync(crds))
    for (const { spec } of parse(readFileSync(join(crds, file), 'utf8')))
      for (const { name, schema } of spec.versions) {
        const made = strict(schema.openAPIV3Schema)
        made.properties.metadata = { type: 'object' }
        const path = join(schemas, `${spec.names.kind.toLowerCase()}-${spec.group}-${name}.json`)
        writeFileSync(path, JSON.stringify(made))
      }
  const location = `${schemas}/{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json`
  const check = (input: string) =>
    run('kubeconform', ['-skip', 'Namespace', '-schema-location', location, '-summary', '-'], { input, any: true })
  for (const name of Object.keys(targets)) {
    const text = readFileSync(join(root, examples, name), 'utf8')
    const { code, all } = await check(text)
    t.is(code, 0, `${name}: ${all}`)
    const wrong = await check(text.replace(/^( *)(interval|targetRevision): /m, '$1misspelt: true\n$1$2: '))
    t.not(wrong.code, 0, `${name}: a misspelt field is not seen`)
    t.regex(wrong.all, /misspelt/)
  }
})
