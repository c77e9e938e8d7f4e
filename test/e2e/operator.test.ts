import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import anyTest from 'ava'
import { parseAllDocuments } from 'yaml'
import { eventually } from '../support/shop.ts'
import { run } from './host.ts'

// What of the operator can be proved without its images: its definition of a PostgresCluster, and every word before that.
const crd = process.env.PGO_CRD
const missing = await lacking()
if (missing) process.stderr.write(`skipped, all of test/e2e/operator.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

async function lacking() {
  if (!crd) return "PGO_CRD names no file with the operator's definition of a PostgresCluster"
  for (const args of [
    ['kubectl', 'version', '--request-timeout=10s'],
    ['helm', 'version'],
  ] as const) {
    const [command, ...rest] = args
    const ended = await run(command, rest, { any: true }).catch(() => undefined)
    if (ended?.code !== 0) return `${args.join(' ')} fails`
  }
}

const definition = 'crd/postgresclusters.postgres-operator.crunchydata.com'
const namespace = `bodega-operator-${randomBytes(3).toString('hex')}`
const k = (args: string[], input?: string) => run('kubectl', ['--namespace', namespace, ...args], { input, any: true })
const make = (args: string[], env: Record<string, string> = {}) =>
  run('make', ['--no-print-directory', ...args, `NAMESPACE=${namespace}`], { any: true, env })
const withPgo = ['--set', 'pgo.enabled=true', '--set', 'postgres.enabled=false']
let hadDefinition = false

if (!missing) {
  anyTest.serial.before(async () => {
    hadDefinition = (await k(['get', definition])).code === 0
  })
  anyTest.after.always(async () => {
    if (!hadDefinition) await k(['delete', definition, '--ignore-not-found'])
    await k(['delete', 'namespace', namespace, '--ignore-not-found'])
  })
}

test('make deploy, nothing there → it asks for one thing after the other, and changes nothing', async (t) => {
  const unknown = await make(['deploy', 'ENV=prod', 'OVERLAY=prodd'])
  t.regex(unknown.all, /there is no kustomize\/overlays\/prodd\n.*one of: .*prod-standalone/)

  const bare = await make(['deploy', 'ENV=prod'])
  t.not(bare.code, 0)
  t.regex(bare.all, new RegExp(`no namespace ${namespace} .*\n.*make secrets-apply ENV=prod NAMESPACE=${namespace}`))

  await k(['create', 'namespace', namespace])
  t.regex((await make(['deploy', 'ENV=prod'])).all, /no secret bodega .*\n.*next: make secrets-apply ENV=prod/)

  await k(['create', 'secret', 'generic', 'bodega'])
  if (!hadDefinition) {
    const { code, all } = await make(['deploy', 'ENV=prod'])
    t.not(code, 0)
    t.regex(all, /no Crunchy PGO 6.*\n.*next: make operator.*\n.*OVERLAY=prod-standalone/)
    const install = ['install', 'bodega', 'helm/bodega', '--namespace', namespace, ...withPgo]
    t.regex((await run('helm', install, { any: true })).all, /no Crunchy PGO 6[\s\S]*next: make operator/)
  }
  t.is((await k(['get', 'all', '-o', 'name'])).out, '')
})

test('make operator where it cannot work → what is missing, and the next command', async (t) => {
  const noKubectl = mkdtempSync(join(tmpdir(), 'path-'))
  for (const tool of ['bash', 'dirname', 'basename'])
    await run('sh', ['-c', `ln -s "$(command -v ${tool})" "$0"`, noKubectl])
  t.regex(
    (await run('bash', ['scripts/operator.sh'], { any: true, env: { PATH: noKubectl } })).all,
    /kubectl is not installed\n {2}next: /,
  )
  rmSync(noKubectl, { recursive: true })

  t.regex(
    (await make(['operator'], { KUBECONFIG: '/dev/null' })).all,
    /does not answer\n.*\n {2}next: kubectl config use-context/,
  )
  t.regex((await make(['operator', 'PGO_DIR=/nowhere'])).all, /\/nowhere is not the tree of PGO 6\.\d+\.\d+/)
  // A proxy that is not there: the machine has no network.
  const alone = { https_proxy: 'http://127.0.0.1:9', HTTPS_PROXY: 'http://127.0.0.1:9', ALL_PROXY: '' }
  t.regex((await make(['operator'], alone)).all, /cannot be fetched[\s\S]*PGO_DIR=/)
})

test('the PostgresCluster of overlays/prod and of the chart → the real definition takes every field', async (t) => {
  const applied = await k(['apply', '--server-side', '-f', crd as string])
  t.is(applied.code, 0, applied.all)
  await eventually('it is served', async () => {
    const { code } = await k(['get', '--raw', '/apis/postgres-operator.crunchydata.com/v1'])
    return code === 0
  })

  const overlay = await k(['kustomize', 'kustomize/overlays/prod'])
  const chart = await run('helm', [
    'template',
    'bodega',
    'helm/bodega',
    '--namespace',
    namespace,
    ...withPgo,
    '--set',
    'pgo.crdCheck=false',
  ])
  for (const [what, { out }] of Object.entries({ overlay, chart })) {
    const taken = await k(['apply', '--dry-run=server', '--validate=strict', '-f', '-'], out)
    t.is(taken.code, 0, `${what}: ${taken.all}`)
    t.regex(taken.out, /postgrescluster\S+\/bodega-db created/, what)
    // A namespace with a quota refuses a pod of which one container has no limits.
    const { instances, proxy, backups } = parseAllDocuments(out)
      .map((document) => document.toJS())
      .find((object) => object?.kind === 'PostgresCluster').spec
    const { repoHost, jobs, sidecars } = backups.pgbackrest
    const beside = { ...instances[0].sidecars, ...proxy.pgBouncer.sidecars, ...sidecars }
    t.deepEqual(Object.keys(beside).sort(), ['pgbackrest', 'pgbackrestConfig', 'pgbouncerConfig', 'replicaCertCopy'])
    for (const { resources } of [instances[0], proxy.pgBouncer, repoHost, jobs, ...Object.values(beside)])
      t.deepEqual(Object.keys(resources.limits).sort(), ['cpu', 'memory'], what)
    // A definition that takes anything would prove nothing.
    const misspelt = await k(
      ['apply', '--dry-run=server', '--validate=strict', '-f', '-'],
      out.replace('pgBouncer:', 'pgBouncers:'),
    )
    t.not(misspelt.code, 0)
    t.regex(misspelt.all, /unknown field "spec\.proxy\.pgBouncers"/)
  }
})

test('helm without pgo.enabled over the operator’s database → refused, since the shop would begin anew on another', async (t) => {
  const helm = (...args: string[]) =>
    run('helm', [...args, 'bodega', 'helm/bodega', '--namespace', namespace], { any: true })
  const made = await helm('template', ...withPgo, '--set', 'pgo.crdCheck=false', '--show-only', 'templates/pgo.yaml')
  const applied = await k(['apply', '-f', '-'], made.out)
  t.is(applied.code, 0, applied.all)
  const owner = [`release-name=bodega`, `release-namespace=${namespace}`].map((fact) => `meta.helm.sh/${fact}`)
  await k(['annotate', 'postgrescluster', 'bodega-db', ...owner])
  const dry = ['install', '--dry-run=server']
  const forgotten = await helm(...dry)
  t.not(forgotten.code, 0)
  t.regex(forgotten.all, /PostgresCluster bodega-db has this shop's data[\s\S]*next: the same -f files as before/)
  const meant = await helm(...dry, ...withPgo)
  t.is(meant.code, 0, meant.all)
  await k(['delete', 'postgrescluster', 'bodega-db', '--wait'])
  t.is((await helm(...dry)).code, 0)
})
