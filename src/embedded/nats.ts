import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, type Part, startChild } from './child.ts'

export interface Nats extends Child {
  readonly port: number
  readonly monitorUrl: string
}

/** Starts nats-server with the shop's users and permissions, JetStream stored in `dir`, on 127.0.0.1 only. */
export async function startNats(
  options: Part & {
    program: string
    dir: string
    port: number
    monitorPort: number
    /** AUTH_NATS_PASSWORD and its like, which the configuration includes as nats.vars. */
    passwords: Record<string, string>
  },
): Promise<Nats> {
  const { program, dir, log, signal, onEnd, port, monitorPort, passwords } = options
  const conf = join(dir, 'conf', 'nats.conf')
  mkdirSync(join(dir, 'conf'), { recursive: true, mode: 0o700 })
  copyFileSync(join(import.meta.dirname, '../platform/nats.conf'), conf)
  const variables = Object.entries(passwords).map(([name, value]) => `${name}: ${JSON.stringify(value)}\n`)
  writeFileSync(join(dir, 'conf', 'nats.vars'), variables.join(''), { mode: 0o600 })
  const monitorUrl = `http://127.0.0.1:${monitorPort}`
  const child = await startChild({
    name: 'NATS',
    command: program,
    args: ['-c', conf, '-a', '127.0.0.1', '-p', String(port), '-sd', join(dir, 'store'), '-m', String(monitorPort)],
    log,
    signal,
    onEnd,
    ready: async () => (await fetch(`${monitorUrl}/healthz`)).ok,
  })
  return Object.assign(child, { port, monitorUrl })
}
