import { randomBytes, randomInt } from 'node:crypto'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { eventually } from '../support/shop.ts'
import { type Host, lacking, openHost, run } from './host.ts'

/** Loads images of this machine's Docker into the cluster's nodes: a command that takes their names. */
const loadCommand = process.env.BODEGA_E2E_LOAD
export const kubeconfig = process.env.KUBECONFIG ?? join(homedir(), '.kube/config')

/** Why the tests on a cluster cannot run here, or undefined. */
export async function lackingCluster(): Promise<string | undefined> {
  const reason = await lacking()
  if (reason) return reason
  if (!loadCommand) return 'BODEGA_E2E_LOAD names no command that loads images into a cluster (kind load docker-image)'
  const version = await run('kubectl', ['version', '--request-timeout=10s'], { any: true }).catch(() => undefined)
  if (!version) return 'kubectl is not installed'
  if (version.code !== 0) return 'no cluster answers kubectl'
  return undefined
}

/** Builds both images of a tag from a clone and loads them, with those of the servers where Docker has them. */
export async function loadImages(host: Host, tag: string, servers: string[] = []) {
  const own = ['app', 'edge'].map((target) => ({ target, image: `bodega-${target}:${tag}` }))
  for (const { target, image } of own)
    await host.on('docker', ['build', '--quiet', '--target', target, '--tag', image, '.'], { seconds: 500 })
  const { out: there } = await run('kubectl', ['get', 'nodes', '-o', 'jsonpath={.items[*].status.images[*].names}'])
  const wanted = own.map(({ image }) => image)
  for (const image of servers) {
    const isHere = (await run('docker', ['image', 'inspect', image], { any: true })).code === 0
    if (isHere && !there.includes(`${image}"`)) wanted.push(image)
  }
  await run('sh', ['-c', `${loadCommand} "$@"`, 'sh', ...wanted], { seconds: 300 })
}

export type Cluster = Awaited<ReturnType<typeof openCluster>>

/**
 * An operator's desk before a real cluster: a clean clone with its images loaded and secrets sealed, and a namespace
 * with those secrets in it. Closing removes the namespace with all its data, and the clone.
 */
export async function openCluster({ version }: { version: string }) {
  const namespace = `bodega-${version}`
  const host = await openHost({ version, env: { KUBECONFIG: kubeconfig, NAMESPACE: namespace } })
  const k = (args: string[], options: Parameters<typeof host.on>[2] = {}) =>
    host.on('kubectl', ['--namespace', namespace, ...args], options)
  const node = (
    await k(['get', 'nodes', '-o', 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'])
  ).out
  const { out: taken } = await k([
    ...['get', 'services', '--all-namespaces'],
    ...['-o', 'jsonpath={.items[*].spec.ports[*].nodePort}'],
  ])
  const ports: number[] = []
  while (ports.length < 2) {
    const port = randomInt(30_000, 32_768)
    if (!taken.split(' ').includes(String(port)) && !ports.includes(port)) ports.push(port)
  }
  const [port, mailPort] = ports as [number, number]
  await host.make(['secrets', 'UNPACK=no'])
  await host.make(['secrets-apply'])

  const cluster = {
    ...host,
    namespace,
    k,
    /** Ports of the node for the edge and for the inbox, which nothing else has. */
    ports: { edge: port, mail: mailPort },
    url: `http://${node}:${port}`,
    inboxUrl: `http://${node}:${mailPort}`,
    /** Names of the pods of a part that are not on their way out. */
    async pods(component: string) {
      const { out } = await k([
        ...['get', 'pods', '-l', `app.kubernetes.io/component=${component}`, '-o'],
        'go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\\n"}}{{end}}{{end}}',
      ])
      return out.split('\n').filter(Boolean)
    },
    /** One field of an object, by JSONPath. */
    async get(object: string, path: string) {
      return (await k(['get', object, '-o', `jsonpath={${path}}`])).out
    },
    /** Waits until every Job is done and each Deployment and StatefulSet is what it says. */
    async settled(seconds = 300) {
      const end = Date.now() + seconds * 1000
      const left = () => Math.max(1, Math.ceil((end - Date.now()) / 1000))
      const { out } = await k(['get', 'deployments,statefulsets', '-o', 'name'])
      for (const object of out.split('\n').filter(Boolean))
        await k(['rollout', 'status', object, `--timeout=${left()}s`], { seconds: seconds + 10 })
      await k(['wait', '--for=condition=Complete', 'job', '--all', `--timeout=${left()}s`], { seconds: seconds + 10 })
    },
    /** Waits until the node's port leads to a new edge: a node hears of a ready pod a moment after everyone else. */
    reached: () =>
      eventually(
        'the port of the node leads to the edge',
        () =>
          fetch(`http://${node}:${port}/healthz`).then(
            (answer) => answer.ok,
            () => false,
          ),
        30_000,
      ),
    /** Waits until no pod is on its way in or out. */
    quiet: (seconds = 90) =>
      eventually(
        'no pod comes or goes',
        async () => {
          const template =
            '{{range .items}}{{if or .metadata.deletionTimestamp (eq .status.phase "Pending")}}.{{end}}{{end}}'
          return (await k(['get', 'pods', '-o', `go-template=${template}`])).out === ''
        },
        seconds * 1000,
      ),
    /** The answer of the standalone database to one statement, a line a row, fields parted by |. */
    async sql(statement: string) {
      const [pod] = await cluster.pods('postgres')
      const psql = ['psql', '-X', '-q', '-A', '-t', '-U', 'postgres', '-d', 'bodega', '-v', 'ON_ERROR_STOP=1']
      const { out } = await k(['exec', '-i', pod as string, '--', ...psql], { input: statement })
      return out.split('\n').filter(Boolean)
    },
    /** Runs one of the shop's commands in a pod of a role. */
    async command(role: string, ...args: string[]) {
      const [pod] = await cluster.pods(role)
      return k(['exec', pod as string, '-c', 'role', '--', 'node', '/app/src/commands.ts', ...args])
    },
    async tour() {
      return (await run('make', ['tour', `URL=${cluster.url}`, `INBOX=${cluster.inboxUrl}`])).out
    },
    async [Symbol.asyncDispose]() {
      await run('kubectl', ['delete', 'namespace', namespace, '--ignore-not-found', '--timeout=100s'], { any: true })
      await host[Symbol.asyncDispose]()
    },
  }
  return cluster
}

/** A tag for images and a name that nothing else has. */
export const newVersion = () => `e2e-${randomBytes(3).toString('hex')}`
