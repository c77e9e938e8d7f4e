import { schedule } from 'node-cron'
import type { Db } from '../platform/db.ts'
import type { Logger } from '../platform/log.ts'
import { openCoordinator } from './coordinator.ts'
import { abandonedSlots, expireOrders, purgeRuns, remindUnpaid } from './store.ts'

export interface Job {
  name: string
  /** Five cron fields, in UTC. */
  pattern: string
  /** Works until nothing is left to do or the process stops, and says how much it did. Must bear being run twice. */
  run(db: Db, stopping: AbortSignal): Promise<{ orders: number }>
}

/** Repeats a batch until one comes back less than full. */
const inBatches = (step: (db: Db, batch: number) => Promise<number>): Job['run'] => {
  const batch = 500
  return async (db, stopping) => {
    let orders = 0
    for (let done = batch; done === batch && !stopping.aborted; orders += done) done = await step(db, batch)
    return { orders }
  }
}

export const jobs: Job[] = [
  { name: 'expire-orders', pattern: '* * * * *', run: inBatches(expireOrders) },
  { name: 'remind-unpaid', pattern: '* * * * *', run: inBatches(remindUnpaid) },
]

const minute = 60_000
const day = 24 * 60 * minute

/**
 * Runs the jobs, each slot on one replica. Half a minute after each tick, and at the start, it catches up: runs that
 * died with their replica within the last day, and the latest slot of a job if nobody took it. Older missed slots stay
 * missed, since the latest does their work too. Closing waits for running jobs.
 */
export function startSchedules({ db, stopping, log }: { db: Db; stopping: AbortSignal; log: Logger }): AsyncDisposable {
  const coordinator = openCoordinator({ db, stopping, log })
  const logger = {
    info: (message: string) => log.info(message),
    warn: (message: string) => log.warn(message),
    error: (message: string | Error, err?: Error) => log.error({ err: err ?? message }, 'schedule fault'),
    debug: (message: string | Error) => log.debug(String(message)),
  }
  const options = { timezone: 'UTC', noOverlap: true, logger }
  const tasks = jobs.map((job) =>
    schedule(job.pattern, ({ date }) => coordinator.run(job.name, date, () => job.run(db, stopping)), {
      ...options,
      name: job.name,
      distributed: true,
      runCoordinator: coordinator.ticks,
    }),
  )

  async function catchUp() {
    const now = Date.now()
    for (const [at, job] of jobs.entries()) {
      const latest = latestSlot((date) => tasks[at]?.match(date) ?? false, now)
      const abandoned = await abandonedSlots(db, job.name, new Date(now - day))
      for (const slot of [...abandoned, ...(latest ? [latest] : [])])
        if (await coordinator.claim(job.name, slot)) {
          log.warn({ job: job.name, slot }, 'missed run is caught up')
          await coordinator.run(job.name, slot, () => job.run(db, stopping))
        }
      await purgeRuns(db, job.name, new Date(now - 30 * day))
    }
  }
  let catching = Promise.resolve()
  const look = () => {
    catching = catchUp().catch((err) => log.warn({ err }, 'missed runs not looked for'))
    return catching
  }
  const looking = schedule('30 * * * * *', look, options)
  void look()

  return {
    async [Symbol.asyncDispose]() {
      await Promise.all([looking, ...tasks].map((task) => task.destroy()))
      await catching
      await coordinator[Symbol.asyncDispose]()
    },
  }
}

/** The newest slot not after `now` (Unix milliseconds), at most a day back. */
function latestSlot(matches: (date: Date) => boolean, now: number): Date | undefined {
  for (let time = now - (now % minute); time > now - day; time -= minute) {
    const date = new Date(time)
    if (matches(date)) return date
  }
  return undefined
}
