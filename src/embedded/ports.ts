import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { connect, createServer } from 'node:net'

// Below Linux's range for outgoing connections (32768 up), so that a service that restarts finds its port again.
const lowest = 10_240
const highest = 32_000

/**
 * `count` TCP ports of 127.0.0.1 that nothing listens on. They stay ours until this process ends: each is claimed by
 * holding the UDP port of the same number, which every other caller of this function respects.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = []
  while (ports.length < count) {
    const port = lowest + Math.floor(Math.random() * (highest - lowest))
    if ((await claim(port)) && (await isFree(port))) ports.push(port)
  }
  return ports
}

const claim = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = createSocket('udp4').unref()
    socket.once('error', () => resolve(false))
    socket.bind({ port, address: '127.0.0.1', exclusive: true }, () => resolve(true))
  })

/** Whether nothing listens on a TCP port of `host`, and we may. */
export const isFree = async (port: number, host = '127.0.0.1') => (await whyNotFree(port, host)) === undefined

/** Why we cannot listen on a TCP port of `host`, as the system's code such as EADDRINUSE or EACCES; undefined where we can. */
export async function whyNotFree(port: number, host = '127.0.0.1'): Promise<string | undefined> {
  const fault = await new Promise<string | undefined>((resolve) => {
    const server = createServer()
    server.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code ?? 'unknown'))
    server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(undefined)))
  })
  return fault ?? ((await answers(port, host)) ? 'EADDRINUSE' : undefined)
}

/** Whether something accepts connections on a TCP port. */
export const answers = (port: number, host = '127.0.0.1') =>
  new Promise<boolean>((resolve) => {
    const socket = connect({ port, host: host === '0.0.0.0' ? '127.0.0.1' : host })
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })

/** The process that listens on a TCP port, as `name (process 123)`, or words that say why it cannot be told. */
export function whoListens(port: number): string {
  const pid = process.platform === 'linux' ? listenerOnLinux(port) : listenerByLsof(port)
  return pid === undefined ? 'a process of another user' : `${commandOf(pid)} (process ${pid})`
}

function listenerOnLinux(port: number) {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const sockets = new Set<string>()
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6'])
    for (const line of read(table).split('\n').slice(1)) {
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/)
      if (state === '0A' && local?.endsWith(`:${hex}`)) sockets.add(`socket:[${inode}]`)
    }
  return processes().find((pid) => list(`/proc/${pid}/fd`).some((fd) => sockets.has(link(`/proc/${pid}/fd/${fd}`))))
}

function listenerByLsof(port: number) {
  const found = attempt(() =>
    execFileSync('lsof', ['-nP', '-t', `-iTCP:${port}`, '-sTCP:LISTEN'], { encoding: 'utf8' }),
  )
  return found ? Number.parseInt(found, 10) : undefined
}

/** The command line of a running process, shortened; undefined when there is none with this id. */
export function commandOf(pid: number): string | undefined {
  const line =
    process.platform === 'linux'
      ? read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim()
      : attempt(() => execFileSync('ps', ['-p', String(pid), '-o', 'command='], { encoding: 'utf8' }).trim())
  return line ? (line.length > 80 ? `${line.slice(0, 79)}…` : line) : undefined
}

/** Ids of the processes that work in a directory (empty where there is no /proc). */
export const processesIn = (dir: string) => processes().filter((pid) => link(`/proc/${pid}/cwd`) === dir)

const processes = () =>
  list('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)

function attempt<T>(f: () => T): T | undefined {
  try {
    return f()
  } catch {
    return undefined
  }
}
const read = (file: string) => attempt(() => readFileSync(file, 'utf8')) ?? ''
const list = (dir: string) => attempt(() => readdirSync(dir)) ?? []
const link = (file: string) => attempt(() => readlinkSync(file)) ?? ''
