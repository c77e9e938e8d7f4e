import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { roleNames } from '../../src/platform/config.ts'
import { lackingCluster, loadImages, newVersion, openCluster } from '../e2e/cluster.ts'
import { removeImages, run } from '../e2e/host.ts'
import { eventually, noLimits } from '../support/shop.ts'
import { type Clocks, openClocks, readDatabase, readHttp, readRole } from './clock.ts'
import { freeze, keepFull, mountDisks, noDisk } from './faults.ts'
import { type PartName, parts, type Stage } from './stage.ts'
import { buildToxiproxy, doorPorts, spoil, toxics } from './toxiproxy.ts'

const overlay = 'kustomize/overlays/chaos'
const componentOf = (part: PartName) => (part === 'smtp' ? 'mail' : part)
const isStateful = (part: PartName) => ['postgres', 'nats', 'objectstore'].includes(part)
/** The object that keeps the pods of a part. */
const ownerOf = (part: PartName) =>
  part === 'smtp' ? 'deployment/mail' : `${isStateful(part) ? 'statefulset' : 'deployment'}/bodega-${part}`

/**
 * The dev form by Kustomize: one pod of each, on a cluster whose node is this machine. A prepared one has toxiproxy
 * between the parts, small disks and clocks that can be set; the other is as it ships, but for an inbox that outlives its server and an edge that
 * lets one address do what a thousand customers do.
 */
