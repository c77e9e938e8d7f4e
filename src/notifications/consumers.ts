import { randomUUID } from 'node:crypto'
import { Counter } from 'prom-client'
import { events, type Payload, type Subject } from '../events.ts'
import { type Message, NotYet, Permanent } from '../platform/bus.ts'
import { batched, outOfReach } from '../platform/db.ts'
import { registry } from '../platform/metrics.ts'
import { type Draft, drafts, type Kind, topics } from './compose.ts'
import type { Deps } from './deps.ts'
import { openGate } from './gate.ts'
import { ServerFault } from './mailer.ts'
import type { Mail } from './mime.ts'
import {
  awaitsPayment,
  type Claimant,
  cartWaits,
  claimMails,
  hasPassed,
  markMailsSent,
  openSubscription,
  type Recipient,
  releaseMail,
  rememberRecipient,
  type Stage,
} from './store.ts'

const mails = new Counter({
  name: 'mails_total',
  help: 'Mails by kind and result: sent, repeated (had been sent), unwanted, obsolete (a reminder to pay what is paid or over, or of a cart that changed; a code or link that ran out), unknown (no address), held (mail server down), deferred, refused',
  labelNames: ['kind', 'result'],
  registers: [registry],
})

/** Events that tell who a user is. */
const stageOf: { [S in Subject]?: Stage } = {
  'msg.user.registered': 'registered',
  'msg.user.verified': 'verified',
  'msg.user.changed': 'changed',
}

/** Milliseconds that what a mail carries can be used, where that is all it is for. */
const validity: { [K in Kind]?: number } = { login_code: 10 * 60_000, password_reset: 60 * 60_000 }

/** Milliseconds between signs of life while a mail waits: the bus delivers again after 30 s without one, a claim ends after 25 s. */
const heartbeat = 10_000
/** Faults of the server after which the mail itself is thought to be the cause, if the server took others meanwhile. */
const mostFaults = 5

/**
 * Handles one event: keeps what it tells of a user, and sends its mail at most once an acknowledged try. While the mail
 * server or the database is down the message is held, however long; its own faults are thrown.
 */
