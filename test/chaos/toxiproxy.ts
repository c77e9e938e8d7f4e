import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { type Part, startChild } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import { run } from '../e2e/host.ts'
import { type PartName, parts } from './stage.ts'

const cache = join(import.meta.dirname, '../../.cache/toxiproxy')
const source = 'github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0'

/** Path of toxiproxy-server, on PATH or built by Go into .cache; undefined where it cannot be had. */
export function findToxiproxy(say: (text: string) => void): string | undefined {
  const places = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, 'toxiproxy-server'))
  return places.find(existsSync) ?? install(say)
}

/** Linked statically, so that it runs in an image of nothing else. */
function install(say: (text: string) => void): string | undefined {
  const built = join(cache, 'toxiproxy-server')
  if (existsSync(built)) return built
  say(`toxiproxy-server is missing: go install ${source}`)
  mkdirSync(cache, { recursive: true })
  const env = { ...process.env, GOBIN: cache, CGO_ENABLED: '0' }
  if (spawnSync('go', ['install', source], { env, stdio: 'inherit' }).status !== 0) return undefined
  renameSync(join(cache, 'server'), built)
  return built
}

/** What spoils a connection, each way of it. */
export const toxics = {
  slow: { type: 'latency', attributes: { latency: 150, jitter: 100 } },
  reset: { type: 'reset_peer' },
}
type Toxic = (typeof toxics)[keyof typeof toxics]

async function ask(api: string, method: string, path: string, body?: unknown) {
  const init = body === undefined ? {} : { body: JSON.stringify(body) }
  const answer = await fetch(`${api}${path}`, { method, ...init })
  if (!answer.ok) throw new Error(`toxiproxy: ${method} ${path}: ${answer.status} ${await answer.text()}`)
}

/** Spoils what passes a door of the toxiproxy at `api`, both ways; resolves with what takes it away again. */
export async function spoil(api: string, name: string, toxic: Toxic) {
  const streams = ['upstream', 'downstream'] as const
  const added: string[] = []
  const take = async () => {
    for (const stream of added.splice(0)) await ask(api, 'DELETE', `/proxies/${name}/toxics/${stream}`)
  }
  try {
    for (const stream of streams) {
      await ask(api, 'POST', `/proxies/${name}/toxics`, { ...toxic, name: stream, stream })
      added.push(stream)
    }
  } catch (error) {
    await take()
    throw error
  }
  return take
}

/** Ports of the doors in the image, and of toxiproxy's own. */
export const doorPorts: Record<PartName | 'api', number> = {
  ...{ auth: 3001, products: 3002, orders: 3003, notifications: 3004, edge: 8080 },
  ...{ postgres: 5432, nats: 4222, objectstore: 8333, smtp: 1025, api: 8474 },
}

/** Builds an image of toxiproxy in `dir`, with a door for each part that leads to its address. */
export async function buildToxiproxy(image: string, dir: string, upstreams: Record<PartName, string>) {
  const program = install((text) => process.stderr.write(`${text}\n`))
  if (!program) throw new Error('toxiproxy cannot be built here')
  mkdirSync(dir)
  cpSync(program, join(dir, 'toxiproxy-server'))
  const doors = parts.map((name) => {
    return { name, listen: `0.0.0.0:${doorPorts[name]}`, upstream: upstreams[name], enabled: true }
  })
  writeFileSync(join(dir, 'doors.json'), JSON.stringify(doors))
  writeFileSync(
    join(dir, 'Dockerfile'),
    'FROM scratch\nCOPY . /\nUSER 10001\nENTRYPOINT ["/toxiproxy-server", "-host", "0.0.0.0", "-config", "/doors.json"]\n',
  )
  await run('docker', ['build', '--quiet', '--tag', image, dir])
}

/** Starts toxiproxy with a door of 127.0.0.1 for each name, which leads to the port of that name. */
export async function startToxiproxy<Name extends string>(
  options: Part & { program: string; doors: Record<Name, { listen: number; port: number }> },
) {
  const { program, doors, log, signal } = options
  const [port] = await freePorts(1)
  const api = `http://127.0.0.1:${port}`
  const child = await startChild({
    name: 'toxiproxy',
    command: program,
    args: ['-host', '127.0.0.1', '-port', String(port)],
    log,
    signal,
    ready: async () => (await fetch(`${api}/version`)).ok,
  })
  const entries = Object.entries(doors) as [Name, { listen: number; port: number }][]
  for (const [name, door] of entries)
    await ask(api, 'POST', '/proxies', { name, listen: `127.0.0.1:${door.listen}`, upstream: `127.0.0.1:${door.port}` })
  return Object.assign(child, { spoil: (name: Name, toxic: Toxic) => spoil(api, name, toxic) })
}
