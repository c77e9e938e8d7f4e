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
    /** AUTH_NATS_PASSWORD and its like, which the configuration names. */
    passwords: Record<string, string>
  },
): Promise<Nats> {
  const { program, dir, log, signal, onEnd, port, monitorPort, passwords } = options
  const conf = join(import.meta.dirname, '../platform/nats.conf')
  const monitorUrl = `http://127.0.0.1:${monitorPort}`
  const child = await startChild({
    name: 'NATS',
    command: program,
    args: ['-c', conf, '-a', '127.0.0.1', '-p', String(port), '-sd', dir, '-m', String(monitorPort)],
    env: passwords,
    log,
    signal,
    onEnd,
    ready: async () => (await fetch(`${monitorUrl}/healthz`)).ok,
  })
  return Object.assign(child, { port, monitorUrl })
}
