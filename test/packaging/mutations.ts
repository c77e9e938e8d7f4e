import { pods } from './model.ts'
import type { Container, Manifest, PodSpec, Rendered, Service, Target } from './render.ts'

/** A change of one field in what a target renders. */
export interface Mutation {
  name: string
  apply(rendered: Rendered): void
}
type Tree = Record<string, unknown>

/** The fields that are compared, by where each target has them. Written anew here: the model may have forgotten one. */
const probe = ['httpGet.path', 'httpGet.port', 'exec.command.*', 'periodSeconds', 'timeoutSeconds', 'failureThreshold']
const secrets = ['volumes.*.secret', 'volumes.*.projected.sources.*.secret']
const fields = {
  container: {
    changed: [
      ...['image', 'command.*', 'args.*', 'env.*.name', 'env.*.value', 'env.*.valueFrom.fieldRef.fieldPath'],
      ...['env.*.valueFrom.configMapKeyRef.name', 'env.*.valueFrom.configMapKeyRef.key', 'ports.*.containerPort'],
      ...['startupProbe', 'readinessProbe', 'livenessProbe'].flatMap((at) => probe.map((field) => `${at}.${field}`)),
      ...['readOnlyRootFilesystem', 'allowPrivilegeEscalation', 'capabilities.drop.*'].map(
        (f) => `securityContext.${f}`,
      ),
      'resources.limits.*',
    ],
    removed: [
      ...[
        'image',
        'command',
        'command.*',
        'args',
        'args.*',
        'env.*',
        'ports.*',
        'resources.limits.*',
        'securityContext',
      ],
      ...['readOnlyRootFilesystem', 'allowPrivilegeEscalation', 'capabilities'].map((f) => `securityContext.${f}`),
      ...['startupProbe', 'readinessProbe', 'livenessProbe'],
    ],
    added: {
      env: { name: 'SOMETHING_NEW', value: 'x' },
      ports: { name: 'new', containerPort: 1234 },
      'securityContext.capabilities.add': 'NET_ADMIN',
    },
  },
  pod: {
    changed: [
      ...secrets.flatMap((at) => [`${at}.items.*.key`, `${at}.items.*.path`]),
      ...['volumes.*.secret.secretName', 'volumes.*.projected.sources.*.secret.name'],
      ...['securityContext.runAsUser', 'securityContext.runAsGroup', 'terminationGracePeriodSeconds'],
    ],
    removed: [...secrets.map((at) => `${at}.items.*`), 'volumes.*.projected.sources.*', 'securityContext'],
    added: Object.fromEntries(secrets.map((at) => [`${at}.items`, { key: 'SOMETHING_NEW', path: 'SOMETHING_NEW' }])),
  },
  service: {
    changed: [
      ...['image', 'entrypoint.*', 'command.*', 'environment.*', 'secrets.*.source', 'secrets.*.target', 'expose.*'],
      ...['ports.*.target', 'user', 'build.target', 'read_only', 'cap_drop.*', 'security_opt.*', 'stop_grace_period'],
      ...['interval', 'timeout', 'retries', 'start_period', 'start_interval'].map((field) => `healthcheck.${field}`),
      ...['deploy.resources.limits.cpus', 'deploy.resources.limits.memory'],
    ],
    removed: [
      ...['image', 'entrypoint', 'entrypoint.*', 'command', 'command.*', 'environment.*', 'secrets.*', 'expose.*'],
      ...['ports.*', 'healthcheck', 'user', 'read_only', 'cap_drop', 'security_opt', 'stop_grace_period'],
      ...['deploy.resources.limits.cpus', 'deploy.resources.limits.memory'],
    ],
    added: { expose: '1234', cap_add: 'NET_ADMIN', secrets: { source: 'JWT_KEYS', target: '/secrets/SOMETHING_NEW' } },
  },
}

/** Every change of every compared field of the parts, in one target. */
export function mutations(rendered: Rendered, target: Target, parts: readonly string[]): Mutation[] {
  if (target === 'compose')
    return parts
      .filter((part) => rendered.compose.services[part])
      .flatMap((part) => [
        ...changes(`compose ${part}`, (r) => r.compose.services[part] as Service, rendered, fields.service),
        ...checks(part, rendered.compose.services[part] as Service),
        {
          name: `compose ${part} environment, added`,
          apply({ compose }) {
            const service = compose.services[part] as Service
            service.environment = { ...service.environment, SOMETHING_NEW: 'x' }
          },
        },
        ...(rendered.compose.services[part]?.secrets ?? []).map(({ source }) => ({
          name: `compose ${part} file of ${source}`,
          apply: ({ compose }: Rendered) => change(compose, ['secrets', source, 'file']),
        })),
      ])
  const podOf = (r: Rendered, part: string) => pods(r[target]).find((p) => p.part === part)?.pod as PodSpec
  const found = pods(rendered[target]).filter(({ part }) => parts.includes(part))
  return found.flatMap(({ part, pod }) => [
    ...changes(`${target} ${part}`, (r) => podOf(r, part), rendered, fields.pod),
    ...(['initContainers', 'containers'] as const).flatMap((kind) =>
      (pod[kind] ?? []).flatMap(({ name }, i) => [
        ...changes(
          `${target} ${part}/${name}`,
          (r) => podOf(r, part)[kind]?.[i] as Container,
          rendered,
          fields.container,
        ),
        ...changes(`${target} ${part}/${name}`, (r) => secretMounts(podOf(r, part)[kind]?.[i] as Container), rendered, {
          changed: ['*.mountPath'],
          removed: [],
          added: {},
        }),
        ...configured(rendered[target], target, `${part}/${name}`, pod[kind]?.[i] as Container),
      ]),
    ),
  ])
}

