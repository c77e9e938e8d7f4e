import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, openSync, readFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import anyTest from 'ava'
import { findProxy } from '../../src/embedded/programs.ts'
import { eventually } from '../support/shop.ts'
import { type Cluster, lackingCluster, loadImages, newVersion, openCluster } from './cluster.ts'
import { freePort, removeImages, run } from './host.ts'

// The Ingress and the HTTPRoute with a real Traefik as their controller, which runs beside the cluster and watches it.
// GATEWAY_CRDS: the Gateway API's CRDs, a folder or a file, where the cluster has none.
const missing =
  (await lackingCluster()) ?? (process.env.GATEWAY_CRDS ? undefined : 'GATEWAY_CRDS names no CRDs of the Gateway API')
if (missing) process.stderr.write(`skipped, all of test/e2e/cluster-ways-in.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = newVersion()
const overlay = 'kustomize/overlays/mine'
let cluster: Cluster
const closing: (() => Promise<unknown>)[] = []
/** Both ways in. */
const urls: Record<string, string> = {}

/** dev with both ways in; the proxies whose word counts are those given. */
async function apply(trustedProxies: string) {
  mkdirSync(join(cluster.clone, overlay), { recursive: true })
  cluster.write(
    `${overlay}/kustomization.yaml`,
    `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../dev]
components: [../../components/ingress, ../../components/gateway, ../../components/node-port]
configMapGenerator:
  - { name: bodega-settings, behavior: merge, literals: ["TRUSTED_PROXIES=${trustedProxies}"] }
images:
  - { name: bodega-app, newTag: ${version} }
  - { name: bodega-edge, newTag: ${version} }
patches:
  - target: { kind: Service, name: bodega-edge }
    patch: |
      - { op: add, path: /spec/ports/0/nodePort, value: ${cluster.ports.edge} }
  - target: { kind: Service, name: mail }
    patch: |
      - { op: add, path: /spec/type, value: NodePort }
      - { op: add, path: /spec/ports/1/nodePort, value: ${cluster.ports.mail} }
  - target: { kind: HTTPRoute }
    patch: |
      - { op: replace, path: /spec/parentRefs/0/name, value: ${version} }
`,
  )
  await cluster.k(['apply', '-k', overlay])
  await cluster.settled()
  await cluster.quiet()
}

/** Traefik watches the cluster, with an entry point for each way in. */
async function startTraefik() {
  const [ingress, gateway, ping] = [await freePort(), await freePort(), await freePort()]
  await cluster.k(['apply', '-f', '-'], {
    input: `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: ${version} }
spec: { controllerName: traefik.io/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: ${version} }
spec:
  gatewayClassName: ${version}
  listeners: [{ name: web, protocol: HTTP, port: ${gateway} }]
`,
  })
  closing.push(() => cluster.k(['delete', 'gatewayclass', version], { any: true }))
  const log = join(cluster.dir, 'traefik.log')
  const output = openSync(log, 'w')
  const traefik = spawn(
    findProxy('traefik'),
    [
      `--entrypoints.ingress.address=:${ingress}`,
      '--entrypoints.ingress.asdefault=true',
      `--entrypoints.gateway.address=:${gateway}`,
      `--entrypoints.ping.address=127.0.0.1:${ping}`,
      '--ping.entrypoint=ping',
      `--providers.kubernetesingress.namespaces=${cluster.namespace}`,
      `--providers.kubernetesgateway.namespaces=${cluster.namespace}`,
      '--global.checknewversion=false',
      '--global.sendanonymoususage=false',
    ],
    { env: { ...process.env, KUBECONFIG: cluster.settings.KUBECONFIG }, stdio: ['ignore', output, output] },
  )
  closing.push(async () => {
    traefik.kill()
    if (traefik.exitCode === null && traefik.signalCode === null) await once(traefik, 'exit')
  })
  urls.Ingress = `http://127.0.0.1:${ingress}`
  urls.HTTPRoute = `http://127.0.0.1:${gateway}`
  for (const [kind, url] of Object.entries(urls))
    await eventually(
      `the ${kind} leads to the shop`,
      async () => {
        if (traefik.exitCode !== null) throw new Error(readFileSync(log, 'utf8').slice(-4000))
        const answer = await fetch(`${url}/product`).catch(() => undefined)
        return answer?.status === 200
      },
      60_000,
    )
}

