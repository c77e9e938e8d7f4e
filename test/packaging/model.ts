import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import {
  type ComposeFile,
  type Container,
  type Form,
  type Manifest,
  type PodSpec,
  type Rendered,
  root,
  type Service,
  type Target,
  targets,
} from './render.ts'

/** What a target says of one container: field → value, both as people read them. */
export type Fields = Record<string, string>
/** Part → its fields. What runs before a part in the same pod is `part/container`. */
export type Model = Record<string, Fields>
export type Models = Record<Target, Model>

/** Groups of fields, in the order of the table: the first word of a field. */
export const groups = [
  ...['image', 'command', 'env', 'secret', 'port', 'probe'],
  ...['user', 'root', 'capabilities', 'privileges', 'limit', 'grace'],
] as const

const list = (words: string[] | null | undefined) => (words?.length ? JSON.stringify(words) : undefined)
const seconds = (duration: string | undefined) => {
  const parts = [...(duration ?? '').matchAll(/([\d.]+)(ms|h|m|s)/g)]
  const unit = { ms: 0.001, s: 1, m: 60, h: 3600 } as Record<string, number>
  return parts.length ? `${parts.reduce((sum, [, n, u = '']) => sum + Number(n) * (unit[u] ?? 0), 0)} s` : undefined
}
/** 1 → 1000m, 500m → 500m */
const cpus = (cpu: string | number) => (String(cpu).endsWith('m') ? String(cpu) : `${Number(cpu) * 1000}m`)
const bytes = { Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 } as Record<string, number>
const memory = (size: string | number) => {
  const [, n = '', unit = ''] = `${size}`.match(/^(\d+)([KMG]i)?$/) ?? []
  return n ? `${(Number(n) * (bytes[unit] ?? 1)) / 2 ** 20}Mi` : `${size}`
}
/** Without those that a target does not name. */
const named = (fields: Record<string, string | undefined>) =>
  Object.fromEntries(Object.entries(fields).filter((entry): entry is [string, string] => entry[1] !== undefined))

const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8')
/** The user that a stage of the Dockerfile ends with. */
const imageUser = (stage: string) =>
  dockerfile
    .split(/^FROM /m)
    .find((text) => text.split('\n')[0]?.endsWith(` AS ${stage}`))
    ?.match(/(?<=^USER )\S+/gm)
    ?.at(-1)

