import { randomUUID } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { RunCoordinator } from 'node-cron'
import { Counter, Histogram } from 'prom-client'
import type { Db } from '../platform/db.ts'
import type { Logger } from '../platform/log.ts'
import { registry } from '../platform/metrics.ts'
import { claimRun, finishRun, prolongRun } from './store.ts'

/** Does the work of a run and answers with what is worth keeping of it. */
type Work = () => Promise<Record<string, unknown>>

export interface Coordinator extends AsyncDisposable {
  /** What node-cron asks before each tick; its keys are `<job>:<slot as ISO 8601>`. */
  ticks: RunCoordinator
  /** True where this replica may run `job` at `slot`: nobody has, or whoever began it died, and it runs here at no other slot. */
  claim(job: string, slot: Date): Promise<boolean>
  /** Runs what was claimed, keeps its claim while it lasts, and enters the outcome in the ledger. Never throws. */
  run(job: string, slot: Date, work: Work): Promise<void>
}

const runs = new Counter({
  name: 'cron_runs_total',
  help: 'Runs of scheduled jobs on this replica, by result: done, failed',
  labelNames: ['job', 'result'],
  registers: [registry],
})
const durations = new Histogram({
  name: 'cron_run_duration_seconds',
  help: 'Time that a run of a scheduled job took',
  labelNames: ['job'],
  buckets: [0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300],
  registers: [registry],
})

/** Milliseconds that a claim holds without a sign of life, after which another replica takes the run over. */
export const lease = 30_000

export interface Run {
  db: Db
  log: Logger
  job: string
  slot: Date
  owner: string
}
/** Keeps the claim of a run while its work lasts. */
export async function whileClaimed<T>({ db, log, job, slot, owner }: Run, work: () => Promise<T>): Promise<T> {
  const beats = setInterval(() => {
    prolongRun(db, job, slot, owner, lease).catch((err) => log.warn({ err, job, slot }, 'claim of a run not prolonged'))
  }, lease / 3)
  try {
    return await work()
  } finally {
    clearInterval(beats)
  }
}

/**
 * Who runs what, over all replicas: the row of (job, slot) is the lock and the ledger. It needs no session of its own,
 * so it works through PgBouncer. Closing waits for the runs in hand.
 */
export function openCoordinator({ db, stopping, log }: { db: Db; stopping: AbortSignal; log: Logger }): Coordinator {
  const owner = randomUUID()
  const inHand = new Set<Promise<unknown>>()
  // One may wait for the mail server through many slots, each of which would begin the same work beside it.
  const running = new Set<string>()
  const kept = <T>(work: Promise<T>) => {
    inHand.add(work)
    void work.catch(() => undefined).finally(() => inHand.delete(work))
    return work
  }

  async function carryOut(job: string, slot: Date, work: Work) {
    running.add(job)
    const began = performance.now()
    let outcome: { result?: unknown; error?: string }
    try {
      const result = await whileClaimed({ db, log, job, slot, owner }, work)
      outcome = { result }
      log.info({ job, slot, result, ms: Math.round(performance.now() - began) }, 'job done')
    } catch (err) {
      outcome = { error: (err as Error).message || 'unknown' }
      log.error({ err, job, slot }, 'job failed')
    }
    runs.inc({ job, result: outcome.error === undefined ? 'done' : 'failed' })
    durations.observe({ job }, (performance.now() - began) / 1000)
    // Where this fails the run is taken over once its lease is over: work must bear being done twice.
    await finishRun(db, job, slot, owner, outcome).catch((err) => log.error({ err, job, slot }, 'outcome not entered'))
    running.delete(job)
  }

  const claim = (job: string, slot: Date) =>
    stopping.aborted || running.has(job) ? Promise.resolve(false) : kept(claimRun(db, job, slot, owner, lease))
  return {
    claim,
    run: (job, slot, work) => kept(carryOut(job, slot, work)),
    ticks: {
      shouldRun(key) {
        const colon = key.indexOf(':')
        return claim(key.slice(0, colon), new Date(key.slice(colon + 1)))
      },
    },
    async [Symbol.asyncDispose]() {
      while (inHand.size > 0) {
        await Promise.allSettled(inHand)
        // A claim that has just been won becomes a run one turn later.
        await nextTurn()
      }
    },
  }
}