const secretMounts = ({ volumeMounts = [] }: Container) => volumeMounts.filter(({ name }) => name === 'secrets')

/** The values that a container takes from ConfigMaps. */
const configured = (objects: Manifest[], target: 'kustomize' | 'helm', name: string, { env = [] }: Container) =>
  env.flatMap(({ valueFrom }) => {
    const from = valueFrom?.configMapKeyRef
    const at = objects.findIndex((o) => o.kind === 'ConfigMap' && o.metadata.name === from?.name)
    if (!from || at < 0) return []
    return [
      {
        name: `${target} ${name} ${from.key} of ${from.name}`,
        apply: (r: Rendered) => change(r[target], [`${at}`, 'data', from.key]),
      },
    ]
  })

/** Docker's check: the address that it asks, or each word of the command. */
function checks(part: string, { healthcheck }: Service): Mutation[] {
  const words = healthcheck?.test ?? []
  const url = words.findIndex((word) => word.includes('http://'))
  const replace = (at: number, from: RegExp, to: string) => ({
    name: `compose ${part} healthcheck.test.${at}: ${to}`,
    apply: ({ compose }: Rendered) => {
      const test = compose.services[part]?.healthcheck?.test as string[]
      test[at] = (test[at] as string).replace(from, to)
    },
  })
  if (url >= 0)
    return [replace(url, /127\.0\.0\.1:/, '127.0.0.1:1'), replace(url, /(readyz|healthz?|live|1080\/)/, '$1other')]
  return words.flatMap((_, at) => (at > 0 ? [replace(at, /$/, 'x')] : []))
}

function changes(
  name: string,
  locate: (rendered: Rendered) => unknown,
  rendered: Rendered,
  { changed, removed, added }: { changed: string[]; removed: string[]; added: Record<string, unknown> },
): Mutation[] {
  const object = locate(rendered)
  const each = (patterns: string[], verb: string, act: (object: unknown, place: string[]) => void) =>
    patterns.flatMap((pattern) =>
      places(object, pattern.split('.')).map((place) => ({
        name: `${name} ${place.join('.')}, ${verb}`,
        apply: (r: Rendered) => act(locate(r), place),
      })),
    )
  const lists = Object.entries(added).flatMap(([pattern, item]) => {
    const path = pattern.split('.')
    return places(object, path.slice(0, -1)).map((place) => ({
      name: `${name} ${[...place, path.at(-1)].join('.')}, added`,
      apply(r: Rendered) {
        const parent = at(locate(r), place) as Tree
        const key = path.at(-1) as string
        parent[key] = [...((parent[key] as unknown[]) ?? []), item]
      },
    }))
  })
  return [...each(changed, 'changed', change), ...each(removed, 'removed', remove), ...lists]
}

/** Where "containers.*.image" leads to in an object. */
function places(object: unknown, [step, ...rest]: string[]): string[][] {
  if (step === undefined) return object === undefined || object === null ? [] : [[]]
  if (typeof object !== 'object' || object === null) return []
  const keys = step === '*' ? Object.keys(object) : [step]
  return keys.flatMap((key) => places((object as Tree)[key], rest).map((place) => [key, ...place]))
}
const at = (object: unknown, place: string[]) => place.reduce((inner, key) => (inner as Tree)[key], object)

/** Another value of the same kind: "5s" → "15s", "bodega" → "bodegax". */
function change(object: unknown, place: string[]) {
  const parent = at(object, place.slice(0, -1)) as Tree
  const key = place.at(-1) as string
  const value = parent[key]
  if (typeof value === 'number') parent[key] = value + 1
  else if (typeof value === 'boolean') parent[key] = !value
  else parent[key] = /^\d/.test(`${value}`) ? `1${value}` : `${value}x`
}

function remove(object: unknown, place: string[]) {
  const parent = at(object, place.slice(0, -1)) as Tree
  const key = place.at(-1) as string
  if (Array.isArray(parent)) parent.splice(Number(key), 1)
  else delete parent[key]
}
