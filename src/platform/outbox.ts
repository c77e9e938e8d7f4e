import { setTimeout as sleep } from 'node:timers/promises'
import { headers } from 'nats'
import { Gauge } from 'prom-client'
import type { Payload, Subject } from '../events.ts'
import { stream } from '../events.ts'
import type { Bus } from './bus.ts'
import type { Role } from './config.ts'
import type { Db, Knex } from './db.ts'
import type { Logger } from './log.ts'
import { registry, sharedRead } from './metrics.ts'

/** Puts an event into the role's outbox, inside the transaction that changes the state it tells of. */
export const append = <S extends Subject>(trx: Knex.Transaction, schema: Role, subject: S, payload: Payload<S>) =>
  trx.raw(`insert into ${schema}.outbox (subject, payload) values (?, ?)`, [subject, JSON.stringify(payload)])

export interface Relay extends AsyncDisposable {
  /** Call after a commit that appended: the relay looks at once instead of within a second. */
  wake(): void
}

const batch = 200
/** Milliseconds between two looks at the outbox, so that under load events leave together: a look costs a transaction. */
const rest = 10

/**
 * Moves events from `<schema>.outbox` to the stream: a batch is locked, published with its row id as Nats-Msg-Id, and
 * deleted after every PubAck. A crash in between publishes again under the same id, which the stream drops.
 */
export function startRelay({ db, schema, bus, log }: { db: Db; schema: Role; bus: Bus; log: Logger }): Relay {
  let closing = false
  let rouse = () => {}
  let awake = false
  // Nothing rouses it then: where the bus refuses at once, each event appended would be another try.
  let failing = false
  measureOutbox(db, schema)

  const move = () =>
    db.knex.transaction(async (trx) => {
      const { rows } = await trx.raw(
        // An array is made once. A list that the planner joins is made again for each event, where it thinks the outbox empty,
        // as at its last look: 20,000 took longer than the 15 s of a statement, again and again.
        `delete from ${schema}.outbox where seq = any (array
           (select seq from ${schema}.outbox order by seq limit ${batch} for update skip locked))
         returning seq, id, subject, payload::text as payload, created_at`,
      )
      if (rows.length === 0) return 0
      // The rows come back in any order; events of one order must leave in theirs.
      rows.sort((a: { seq: number }, b: { seq: number }) => a.seq - b.seq)
      const js = (await bus.connection).jetstream({ timeout: 5000 })
      await Promise.all(
        rows.map((row: { id: string; subject: string; payload: string; created_at: Date }) => {
          // The bus may have been away since, and a code run out.
          const carried = headers()
          carried.set('Event-Time', row.created_at.toISOString())
          return js.publish(row.subject, row.payload, {
            msgID: row.id,
            headers: carried,
            expect: { streamName: stream },
          })
        }),
      )
      return rows.length as number
    })

  const loop = async () => {
    for (let pause = 1000; !closing; ) {
      if (!awake || failing)
        await new Promise<void>((resolve) => {
          // Spread over replicas, which would otherwise poll together.
          const timer = setTimeout(resolve, pause * (0.8 + Math.random() * 0.4))
          rouse = () => {
            clearTimeout(timer)
            resolve()
          }
        })
      awake = false
      try {
        if (bus.connected()) while ((await move()) === batch && !closing);
        pause = 1000
        failing = false
        await sleep(rest)
      } catch (err) {
        pause = Math.min(pause * 2, 10_000)
        failing = true
        log.warn({ err, schema, retryMs: pause }, 'outbox not moved')
      }
    }
  }
  const running = loop()
  return {
    wake() {
      awake = true
      if (!failing) rouse()
    },
    async [Symbol.asyncDispose]() {
      closing = true
      rouse()
      await running
      if (!bus.connected()) return
      try {
        // What others put in meanwhile, or more than goes out in 2 s, is for the other replicas or the next start.
        for (const end = performance.now() + 2000; (await move()) === batch && performance.now() < end; );
      } catch (err) {
        log.warn({ err, schema }, 'outbox keeps events for the next start')
      }
    },
  }
}

function measureOutbox(db: Db, schema: Role) {
  // A fault of it is one of the relay too, which logs it.
  const read = sharedRead<Record<'events' | 'oldest', number>>(async () => {
    const { rows } = await db.knex.raw(
      `select count(*) as events, coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as oldest
       from ${schema}.outbox`,
    )
    return rows[0]
  })
  const measure = (name: string, help: string, value: 'events' | 'oldest') =>
    new Gauge({
      name,
      help,
      registers: [registry],
      async collect() {
        const found = await read()
        if (found) this.set(found[value])
        else this.remove()
      },
    })
  measure('outbox_events', 'Events not yet published', 'events')
  measure('outbox_oldest_seconds', 'Age of the oldest event not yet published', 'oldest')
}
