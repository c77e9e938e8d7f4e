import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism, homedir, tmpdir } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '../..')

export interface Ended {
  code: number
  /** What it wrote to standard output. */
  out: string
  /** What it wrote at all, in order. */
  all: string
}
interface RunOptions {
  env?: Record<string, string>
  /** Seconds until it is killed. */
  seconds?: number
  /** What it reads from standard input. */
  input?: string | Buffer
  /** Any exit code is an answer, instead of a fault for all but 0. */
  any?: boolean
  cwd?: string
  signal?: AbortSignal
}

/** Runs a program to its end; throws with its words when it fails or takes longer than `seconds` (120). */
export async function run(command: string, args: string[], options: RunOptions = {}): Promise<Ended> {
  const { env = {}, seconds = 120, input, any = false, cwd = root, signal } = options
  // A group of its own: what it starts ends with it.
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, detached: true })
  let out = ''
  let all = ''
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk
    all += chunk
  })
  child.stderr.on('data', (chunk: Buffer) => {
    all += chunk
  })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  let late = false
  const strike = (why: 'SIGKILL' | 'SIGTERM') => {
    try {
      process.kill(-(child.pid as number), why)
    } catch {
      // It has just ended.
    }
  }
  const timer = setTimeout(() => {
    late = true
    strike('SIGKILL')
  }, seconds * 1000)
  const interrupt = () => strike('SIGTERM')
  signal?.addEventListener('abort', interrupt)
  const [code] = (await once(child, 'close')) as [number | null]
  clearTimeout(timer)
  signal?.removeEventListener('abort', interrupt)
  const what = `${command} ${args.join(' ')}`
  if (late) throw new Error(`${what}: not done in ${seconds} s\n${all.slice(-4000)}`)
  if (code !== 0 && !any) throw new Error(`${what}: ended with ${code}\n${all.slice(-4000)}`)
  return { code: code ?? -1, out: out.trim(), all }
}

