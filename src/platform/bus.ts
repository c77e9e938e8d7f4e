import { setTimeout as pause } from 'node:timers/promises'
import { connect, type JsMsg, type MsgHdrs, type NatsConnection } from 'nats'
import { Counter, Gauge } from 'prom-client'
import { type Consumer, stream } from '../events.ts'
import type { Config, Role } from './config.ts'
import type { Logger } from './log.ts'
import { registry, sharedRead } from './metrics.ts'

export interface Bus extends AsyncDisposable {
  /** Resolves with the first connection; later losses are mended by the client itself. */
  connection: Promise<NatsConnection>
  connected(): boolean
  check(): Promise<void>
}

interface BusOptions {
  /** The NATS user's name: it may only use inboxes under `_INBOX.<name>`. */
  name: Role | 'migrate'
  c: Pick<Config<Role | 'migrate'>, 'NATS_BROKER_URL' | 'NATS_CA' | 'CONN_TIMEOUT'>
  log: Logger
  /** For a command that ends, so that somebody sees it fail: a login that is refused twice in a row is the end. */
  givesUp?: boolean
}

/** Milliseconds until a server that refused our login is asked again: it logs each, and so do we. */
const refusedWait = 5000

/**
 * Connects in the background and keeps on trying: a role starts, and takes orders, without NATS. So too where its login is
 * refused: in a rotation of passwords the role may know the new one first.
 */
export function openBus({ name, c, log, givesUp = false }: BusOptions): Bus {
  const { NATS_BROKER_URL: url, NATS_CA: ca, CONN_TIMEOUT: connectTimeout } = c
  const { username, password } = new URL(url)
  let current: NatsConnection | undefined
  let up = false
  // A login was sent, and no connection has come of it.
  let loginSent = false
  let refusedAt = -refusedWait
  const wait = () => {
    if (loginSent) {
      loginSent = false
      refusedAt = performance.now()
      log.error({ user: username, retryMs: refusedWait }, 'bus login refused, or cut off before its answer')
    }
    return performance.now() - refusedAt < refusedWait ? refusedWait : 250
  }
  const connection = connect({
    servers: url.replace(/\/\/[^@/]*@/, '//'),
    user: decodeURIComponent(username) || undefined,
    pass: decodeURIComponent(password) || undefined,
    tls: ca || url.startsWith('tls:') ? { ca } : undefined,
    name,
    inboxPrefix: `_INBOX.${name}`,
    // Never less than 5 s: where the event loop stands still for longer, as in a start without processor time, the client
    // gives the attempt up and leaves its connection open, and every message comes twice (seen with nats 2.29).
    timeout: Math.max(connectTimeout, 5000),
    waitOnFirstConnect: true,
    // Else each event published makes two errors with a stack, for the case that one is needed.
    noAsyncTraces: true,
    maxReconnectAttempts: -1,
    ignoreAuthErrorAbort: !givesUp,
    // Adds nothing to the login: before its first connection the client tells of no fault, but it calls this for each login.
    authenticator: () => {
      loginSent = true
    },
    reconnectDelayHandler: reconnectDelay(wait),
    // A frozen server is noticed after two missed pings.
    pingInterval: 5000,
    maxPingOut: 2,
  }).then((nc) => {
    current = nc
    up = true
    loginSent = false
    log.info({ server: nc.getServer() }, 'bus connected')
    void watch(nc)
    return nc
  })
  connection.catch((err) => log.error({ err }, 'bus connection refused'))

  async function watch(nc: NatsConnection) {
    for await (const status of nc.status()) {
      // The client tells both once more for each login that was refused in between.
      if (status.type === 'disconnect') {
        if (up) log.warn('bus disconnected')
        up = false
      } else if (status.type === 'reconnect') {
        if (!up) log.info({ server: status.data }, 'bus reconnected')
        up = true
        loginSent = false
      } else if (status.type === 'error') log.error({ fault: status.data }, 'bus fault')
    }
  }
  return {
    connection,
    connected: () => up && current !== undefined,
    async check() {
      if (!up) throw new Error('not connected')
    },
    async [Symbol.asyncDispose]() {
      if (!current) return
      if (up) await current.drain().catch((err) => log.warn({ err }, 'bus drain failed'))
      else await current.close()
    },
  }
}

/**
 * Milliseconds until a server is tried again: those of `wait`. The client counts them by the wall clock (nats 2.29): put
 * back by an hour, it would not try again for an hour. So what it was put back is taken off, for as many tries as a cluster
 * may have servers.
 */
function reconnectDelay(wait: () => number) {
  const shift = () => Date.now() - performance.now()
  let last = shift()
  let back = 0
  let tries = 0
  return () => {
    const now = shift()
    if (last - now > 100) {
      back = last - now
      tries = 16
    }
    last = now
    return tries > 0 && tries-- ? wait() - back : wait()
  }
}

export interface Message {
  /** The event's id, the same for every delivery of it. */
  id: string
  subject: string
  /** When it was put into its outbox; where the publisher did not say, when the stream took it. */
  occurredAt: Date
  data: unknown
  /** Which delivery this is, from 1. */
  delivery: number
  /** Keeps the message from being delivered again while work on it goes on; call it at least every 20 s. */
  working(): void
}

/** The id of a message's event: replayed from the dead letters it is the first one's, and the stream has another. */
export const idOf = (headers: MsgHdrs | undefined, seq: number) =>
  headers?.get('Event-Id') || headers?.get('Nats-Msg-Id') || `${stream}:${seq}`

