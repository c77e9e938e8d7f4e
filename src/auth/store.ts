import type { Picture } from '../events.ts'
import type { Db, Knex, Statement } from '../platform/db.ts'
import type { AuditPosition } from './cursor.ts'

export interface UserRow {
  id: string
  email: string
  name: string
  locale: string
  time_zone: string
  password_hash: string | null
  roles: string[]
  email_verified_at: Date | null
  created_at: Date
  avatar_large: string | null
  avatar_small: string | null
}
const userColumns = [
  'id',
  'email',
  'name',
  'locale',
  'time_zone',
  'password_hash',
  'roles',
  'email_verified_at',
  'created_at',
  'avatar_large',
  'avatar_small',
]

/** The avatar of a user, or null. */
export const avatarOf = ({ avatar_large, avatar_small }: UserRow): Picture | null =>
  avatar_large && avatar_small ? { large: avatar_large, small: avatar_small } : null

export type Purpose = 'verify' | 'login' | 'reset' | 'notice'
/**
 * Mails of one purpose in 24 h; codes to log in with are asked for on purpose and more often. Of a reset one an hour comes
 * after them: its link is good for that long, so that no stranger can ask until the owner has none.
 */
const mailsADay: Record<Purpose, number> = { verify: 5, login: 20, reset: 5, notice: 5 }

/** The user of an address in lower case. */
export const userByEmail = (knex: Knex, email: string): Promise<UserRow | undefined> =>
  knex('auth.user').first(userColumns).where({ email })

const account: Statement = { name: 'account', text: `select ${userColumns.join()} from auth."user" where email = $1` }
/** As `userByEmail`, outside of a transaction and faster. */
export const accountOf = async (db: Db, email: string) => (await db.run<UserRow>(account, [email]))[0]

/** The user of an id. */
export const userById = (knex: Knex, id: string): Promise<UserRow | undefined> =>
  knex('auth.user').first(userColumns).where({ id })

/** Undefined where the address is taken. */
export async function insertUser(
  knex: Knex,
  user: Pick<UserRow, 'id' | 'email' | 'name' | 'locale' | 'time_zone' | 'password_hash'> & Partial<UserRow>,
): Promise<UserRow | undefined> {
  const rows = await knex('auth.user').insert(user).onConflict('email').ignore().returning(userColumns)
  return rows[0]
}

/**
 * The user as changed, and when: later for each change of one user, which the time that a transaction began is not.
 */
export async function changeProfile(
  knex: Knex,
  id: string,
  changes: Partial<Pick<UserRow, 'name' | 'locale' | 'time_zone'>>,
): Promise<(UserRow & { changed_at: string }) | undefined> {
  const rows = await knex('auth.user')
    .where({ id })
    .update({ ...changes, updated_at: knex.raw('clock_timestamp()') })
    .returning([...userColumns, knex.raw('updated_at::text as changed_at')])
  return rows[0]
}

/** Sets or clears the avatar; the user as they were before, or undefined where there is none. */
export async function setAvatar(
  trx: Knex.Transaction,
  id: string,
  avatar: Picture | null,
): Promise<UserRow | undefined> {
  const before = await trx('auth.user').first(userColumns).where({ id }).forUpdate()
  if (before)
    await trx('auth.user')
      .where({ id })
      .update({
        avatar_large: avatar?.large ?? null,
        avatar_small: avatar?.small ?? null,
        updated_at: trx.fn.now(),
      })
  return before
}

/** Null is no password. With `current`, only where that is still the hash of the user's password. */
export const setPassword = (knex: Knex, id: string, passwordHash: string | null, current?: string) =>
  knex('auth.user')
    .where(current === undefined ? { id } : { id, password_hash: current })
    .update({ password_hash: passwordHash, updated_at: knex.fn.now() })

/** Undefined where the user was verified before. */
export async function markVerified(knex: Knex, id: string): Promise<UserRow | undefined> {
  const rows = await knex('auth.user')
    .where({ id })
    .whereNull('email_verified_at')
    .update({ email_verified_at: knex.fn.now(), updated_at: knex.fn.now() })
    .returning(userColumns)
  return rows[0]
}