/** Why these tests cannot run on this machine, or undefined. */
export async function lacking(): Promise<string | undefined> {
  const works = async (command: string, ...args: string[]) => {
    try {
      return (await run(command, args, { any: true, seconds: 20 })).code === 0
    } catch {
      return false
    }
  }
  if (!(await works('docker', 'info'))) return 'no Docker answers'
  if (!(await works('docker', 'compose', 'version'))) return 'Docker has no compose'
  if (!(await works('sops', '--version', '--disable-version-check'))) return 'sops is not installed'
  if (!(await works('age-keygen', '--version'))) return 'age is not installed'
  return undefined
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

export type Host = Awaited<ReturnType<typeof openHost>>

/**
 * A machine of an operator's: a clean clone, a home of its own, a Compose project and ports that nothing else has.
 * `version` is the tag of the images; hosts of one version share them. Closing removes containers, volumes and files.
 */
export async function openHost({ version, env = {} }: { version: string; env?: Record<string, string> }) {
  const dir = mkdtempSync(join(tmpdir(), 'bodega-e2e-'))
  const clone = join(dir, 'bodega')
  const home = join(dir, 'home')
  mkdirSync(home)
  await run('git', ['clone', '--quiet', root, clone])
  // By the first number, test/run.ts finds what an interrupted run has left.
  const project = `bodega-e2e-${process.env.BODEGA_E2E_RUN ?? 'x'}-${randomBytes(3).toString('hex')}`
  const [port, mailPort, httpPort] = [await freePort(), await freePort(), await freePort()]
  const plugins = process.env.DOCKER_CONFIG ?? join(homedir(), '.docker')
  const settings: Record<string, string> = {
    HOME: home,
    XDG_CONFIG_HOME: join(home, '.config'),
    SOPS_AGE_KEY_FILE: join(home, 'keys.txt'),
    GIT_AUTHOR_NAME: 'test',
    GIT_AUTHOR_EMAIL: 'test@example.org',
    GIT_COMMITTER_NAME: 'test',
    GIT_COMMITTER_EMAIL: 'test@example.org',
    ...(existsSync(plugins) ? { DOCKER_CONFIG: plugins } : {}),
    COMPOSE_PROJECT_NAME: project,
    BODEGA_VERSION: version,
    BODEGA_BIND: '127.0.0.1',
    BODEGA_PORT: String(port),
    BODEGA_HTTP_PORT: String(httpPort),
    BODEGA_MAIL_PORT: String(mailPort),
    ...env,
  }
  const on = (command: string, args: string[], options: RunOptions = {}) =>
    run(command, args, { cwd: clone, ...options, env: { ...settings, ...options.env } })
  const compose = (args: string[], options?: RunOptions) => on('docker', ['compose', ...args], options)
  const make = (args: string[], options?: RunOptions) => on('make', ['--no-print-directory', ...args], options)

  return {
    dir,
    clone,
    home,
    project,
    port,
    httpPort,
    settings,
    inboxUrl: `http://127.0.0.1:${mailPort}`,
    on,
    compose,
    make,
    /** A purchase, step by step, as a person at another machine would take it. */
    async tour(url: string, env: Record<string, string> = {}) {
      const { out } = await run('make', ['tour', `URL=${url}`, `INBOX=http://127.0.0.1:${mailPort}`], { env })
      return out
    },
    /** Ids of a service's containers, or of all. */
    async containers(service?: string, all = false) {
      const { out } = await compose([
        'ps',
        '--quiet',
        '--no-trunc',
        ...(all ? ['--all'] : []),
        ...(service ? [service] : []),
      ])
      return out.split('\n').filter(Boolean)
    },
    async inspect(id: string, format: string) {
      return (await run('docker', ['inspect', '--format', format, id])).out
    },
    /** The answer of the inner database to one statement, a line a row, fields parted by |. */
    async sql(statement: string) {
      const args = ['exec', '-T', 'postgres', 'psql', '-X', '-q', '-A', '-t', '-U', 'postgres', '-d', 'bodega']
      const { out } = await compose([...args, '-v', 'ON_ERROR_STOP=1'], { input: statement })
      return out.split('\n').filter(Boolean)
    },
    /** Takes everything down and says with which code each container ended, by name. */
    async down(...args: string[]) {
      const since = String(Math.floor(Date.now() / 1000))
      await compose(['down', ...args])
      const { out } = await run('docker', [
        ...['events', '--since', since, '--until', String(Math.floor(Date.now() / 1000) + 1)],
        ...['--filter', 'event=die', '--filter', `label=com.docker.compose.project=${project}`],
        ...['--format', '{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}'],
      ])
      return Object.fromEntries(
        out
          .split('\n')
          .filter(Boolean)
          .map((line) => line.split(' ') as [string, string]),
      )
    },
    write(path: string, text: string | Buffer, mode = 0o644) {
      writeFileSync(join(clone, path), text, { mode })
    },
    copy: (from: string, to: string) => cpSync(from, join(clone, to)),
    async [Symbol.asyncDispose]() {
      await compose(['--profile', '*', 'down', '--volumes', '--remove-orphans', '--timeout', '5'], { any: true })
      if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

/** Removes the images of a version, and what its builds left without a name. */
export async function removeImages(...versions: string[]) {
  for (const version of versions)
    for (const name of ['bodega-app', 'bodega-edge'])
      await run('docker', ['image', 'rm', '--force', `${name}:${version}`], { any: true })
}

/** How many times longer than on a machine of its own work takes here now, since others work too: 1 is idle. */
export async function crowding(): Promise<number> {
  const burn = 'while (process.cpuUsage().user < 500_000);'
  const began = performance.now()
  await Promise.all(Array.from({ length: availableParallelism() }, () => run(process.execPath, ['-e', burn])))
  return Math.max(1, (performance.now() - began) / 600)
}