export async function openOnCluster({
  dir,
  prepared,
  say,
}: {
  dir: string
  prepared: boolean
  say: (text: string) => void
}) {
  const reason = await lackingCluster()
  if (reason) throw new Error(reason)
  await using opening = new AsyncDisposableStack()
  const version = newVersion()
  const toxiproxy = `bodega-toxiproxy:${version}`
  opening.defer(async () => {
    await removeImages(version)
    await run('docker', ['image', 'rm', '--force', toxiproxy], { any: true })
  })
  const disks = prepared ? mountDisks(opening, join(dir, 'disks'), say, '0777') : {}
  const cluster = opening.use(await openCluster({ version }))
  const { k } = cluster
  const clocks = prepared ? openClocks(join(cluster.dir, 'clocks'), say) : undefined
  const through = (part: PartName) => `toxiproxy:${doorPorts[part]}`
  const limits = Object.entries(noLimits).map(([name, value]) => ({ name, value }))
  const upstreams = roleNames.map((role) => ({ name: `${role.toUpperCase()}_UPSTREAM`, value: through(role) }))
  const edge = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'bodega-edge' },
    spec: {
      template: { spec: { containers: [{ name: 'edge', env: [...limits, ...(prepared ? upstreams : [])] }] } },
    },
  }
  const onSmallDisk = (part: PartName, path: string) => {
    const volume = (name: string) => ({ name, hostPath: { path, type: 'Directory' } })
    if (part === 'edge') return [{ op: 'replace', path: '/spec/template/spec/volumes/0', value: volume('tmp') }]
    return [
      { op: 'remove', path: '/spec/volumeClaimTemplates' },
      { op: 'add', path: '/spec/template/spec/volumes/-', value: volume('data') },
    ]
  }
  mkdirSync(join(cluster.clone, overlay), { recursive: true })
  cluster.write(
    `${overlay}/mail.json`,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { name: 'mails' },
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
    }),
  )
  cluster.write(
    `${overlay}/toxiproxy.json`,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'List',
      items: [
        {
          apiVersion: 'v1',
          kind: 'Service',
          metadata: { name: 'toxiproxy' },
          spec: {
            type: 'NodePort',
            selector: { app: 'toxiproxy' },
            ports: Object.entries(doorPorts).map(([name, port]) => ({ name, port })),
          },
        },
        {
          apiVersion: 'apps/v1',
          kind: 'Deployment',
          metadata: { name: 'toxiproxy' },
          spec: {
            selector: { matchLabels: { app: 'toxiproxy' } },
            template: {
              metadata: { labels: { app: 'toxiproxy' } },
              spec: { containers: [{ name: 'toxiproxy', image: toxiproxy, imagePullPolicy: 'IfNotPresent' }] },
            },
          },
        },
      ],
    }),
  )
  const patches = [
    { patch: JSON.stringify(edge) },
    {
      target: { kind: 'Service', name: 'bodega-edge' },
      patch: JSON.stringify([{ op: 'add', path: '/spec/ports/0/nodePort', value: cluster.ports.edge }]),
    },
    {
      target: { kind: 'Service', name: 'mail' },
      patch: JSON.stringify([
        { op: 'add', path: '/spec/type', value: 'NodePort' },
        { op: 'add', path: '/spec/ports/1/nodePort', value: cluster.ports.mail },
      ]),
    },
    {
      target: { kind: 'Deployment', name: 'mail' },
      patch: JSON.stringify([
        { op: 'add', path: '/spec/template/spec/securityContext/fsGroup', value: 1000 },
        {
          op: 'add',
          path: '/spec/template/spec/volumes/-',
          value: { name: 'mails', persistentVolumeClaim: { claimName: 'mails' } },
        },
        {
          op: 'add',
          path: '/spec/template/spec/containers/0/volumeMounts/-',
          value: { name: 'mails', mountPath: '/mails' },
        },
        {
          op: 'add',
          path: '/spec/template/spec/containers/0/env/-',
          value: { name: 'MAILDEV_MAIL_DIRECTORY', value: '/mails' },
        },
        // As on Compose.
        { op: 'replace', path: '/spec/template/spec/containers/0/resources/limits/memory', value: '1Gi' },
      ]),
    },
    ...parts
      .map((part) => ({
        target: { kind: isStateful(part) ? 'StatefulSet' : 'Deployment', name: `bodega-${part}` },
        changes: [
          ...(disks[part] ? onSmallDisk(part, disks[part]) : []),
          ...(clocks?.has(part) ? withClock(part, clocks) : []),
        ],
      }))
      .filter(({ changes }) => changes.length > 0)
      .map(({ target, changes }) => ({ target, patch: JSON.stringify(changes) })),
  ]
  const merged = (name: string, literals: string[]) => ({ name, behavior: 'merge', literals })
  cluster.write(
    `${overlay}/kustomization.yaml`,
    JSON.stringify({
      apiVersion: 'kustomize.config.k8s.io/v1beta1',
      kind: 'Kustomization',
      resources: ['../dev', 'mail.json', ...(prepared ? ['toxiproxy.json'] : [])],
      components: ['../../components/node-port'],
      images: ['app', 'edge'].map((target) => ({ name: `bodega-${target}`, newTag: version })),
      configMapGenerator: prepared
        ? [
            merged('bodega-parts', [
              `DATABASE_URL=postgres://${through('postgres')}/bodega`,
              `NATS_BROKER_URL=nats://${through('nats')}`,
            ]),
            merged('bodega-settings', [`S3_URL=http://${through('objectstore')}`]),
          ]
        : [],
      patches,
    }),
  )
  if (prepared) {
    const addresses = parts.map((part) => {
      const name = part === 'smtp' ? 'mail' : `bodega-${part}`
      return [part, `${name}:${roleNames.some((role) => role === part) ? 3000 : doorPorts[part]}`]
    })
    await buildToxiproxy(toxiproxy, join(cluster.dir, 'toxiproxy'), Object.fromEntries(addresses))
    const data = { SMTP_URL: Buffer.from(`smtp://${through('smtp')}`).toString('base64') }
    await k(['patch', 'secret', 'bodega', '-p', JSON.stringify({ data })])
    // Small disks and clocks are folders of the node, which a namespace of the level "restricted" forbids.
    await k(['label', 'namespace', cluster.namespace, '--overwrite', 'pod-security.kubernetes.io/enforce=privileged'])
  }
  const { out: rendered } = await k(['kustomize', overlay])
  const images = new Set([...rendered.matchAll(/^ *(?:- )?image: "?([^\s"]+)/gm)].map(([, image]) => image as string))
  await loadImages(
    cluster,
    version,
    [...images].filter((image) => image === toxiproxy || !image.startsWith('bodega-')),
  )
  await k(['apply', '-k', overlay])
  await cluster.settled(300)
  await cluster.reached()
  const node = new URL(cluster.url).hostname
  const doors: Record<string, string> = {}
  if (prepared)
    for (const door of ['api', 'edge'])
      doors[door] =
        `http://${node}:${await cluster.get('service/toxiproxy', `.spec.ports[?(@.name=="${door}")].nodePort`)}`

  const restarted: string[] = []
  const known = new Map<string, number>()
  /** Pods of a part, or of all, that are not on their way out, with the container that does the work. */
  async function look(part?: PartName) {
    const { out } = await k([
      ...['get', 'pods', '--field-selector=status.phase!=Succeeded', '-o'],
      'go-template={{range .items}}{{$pod := .metadata}}{{if not $pod.deletionTimestamp}}{{range .status.containerStatuses}}' +
        '{{.containerID}} {{.ready}} {{.restartCount}} {{index $pod.labels "app.kubernetes.io/component"}} {{$pod.name}}' +
        '{{"\\n"}}{{end}}{{end}}{{end}}',
      ...(part ? ['-l', `app.kubernetes.io/component=${componentOf(part)}`] : []),
    ])
    return out
      .split('\n')
      .filter(Boolean)
      .map((line) => {
        const [id, ready, restarts, component, pod] = line.split(' ') as string[]
        return {
          id: String(id).replace(/^.*\//, ''),
          ready: ready === 'true',
          restarts: Number(restarts),
          component,
          pod: String(pod),
        }
      })
  }
  /** Until other containers than these are there, and ready. */
  const back = (part: PartName, old: string[]) =>
    eventually(
      `${part} is back`,
      async () => {
        const now = await look(part)
        if (now.length > 0 && now.every(({ id, ready }) => ready && !old.includes(id))) return true
        await sleep(200)
        return false
      },
      150_000,
    )
  for (const { pod, restarts } of await look()) known.set(pod, restarts)
  const url = doors.edge ?? cluster.url
  const open = opening.move()
  return {
    url,
    inboxUrl: cluster.inboxUrl,
    rolls: true,
    asksTheReady: true,
    restarted,
    makeAdmin: (email) => cluster.command('auth', 'admin', email),
    sql: cluster.sql,
    async deadLetters() {
      return (await cluster.make(['dlq', 'TARGET=cluster'], { seconds: 300 })).out
    },
    cannot(part, fault) {
      if (fault === 'away') return 'the kubelet starts it again'
      if ((fault === 'ahead' || fault === 'behind') && !clocks?.has(part)) return 'no clock of its own'
      return fault === 'full' && !disks[part] ? noDisk(part) : undefined
    },
    async strike(part, fault) {
      const ids = (await look(part)).map(({ id }) => id)
      switch (fault) {
        case 'kill':
          for (const pid of ids.flatMap(processesOf).filter(isFirst)) process.kill(pid, 'SIGKILL')
          return async () => void (await back(part, ids))
        case 'freeze': {
          const thaw = freeze(ids.flatMap(processesOf))
          return async () => thaw()
        }
        case 'restart':
          await k(['rollout', 'restart', ownerOf(part)])
          await k(['rollout', 'status', ownerOf(part), '--timeout=180s'], { seconds: 190 })
          return async () => void (await back(part, ids))
        case 'slow':
        case 'reset':
          return spoil(doors.api as string, part, toxics[fault])
        case 'ahead':
        case 'behind':
          if (!clocks) break
          return clocks.strike(part, fault, async () => {
            if (part === 'postgres') return readDatabase(cluster.sql)
            if (part === 'edge') return readHttp(url)
            const [pod] = await cluster.pods(part)
            return Number((await k(['exec', pod as string, '-c', 'role', '--', 'node', '-e', readRole])).out)
          })
        case 'full': {
          const disk = disks[part]
          if (disk) {
            const empty = keepFull(disk)
            return async () => empty()
          }
        }
      }
      throw new Error(`${part} cannot have ${fault} here`)
    },
    async supervised() {
      for (const { pod, component, restarts } of await look()) {
        if (restarts > (known.get(pod) ?? 0)) restarted.push(component ?? pod)
        known.set(pod, restarts)
      }
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  } satisfies Stage
}

/** What gives the first container of a pod a clock of its own. */
function withClock(part: PartName, { fileOf, library, env }: Clocks) {
  const pod = '/spec/template/spec'
  const variables = Object.entries({ ...env, LD_PRELOAD: '/clock/library.so' })
  const files = { clock: [fileOf(part), '/etc/faketimerc'], library: [library, '/clock/library.so'] }
  return [
    ...variables.map(([name, value]) => ({ op: 'add', path: `${pod}/containers/0/env/-`, value: { name, value } })),
    ...Object.entries(files).flatMap(([name, [path, mountPath]]) => [
      { op: 'add', path: `${pod}/volumes/-`, value: { name, hostPath: { path, type: 'File' } } },
      { op: 'add', path: `${pod}/containers/0/volumeMounts/-`, value: { name, mountPath, readOnly: true } },
    ]),
  ]
}

/** Processes of this machine that are in a container. */
function processesOf(container: string): number[] {
  const found = readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && readOr(`/proc/${pid}/cgroup`).includes(container))
  if (found.length === 0) throw new Error(`no process of the container ${container} is on this machine`)
  return found
}
/** It is number 1 of its container. */
const isFirst = (pid: number) => /^NSpid:.*\t1$/m.test(readOr(`/proc/${pid}/status`))

function readOr(path: string) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    // It has just ended.
    return ''
  }
}