export function openHandler({ db, mailer, composer, publicUrl, stopping, log }: Deps) {
  const probe = () => db.run({ name: 'probe', text: 'select 1' }, [])
  const database = openGate('database', { probe, stopping, log })

  // A line of a mail holds these facts and no secret; to look for one in it would take a twentieth of a mail's time.
  const lines = log.child({}, { redact: [] })
  const claimMail = batched((all: Claimant[]) => claimMails(db, all))
  const markMailSent = batched((all: Claimant[]) => markMailsSent(db, all))

  /** Does work that needs the database; while that is out of reach it waits, and tries again. */
  async function whenReachable<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      await database.pass()
      try {
        const result = await work()
        database.works()
        return result
      } catch (error) {
        if (!outOfReach(error)) throw error
        database.shut(error)
      }
    }
  }

  /**
   * Keeps a claim until work is done: a mail may wait for a connection, and then for the server, for longer than a claim
   * holds. Where the claim cannot be prolonged the next heartbeat tries again.
   */
  async function keepClaim(claimant: Claimant, work: Promise<void>) {
    let prolonging: Promise<unknown> = Promise.resolve()
    const beats = setInterval(() => {
      prolonging = claimMail(claimant).catch((err) => log.warn({ err, messageId: claimant.id }, 'claim not prolonged'))
    }, heartbeat)
    try {
      await work
    } finally {
      clearInterval(beats)
      // One that is under way must not come after the claim is given back.
      await prolonging
    }
  }

  async function isObsolete(draft: Draft, { occurredAt }: Message) {
    if (draft.kind === 'order_unpaid') return !(await whenReachable(() => awaitsPayment(db, draft.order.orderId)))
    if (draft.kind === 'cart_abandoned') return !(await whenReachable(() => cartWaits(db, draft.userId)))
    const valid = validity[draft.kind]
    // The database's clock decides, as it does where the code is tried; ours may be ahead, and only spares the question.
    return (
      valid !== undefined &&
      Date.now() - occurredAt.getTime() > valid &&
      whenReachable(() => hasPassed(db, occurredAt, valid))
    )
  }

  async function send(draft: Draft, message: Message) {
    const { kind, userId } = draft
    const claimant = { id: message.id, kind, owner: randomUUID(), userId }
    let mail: Mail | undefined
    const topic = topics[kind]
    const acceptedBefore = mailer.accepted()
    for (let faults = 0; ; ) {
      await mailer.gate.pass()
      // Behind the gate: it may have waited long for the mail server.
      const subscription = topic && (await whenReachable(() => openSubscription(db, userId, topic)))
      if (subscription && !subscription.wanted) return 'unwanted'
      if (await isObsolete(draft, message)) return 'obsolete'
      const claim = await whenReachable(() => claimMail(claimant))
      if (claim.sent) return 'repeated'
      // Another delivery of this message has it in hand, or had when it died: a claim that nobody prolongs ends within 25 s.
      if (!claim.claimed) throw new NotYet(10_000)
      const email = draft.email ?? claim.email
      if (!email) return 'unknown'
      try {
        mail ??= composer.compose(
          {
            ...draft,
            email,
            unsubscribe: subscription && `${publicUrl}/unsubscribe/${subscription.token}`,
            name: draft.name ?? nameFor(draft, claim.name),
            locale: draft.locale ?? claim.locale ?? undefined,
          },
          message.id,
        )
      } catch (error) {
        throw new Permanent(`the mail cannot be written: ${(error as Error).message}`)
      }
      try {
        await keepClaim(claimant, mailer.send(mail))
      } catch (error) {
        await releaseMail(db, claimant).catch((err) => log.warn({ err, messageId: message.id }, 'claim kept'))
        const isHeld = error instanceof ServerFault && (++faults < mostFaults || mailer.accepted() === acceptedBefore)
        if (!isHeld) throw error
        mails.inc({ kind, result: 'held' })
        continue
      }
      // The server has it: only this mark keeps a later delivery of the message from becoming a second mail.
      await whenReachable(() => markMailSent(claimant))
      return 'sent'
    }
  }

  return async (message: Message) => {
    const subject = message.subject as Subject
    // While an upgrade goes on, its event comes to the old code too, which must not end what the new code makes a mail of.
    if (!Object.hasOwn(events, subject)) throw new Error(`${subject} is an event of another version`)
    const stage = stageOf[subject]
    const draftOf = drafts[subject] as ((payload: unknown) => Draft) | undefined
    if (!stage && !draftOf) return
    const payload = parsePayload(subject, message.data)
    const beats = setInterval(() => message.working(), heartbeat)
    try {
      if (stage) await whenReachable(() => rememberRecipient(db, stage, payload as Recipient))
      if (draftOf) await sendAndReport(draftOf(payload), message)
    } finally {
      clearInterval(beats)
    }
  }

  async function sendAndReport(draft: Draft, message: Message) {
    const { kind, userId } = draft
    try {
      const result = await send(draft, message)
      mails.inc({ kind, result })
      lines.info({ messageId: message.id, kind, userId, delivery: message.delivery }, `mail ${result}`)
    } catch (error) {
      mails.inc({ kind, result: error instanceof Permanent ? 'refused' : 'deferred' })
      // What is held when the process stops goes back at once, for another replica or the next start.
      throw stopping.aborted && !(error instanceof Permanent) ? new NotYet(1000) : error
    }
  }
}

/** The name of an order's or a cart's owner is known from earlier events; a mail that leaves the name out does so for a reason. */
const nameFor = (draft: Draft, known: string | null) =>
  /^(order|cart)$/.test(draft.template) ? (known ?? undefined) : undefined

/** Parses at the door. The reason names fields and rules, never values: it ends in the dead letters, which people read. */
function parsePayload<S extends Subject>(subject: S, data: unknown): Payload<S> {
  const result = events[subject].safeParse(data)
  if (result.success) return result.data as Payload<S>
  const faults = result.error.issues.map((issue) => `${issue.path.join('.') || 'payload'}: ${issue.message}`)
  throw new Permanent(`not a payload of ${subject}: ${faults.join('; ')}`.slice(0, 300))
}
