import { pods } from './model.ts'
import type { Manifest } from './render.ts'

type Labels = Record<string, string>
interface Selector {
  matchLabels?: Labels
  matchExpressions?: { key: string; operator: string; values: string[] }[]
}
interface Peer {
  podSelector?: Selector
  namespaceSelector?: Selector
  ipBlock?: { cidr: string }
}
interface Rule {
  from?: Peer[]
  to?: Peer[]
  ports?: { port: number; protocol?: string }[]
}
export interface Policy {
  podSelector: Selector
  policyTypes?: string[]
  ingress?: Rule[]
  egress?: Rule[]
}
interface End {
  name: string
  labels: Labels
  where: 'here' | 'other namespace' | 'outside'
  ports: string[]
}

/** What no template shows of the operator's pods: they replicate, elect and back up among themselves, and ask the API. */
const operators: End = {
  name: 'db',
  labels: { 'postgres-operator.crunchydata.com/cluster': 'bodega-db' },
  where: 'here',
  ports: ['5432', 'any'],
}
const prometheus: End = {
  name: 'prometheus',
  labels: { 'app.kubernetes.io/name': 'prometheus' },
  where: 'other namespace',
  ports: [],
}
const outside: End = { name: 'outside', labels: {}, where: 'outside', ports: [] }
const dns = ['53', '53/udp', '5353', '5353/udp']

export const policiesOf = (objects: Manifest[]) =>
  objects.filter(({ kind }) => kind === 'NetworkPolicy').map(({ spec }) => spec as unknown as Policy)

function partsOf(objects: Manifest[]): End[] {
  const parts = pods(objects).filter(({ object }) => object.metadata.annotations?.['helm.sh/hook'] !== 'test')
  const ends = parts.map(
    ({ part, labels, pod }): End => ({
      name: part,
      labels,
      where: 'here',
      ports: pod.containers.flatMap(({ ports = [] }) => ports.map(({ containerPort }) => `${containerPort}`)),
    }),
  )
  return objects.some(({ kind }) => kind === 'PostgresCluster') ? [...ends, operators] : ends
}

/** The arrows that the code uses, as what was rendered tells it where others are: "orders → nats:4222". */
export function used(objects: Manifest[], smtp: string[]): string[] {
  const parts = partsOf(objects)
  const arrows = new Set<string>()
  const lead = (from: string, host: string, port: string) => {
    if (/^bodega-db-(pgbouncer|primary)$/.test(host)) return arrows.add(`${from} → db:${port}`)
    const service = objects.find(({ kind, metadata }) => kind === 'Service' && metadata.name === host)
    const selector = service?.spec?.selector as Labels | undefined
    const to =
      selector && parts.find(({ labels }) => Object.entries(selector).every(([key, value]) => labels[key] === value))
    arrows.add(`${from} → ${to?.name ?? 'outside'}:${port}`)
  }
  for (const { part, pod } of pods(objects).filter(({ part }) => parts.some(({ name }) => name === part))) {
    const config = (name: string, key: string) =>
      objects.find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === name)?.data?.[key]
    for (const { env = [], args = [], volumeMounts = [] } of [...(pod.initContainers ?? []), ...pod.containers]) {
      for (const { name, value, valueFrom } of env) {
        const from = valueFrom?.configMapKeyRef
        const text = (from ? config(from.name, from.key) : value) ?? ''
        if (/^(DATABASE_URL|NATS_BROKER_URL|S3_URL)$/.test(name)) {
          const url = new URL(text)
          lead(part, url.hostname, url.port || (url.protocol === 'https:' ? '443' : '80'))
        } else if (name.endsWith('_UPSTREAM')) lead(part, ...(text.split(':') as [string, string]))
        // Each server of the bus has the others' names; where they answer is the Service's.
        else if (name === 'PEERS') lead(part, text.split(' ')[0]?.split('.')[1] as string, '6222')
      }
      for (const [, host = '', port = ''] of args.join(' ').matchAll(/http:\/\/([a-z-]+):(\d+)/g))
        lead(part, host, port)
      const secrets = volumeMounts.flatMap(
        ({ name }) => pod.volumes?.find((volume) => volume.name === name)?.projected?.sources ?? [],
      )
      if (secrets.some(({ secret }) => secret?.items?.some(({ path }) => path === 'SMTP_URL')))
        for (const to of smtp) arrows.add(`${part} → ${to}`)
    }
    for (const { ports = [] } of pod.containers)
      if (ports.some(({ name }) => name === 'metrics')) arrows.add(`prometheus → ${part}:9090`)
  }
  for (const { name } of parts) for (const port of dns) arrows.add(`${name} → outside:${port}`)
  arrows.add('outside → edge:8080')
  // The inbox is read by whoever tries the shop.
  if (parts.some(({ name }) => name === 'mail')) arrows.add('outside → mail:1080')
  if (parts.includes(operators))
    for (const to of ['db:5432', 'db:any', 'outside:443', 'outside:6443', 'outside:8443', 'outside:16443'])
      arrows.add(`db → ${to}`)
  return [...arrows].sort()
}

