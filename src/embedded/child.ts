import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, fchownSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface User {
  uid: number
  gid: number
}

export interface ChildOptions {
  name: string
  command: string
  args: string[]
  /** The whole environment; nothing is inherited but what `baseEnv` names. */
  env?: Record<string, string>
  cwd?: string
  /** File that both output streams are appended to. */
  log: string
  /** True once the process does its work; a throw counts as not yet. */
  ready: () => Promise<boolean>
  /** Milliseconds until it must be ready. */
  deadline?: number
  /** Asks for an orderly stop. */
  stopSignal?: NodeJS.Signals
  /** Milliseconds an orderly stop may take before SIGKILL. */
  grace?: number
  /** Gives up waiting for `ready`, and stops the child. */
  signal?: AbortSignal | undefined
  /** Told when a process that was ready ends by itself or by a stranger's signal. */
  onEnd?: ((how: string, child: Child) => void) | undefined
  /** Runs before each start. */
  before?: () => Promise<void>
  /** User and group to run as, when this process is root. */
  user?: User | undefined
}

/** What every kind of child takes: see ChildOptions. */
export type Part = Pick<ChildOptions, 'log' | 'signal' | 'onEnd'>

/** A running child process; disposing it is an orderly stop. */
export interface Child extends AsyncDisposable {
  readonly name: string
  readonly log: string
  /** Process id; undefined while it does not run. */
  readonly pid: number | undefined
  /** Sends a signal; resolves once the process is gone if the signal was one that ends it. */
  kill(signal: NodeJS.Signals): Promise<void>
  /** Orderly stop, then SIGKILL after the grace; resolves when the process is gone. */
  stop(): Promise<void>
  /** Starts it again as it was, with `env` on top if given; it is stopped first where it still runs. */
  restart(env?: Record<string, string>): Promise<void>
}

// However this process leaves, nothing it started stays behind.
const alive = new Set<ChildProcess>()
process.once('exit', () => {
  for (const { pid } of alive)
    try {
      if (pid) process.kill(-pid, 'SIGKILL')
    } catch {
      // Gone between the look and the signal.
    }
})

/** Starts a process and waits until it is ready. Throws with the end of its log when it exits or is late. */
export async function startChild(options: ChildOptions): Promise<Child> {
  const { name, log, grace = 10_000, stopSignal = 'SIGTERM' } = options
  let env = options.env ?? {}
  let child: ChildProcess | undefined
  let asked = false

  async function start() {
    await options.before?.()
    const [command, ...args] = launcher(options)
    mkdirSync(dirname(log), { recursive: true })
    const from = sizeOf(log)
    const out = openSync(log, 'a', 0o600)
    // A program may open its output again by name, as /dev/stdout.
    if (options.user) fchownSync(out, options.user.uid, options.user.gid)
    // Detached: a Ctrl-C in the terminal reaches only the parent, which then stops its children in order.
    const started = spawn(command, args, {
      cwd: options.cwd,
      env: { ...baseEnv(), ...env },
      stdio: ['ignore', out, out],
      detached: true,
      ...(hasSetpriv ? {} : options.user),
    })
    closeSync(out)
    child = started
    asked = false
    alive.add(started)
    started.once('exit', () => alive.delete(started))
    let failed: Error | undefined
    started.once('error', (error) => {
      failed = error
    })
    const deadline = Date.now() + (options.deadline ?? 30_000)
    while (true) {
      if (failed) throw new Error(`${name} cannot be started: ${failed.message}`)
      if (!running(started))
        throw new Error(faultWithLog(`${name} ended (${endOf(started)}) before it was ready`, log, from))
      if (options.signal?.aborted) {
        await stop()
        options.signal.throwIfAborted()
      }
      if (await options.ready().catch(() => false)) break
      if (Date.now() > deadline) {
        const late = faultWithLog(`${name} was not ready in ${options.deadline ?? 30_000} ms`, log, from)
        await stop()
        throw new Error(late)
      }
      await sleep(20)
    }
    started.once('exit', () => asked || options.onEnd?.(endOf(started), handle))
  }

  async function kill(signal: NodeJS.Signals) {
    if (!child?.pid || !running(child)) return
    asked = true
    const gone = once(child, 'exit')
    // Only SIGKILL goes to the whole group: a killed nginx master would leave its workers behind.
    process.kill(signal === 'SIGKILL' ? -child.pid : child.pid, signal)
    if (signal === 'SIGKILL' || signal === stopSignal || signal === 'SIGTERM') await gone
  }

  async function stop() {
    if (!child || !running(child)) return
    const timer = setTimeout(() => void kill('SIGKILL'), grace)
    await kill(stopSignal)
    clearTimeout(timer)
  }

  const handle: Child = {
    name,
    log,
    get pid() {
      return child && running(child) ? child.pid : undefined
    },
    kill,
    stop,
    async restart(more) {
      await stop()
      env = { ...env, ...more }
      await start()
    },
    [Symbol.asyncDispose]: stop,
  }
  await start()
  return handle
}

