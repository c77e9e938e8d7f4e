import type { Db, Statement } from '../platform/db.ts'
import type { Digest } from './compose.ts'
import { type Preferences, type Topic, topics } from './schema.ts'

export interface Recipient {
  userId: string
  email: string
  name: string
  locale: string
  timeZone?: string
  /** When the change was made; absent where none was. */
  at?: string
}
/** How late in a user's life the telling event happens; what an earlier stage says never replaces a later one's. */
const stages = { registered: 1, verified: 2, changed: 3 } as const
export type Stage = keyof typeof stages

const remember: Statement = {
  name: 'remember_recipient',
  text: `
    insert into notifications.recipient as known (user_id, email, name, locale, time_zone, stage, changed_at)
    values ($1, $2, $3, $4, $5, $6, $7)
    on conflict on constraint recipient_pkey do update set
      (email, name, locale, time_zone, stage, changed_at) = (
        select excluded.email, excluded.name, excluded.locale, coalesce(excluded.time_zone, known.time_zone),
               excluded.stage, excluded.changed_at
         where excluded.stage > known.stage or excluded.stage = known.stage
           and coalesce(excluded.changed_at, 'infinity') >= coalesce(known.changed_at, '-infinity')
        union all
        select known.email, known.name, known.locale, coalesce(known.time_zone, excluded.time_zone),
               known.stage, known.changed_at
        limit 1)`,
}

/** Keeps what an event tells of a user, whatever order the events come in. */
export const rememberRecipient = (db: Db, stage: Stage, { userId, email, name, locale, timeZone, at }: Recipient) =>
  db.run(remember, [userId, email, name, locale, timeZone ?? null, stages[stage], at ?? null])

/** Seconds that a claim holds; shorter than the bus waits before it delivers again (30 s), so that a dead claim never stands in the way. */
const lease = 25

/** The mail of an event, in the hands of one delivery of it. */
export interface Claimant {
  /** The event's. */
  id: string
  kind: string
  owner: string
  userId: string
}
export interface Claim {
  claimed: boolean
  /** The mail has been accepted before; there is nothing left to do. */
  sent: boolean
  /** What is known of the user, where anything is. */
  email: string | null
  name: string | null
  locale: string | null
}

// A lost claim costs nothing (the message comes again), so its commit does not wait for the disk. Rows in order, so that
// two statements never wait for each other; of two deliveries of one event at once the first has it.
const claim: Statement = {
  name: 'claim_mails',
  text: `
    with mail as materialized (
      select * from unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[])
        with ordinality as mail (event_id, kind, owner, user_id, place)
    ), claimed as (
      insert into notifications.mail_delivery as known (event_id, kind, claimed_by, claimed_until)
      select distinct on (event_id) event_id, kind, owner, now() + interval '${lease} seconds'
      from mail, set_config('synchronous_commit', 'off', true)
      order by event_id, place
      on conflict on constraint mail_delivery_pkey do update set
        claimed_by = excluded.claimed_by, claimed_until = excluded.claimed_until, claims = known.claims + 1
      where known.sent_at is null and (known.claimed_until < now() or known.claimed_by = excluded.claimed_by)
      returning event_id, claimed_by
    )
    select claimed.event_id is not null as claimed, coalesce(known.sent, false) as sent,
      recipient.email, recipient.name, recipient.locale
    from mail
    left join claimed on claimed.event_id = mail.event_id and claimed.claimed_by = mail.owner
    -- Row by row through the index: a plan made while the tables were small would read them whole when they are large.
    left join lateral (
      select sent_at is not null as sent from notifications.mail_delivery where event_id = mail.event_id limit 1
    ) known on true
    left join lateral (
      select email, name, locale from notifications.recipient where user_id = mail.user_id limit 1
    ) recipient on true
    order by mail.place`,
}

/**
 * Claims the mails of events for their owners for 25 s: unless one is sent, or another holds it. Claiming again prolongs.
 * Answers with what is known of the users, so that it costs no round trip of its own.
 */
export const claimMails = (db: Db, all: Claimant[]) =>
  db.run<Claim>(claim, columns(all, 'id', 'kind', 'owner', 'userId'))

// Makes the row where a crash of the database has taken the claim with it.
const sent: Statement = {
  name: 'mark_mails_sent',
  text: `
    insert into notifications.mail_delivery as known (event_id, kind, claimed_by, claimed_until, sent_at)
    select distinct on (event_id) event_id, kind, owner, now(), now()
    from unnest($1::text[], $2::text[], $3::uuid[]) as mail (event_id, kind, owner)
    order by event_id
    on conflict on constraint mail_delivery_pkey do update set sent_at = now() where known.sent_at is null`,
}
/** The mail server has taken the mails: from here on their events never become mails again. */
export const markMailsSent = (db: Db, all: Claimant[]) =>
  db.run(sent, columns(all, 'id', 'kind', 'owner')).then(() => all.map(() => undefined))

