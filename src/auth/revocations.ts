import { setTimeout as pause } from 'node:timers/promises'
import type { Bus } from '../platform/bus.ts'
import type { Db } from '../platform/db.ts'
import type { Logger } from '../platform/log.ts'
import { problem } from '../platform/problem.ts'
import * as store from './store.ts'
import { accessLifetime } from './tokens.ts'

/** Core NATS, outside `msg.>`: nothing is stored, and what is missed is re-read from the database. */
const subject = 'sys.session.revoked'
/** Milliseconds between two reads of what was revoked lately: the net under the bus. The edge keeps a decision up to 4 s. */
const interval = 750
/** A revoked session matters until the last access token of it is over, with its skew and a margin. */
const remembered = (accessLifetime + 60) * 1000
/** What was revoked so many milliseconds before the last read is read again: its transaction may have ended after it. */
const margin = 30_000

export interface Revocations extends AsyncDisposable {
  isRevoked(sid: string): boolean
  /** Notes sessions as revoked here and tells the other replicas. */
  announce(sids: string[]): void
  /** Throws until the first read: before it, a revoked session could pass. */
  check(): Promise<void>
  /** Waits for the first read; a problem of 503 after two seconds. A replica is asked as soon as its name is known. */
  ready(): Promise<void>
}

/** Keeps the sessions revoked lately in memory, told by the bus and read from the database again and again. */
export function openRevocations({ db, bus, log }: { db: Db; bus: Bus; log: Logger }): Revocations {
  /** Until when each matters, by the same clock as `lastRead`. */
  const revoked = new Map<string, number>()
  let loaded = false
  /** When the last read that succeeded began, in milliseconds of a clock that nobody sets. */
  let lastRead = Number.NEGATIVE_INFINITY
  let closed = false
  const first = Promise.withResolvers<void>()
  let timer: NodeJS.Timeout | undefined

  const note = (sid: string) => revoked.set(sid, performance.now() + remembered)
  const read = async () => {
    const began = performance.now()
    const span = Math.min(began - lastRead + margin, remembered)
    try {
      for (const { id } of await store.revokedSince(db, span / 1000)) note(id)
      lastRead = began
      loaded = true
      first.resolve()
      const now = performance.now()
      for (const [sid, until] of revoked) if (until < now) revoked.delete(sid)
    } catch (err) {
      log.warn({ err }, 'cannot read revoked sessions')
    }
    if (!closed) timer = setTimeout(read, interval)
  }
  void read()
  void bus.connection.then(async (nc) => {
    for await (const message of nc.subscribe(subject)) for (const sid of message.json<string[]>()) note(sid)
  })

  return {
    isRevoked: (sid) => revoked.has(sid),
    announce(sids) {
      sids.forEach(note)
      if (sids.length > 0 && bus.connected())
        void bus.connection.then((nc) => nc.publish(subject, JSON.stringify(sids)))
    },
    async check() {
      if (!loaded) throw new Error('the revoked sessions are not read yet')
    },
    async ready() {
      if (!loaded) await Promise.race([first.promise, pause(2000, undefined, { ref: false })])
      if (!loaded)
        throw problem.unavailable('The revoked sessions cannot be read at the moment; try again in a moment.')
    },
    async [Symbol.asyncDispose]() {
      closed = true
      clearTimeout(timer)
    },
  }
}