const running = (child: ChildProcess) => child.pid !== undefined && child.exitCode === null && child.signalCode === null
/** How a process ended. */
const endOf = (child: ChildProcess) => child.signalCode ?? `exit code ${child.exitCode}`

const hasSetpriv = process.platform === 'linux' && spawnSync('setpriv', ['--version']).status === 0
// A stranger's uid cannot walk through root's private directories, where a checkout or a data directory may be.
// Without no_setuid_fixup, access(2) would not count the capability, and initdb asks access(2).
const walkCap = ['--securebits=+no_setuid_fixup', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search']
const mayWalk = hasSetpriv && process.getuid?.() === 0 && spawnSync('setpriv', [...walkCap, 'true']).status === 0

/** On Linux the child gets its stop signal when its parent dies, however that happens. */
function launcher({ command, args, user, stopSignal = 'SIGTERM' }: ChildOptions): [string, ...string[]] {
  const dies = hasSetpriv ? ['setpriv', '--pdeathsig', stopSignal.slice(3), ...asUser(user)] : []
  return [...dies, command, ...args] as [string, ...string[]]
}

/** For programs that must not be root: when we are, the user postgres where there is one, else nobody. */
export function plainUser(): User | undefined {
  if (process.getuid?.() !== 0) return undefined
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  const [, , uid, gid] = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody') ?? []
  if (uid === undefined || gid === undefined)
    throw new Error('there is no user nobody to run programs that refuse root')
  return { uid: Number(uid), gid: Number(gid) }
}

const asUser = (user?: User) =>
  user ? [`--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups', ...(mayWalk ? walkCap : [])] : []

/** Runs a command to its end; throws with its error output. `user` as in ChildOptions. */
export async function runToEnd(
  command: string,
  args: string[],
  options: {
    env?: Record<string, string>
    cwd?: string
    user?: User | undefined
    signal?: AbortSignal | undefined
  } = {},
) {
  const { user } = options
  const [program = command, ...rest] =
    user && hasSetpriv ? ['setpriv', ...asUser(user), command, ...args] : [command, ...args]
  try {
    const { stdout, stderr } = await run(program, rest, {
      cwd: options.cwd,
      env: { ...baseEnv(), ...options.env },
      signal: options.signal,
      maxBuffer: 64 * 1024 * 1024,
      ...(hasSetpriv ? {} : user),
    })
    return { stdout, stderr }
  } catch (error) {
    const { stdout, stderr, message } = error as Error & { stdout?: string; stderr?: string }
    throw new Error(`${command} ${args[0] ?? ''} failed: ${`${stdout ?? ''}${stderr ?? ''}`.trim() || message}`)
  }
}

/** What a child may know of our own environment. */
export function baseEnv(): Record<string, string> {
  const kept = ['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG']
  return Object.fromEntries(kept.flatMap((key) => (process.env[key] ? [[key, process.env[key]]] : [])))
}

const sizeOf = (file: string) => {
  try {
    return readFileSync(file).length
  } catch {
    return 0
  }
}

/** `message` with the last lines that a log got since `from` (bytes). */
function faultWithLog(message: string, log: string, from = 0) {
  const lines = readFileSync(log).subarray(from).toString().trimEnd().split('\n').slice(-25)
  return `${message}; the end of ${log}:\n${lines.map((line) => `    ${line}`).join('\n')}`
}