/** Signs in without a body, once; from an address of this machine's. */
const signIn = (url: string, { from = '127.0.0.1', forwardedFor = '' } = {}) =>
  new Promise<number>((resolve, reject) => {
    const headers = { 'Content-Type': 'application/json', ...(forwardedFor ? { 'X-Forwarded-For': forwardedFor } : {}) }
    const asked = request(`${url}/auth/login`, {
      method: 'POST',
      headers,
      agent: false,
      ...(url.includes('//127.') ? { localAddress: from } : {}),
    })
    asked.on('response', (answer) => answer.resume().on('end', () => resolve(answer.statusCode as number)))
    asked.on('error', reject)
    asked.end('{}')
  })
/** How many of some sign-ins at once, each as `how` says, are refused for their number. */
async function refused(count: number, url: string, how: (n: number) => Parameters<typeof signIn>[1]) {
  const answers = await Promise.all(Array.from({ length: count }, (_, n) => signIn(url, how(n))))
  return answers.filter((status) => status === 429).length
}

if (!missing) {
  anyTest.serial.before('a clean clone with images, and a shop that trusts no proxy', async (t) => {
    t.timeout(600_000)
    cluster = await openCluster({ version })
    await loadImages(cluster, version, [
      'postgres:18',
      'nats:2.14-alpine',
      'chrislusf/seaweedfs:4.48',
      'maildev/maildev:3.0.0',
    ])
    const had = await cluster.k(['get', 'crd', 'httproutes.gateway.networking.k8s.io'], { any: true })
    if (had.code !== 0) {
      const crds = process.env.GATEWAY_CRDS as string
      await cluster.k(['apply', '--server-side', '-f', crds])
      closing.push(() => cluster.k(['delete', '--wait=false', '-f', crds], { any: true }))
    }
    await apply('')
    await startTraefik()
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(180_000)
    for (const close of closing.reverse()) await close()
    await cluster?.[Symbol.asyncDispose]()
    await removeImages(version)
  })
}

test('no TRUSTED_PROXIES, a new X-Forwarded-For with each sign-in → counted all the same', async (t) => {
  t.timeout(120_000)
  t.true((await refused(60, cluster.url, (n) => ({ forwardedFor: `198.51.100.${n}` }))) > 20)
})

test('no TRUSTED_PROXIES, one client over the limit → the other too, since both have the address of Traefik', async (t) => {
  for (const [kind, url] of Object.entries(urls)) {
    t.true((await refused(60, url, () => ({ from: '127.0.0.2' }))) > 20, kind)
    t.true((await refused(15, url, () => ({ from: '127.0.0.3' }))) > 0, kind)
  }
})

test('Traefik in TRUSTED_PROXIES, one client over the limit → the other is not, and a forged header helps neither', async (t) => {
  t.timeout(300_000)
  const [pod] = await cluster.pods('edge')
  const address = await cluster.get(`pod/${pod}`, '.status.podIP')
  // Whom the edge sees when this machine calls a pod.
  const { out } = await run('ip', ['-o', 'route', 'get', address])
  await apply(/ src (\S+)/.exec(out)?.[1] as string)
  // Addresses that no sign-in has come from yet.
  for (const [n, [kind, url]] of Object.entries(urls).entries()) {
    await eventually(`the ${kind} leads to the new edge`, async () => (await fetch(`${url}/product`)).status === 200)
    t.true((await refused(60, url, (i) => ({ from: `127.0.1.${n + 1}`, forwardedFor: `198.51.100.${i}` }))) > 20, kind)
    t.is(await refused(15, url, () => ({ from: `127.0.2.${n + 1}` })), 0, kind)
  }
})

for (const kind of ['Ingress', 'HTTPRoute'])
  test(`make tour through the ${kind} → every step as promised`, async (t) => {
    t.timeout(120_000)
    const { out } = await run('make', ['tour', `URL=${urls[kind]}`, `INBOX=${cluster.inboxUrl}`])
    t.regex(out, /All \d+ steps as promised/)
  })