/** Docker has one check: it asks what readiness asks in a cluster, as often as liveness does there. */
function composeProbe({ healthcheck: check, environment }: Service) {
  if (!check) return {}
  const words = check.test.join(' ').replace("' + process.env.LISTEN_PORT + '", `${environment?.LISTEN_PORT}`)
  const url = words.match(/http:\/\/127\.0\.0\.1(:\d+\/[^\s']*)/)?.[1]
  return {
    'probe ready': url ? `http ${url}` : list(check.test.slice(1)),
    'probe start every': seconds(check.start_interval),
    'probe start for': seconds(check.start_period),
    'probe live every': seconds(check.interval),
    'probe live timeout': seconds(check.timeout),
    'probe live failures': check.retries?.toString(),
  }
}

/** A file of $BODEGA_SECRETS is a key of the Secret; one that is empty unless named, of that of the authorities. */
const secretOf = ({ secrets }: ComposeFile, source: string) => {
  const file = secrets[source]?.file
  if (file === '/dev/null') return `bodega-authorities/${source}, if there`
  return file?.startsWith('/run/bodega/') ? `bodega/${basename(file)}` : String(file)
}

function service(file: ComposeFile, part: Service): Fields {
  const limits = part.deploy?.resources?.limits
  return named({
    image: part.image,
    'command entrypoint': list(part.entrypoint),
    'command arguments': list(part.command),
    ...Object.fromEntries(Object.entries(part.environment ?? {}).map(([name, value]) => [`env ${name}`, `${value}`])),
    ...Object.fromEntries((part.secrets ?? []).map((s) => [`secret ${s.target}`, secretOf(file, s.source)])),
    ...Object.fromEntries(
      [...(part.expose ?? []), ...(part.ports ?? []).map(({ target }) => target)].map((port) => [
        `port ${port}`,
        'tcp',
      ]),
    ),
    ...composeProbe(part),
    user: part.user ?? (part.build ? imageUser(part.build.target) : undefined),
    root: part.read_only ? 'read-only' : 'writable',
    capabilities: `drop ${part.cap_drop ?? 'none'}, add ${part.cap_add ?? 'none'}`,
    privileges: part.security_opt?.includes('no-new-privileges:true') ? 'never more' : 'may grow',
    'limit cpu': limits?.cpus === undefined ? undefined : cpus(limits.cpus),
    'limit memory': limits?.memory === undefined ? undefined : memory(limits.memory),
    grace: seconds(part.stop_grace_period ?? '10s'),
  })
}

function probe(name: string, container: Container, check: Container['startupProbe']) {
  if (!check) return {}
  const port = (p: string | number = '') => container.ports?.find((known) => known.name === p)?.containerPort ?? p
  const { httpGet, tcpSocket, exec, periodSeconds = 10, timeoutSeconds = 1, failureThreshold = 3 } = check
  const asked = httpGet ? `http :${port(httpGet.port)}${httpGet.path}` : list(exec?.command)
  return {
    [`probe ${name}`]: asked ?? `tcp :${port(tcpSocket?.port)}`,
    [`probe ${name} every`]: `${periodSeconds} s`,
    [`probe ${name} timeout`]: `${timeoutSeconds} s`,
    ...(name === 'start'
      ? { 'probe start for': `${periodSeconds * failureThreshold} s` }
      : { [`probe ${name} failures`]: `${failureThreshold}` }),
  }
}

function environment(container: Container, objects: Manifest[]) {
  return (container.env ?? []).map(({ name, value, valueFrom }) => {
    const from = valueFrom?.configMapKeyRef
    const map = from && objects.find((o) => o.kind === 'ConfigMap' && o.metadata.name === from.name)
    const found = from
      ? (map?.data?.[from.key] ?? `no ${from.key} in ConfigMap ${from.name}`)
      : (value ?? JSON.stringify(valueFrom) ?? '')
    return [`env ${name}`, found]
  })
}

function mounted(container: Container, pod: PodSpec) {
  return (container.volumeMounts ?? []).flatMap(({ name, mountPath }) => {
    const volume = pod.volumes?.find((v) => v.name === name)
    const sources = (volume?.projected?.sources ?? []).flatMap(({ secret }) => secret ?? [])
    if (volume?.secret) sources.push({ ...volume.secret, name: volume.secret.secretName })
    return sources.flatMap((secret) =>
      (secret.items ?? [{ key: '*', path: '*' }]).map(({ key, path }) => [
        `secret ${mountPath}/${path}`,
        `${secret.name}/${key}${secret.optional ? ', if there' : ''}`,
      ]),
    )
  })
}

function container(part: Container, pod: PodSpec, objects: Manifest[]): Fields {
  const own = { ...pod.securityContext, ...part.securityContext }
  const { cpu, memory: ram, ...limits } = part.resources?.limits ?? {}
  return named({
    image: part.image,
    'command entrypoint': list(part.command),
    'command arguments': list(part.args),
    ...Object.fromEntries(environment(part, objects)),
    ...Object.fromEntries(mounted(part, pod)),
    ...Object.fromEntries(
      (part.ports ?? []).map((p) => [`port ${p.containerPort}`, (p.protocol ?? 'TCP').toLowerCase()]),
    ),
    ...probe('start', part, part.startupProbe),
    ...probe('ready', part, part.readinessProbe),
    ...probe('live', part, part.livenessProbe),
    user: own.runAsUser === undefined ? undefined : `${own.runAsUser}:${own.runAsGroup}`,
    root: own.readOnlyRootFilesystem ? 'read-only' : 'writable',
    capabilities: `drop ${own.capabilities?.drop ?? 'none'}, add ${own.capabilities?.add ?? 'none'}`,
    privileges: own.allowPrivilegeEscalation === false ? 'never more' : 'may grow',
    'limit cpu': cpu && cpus(cpu),
    'limit memory': ram && memory(ram),
    ...Object.fromEntries(Object.entries(limits).map(([what, limit]) => [`limit ${what}`, limit])),
    grace: `${pod.terminationGracePeriodSeconds ?? 30} s`,
  })
}

/** The pods of a cluster's objects, by the part that they are. */
export const pods = (objects: Manifest[]) =>
  objects.flatMap((object) => {
    const template = object.kind === 'Pod' ? { metadata: object.metadata, spec: object.spec } : object.spec?.template
    const pod = template?.spec as PodSpec | undefined
    if (!pod?.containers) return []
    const labels = template?.metadata?.labels ?? {}
    return { part: labels['app.kubernetes.io/component'] ?? object.metadata.name, object, labels, pod }
  })

function cluster(objects: Manifest[]): Model {
  const model: Model = {}
  for (const { part, object, pod } of pods(objects)) {
    // `helm test` is no part of the shop.
    if (object.metadata.annotations?.['helm.sh/hook'] === 'test') continue
    for (const before of pod.initContainers ?? []) model[`${part}/${before.name}`] = container(before, pod, objects)
    for (const [at, main] of pod.containers.entries())
      model[at ? `${part}/${main.name}` : part] = container(main, pod, objects)
  }
  return model
}

export const toModel = (target: Target, rendered: Rendered): Model =>
  target === 'compose'
    ? Object.fromEntries(
        Object.entries(rendered.compose.services).map(([name, part]) => [name, service(rendered.compose, part)]),
      )
    : cluster(rendered[target])

export const toModels = (rendered: Rendered) =>
  Object.fromEntries(targets.map((target) => [target, toModel(target, rendered)])) as Models

/** A difference that has a reason. It holds only as it is written here: any other value is a fault again. */
export interface Difference {
  /** All parts, unless said. */
  parts?: readonly string[]
  /** Both forms, unless said. */
  form?: Form
  /** Whole parts are missing, where no field is said. */
  field?: string | RegExp
  /** Its value there; null where it has none; any, unless said. */
  compose?: string | null
  /** Its value in both others, or that made from Compose's; null where they have none; any, unless said. */
  cluster?: string | null | ((compose: string) => string)
  reason: string
}

type Values = Record<Target, string | undefined>
const covers = ({ parts, form, field }: Difference, part: string, name: string | undefined, inForm: Form) =>
  (!parts || parts.includes(part)) &&
  (!form || form === inForm) &&
  (typeof field === 'string' || field === undefined ? field === name : name !== undefined && field.test(name))
const holds = ({ compose, cluster }: Difference, values: Values) =>
  (compose === undefined ? values.compose !== undefined : (values.compose ?? null) === compose) &&
  values.kustomize === values.helm &&
  (cluster === undefined
    ? values.helm !== undefined
    : (values.helm ?? null) === (typeof cluster === 'function' ? cluster(values.compose ?? '') : cluster))

export interface Row {
  part: string
  /** Missing where the part itself is not everywhere. */
  field?: string
  values: Values
  equal: boolean
  /** Why the values differ; missing where they differ without a reason. */
  difference?: Difference
}

/**
 * Every field of every part, in each target. A part that is not everywhere is a row without a field; its fields are
 * compared where it is.
 */
export function rows(models: Models, form: Form, differences: readonly Difference[]): Row[] {
  const row = (
    part: string,
    field: string | undefined,
    where: readonly Target[],
    of: (model: Model) => string | undefined,
  ) => {
    const values = Object.fromEntries(targets.map((target) => [target, of(models[target])])) as Values
    const equal = new Set(where.map((target) => values[target])).size === 1
    const difference = equal ? undefined : differences.find((d) => covers(d, part, field, form) && holds(d, values))
    return { part, field, values, equal, difference }
  }
  return [...new Set(targets.flatMap((target) => Object.keys(models[target])))].flatMap((part) => {
    const there = row(part, undefined, targets, (model) => model[part] && 'there')
    const where = targets.filter((target) => models[target][part])
    const fields = new Set(where.flatMap((target) => Object.keys(models[target][part] ?? {})))
    if (!there.equal && !there.difference) return [there]
    const known = [...fields].map((field) => row(part, field, where, (model) => model[part]?.[field]))
    return there.equal ? known : [there, ...known]
  })
}

/** "missing in helm, 10 in compose and kustomize" */
export function shown(values: Values): string {
  const said = new Map<string | undefined, Target[]>()
  for (const target of targets) said.set(values[target], [...(said.get(values[target]) ?? []), target])
  return [...said]
    .sort(([a], [b]) => Number(b === undefined) - Number(a === undefined))
    .map(([value, where]) => `${value ?? 'missing'} in ${where.join(' and ')}`)
    .join(', ')
}
