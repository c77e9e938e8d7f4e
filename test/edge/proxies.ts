import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, startChild } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import type { ProxyName } from '../../src/embedded/programs.ts'
import type { Role } from '../../src/platform/config.ts'

const examples = join(import.meta.dirname, '../../docs/proxies')

/** How each proxy is started with its example. */
const proxies: Record<ProxyName, { file: string; args(file: string, listen: string): string[] }> = {
  traefik: {
    file: 'traefik.yaml',
    args: (file, listen) => [
      `--entrypoints.shop.address=${listen}`,
      `--providers.file.filename=${file}`,
      '--global.checknewversion=false',
      '--global.sendanonymoususage=false',
    ],
  },
  caddy: { file: 'Caddyfile', args: (file) => ['run', '--adapter', 'caddyfile', '--config', file] },
  envoy: {
    file: 'envoy.yaml',
    args: (file) => ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'warning'],
  },
}

/** Starts a proxy with its example of docs/proxies, in which only addresses are changed to these roles' own. */
export async function startProxy(
  name: ProxyName,
  { program, dir, roles }: { program: string; dir: string; roles: Record<Role, { url: string }> },
): Promise<Child & { url: string }> {
  const [port = 0] = await freePorts(1)
  const { file, args } = proxies[name]
  let text = readFileSync(join(examples, file), 'utf8')
    .replace(/^:8080 \{/m, `http://:${port} {\n\tbind 127.0.0.1`)
    .replace('address: 0.0.0.0, port_value: 8080', `address: 127.0.0.1, port_value: ${port}`)
  for (const [role, { url }] of Object.entries(roles)) {
    const { host, hostname, port } = new URL(url)
    text = text
      .replaceAll(`${role}:3000`, host)
      .replaceAll(`address: ${role}, port_value: 3000`, `address: ${hostname}, port_value: ${port}`)
  }
  mkdirSync(dir, { recursive: true })
  const made = join(dir, file)
  writeFileSync(made, text)
  const url = `http://127.0.0.1:${port}`
  const child = await startChild({
    name,
    command: program,
    args: args(made, `127.0.0.1:${port}`),
    env: { HOME: dir },
    log: join(dir, 'log'),
    ready: async () => (await fetch(`${url}/product?limit=1`)).ok,
  })
  return Object.assign(child, { url })
}
