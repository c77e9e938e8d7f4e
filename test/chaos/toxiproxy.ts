import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { type Part, startChild } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'

const cache = join(import.meta.dirname, '../../.cache/toxiproxy')
const source = 'github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0'

/** Path of toxiproxy-server, on PATH or built by Go into .cache; undefined where it cannot be had. */
export function findToxiproxy(say: (text: string) => void): string | undefined {
  const built = join(cache, 'toxiproxy-server')
  const places = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, 'toxiproxy-server'))
  const found = [...places, built].find(existsSync)
  if (found) return found
  say(`toxiproxy-server is missing: go install ${source}`)
  mkdirSync(cache, { recursive: true })
  const { status } = spawnSync('go', ['install', source], { env: { ...process.env, GOBIN: cache }, stdio: 'inherit' })
  if (status !== 0) return undefined
  renameSync(join(cache, 'server'), built)
  return built
}

export type Toxic = { type: 'latency'; attributes: { latency: number; jitter: number } } | { type: 'reset_peer' }

/** Starts toxiproxy with a door of 127.0.0.1 for each name, which leads to the port of that name. */
export async function startToxiproxy<Name extends string>(
  options: Part & { program: string; doors: Record<Name, { listen: number; port: number }> },
) {
  const { program, doors, log, signal } = options
  const [port] = await freePorts(1)
  const api = `http://127.0.0.1:${port}`
  const ask = async (method: string, path: string, body?: unknown) => {
    const init = body === undefined ? {} : { body: JSON.stringify(body) }
    const answer = await fetch(`${api}${path}`, { method, ...init })
    if (!answer.ok) throw new Error(`toxiproxy: ${method} ${path}: ${answer.status} ${await answer.text()}`)
  }
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
    await ask('POST', '/proxies', { name, listen: `127.0.0.1:${door.listen}`, upstream: `127.0.0.1:${door.port}` })
  return Object.assign(child, {
    /** Spoils what passes a door, both ways; resolves with what takes it away again. */
    async spoil(name: Name, toxic: Toxic) {
      const streams = ['upstream', 'downstream'] as const
      for (const stream of streams) await ask('POST', `/proxies/${name}/toxics`, { ...toxic, name: stream, stream })
      return async () => {
        for (const stream of streams) await ask('DELETE', `/proxies/${name}/toxics/${stream}`)
      }
    },
  })
}