/** When a message's event happened, by its publisher; else when the stream took it. */
export const timeOf = (headers: MsgHdrs | undefined, time: Date) => new Date(headers?.get('Event-Time') || time)

/** Thrown by a handler whose message can never succeed: it is terminated, and its reason goes to the dead letters. */
export class Permanent extends Error {
  override name = 'Permanent'
}

/** Thrown by a handler to get the same message again after `ms` milliseconds; it is no fault. */
export class NotYet extends Error {
  override name = 'NotYet'
  readonly ms: number
  constructor(ms: number) {
    super(`not before ${ms} ms`)
    this.ms = ms
  }
}

const handled = new Counter({
  name: 'bus_messages_total',
  help: 'Messages by consumer and how they ended',
  labelNames: ['consumer', 'result'],
  registers: [registry],
})

/**
 * Takes messages of a durable consumer, `concurrency` at a time, until closed. Each ends in exactly one of ack,
 * nak(delay) when the handler throws (NotYet says which), or term when it throws Permanent or the message was delivered
 * as often as it may be. Closing waits for those in hand.
 */
export function consume(
  bus: Bus,
  durable: Consumer,
  { concurrency, handle, log }: { concurrency: number; handle(message: Message): Promise<void>; log: Logger },
): AsyncDisposable {
  const closing = new AbortController()
  const inHand = new Set<Promise<void>>()
  measureLag(bus, durable)

  /** Handles one delivery and ends it. */
  const deliver = async (m: JsMsg, maxDeliver: number) => {
    const id = idOf(m.headers, m.seq)
    const delivery = m.info.deliveryCount
    const facts = { consumer: durable, subject: m.subject, messageId: id, delivery }
    try {
      let data: unknown
      try {
        data = m.json()
      } catch {
        throw new Permanent('the payload is not JSON')
      }
      const occurredAt = timeOf(m.headers, new Date(m.info.timestampNanos / 1e6))
      await handle({ id, subject: m.subject, occurredAt, data, delivery, working: () => m.working() })
      m.ack()
      handled.inc({ consumer: durable, result: 'ack' })
    } catch (err) {
      if (err instanceof Permanent) {
        log.error({ ...facts, reason: err.message }, 'message given up')
        m.term(err.message)
        handled.inc({ consumer: durable, result: 'term' })
      } else if (err instanceof NotYet) {
        m.nak(err.ms)
        handled.inc({ consumer: durable, result: 'later' })
      } else if (delivery === maxDeliver) {
        // The server would give it up too, without a reason.
        const reason = `given up after ${delivery} deliveries: ${(err as Error).message}`
        log.error({ ...facts, err, reason }, 'message given up')
        m.term(reason.slice(0, 300))
        handled.inc({ consumer: durable, result: 'term' })
      } else {
        // 1, 2, 4 … 60 s
        const delay = Math.min(1000 * 2 ** (delivery - 1), 60_000)
        log.warn({ ...facts, err, delay }, 'message will be tried again')
        m.nak(delay)
        handled.inc({ consumer: durable, result: 'nak' })
      }
    }
  }

  const pull = async () => {
    for (let wait = 250; !closing.signal.aborted; wait = Math.min(wait * 2, 5000)) {
      try {
        const nc = await bus.connection
        if (closing.signal.aborted) return
        const consumer = await nc.jetstream().consumers.get(stream, durable)
        const { max_deliver: maxDeliver = -1 } = (await consumer.info(true)).config
        wait = 250
        while (!closing.signal.aborted) {
          // Half at a time, so that there is work while more is asked for.
          while (inHand.size > concurrency / 2) await Promise.race(inHand)
          // No more than there is room for: what waits here is delivered again after 30 s, and what a stop must end first.
          // The client's endless consume() asks for as many again every 2.5 s while none is taken (nats 2.29).
          const messages = await consumer.fetch({ max_messages: concurrency - inHand.size, expires: 5000 })
          const stop = () => void messages.close()
          closing.signal.addEventListener('abort', stop, { once: true })
          // A stop that was asked for since the look above is not told again.
          if (closing.signal.aborted) stop()
          for await (const m of messages) {
            const work = deliver(m, maxDeliver).finally(() => inHand.delete(work))
            inHand.add(work)
          }
          closing.signal.removeEventListener('abort', stop)
        }
      } catch (err) {
        if (closing.signal.aborted) return
        log.warn({ err, consumer: durable, retryMs: wait }, 'cannot take messages')
        await pause(wait, undefined, { signal: closing.signal }).catch(() => undefined)
      }
    }
  }
  const running = pull()
  return {
    async [Symbol.asyncDispose]() {
      closing.abort()
      // Before the first connection nothing runs that could be waited for.
      if (bus.connected()) await running
      await Promise.all(inHand)
    },
  }
}

/** A gauge of what a consumer has not ended; absent while the bus is away. */
function measureLag(bus: Bus, durable: Consumer) {
  const read = sharedRead(async () => {
    const jsm = await (await bus.connection).jetstreamManager({ checkAPI: false })
    return jsm.consumers.info(stream, durable)
  })
  new Gauge({
    name: 'bus_consumer_lag',
    help: 'Messages that a consumer has not ended yet, by state',
    labelNames: ['consumer', 'state'],
    registers: [registry],
    async collect() {
      const info = bus.connected() ? await read() : undefined
      if (!info) return this.reset()
      this.set({ consumer: durable, state: 'waiting' }, info.num_pending)
      this.set({ consumer: durable, state: 'in_hand' }, info.num_ack_pending)
    },
  })
}
