import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { roleNames } from '../../src/platform/config.ts'
import { type Cluster, lackingCluster, loadImages, newVersion, openCluster } from './cluster.ts'
import { removeImages } from './host.ts'

// The production form by Kustomize on a real cluster; each test goes on from where the one before it left.
const missing = await lackingCluster()
if (missing) process.stderr.write(`skipped, all of test/e2e/cluster.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = newVersion()
const next = `${version}-next`
const overlay = 'kustomize/overlays/mine'
let cluster: Cluster

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

/** prod-standalone as an owner would make it his own, with the inbox and the catalogue of dev, on ports of the node. */
function writeOverlay({ tag, seed = true }: { tag: string; seed?: boolean }) {
  mkdirSync(join(cluster.clone, overlay), { recursive: true })
  cluster.write(
    `${overlay}/kustomization.yaml`,
    `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../prod-standalone, ../dev/mail${seed ? ', ../dev/seed' : ''}]
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
const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(1)} s`

test('kubectl apply -k with images present → the whole shop without a hand, what starts first waits and says for what', async (t) => {
  t.timeout(300_000)
  const began = performance.now()
  await apply()
  await cluster.settled()
  t.log(`ready after ${seconds(began)}`)
  const restarts = await cluster.k([
    ...['get', 'pods', '-o'],
    'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{"\\n"}{end}',
  ])
  t.deepEqual(
    restarts.out.split('\n').filter((line) => !/ 0$/.test(line)),
    [],
  )
  t.regex(
    (await cluster.k(['logs', '-l', 'app.kubernetes.io/component=migrate', '--tail=-1'])).out,
    /waiting for the database/,
  )
  for (const role of roleNames)
    t.regex((await cluster.k(['logs', `deployment/bodega-${role}`, '--tail=-1'])).out, /waiting for dependencies/, role)
})

test('make tour through a NodePort → every step as promised', async (t) => {
  t.timeout(120_000)
  t.regex(await cluster.tour(), /All \d+ steps as promised/)
})