const columns = (all: Claimant[], ...names: (keyof Claimant)[]) => names.map((name) => all.map((one) => one[name]))

const release: Statement = {
  name: 'release_mail',
  text: `
    update notifications.mail_delivery set claimed_until = now()
    where event_id = $1 and claimed_by = $2 and sent_at is null`,
}
/** Gives a claim back, so that the next delivery of the message need not wait for its end. */
export const releaseMail = (db: Db, { id, owner }: Claimant) => db.run(release, [id, owner])

/**
 * Claims a run of `job` at `slot` for `leaseMs`; false where another has it or had it. A claim whose lease is over
 * without a finish belongs to a replica that died, and is taken over.
 */
export async function claimRun(db: Db, job: string, slot: Date, owner: string, leaseMs: number) {
  const { rowCount } = await db.knex.raw(
    `insert into notifications.cron_run as known (job, slot, owner, lease_until)
     values (:job, :slot, :owner, now() + :lease * interval '1 millisecond')
     on conflict on constraint cron_run_pkey do update set
       owner = excluded.owner, claimed_at = now(), lease_until = excluded.lease_until
     where known.finished_at is null and known.lease_until < now()`,
    { job, slot, owner, lease: leaseMs },
  )
  return rowCount === 1
}

/** Keeps a claimed run for `leaseMs` more. */
export const prolongRun = (db: Db, job: string, slot: Date, owner: string, leaseMs: number) =>
  db.knex.raw(
    `update notifications.cron_run set lease_until = now() + :lease * interval '1 millisecond'
     where job = :job and slot = :slot and owner = :owner and finished_at is null`,
    { job, slot, owner, lease: leaseMs },
  )

/** Ends a run with its result or its error, exactly one of which is given. */
export const finishRun = (
  db: Db,
  job: string,
  slot: Date,
  owner: string,
  { result = null, error = null }: { result?: unknown; error?: string | null },
) =>
  db.knex.raw(
    `update notifications.cron_run set finished_at = now(), result = :result, error = :error
     where job = :job and slot = :slot and owner = :owner and finished_at is null`,
    { job, slot, owner, result: result === null ? null : JSON.stringify(result), error },
  )

/** Slots of `job` since `from` that were begun and never finished, their lease over. */
export async function abandonedSlots(db: Db, job: string, from: Date): Promise<Date[]> {
  const { rows } = await db.knex.raw(
    `select slot from notifications.cron_run
     where job = ? and slot >= ? and finished_at is null and lease_until < now() order by slot`,
    [job, from],
  )
  return rows.map((row: { slot: Date }) => row.slot)
}

/** Forgets finished runs older than `before`. */
export const purgeRuns = (db: Db, job: string, before: Date) =>
  db.knex.raw('delete from notifications.cron_run where job = ? and slot < ? and finished_at is not null', [
    job,
    before,
  ])

/** Runs a job of another schema, which changes up to `batch` of its rows and returns how many. */
const job = (name: string) => async (db: Db, batch: number) => {
  const { rows } = await db.knex.raw(`select ${name}(batch => ?) as done`, [batch])
  return rows[0].done as number
}
/** Expires unpaid orders. */
export const expireOrders = job('orders.expire_due')
/** Has owners of unpaid orders reminded. */
export const remindUnpaid = job('orders.remind_unpaid')
/** Whether an order can still be paid. */
export async function awaitsPayment(db: Db, orderId: string) {
  const { rows } = await db.knex.raw('select orders.awaits_payment(?) as awaits', [orderId])
  return rows[0].awaits as boolean
}
/** Whether a cart is still as its owner was to be reminded of it. */
export async function cartWaits(db: Db, userId: string) {
  const { rows } = await db.knex.raw('select orders.cart_waits(?) as waits', [userId])
  return rows[0].waits as boolean
}
/** Whether a moment is longer ago than so many milliseconds. */
export async function hasPassed(db: Db, moment: Date, ms: number) {
  const { rows } = await db.knex.raw(`select now() > ?::timestamptz + ? * interval '1 millisecond' as passed`, [
    moment,
    ms,
  ])
  return rows[0].passed as boolean
}
/** Tells of carts that nobody touches any more. */
export const remindCarts = job('orders.remind_carts')
/** Has buyers asked how it was. */
export const askFeedback = job('orders.ask_feedback')
/** Forgets entries of the audit that are older than a year. */
export const purgeAudit = job('auth.purge_audit')
/** Forgets sessions, codes and failures to log in, up to `batch` of each. */
export const purgeLogins = job('auth.purge')

/** Forgets answers kept for repeated orders. */
export const purgeKeys = job('orders.purge_keys')

/** Forgets up to `batch` mails that no dead letter can be replayed to: it can for 30 days, and must still be known then. */
export async function purgeMails(db: Db, batch: number) {
  const { rowCount } = await db.knex.raw(
    `delete from notifications.mail_delivery where event_id = any (array(
       select event_id from notifications.mail_delivery where created_at < now() - interval '40 days'
       order by created_at limit ? for update skip locked))`,
    [batch],
  )
  return rowCount as number
}

