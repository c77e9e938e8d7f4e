import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestFn } from 'ava'
import type { NatsConnection } from 'nats'
import type { SMTPServerOptions } from 'smtp-server'
import { query } from '../../src/embedded/postgres.ts'
import { type Payload, type Subject, stream } from '../../src/events.ts'
import { jobs } from '../../src/notifications/schedules.ts'
import { onBusAt } from '../support/bus.ts'
import { eventually, useShop } from '../support/shop.ts'
import { mailSink } from '../support/smtp.ts'

/** A letter in the dead-letter stream: which message, and why. */
export interface DeadLetter {
  seq: number
  reason: string
}

interface Options {
  smtp?: SMTPServerOptions
  /** Settings of the role. */
  env?: Record<string, string>
  shop?: Parameters<typeof useShop>[1]
}

/** The notifications role alone, on real PostgreSQL and NATS, with a mail server that the test controls. */
export function usePost(test: TestFn, { smtp, env, shop: options }: Options = {}) {
  const sink = mailSink(smtp)
  const settings: Record<string, string> = {
    PUBLIC_URL: 'https://shop.example.org',
    MAIL_FROM: 'Kiosk <mail@example.org>',
  }
  test.serial.before('the mail server starts', async () => {
    await sink.up()
    Object.assign(settings, { SMTP_URL: sink.url }, env)
  })
  const shop = useShop(test, { roles: ['notifications'], env: settings, ...options })
  test.after.always('the mail server stops', () => sink.down())

  const secret = (reader: 'notifications' | 'migrate', name: string) =>
    readFileSync(join(shop.secretsDir(reader), name), 'utf8')
  const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
  const onBus = <T>(work: (nc: NatsConnection) => Promise<T>) => onBusAt(secret('migrate', 'NATS_BROKER_URL'), work)
  /** Puts messages into the stream; answers with the sequence number of each. */
  const publish = (messages: { subject: string; data: unknown; id: string }[]) =>
    onBus((nc) =>
      Promise.all(
        messages.map(async ({ subject, data, id }) => {
          const body = typeof data === 'string' ? data : JSON.stringify(data)
          return (await nc.jetstream().publish(subject, body, { msgID: id })).seq
        }),
      ),
    )
  const waiting = () =>
    onBus(async (nc) => {
      const info = await (await nc.jetstreamManager()).consumers.info(stream, 'mailer')
      return info.num_pending + info.num_ack_pending
    })
  return {
    shop,
    sink,
    sql,
    secret,
    onBus,
    publish,
    waiting,
    /** Publishes one event; answers with its id, which is in the Message-ID of its mail. */
    async tell<S extends Subject>(subject: S, data: Payload<S>) {
      const id = randomUUID()
      await publish([{ subject, data, id }])
      return id
    },
    /** The mail of an event, once it is taken. */
    mailOf: (id: string, deadline?: number) =>
      eventually(
        `the mail of event ${id}`,
        async () => sink.taken.find((mail) => mail.messageId === messageId(id)),
        deadline,
      ),
    /** Waits until every message is ended: acknowledged, or given up. */
    settled: (deadline?: number) => eventually('no message waits', async () => (await waiting()) === 0, deadline),
    deadLetters: () =>
      onBus(async (nc) => {
        const jsm = await nc.jetstreamManager()
        const { state } = await jsm.streams.info('dlq')
        const letters: DeadLetter[] = []
        for (let seq = state.first_seq; state.messages > 0 && seq <= state.last_seq; seq++) {
          const { stream_seq, reason } = (await jsm.streams.getMessage('dlq', { seq })).json<{
            stream_seq: number
            reason?: string
          }>()
          letters.push({ seq: stream_seq, reason: reason ?? '' })
        }
        return letters
      }),
    /** A counter of the running role, summed over the series that have these labels. */
    async metric(name: string, labels: Record<string, string> = {}, url = shop.roles.notifications.metricsUrl) {
      const text = await (await fetch(url)).text()
      return text
        .split('\n')
        .filter((line) => line.startsWith(`${name}{`))
        .filter((line) => Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)))
        .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
    },
  }
}

export const messageId = (id: string) => `<${id}@shop.example.org>`

export const person = (locale: string, name = 'Ada Lovelace') => {
  const userId = randomUUID()
  return { userId, email: `${userId}@example.org`, name, locale }
}

export const orderOf = (
  { userId, email }: { userId: string; email: string },
  change: Partial<Payload<'msg.order.placed'>> = {},
) => ({
  orderId: randomUUID(),
  userId,
  email,
  currency: 'EUR',
  total: 123_456,
  lines: [
    { productId: randomUUID(), sku: 'TEA-1', name: 'Assam tea', quantity: 2, price: 61_000 },
    { productId: randomUUID(), sku: 'CUP-1', name: 'Cup', quantity: 1, price: 1456 },
  ],
  ...change,
})

/** A time zone where it is this hour now. */
export const zoneAt = (hour: number) => {
  const offset = ((((hour - new Date().getUTCHours()) % 24) + 36) % 24) - 12
  return offset === 0 ? 'UTC' : `Etc/GMT${offset > 0 ? '-' : '+'}${Math.abs(offset)}`
}

/** Leaves the jobs to the test for an hour: every slot is entered as run. */
export const restSchedules = (databaseUrl: string) =>
  query(
    databaseUrl,
    `insert into notifications.cron_run (job, slot, owner, lease_until, finished_at)
     select job, date_trunc('minute', now()) + n * interval '1 minute', gen_random_uuid(), now(), now()
     from unnest($1::text[]) job, generate_series(-1440, 60) n on conflict do nothing`,
    [jobs.map(({ name }) => name)],
  )
