import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { lackingCluster, loadImages, newVersion, openCluster } from './cluster.ts'
import { removeImages } from './host.ts'

const missing = await lackingCluster()
if (missing) process.stderr.write(`skipped, all of test/e2e/cluster-deploy.test.ts: ${missing}\n`)
const test = missing ? anyTest.skip : anyTest

test('make deploy → the shop runs; again, after new passwords, another image, a bad one → it does and says what is needed', async (t) => {
  t.timeout(600_000)
  const version = newVersion()
  t.teardown(() => removeImages(version, `${version}-next`))
  await using cluster = await openCluster({ version })
  const dir = 'kustomize/overlays/mine'
  mkdirSync(join(cluster.clone, dir))
  mkdirSync(join(cluster.clone, 'kustomize/overlays/elsewhere'))
  cluster.write(
    'kustomize/overlays/elsewhere/kustomization.yaml',
    'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../base]\n',
  )
  const write = (tag: string) =>
    cluster.write(
      `${dir}/kustomization.yaml`,
      `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../base]
components: [../../components/postgres, ../../components/nats, ../../components/objectstore]
images: [{ name: bodega-app, newTag: ${tag} }, { name: bodega-edge, newTag: ${version} }]
patches:
  - target: { kind: StatefulSet }
    patch: |
      - { op: replace, path: /spec/volumeClaimTemplates/0/spec/resources/requests/storage, value: 1Gi }
`,
    )
  write(version)
  await loadImages(cluster, version, ['postgres:18', 'nats:2.14-alpine', 'chrislusf/seaweedfs:4.48'])
  const deploy = async (env = {}) => {
    const began = performance.now()
    const ended = await cluster.make(['deploy', 'ENV=dev', 'OVERLAY=mine'], { any: true, seconds: 280, env })
    t.log(`${ended.all.trim()}\n(${Math.round((performance.now() - began) / 1000)} s)`)
    return ended
  }
  const job = async () => (await cluster.k(['get', 'job', '-o', 'jsonpath={.items[*].metadata.uid}'])).out

  const first = await deploy()
  t.is(first.code, 0)
  t.regex(first.all, /\d+ created\n/)
  t.regex(first.all, /everything runs: 8 Deployments and StatefulSets/)
  const made = await job()

  const second = await deploy()
  t.is(second.code, 0)
  t.notRegex(second.all, /created|configured|runs again/)
  t.is(await job(), made)

  const refused = async (words: string[], says: RegExp) => {
    const ended = await cluster.make(['deploy', ...words], { any: true })
    t.not(ended.code, 0)
    t.regex(ended.all, says)
  }
  await refused(['ENV=prod', 'OVERLAY=mine'], /is that of dev, and not of prod\n {2}next: make deploy ENV=dev/)
  await refused(
    ['ENV=dev', 'OVERLAY=elsewhere'],
    /overlay elsewhere does not have: it would begin anew[\s\S]*OVERLAY= of before/,
  )
  t.is(await job(), made)

  await cluster.make(['secrets-rotate', 'WHAT=database'])
  const rotated = await cluster.make(['secrets-apply'], { any: true })
  t.is(rotated.code, 0, rotated.all)
  t.regex((await deploy()).all, /migrate runs again: its logins or passwords may have changed\n/)
  t.not(await job(), made)
  t.deepEqual(await cluster.sql(`select rolname from pg_roles where rolname like 'orders\\__' order by 1`), [
    'orders_a',
    'orders_b',
  ])

  await cluster.on('docker', ['tag', `bodega-app:${version}`, `bodega-app:${version}-next`])
  await cluster.on('sh', ['-c', `${process.env.BODEGA_E2E_LOAD} bodega-app:${version}-next`])
  write(`${version}-next`)
  const changed = await deploy()
  t.is(changed.code, 0)
  t.regex(changed.all, /migrate runs again: its image or settings changed\n/)
  t.regex(changed.all, /4 configured|5 configured/)

  write('nowhere')
  const bad = await deploy({ TIMEOUT: '20' })
  t.not(bad.code, 0)
  t.regex(bad.all, /is not ready after 20 s\n {2}next: kubectl --namespace/)
})