/** Users in order of address, after the one that the last page ended with. */
export const listUsers = (
  knex: Knex,
  { q, after, limit }: { q?: string; after?: string; limit: number },
): Promise<UserRow[]> => {
  const query = knex('auth.user').select(userColumns).orderBy('email').limit(limit)
  if (after) query.where('email', '>', after)
  if (q) query.whereRaw(`email like ? escape '\\'`, [`%${q.toLowerCase().replace(/[\\%_]/g, '\\$&')}%`])
  return query
}

/** Locks the admins, so that two changes at once cannot remove the last one. */
export const lockAdmins = (trx: Knex.Transaction): Promise<{ id: string }[]> =>
  trx('auth.user').select('id').whereRaw(`'admin' = any(roles)`).orderBy('id').forUpdate()

/** Sets the roles of a user; undefined where there is none. */
export async function setRoles(trx: Knex, id: string, roles: string[]): Promise<UserRow | undefined> {
  const rows = await trx('auth.user').where({ id }).update({ roles, updated_at: trx.fn.now() }).returning(userColumns)
  return rows[0]
}

interface Secrets {
  linkHash?: Buffer
  codeHash?: Buffer
}

/**
 * Stores new secrets for a purpose, in place of older ones: link 24 h (a reset 1 h), code 10 min.
 * False within 60 s of the last mail of that purpose, and after the day's share of them.
 */
export async function issue(
  knex: Knex,
  userId: string,
  purpose: Purpose,
  { linkHash, codeHash }: Secrets,
): Promise<boolean> {
  const { rowCount } = await knex.raw(
    `insert into auth.verification as v (user_id, purpose, link_hash, link_expires_at, code_hash, code_expires_at)
     values (?, ?, ?, now() + (case when ? = 'reset' then interval '1 hour' else interval '24 hours' end), ?, now() + interval '10 minutes')
     on conflict on constraint verification_pkey do update set
       link_hash = excluded.link_hash, link_expires_at = excluded.link_expires_at,
       code_hash = excluded.code_hash, code_expires_at = excluded.code_expires_at,
       attempts = 0, consumed_at = null, sent_at = now(),
       sent_count = case when v.day_began_at < now() - interval '1 day' then 1 else v.sent_count + 1 end,
       day_began_at = case when v.day_began_at < now() - interval '1 day' then now() else v.day_began_at end
     where v.sent_at < now() - interval '60 seconds'
       and (v.day_began_at < now() - interval '1 day' or v.sent_count < ?
         or v.purpose = 'reset' and v.sent_at < now() - interval '1 hour')`,
    [userId, purpose, linkHash ?? null, purpose, codeHash ?? null, mailsADay[purpose]],
  )
  return rowCount > 0
}

/** Uses up a link's secret; the user's id, or undefined where it is unknown, used, replaced or too old. */
export async function consumeLink(knex: Knex, purpose: Purpose, linkHash: Buffer): Promise<string | undefined> {
  const { rows } = await knex.raw(
    `update auth.verification set consumed_at = now()
     where link_hash = ? and purpose = ? and consumed_at is null and link_expires_at > now() returning user_id`,
    [linkHash, purpose],
  )
  return rows[0]?.user_id
}

/** Counts a try of a code and uses the code up where it is right: five tries, then only a new code helps. */
export async function consumeCode(
  knex: Knex,
  purpose: Purpose,
  userId: string,
  codeHashes: Buffer[],
): Promise<boolean> {
  const { rows } = await knex.raw(
    `update auth.verification
     set attempts = attempts + 1, consumed_at = case when code_hash = any(?::bytea[]) then now() end
     where user_id = ? and purpose = ? and consumed_at is null and code_expires_at > now() and attempts < 5
     returning consumed_at`,
    [codeHashes, userId, purpose],
  )
  return Boolean(rows[0]?.consumed_at)
}

export interface SessionRow {
  id: string
  user_id: string
  ip: string
  user_agent: string
  created_at: Date
  last_used_at: Date
}

