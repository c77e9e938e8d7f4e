import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { type Reader, type Role, settings } from '../../src/platform/config.ts'
import { roles } from '../../src/roles.ts'
import { differences } from './differences.ts'
import { type Fields, type Model, pods, rows, shown, toModels } from './model.ts'
import { clusters, type Form, type Manifest, type Rendered, root, type Target, targets } from './render.ts'

const roleNames = Object.keys(roles) as Role[]
/** Who reads the settings of whom: the example catalogue is loaded by a command of products. */
const readers: Record<string, Reader> = {
  ...Object.fromEntries([...roleNames, 'migrate', 'edge'].map((part) => [part, part])),
  seed: 'products',
}
/** What nginx is told beside the settings: its scripts read these. */
const edgeVariables = new Set(
  ['render.sh', 'start.sh'].flatMap((script) =>
    [...readFileSync(join(root, 'src/edge', script), 'utf8').matchAll(/\$\{(EDGE_[A-Z_]+|[A-Z]+_UPSTREAM)\b/g)].map(
      ([, name]) => name as string,
    ),
  ),
)
// PUBLIC_URL is where the edge's redirect to TLS leads.
edgeVariables.add('PUBLIC_URL')

type Template = Record<string, { used: Record<string, string> }>
const template = parse(readFileSync(join(root, 'secrets/template.yaml'), 'utf8')) as Template
/** Where a user mounts a key: "/secrets/DATABASE_USER" → "bodega/AUTH_DATABASE_USER" */
const mounts = (user: string) =>
  Object.entries(template).flatMap(([key, { used }]) =>
    used[user] ? [[`/secrets/${used[user]}`, `bodega/${key}`]] : [],
  )
/** Files that `make secrets` makes of keys, for servers that take no single values, and whose keys those are. */
const derived: Record<string, string> = { 'bodega/nats.vars': 'nats', 'bodega/s3.json': 'objectstore' }
/** Files of the operator's own, which no template makes. */
const given = ['bodega/TLS_CERT', 'bodega/TLS_KEY']

const starting = (fields: Fields, word: string) =>
  Object.entries(fields).flatMap(([field, value]) =>
    field.startsWith(`${word} `) ? [[field.slice(word.length + 1), value] as [string, string]] : [],
  )

/** Everything that is wrong with what was rendered, one line for each fault. */
export function faults(rendered: Rendered, form: Form, models = toModels(rendered)): string[] {
  const compared = rows(models, form, differences)
  const used = new Set(compared.map(({ difference }) => difference))
  return [
    ...compared
      .filter(({ equal, difference }) => !equal && !difference)
      .map(({ part, field, values }) => `${part}: ${field ? `${field}: ` : ''}${shown(values)}`),
    ...differences
      .filter((difference) => (difference.form ?? form) === form && !used.has(difference))
      .map(({ parts = [], field = '', reason }) => `${parts} ${field}: differs no more, or in another way: ${reason}`),
    ...targets.flatMap((target) => [
      ...roleFaults(target, models[target]),
      ...settingFaults(target, models[target]),
      ...secretFaults(target, models[target]),
    ]),
    ...clusters.flatMap((target) => unread(target, rendered[target])),
  ]
}

function roleFaults(target: Target, model: Model): string[] {
  return [
    ...roleNames
      .filter((role) => model[role]?.['env ROLE'] !== role)
      .map((role) => `${role}: missing in ${target}; src/roles.ts has it`),
    ...roleNames
      .map((role) => `${role.toUpperCase()}_UPSTREAM`)
      .filter((name) => !model.edge?.[`env ${name}`])
      .map((name) => `edge: env ${name} is missing in ${target}; src/roles.ts has that role`),
    ...Object.entries(model)
      .filter(([part, fields]) => fields['env ROLE'] && part !== 'seed' && !(roleNames as string[]).includes(part))
      .map(([part]) => `${part}: a role in ${target}; src/roles.ts has none of that name`),
  ]
}

function settingFaults(target: Target, model: Model): string[] {
  return Object.entries(readers).flatMap(([part, reader]) => {
    const fields = model[part]
    if (!fields) return []
    const known = Object.entries(settings).filter(([, s]) => (s.for as readonly Reader[]).includes(reader))
    const names = new Set(known.map(([name]) => name))
    const unknown = starting(fields, 'env').filter(
      ([name]) => !names.has(name) && !(part === 'edge' && edgeVariables.has(name)),
    )
    const needed = known.filter(([, s]) => !('default' in s) && !('optional' in s))
    const ports = ['LISTEN_PORT', 'METRICS_PORT'] as const
    const closed = ports.map((name) => fields[`env ${name}`] ?? settings[name].default)
    return [
      ...unknown.map(
        ([name]) => `${part}: env ${name} in ${target} is no setting of ${reader} (src/platform/config.ts)`,
      ),
      ...needed
        .filter(([name]) => fields[`env ${name}`] === undefined && fields[`secret /secrets/${name}`] === undefined)
        .map(([name]) => `${part}: ${name} is missing in ${target}, and ${reader} needs it (src/platform/config.ts)`),
      ...((roleNames as string[]).includes(part)
        ? closed
            .filter((port) => !fields[`port ${port}`])
            .map((port) => `${part}: port ${port} is missing in ${target}`)
        : []),
    ]
  })
}

/** A target mounts what secrets/template.yaml says, under the names that it says, and the authorities of the settings. */
function secretFaults(target: Target, model: Model): string[] {
  const parts = new Set(Object.keys(model).map((part) => part.split('/')[0] as string))
  return [...parts].flatMap((part) => {
    const whole = Object.entries(model).filter(([name]) => name === part || name.startsWith(`${part}/`))
    const found = new Map(whole.flatMap(([, fields]) => starting(fields, 'secret')))
    for (const [path, secret] of [...found])
      if (given.includes(secret)) found.delete(path)
      else if (derived[secret]) {
        found.delete(path)
        for (const [at = '', key = ''] of mounts(derived[secret])) found.set(at, key)
      }
    const user = part === 'seed' ? 'products' : part === 'database' ? 'migrate' : part
    const wanted = new Map(mounts(user) as [string, string][])
    if (whole.some(([, fields]) => fields['env PEERS']))
      for (const [at = '', key = ''] of mounts(`${part}-peers`)) wanted.set(at, key)
    for (const [name, setting] of Object.entries(settings))
      if (setting.type.name === 'PEM certificates' && (setting.for as readonly string[]).includes(user))
        wanted.set(`/secrets/${name}`, `bodega-authorities/${name}, if there`)
    // A command takes what it needs of its role's.
    const needed = part === user ? [...wanted] : []
    return [
      ...needed
        .filter(([path, secret]) => found.get(path) !== secret)
        .map(([path, secret]) => `${part}: ${secret} is missing at ${path} in ${target} (secrets/template.yaml)`),
      ...[...found]
        .filter(([path, secret]) => wanted.get(path) !== secret)
        .map(([path, secret]) => `${part}: ${secret} at ${path} in ${target} is not its own (secrets/template.yaml)`),
    ]
  })
}

/** Keys of the ConfigMaps that an environment comes from, and nobody reads. */
function unread(target: Target, objects: Manifest[]): string[] {
  const references = pods(objects)
    .flatMap(({ pod }) => [...(pod.initContainers ?? []), ...pod.containers])
    .flatMap(({ env = [] }) => env.flatMap(({ valueFrom }) => valueFrom?.configMapKeyRef ?? []))
  const read = new Set(references.map(({ name, key }) => `${name} ${key}`))
  const maps = new Set(references.map(({ name }) => name))
  return objects
    .filter(({ kind, metadata }) => kind === 'ConfigMap' && maps.has(metadata.name))
    .flatMap(({ metadata, data = {} }) =>
      Object.keys(data)
        .filter((key) => !read.has(`${metadata.name} ${key}`))
        .map((key) => `${key} of ConfigMap ${metadata.name} in ${target} is read by nobody`),
    )
}
