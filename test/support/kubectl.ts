import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'

/**
 * Stands in for kubectl before a cluster that has one shop, with its database elsewhere; its release is called knowledge,
 * since that has the name of a component, edge, in it. What is in the cluster lies in $CLUSTER: replicas.json, pods.json, and
 * calls, with what was asked of it. At the command $HANG it writes the file `hangs` there, and waits for its end.
 */
const dir = process.env.CLUSTER as string
const [namespace, ...words] = process.argv[2] === '--namespace' ? process.argv.slice(3) : ['', ...process.argv.slice(2)]
const line = words.join(' ')
appendFileSync(join(dir, 'calls'), `${line}\n`)

const read = (name: string) => JSON.parse(readFileSync(join(dir, name), 'utf8'))
const write = (name: string, value: unknown) => writeFileSync(join(dir, name), JSON.stringify(value))
const print = (value: string) => process.stdout.write(value)
const fail = (message: string): never => {
  process.stderr.write(`error: ${message}\n`)
  process.exit(1)
}
const replicas: Record<string, number> = read('replicas.json')
const pods: string[] = read('pods.json')
const prefix = 'knowledge-bodega-'
const facts = 'server 18\nmigration auth 001_auth.sql\ntable auth.user 2 123\n'

/** The components that a selector means, of those that are there. */
function selected(kind: string) {
  const meant = line.match(/component in \(([^)]*)\)/)?.[1]?.split(',') ?? []
  const there = { deployments: Object.keys(replicas), jobs: ['migrate'] }[kind] ?? []
  return meant.filter((component) => there.includes(component))
}

function get(kind = '', output = '') {
  const components = selected(kind)
  if (output === 'name' && kind !== 'pods')
    return print(components.map((part) => `${kind}/${prefix}${part}\n`).join(''))
  if (!output.includes('.items')) return print(output.replace(/^jsonpath=/, ''))
  if (components.length === 0 && output.includes('items[0]')) fail('array index out of bounds: index 0, length 0')
  for (const component of components)
    print(
      output
        .replace(/^jsonpath=\{range \.items\[\*\]\}|\{end\}$/g, '')
        .replace('{.metadata.labels.app\\.kubernetes\\.io/component}', component)
        .replace('{.metadata.name}', prefix + component)
        .replace('{.spec.replicas}', String(replicas[component]))
        .replace('{"\\n"}', '\n'),
    )
}

async function exec(pod = '', command = '') {
  if (!pods.includes(pod)) fail(`pods "${pod}" not found`)
  if (command === process.env.HANG) {
    writeFileSync(join(dir, 'hangs'), '')
    await new Promise(() => setInterval(() => {}, 1000))
  }
  if (command === 'dump') print(`${facts}dump\nPGDMP and more`)
  if (command === 'objects-export') print('pictures')
  const expected = { read: 'PGDMP and more', restore: 'PGDMP and more', 'objects-import': 'pictures' }[command]
  if (expected && (await text(process.stdin)) !== expected) fail(`${command} was given something else`)
  if (command === 'restore') print(facts)
}

const [verb, first, second] = words
if (!namespace) print('somewhere\n')
else if (verb === 'get') get(first, words.at(-1))
else if (verb === 'exec')
  await exec(
    words.find((word) => word.startsWith('bodega-')),
    words.at(-1),
  )
else if (verb === 'create') {
  const pod = await text(process.stdin)
  appendFileSync(join(dir, 'calls'), pod)
  write('pods.json', [...pods, pod.match(/^ {2}name: (\S+)$/m)?.[1]])
} else if (verb === 'delete')
  write(
    'pods.json',
    pods.filter((pod) => !words.includes(pod)),
  )
else if (verb === 'scale' || verb === 'rollout') {
  const one = second?.match(/^(?:deployment\/)?(.*)$/)?.[1]?.replace(prefix, '') ?? ''
  const components = first === 'deployments' ? selected(first) : [one]
  for (const component of components) {
    if (!(component in replicas)) fail(`deployments.apps "${second}" not found`)
    if (verb === 'scale') replicas[component] = Number(line.match(/--replicas=(\d+)/)?.[1])
  }
  write('replicas.json', replicas)
} else if (verb !== 'wait') fail(`unknown command ${verb}`)
