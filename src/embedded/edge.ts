import { chownSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, type Part, plainUser, runToEnd, startChild } from './child.ts'

/** Renders the edge's configuration into `dir` from `env` (see src/edge/render.sh) and starts nginx with it. */
export async function startEdge(
  options: Part & {
    program: string
    dir: string
    /** Address and port, as in EDGE_LISTEN. */
    listen: string
    env: Record<string, string>
  },
): Promise<Child & { url: string }> {
  const { program, dir, log, signal, onEnd, listen, env } = options
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const script = join(import.meta.dirname, '../edge/render.sh')
  const user = plainUser()
  if (user) chownSync(dir, user.uid, user.gid)
  await runToEnd('sh', [script, dir], { env: { ...env, EDGE_LISTEN: listen }, user })
  const url = `http://${listen.replace(/^0\.0\.0\.0(?=:)/, '127.0.0.1')}`
  const child = await startChild({
    name: 'nginx',
    command: program,
    args: ['-p', dir, '-c', 'nginx.conf', '-e', 'stderr', '-g', 'daemon off;'],
    log,
    signal,
    onEnd,
    user,
    // Lets requests that run finish; SIGTERM would cut them.
    stopSignal: 'SIGQUIT',
    grace: 5_000,
    ready: async () => (await fetch(`${url}/healthz`)).ok,
  })
  return Object.assign(child, { url })
}