/**
 * Live sessions of one user. Without an end to them, a day of sign-ins made a list of 400,000, which no role has the time
 * and memory to answer with.
 */
export const mostSessions = 500

/**
 * Begins a session of 30 days at most, with its first refresh token, and adds it to the audit, all in one statement. The
 * user is held meanwhile: `began` is false where the password is another one than expected, if one is. Of more sessions
 * than there may be, those used longest ago end.
 */
export async function insertSession(
  db: Db,
  session: Pick<SessionRow, 'id' | 'user_id' | 'ip' | 'user_agent'>,
  { tokenHash, expected, by }: { tokenHash: Buffer; expected: string | null; by: 'password' | 'code' },
): Promise<(UserRow & { began: boolean }) | undefined> {
  const { id, user_id, ip, user_agent } = session
  const detail = { by, sessionId: id, userAgent: user_agent }
  const values = [user_id, expected, id, ip, user_agent, tokenHash, JSON.stringify(detail)]
  return (await db.run<UserRow & { began: boolean }>(beginning, values))[0]
}

const beginning: Statement = {
  name: 'insert_session',
  text: `
    with held as materialized (
      select ${userColumns.join()} from auth."user" where id = $1 for share
    ), begun as (
      insert into auth.session (id, user_id, ip, user_agent, expires_at)
      select $3, id, $4, $5, now() + interval '30 days' from held where password_hash = $2::text or $2::text is null
      returning id, user_id, ip
    ), ended as (
      -- By arrays, which are made once. Lists that the planner joins are made again for each session, where it thinks that
      -- there are none, as at its last look: with 20,000 a sign-in took longer than the 15 s of a statement.
      update auth.session set revoked_at = now() where id = any (array(
        select s.id from auth.session s
         where s.user_id = (select user_id from begun) and s.revoked_at is null and s.id = any (array(
          select o.id from auth.session o where o.user_id = (select user_id from begun) and o.revoked_at is null
           order by o.last_used_at desc offset ${mostSessions - 1} limit 1000))
        -- Another sign-in may be ending the same ones.
        for update skip locked))
    ), token as (
      insert into auth.refresh_token (token_hash, session_id) select $6, id from begun
    ), noted as (
      insert into auth.audit (event, user_id, actor, ip, detail)
      select 'login.succeeded', user_id, user_id, ip, $7::jsonb from begun
    )
    select held.*, exists (select from begun) as began from held`,
}

const liveSession = `s.revoked_at is null and s.expires_at > now() and s.last_used_at > now() - interval '7 days'`

/** Marks the token used and stores its successor, if it was unused and its session stands; the session's user. */
export async function rotate(trx: Knex.Transaction, tokenHash: Buffer, nextHash: Buffer) {
  const { rows } = await trx.raw(
    `with used as (
       update auth.refresh_token t set used_at = now() from auth.session s
       where t.token_hash = ? and t.used_at is null and s.id = t.session_id and ${liveSession}
       returning t.session_id, s.user_id),
     kept as (
       insert into auth.refresh_token (token_hash, session_id) select ?, session_id from used),
     touched as (
       update auth.session set last_used_at = now() where id = (select session_id from used))
     select session_id, user_id from used`,
    [tokenHash, nextHash],
  )
  return rows[0] as { session_id: string; user_id: string } | undefined
}

/** What is known of a used token: whether its rotation is at most 60 s old, and whether its session stands. */
export async function usedToken(knex: Knex, tokenHash: Buffer) {
  const { rows } = await knex.raw(
    `select t.session_id, s.user_id, t.used_at > now() - interval '60 seconds' as fresh, (${liveSession}) as live
     from auth.refresh_token t join auth.session s on s.id = t.session_id
     where t.token_hash = ? and t.used_at is not null`,
    [tokenHash],
  )
  return rows[0] as { session_id: string; user_id: string; fresh: boolean; live: boolean } | undefined
}

/** The live sessions of a user, the one used last first. */
export const listSessions = (knex: Knex, userId: string): Promise<SessionRow[]> =>
  knex('auth.session as s')
    .select('id', 'user_id', 'ip', 'user_agent', 'created_at', 'last_used_at')
    .where({ user_id: userId })
    .whereRaw(liveSession)
    .orderBy('last_used_at', 'desc')
    .limit(mostSessions)

