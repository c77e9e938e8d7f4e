import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { roleNames } from '../../src/platform/config.ts'
import type { Trial } from '../support/cases.ts'
import type { TestShop } from '../support/shop.ts'

/** A role has room for its own heap to grow; what a request keeps for ever would be more in a longer run. */
const growth = 100

const residentOf = (pid: number) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
/** Its other children leave by themselves, once they have looked through the cache; a young one has no name yet. */
export const workersOf = (pid: number) =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter((child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('worker'))
    .map(Number)

/** The processes that serve, each with the megabytes that it holds. */
export function processesOf(shop: TestShop, edge = shop.edge) {
  const pid = edge.pid as number
  const pids = [...roleNames.map((role) => shop.roles[role].pid as number), pid, ...workersOf(pid)]
  return new Map(pids.map((pid) => [pid, residentOf(pid)]))
}

/** The same processes serve as before, hold hardly more than before, and had no fault that they did not know. */
export async function unharmed(
  shop: TestShop,
  productId: string,
  { also }: Pick<Trial, 'also'>,
  before: Map<number, number>,
  { edge = shop.edge, edgeLog = 'nginx' } = {},
) {
  const logged = (name: string) => readFileSync(join(shop.dir, 'log', `${name}.log`), 'utf8')
  const after = processesOf(shop, edge)
  for (const [pid, held] of after)
    also(
      before.has(pid) && held < (before.get(pid) as number) + growth,
      () => `process ${pid}: ${before.get(pid)} → ${held} MB`,
    )
  also(before.size === after.size, () => 'a process is gone')
  for (const role of roleNames)
    also(
      !/"level":"(error|fatal)"/.test(logged(role)),
      () => `${role}: ${/.*"level":"(error|fatal)".*/.exec(logged(role))}`,
    )
  also(
    !/\[(alert|emerg)\]|exited on signal/.test(logged(edgeLog)),
    () => `nginx: ${/.*\[(alert|emerg)\].*/.exec(logged(edgeLog))}`,
  )
  const answer = await shop.call('GET', `/product/${productId}`)
  also(answer.status === 200 && answer.body.id === productId, () => `a good request: ${answer.status}`)
}

export async function inGroups<T>(all: T[], size: number, work: (group: T[]) => Promise<unknown>) {
  for (let i = 0; i < all.length; i += size) await work(all.slice(i, i + size))
}

/** How often a role was asked for a path, by its metrics. */
export async function askedFor(role: { metricsUrl: string }, path: string) {
  const text = await (await fetch(role.metricsUrl)).text()
  const lines = text
    .split('\n')
    .filter((line) => /^http_request_duration_seconds_count/.test(line) && line.includes(path))
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}
