import { execFile, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'

/** What is asked for, by one connection after the other answer, with no pause: a closed loop. */
export interface Load {
  url: string
  headers?: Record<string, string>
  /** Makes each request a POST of two lines with a key of its own, by the next caller (a header of his). */
  orders?: { callers: [header: string, value: string][]; products: string[] }
  /** Makes each request a POST of the next of these JSON texts. */
  bodies?: string[]
}
/** Milliseconds and requests a second. */
export interface Sample {
  rate: number
  p50: number
  p99: number
}
/** What came of requests at set moments: `rate` is of what was served while they came, the times of all that was served. */
export interface PacedSample extends Sample {
  /** Of all answers. */
  refusedShare: number
  refusedP99: number
  /** The share of the refusals that say when to come again. */
  hintedShare: number
  /** Microseconds of processor time that one request costs the generator. */
  cost: number
}
export interface Generator {
  name: string
  /** Loads a URL and waits for the end. Throws when an answer was a refusal or a connection broke. */
  run(load: Load, seconds: number, connections: number): Promise<Sample>
  /** Asks `rate` times a second, whether or not what went before is answered. Throws when a connection broke. */
  pace(load: Load, seconds: number, rate: number): Promise<PacedSample>
}

/** Connections at most, of requests at set moments. */
const most = 1000

const cache = join(import.meta.dirname, '../.cache/wrk')
const here = (file: string) => join(import.meta.dirname, file)

/** wrk from PATH or .cache; else Debian's package unpacked into .cache; else a small generator on Node.js. */
export function findGenerator(dir: string, say: (text: string) => void): Generator {
  const wrk = findWrk() ?? unpackWrk(say)
  if (wrk) return generator('wrk', dir, wrk.program, wrk.env)
  say('wrk is missing and cannot be unpacked here; loading from a Node.js process, which takes more of the machine')
  return generator('Node.js', dir, process.execPath, {})
}

function generator(name: string, dir: string, program: string, env: Record<string, string>): Generator {
  const run = promisify(execFile)
  const ask = async (command: string, args: string[], { url, orders, bodies }: Load, more = {}) => {
    const lines = bodies?.map((body) => `body ${body}`) ?? []
    if (orders) {
      const callers = orders.callers.map(([header, value]) => `caller ${header} ${value}`)
      lines.push(`run ${randomUUID()}`, ...callers, ...orders.products.map((id) => `product ${id}`))
    }
    const plan = join(dir, 'plan.txt')
    if (lines.length > 0) writeFileSync(plan, `${lines.join('\n')}\n`)
    const { stdout } = await run(command, args, {
      env: { ...process.env, ...more, ...(lines.length > 0 ? { PLAN: plan } : {}) },
    })
    const line = stdout.split('\n').findLast((text) => text.startsWith('{'))
    if (!line) throw new Error(`the load generator said nothing that is understood: ${stdout}`)
    const result = JSON.parse(line)
    if (result.broken > 0 || result.requests === 0)
      throw new Error(`${url}: of ${result.requests} requests ${result.broken} broke`)
    return result
  }
  const byNode = (load: Load, options: object) => [
    here('load-node.ts'),
    JSON.stringify({ url: load.url, headers: load.headers ?? {}, ...options }),
  ]
  return {
    name,
    async run(load, seconds, connections) {
      const { url, headers = {} } = load
      const args =
        name === 'wrk'
          ? [
              ...['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '10s', '-s', here('load.lua')],
              ...Object.entries(headers).flatMap(([header, value]) => ['-H', `${header}: ${value}`]),
              url,
            ]
          : byNode(load, { seconds, connections })
      const result = await ask(program, args, load, env)
      if (result.refused > 0) throw new Error(`${url}: of ${result.requests} requests ${result.refused} were refused`)
      return { rate: result.requests / result.seconds, p50: result.p50, p99: result.p99 }
    },
    async pace(load, seconds, rate) {
      const result = await ask(process.execPath, byNode(load, { seconds, connections: most, rate }), load)
      const { requests, refused, served, hinted, p50, p99, refusedP99, cost } = result
      return {
        rate: served / result.seconds,
        ...{ p50, p99, refusedP99, cost },
        refusedShare: refused / requests,
        hintedShare: refused ? hinted / refused : 1,
      }
    },
  }
}

function findWrk() {
  for (const dir of (process.env.PATH ?? '').split(delimiter))
    if (dir && existsSync(join(dir, 'wrk'))) return { program: join(dir, 'wrk'), env: {} }
  const program = join(cache, 'usr/bin/wrk')
  if (!existsSync(program)) return undefined
  const libraries = join(cache, 'usr/lib')
  const env = {
    LD_LIBRARY_PATH: readdirSync(libraries)
      .map((name) => join(libraries, name))
      .join(':'),
  }
  return spawnSync(program, ['-v'], { env, encoding: 'utf8' }).stdout?.includes('wrk') ? { program, env } : undefined
}

/** As nginx in src/embedded/programs.ts: the package and its one library are unpacked, and nothing is installed. */
function unpackWrk(say: (text: string) => void) {
  if (process.platform !== 'linux' || spawnSync('dpkg-deb', ['--version']).status !== 0) return undefined
  say(`wrk is missing: unpacking Debian's package into ${cache}`)
  mkdirSync(join(cache, '..'), { recursive: true })
  const dir = mkdtempSync(`${cache}.making-`)
  try {
    const options = { cwd: dir, stdio: 'ignore' as const }
    const packages = ['download', '-qq', 'wrk', 'libluajit-5.1-2']
    if (spawnSync('apt-get', packages, options).status !== 0) return undefined
    for (const file of readdirSync(dir)) spawnSync('dpkg-deb', ['-x', file, '.'], options)
    chmodSync(dir, 0o755)
    rmSync(cache, { recursive: true, force: true })
    renameSync(dir, cache)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  return findWrk()
}