/** Revokes one session of a user, or all of them; the ids that were live until now. */
export async function revoke(knex: Knex, userId: string, sessionId?: string): Promise<string[]> {
  const query = knex('auth.session').where({ user_id: userId }).whereNull('revoked_at')
  if (sessionId) query.where({ id: sessionId })
  const rows = await query.update({ revoked_at: knex.fn.now() }).returning('id')
  return rows.map((row) => row.id)
}

const revokedText = {
  name: 'auth.revoked_since',
  text: 'select id from auth.session where revoked_at > now() - make_interval(secs => $1)',
}
/** Sessions revoked in the last `seconds`. */
export const revokedSince = (db: Db, seconds: number) => db.run<{ id: string }>(revokedText, [seconds])

/**
 * Seconds until what the key stands for may be tried again: after `free` failures in 15 min, 1, 2, 4 … 60 s. Undefined
 * where nothing is known of a failure.
 */
export async function secondsToWait(db: Db, key: Buffer, free: number): Promise<number | undefined> {
  const [row] = await db.run<{ wait: number }>(waiting, [key, free])
  return row && Math.max(0, row.wait)
}
const waiting: Statement = {
  name: 'seconds_to_wait',
  text: `
    select case when failures >= $2::int and began_at > now() - interval '15 minutes'
      then ceil(extract(epoch from last_at - now()) + least(60, 2 ^ least(failures - $2::int, 6)))::int else 0 end as wait
    from auth.login_failure where key = $1`,
}

/** Counts one more failure of a key; the count begins anew 15 minutes after its first. */
export const countFailure = (knex: Knex, key: Buffer) =>
  knex.raw(
    `insert into auth.login_failure as f (key, failures) values (?, 1)
     on conflict on constraint login_failure_pkey do update set
       failures = case when f.began_at < now() - interval '15 minutes' then 1 else f.failures + 1 end,
       began_at = case when f.began_at < now() - interval '15 minutes' then now() else f.began_at end,
       last_at = now()`,
    [key],
  )

/** Forgets the failures of a key. */
export const forgetFailures = (knex: Knex, key: Buffer) => knex('auth.login_failure').where({ key }).delete()

export interface AuditEntry {
  event: string
  userId?: string
  actor?: string
  ip?: string
  detail?: Record<string, unknown>
}
/** Adds an entry to the audit, in the transaction of what it records. */
export const recordAudit = (knex: Knex, { event, userId, actor, ip, detail = {} }: AuditEntry) =>
  knex('auth.audit').insert({ event, user_id: userId, actor, ip, detail: JSON.stringify(detail) })

export interface AuditRow {
  id: string
  /** ISO 8601, in microseconds. */
  at: string
  event: string
  user_id: string | null
  actor: string | null
  ip: string | null
  detail: Record<string, unknown>
}
/** Entries of the audit and of all orders before a position, newest first; of one user where one is given. */
export async function listAudit(
  knex: Knex,
  { before, user, limit }: { before: AuditPosition; user?: string; limit: number },
): Promise<AuditRow[]> {
  const { rows } = await knex.raw(
    `select id, to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, event, user_id, actor, ip, detail
     from (
       (select a.id::text, a.at, a.event, a.user_id, a.actor, a.ip, a.detail from auth.audit a
        where ${user ? 'a.user_id = :user and' : ''} a.at <= cast(:at as timestamptz)
          and (a.at, a.id::text collate "C") < (cast(:at as timestamptz), cast(:id as text) collate "C")
        order by a.at desc, a.id::text collate "C" desc limit :limit)
       union all
       (select o.id, o.at, o.event, o.user_id, o.actor, null, o.detail
        from orders.audit(cast(:at as timestamptz), cast(:id as text), :limit, cast(:user as uuid)) o)
     ) entry
     order by entry.at desc, entry.id collate "C" desc limit :limit`,
    { ...before, user: user ?? null, limit },
  )
  return rows
}