/** Forgets digests older than 40 days, of which there are few; returns how many. */
export async function purgeDigests(db: Db) {
  const { rowCount } = await db.knex.raw(`delete from notifications.digest where until < now() - interval '40 days'`)
  return rowCount as number
}

/** Announces files that nothing refers to, so that their roles remove them; returns how many. */
export async function announceUnused(db: Db) {
  let objects = 0
  for (const schema of ['auth', 'products'])
    for (let past: string | null = ''; past !== null; ) {
      const { rows }: { rows: { last: string | null; told: number }[] } = await db.knex.raw(
        `select last, told from ${schema}.tell_unused(?, 20000)`,
        [past],
      )
      past = rows[0]?.last ?? null
      objects += rows[0]?.told ?? 0
    }
  return objects
}

export interface Subscription {
  wanted: boolean
  /** Ends it without a login. */
  token: string
}
const subscribing: Statement = {
  name: 'open_subscription',
  text: `
    insert into notifications.subscription (user_id, topic) values ($1, $2)
    on conflict on constraint subscription_pkey do update set topic = excluded.topic
    returning wanted, token`,
}
/** Whether a user wants mails of a topic, with the token that their link carries. */
export const openSubscription = async (db: Db, userId: string, topic: Topic) =>
  (await db.run<Subscription>(subscribing, [userId, topic]))[0] as Subscription

/** What a user wants; what was never said is wanted. */
export async function preferencesOf(db: Db, userId: string): Promise<Preferences> {
  const rows = await db.run<{ topic: Topic; wanted: boolean }>(
    { name: 'preferences', text: 'select topic, wanted from notifications.subscription where user_id = $1' },
    [userId],
  )
  const said = new Map(rows.map(({ topic, wanted }) => [topic, wanted]))
  return Object.fromEntries(topics.map((topic) => [topic, said.get(topic) ?? true])) as Preferences
}

/** Sets all topics of a user; what stays as it was keeps its time of change. */
export const setPreferences = (db: Db, userId: string, preferences: Preferences) =>
  db.knex.raw(
    `insert into notifications.subscription as known (user_id, topic, wanted)
     select ?, key, value::boolean from json_each_text(?::json) order by key
     on conflict on constraint subscription_pkey do update set wanted = excluded.wanted, changed_at = now()
     where known.wanted <> excluded.wanted`,
    [userId, JSON.stringify(preferences)],
  )

export interface Link {
  topic: Topic
  /** Of its owner, where it is known. */
  locale: string | null
}
/** What the link of a mail would end; undefined where the token is none. */
export const linkOf = async (db: Db, token: string) =>
  (
    await db.run<Link>(
      {
        name: 'link_of',
        text: `select s.topic, r.locale from notifications.subscription s
               left join notifications.recipient r on r.user_id = s.user_id where s.token = $1`,
      },
      [token],
    )
  )[0]

/** Ends the mails that a link is of; again, it changes nothing. */
export const unsubscribe = (db: Db, token: string) =>
  db.knex.raw('update notifications.subscription set wanted = false, changed_at = now() where token = ? and wanted', [
    token,
  ])

export interface Reader {
  userId: string
  email: string
  name: string
  locale: string
  timeZone: string
}
/** Who gets the digest of the staff. */
export async function digestReaders(db: Db): Promise<Reader[]> {
  const { rows } = await db.knex.raw(
    'select user_id as "userId", email, name, locale, time_zone as "timeZone" from auth.digest_readers()',
  )
  return rows
}

/**
 * The time that the digest of a user's day is about: from where their last one ended, a day back for the first, a week at
 * most. Undefined where it was begun before.
 */
export async function timeOfDigest(
  db: Db,
  userId: string,
  day: string,
): Promise<{ since: Date; until: Date } | undefined> {
  const { rows } = await db.knex.raw(
    `select greatest(coalesce(max(until), now() - interval '1 day'), now() - interval '7 days') as since, now() as until
     from notifications.digest where user_id = :userId having bool_or(day = :day) is not true`,
    { userId, day },
  )
  return rows[0]
}

/** Begins the digest of a user's day; false where it was begun before. */
export async function beginDigest(db: Db, userId: string, day: string, until: Date): Promise<boolean> {
  const { rowCount } = await db.knex.raw(
    'insert into notifications.digest (user_id, day, until) values (?, ?, ?) on conflict on constraint digest_pkey do nothing',
    [userId, day, until],
  )
  return rowCount === 1
}

/** What the digest of a time tells. */
export async function digestOf(db: Db, since: Date, until: Date): Promise<Pick<Digest, 'placed' | 'toShip' | 'low'>> {
  const { rows } = await db.knex.raw('select orders.digest(?, ?) as orders, products.low_stock() as low', [
    since,
    until,
  ])
  return { ...rows[0].orders, low: rows[0].low }
}
