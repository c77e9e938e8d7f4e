import { setTimeout as pause } from 'node:timers/promises'
import type { Logger } from './log.ts'

export interface Check {
  check(): Promise<void>
  /** A dependency that the role can do without for a while is reported, and does not make it unready. */
  required: boolean
}
export type Checks = Record<string, Check>

export interface Readiness {
  ready: boolean
  checks: Record<string, string>
}

/** Asks every dependency, one second each at most. */
export async function readiness(checks: Checks): Promise<Readiness> {
  const results = await Promise.all(
    Object.entries(checks).map(async ([name, { check, required }]) => {
      const fault = await withTimeout(1000, check()).then(
        () => undefined,
        (error: Error) => error.message || error.name,
      )
      return { name, fault, stops: fault !== undefined && required }
    }),
  )
  return {
    ready: !results.some((r) => r.stops),
    checks: Object.fromEntries(results.map((r) => [r.name, r.fault ?? 'ok'])),
  }
}

/** The result of `work`; rejects where that takes more than `ms` milliseconds, and the work itself goes on. */
export function withTimeout<T>(ms: number, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer in ${ms} ms`)), ms)
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

/** Says in the log what a starting role waits for, with growing pauses, until everything answers. */
export async function announceReady(checks: Checks, log: Logger, stopping: AbortSignal) {
  const began = Date.now()
  for (let wait = 100; !stopping.aborted; wait = Math.min(wait * 2, 5000)) {
    const { ready, checks: states } = await readiness(checks)
    if (ready) return log.info({ checks: states, ms: Date.now() - began }, 'ready')
    log.warn({ checks: states, retryMs: wait }, 'waiting for dependencies')
    await pause(wait, undefined, { signal: stopping, ref: false }).catch(() => undefined)
  }
}