/** The arrows that the policies let through. */
export function allowed(objects: Manifest[], policies = policiesOf(objects)): string[] {
  const parts = partsOf(objects)
  const named = policies
    .flatMap(({ ingress = [], egress = [] }) => [...ingress, ...egress])
    .flatMap(({ ports = [] }) => ports.map(portOf))
  const everyPort = [...new Set([...named, 'any'])]
  const through = (from: End, to: End, port: string) =>
    passes(policies, 'egress', from, to, port) && passes(policies, 'ingress', to, from, port)
  return [...parts, prometheus, outside]
    .flatMap((from) =>
      (from.where === 'here' ? [...parts, outside] : parts).flatMap((to) =>
        (to === outside ? everyPort : to.ports)
          // Where anyone may go, Prometheus is no arrow of its own.
          .filter((port) => through(from, to, port) && !(from === prometheus && through(outside, to, port)))
          .map((port) => `${from.name} → ${to.name}:${port}`),
      ),
    )
    .sort()
}

/** Whether a rule has pods at both ends: the overlay of the operator's database has none of the PostgreSQL of its own. */
export function hasEnds(objects: Manifest[], policy: Policy, { from, to }: Rule): boolean {
  const parts = partsOf(objects)
  const peers = from ?? to
  return (
    parts.some(({ labels }) => selects(policy.podSelector, labels)) &&
    (!peers || [...parts, prometheus, outside].some((end) => peers.some((peer) => reaches(peer, end))))
  )
}

const portOf = ({ port, protocol = 'TCP' }: { port: number; protocol?: string }) =>
  `${port}${protocol === 'UDP' ? '/udp' : ''}`

function passes(policies: Policy[], way: 'ingress' | 'egress', own: End, other: End, port: string): boolean {
  if (own.where !== 'here') return true
  const types = { ingress: 'Ingress', egress: 'Egress' }
  const isMeant = ({ policyTypes, egress }: Policy) =>
    policyTypes ? policyTypes.includes(types[way]) : way === 'ingress' || egress !== undefined
  const selecting = policies.filter((policy) => selects(policy.podSelector, own.labels) && isMeant(policy))
  if (selecting.length === 0) return true
  return selecting.some((policy) =>
    (policy[way] ?? []).some(({ from, to, ports }) => {
      const peers = way === 'ingress' ? from : to
      return (!ports || ports.some((p) => portOf(p) === port)) && (!peers || peers.some((peer) => reaches(peer, other)))
    }),
  )
}

function reaches({ podSelector, namespaceSelector, ipBlock }: Peer, { labels, where }: End): boolean {
  if (ipBlock) return where === 'outside'
  if (where === 'outside') return false
  if (namespaceSelector && Object.keys(namespaceSelector).length > 0)
    throw new Error('a namespace with labels is not modelled')
  return (where === 'here' || namespaceSelector !== undefined) && selects(podSelector ?? {}, labels)
}

function selects({ matchLabels = {}, matchExpressions = [] }: Selector, labels: Labels): boolean {
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values }) => {
      if (operator !== 'In') throw new Error(`${operator} is not modelled`)
      return values.includes(labels[key] ?? '')
    })
  )
}
