import { schedule } from 'node-cron'
import type { Db } from '../platform/db.ts'
import { openCoordinator } from './coordinator.ts'
import type { Deps } from './deps.ts'
import { sendDigests } from './digests.ts'
import {
  abandonedSlots,
  announceUnused,
  askFeedback,
  expireOrders,
  purgeAudit,
  purgeDigests,
  purgeKeys,
  purgeLogins,
  purgeMails,
  purgeRuns,
  remindCarts,
  remindUnpaid,
} from './store.ts'

export interface Job {
  name: string
  /** Five cron fields, in UTC. */
  pattern: string
  /** Works until nothing is left to do or the process stops, and says how much it did. Must bear being run twice. */
  run(deps: Deps): Promise<Record<string, number>>
}

/** Repeats a batch until one finds nothing left, or the process stops; counts `what`. */
const untilNone =
  (what: string, step: (db: Db, batch: number) => Promise<number>, batch = 500): Job['run'] =>
  async ({ db, stopping }) => {
    let sum = 0
    for (let done = 1; done > 0 && !stopping.aborted; sum += done) done = await step(db, batch)
    return { [what]: sum }
  }

/** One after the other, all of them; throws the first fault at the end. */
async function inTurn<T>(works: (() => Promise<T>)[]): Promise<T[]> {
  const results: T[] = []
  const faults: unknown[] = []
  for (const work of works)
    try {
      results.push(await work())
    } catch (fault) {
      faults.push(fault)
    }
  if (faults.length > 0) throw faults[0]
  return results
}

/** Every scheduled job. */
export const jobs: Job[] = [
  { name: 'expire-orders', pattern: '* * * * *', run: untilNone('orders', expireOrders) },
  { name: 'remind-unpaid', pattern: '* * * * *', run: untilNone('orders', remindUnpaid) },
  { name: 'remind-carts', pattern: '*/10 * * * *', run: untilNone('carts', remindCarts) },
  { name: 'ask-feedback', pattern: '20 * * * *', run: untilNone('orders', askFeedback) },
  // Every quarter of an hour it is 9 somewhere: zones differ from UTC by whole quarters.
  { name: 'send-digests', pattern: '*/15 * * * *', run: sendDigests },
  {
    name: 'purge',
    pattern: '30 3 * * *',
    async run(deps) {
      const steps: Job['run'][] = [
        // A session goes with its tokens, of which one that lasts has thousands.
        untilNone('logins', purgeLogins, 50),
        untilNone('audit', purgeAudit),
        untilNone('keys', purgeKeys),
        untilNone('mails', purgeMails),
        async ({ db }) => ({ digests: await purgeDigests(db) }),
        async ({ db }) => ({ objects: await announceUnused(db) }),
      ]
      // One that fails keeps none of the others from its work.
      const done = await inTurn(steps.map((step) => () => step(deps)))
      return Object.assign({}, ...done)
    },
  },
]

const minute = 60_000
const day = 24 * 60 * minute

/**
 * Runs the jobs, each slot on one replica. Each half minute it catches up: runs that died with their replica within the
 * last day, and the latest slot of a job if nobody took it. Older missed slots stay missed, since the latest does their
 * work too. Closing waits for running jobs.
 */
export function startSchedules(deps: Deps): AsyncDisposable {
  const { db, stopping, log } = deps
  const coordinator = openCoordinator({ db, stopping, log })
  const logger = {
    info: (message: string) => log.info(message),
    warn: (message: string) => log.warn(message),
    error: (message: string | Error, err?: Error) => log.error({ err: err ?? message }, 'schedule fault'),
    debug: (message: string | Error) => log.debug(String(message)),
  }
  const options = { timezone: 'UTC', noOverlap: true, logger }
  const tasks = jobs.map((job) =>
    schedule(job.pattern, ({ date }) => coordinator.run(job.name, date, () => job.run(deps)), {
      ...options,
      name: job.name,
      distributed: true,
      runCoordinator: coordinator.ticks,
    }),
  )

  const seen = jobs.map((): Seen => ({ until: 0 }))

  async function catchUp() {
    const now = Date.now()
    for (const [at, job] of jobs.entries()) {
      const latest = latestSlot((date) => tasks[at]?.match(date) ?? false, now, seen[at] as Seen)
      const abandoned = await abandonedSlots(db, job.name, new Date(now - day))
      for (const slot of [...abandoned, ...(latest ? [latest] : [])])
        if (await coordinator.claim(job.name, slot)) {
          log.warn({ job: job.name, slot }, 'missed run is caught up')
          // Not awaited, since it may wait for the mail server: what else is missed would wait with it.
          void coordinator.run(job.name, slot, () => job.run(deps))
        }
      await purgeRuns(db, job.name, new Date(now - 30 * day))
    }
  }
  let catching: Promise<void> | undefined
  const look = () => {
    catching ??= catchUp()
      .catch((err) => log.warn({ err }, 'missed runs not looked for'))
      .finally(() => {
        catching = undefined
      })
  }
  // No task of cron: those wait for an hour where the clock is put back by one, and this is what does their work then.
  const looking = setInterval(look, minute / 2)
  look()

  return {
    async [Symbol.asyncDispose]() {
      clearInterval(looking)
      await Promise.all(tasks.map((task) => task.destroy()))
      await catching
      await coordinator[Symbol.asyncDispose]()
    },
  }
}

/** Where the last look for a slot ended, and what it found: a look over a whole day takes 40 ms. */
interface Seen {
  until: number
  latest?: Date
}

/** The newest slot not after `now` (Unix milliseconds), at most a day back. */
function latestSlot(matches: (date: Date) => boolean, now: number, seen: Seen): Date | undefined {
  const end = now - (now % minute)
  // The clock was put back: what was found since is of a time that is still to come.
  if (end < seen.until) seen.until = 0
  for (let time = end; time > Math.max(seen.until, now - day); time -= minute) {
    const date = new Date(time)
    if (!matches(date)) continue
    seen.latest = date
    break
  }
  seen.until = end
  return seen.latest
}
