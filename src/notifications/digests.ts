import { LRUCache } from 'lru-cache'
import type { Db } from '../platform/db.ts'
import type { Deps } from './deps.ts'
import { beginDigest, digestOf, digestReaders, openSubscription, timeOfDigest } from './store.ts'

/** Sent from 9 in the morning of a user's own day until its end, whenever that is. */
const hour = 9

const clocks = new LRUCache<string, Intl.DateTimeFormat>({ max: 100 })

/** Writes the time of a zone as 2026-11-25 09:00; of UTC where this Node.js does not know the zone any more. */
function clockOf(timeZone: string): Intl.DateTimeFormat {
  const options = { dateStyle: 'short', timeStyle: 'short', hourCycle: 'h23' } as const
  let clock = clocks.get(timeZone)
  if (clock) return clock
  try {
    clock = new Intl.DateTimeFormat('sv', { ...options, timeZone })
  } catch {
    clock = new Intl.DateTimeFormat('sv', { ...options, timeZone: 'UTC' })
  }
  clocks.set(timeZone, clock)
  return clock
}

/** The day, as YYYY-MM-DD, whose digest is due in a time zone at `now`; undefined before 9 there. */
export function dueDay(timeZone: string, now: Date): string | undefined {
  const [day, time = ''] = clockOf(timeZone).format(now).split(' ')
  return Number(time.slice(0, 2)) >= hour ? day : undefined
}

/** The digest that is due for a user now, where they want it. */
async function dueFor(db: Db, userId: string, timeZone: string) {
  const day = dueDay(timeZone, new Date())
  const time = day && (await timeOfDigest(db, userId, day))
  if (!time) return undefined
  const { wanted, token } = await openSubscription(db, userId, 'digest')
  return wanted ? { day, time, token } : undefined
}

/**
 * Sends the digests that are due, each at most once: what is begun is never begun again, since nobody can tell whether a
 * mail without an answer went out. While the mail server is down it waits, and begins nothing.
 */
export async function sendDigests({ db, mailer, composer, publicUrl, stopping, log }: Deps) {
  let mails = 0
  for (const { timeZone, ...reader } of await digestReaders(db)) {
    if (stopping.aborted) break
    if (!(await dueFor(db, reader.userId, timeZone))) continue
    await mailer.ready()
    // Again: days may have passed.
    const due = await dueFor(db, reader.userId, timeZone)
    if (!due) continue
    const { day, time, token } = due
    const facts = await digestOf(db, time.since, time.until)
    if (!(await beginDigest(db, reader.userId, day, time.until))) continue
    if (facts.placed.length === 0 && facts.toShip === 0 && facts.low.count === 0) continue
    const digest = { ...facts, since: time.since, timeZone }
    const unsubscribe = `${publicUrl}/unsubscribe/${token}`
    try {
      const draft = { ...reader, unsubscribe, kind: 'staff_digest', template: 'digest', digest } as const
      await mailer.send(composer.compose(draft, `digest.${reader.userId}.${day}`))
      mails++
    } catch (err) {
      log.warn({ err, userId: reader.userId, day }, 'digest lost')
    }
  }
  return { mails }
}
