import { isIPv6 } from 'node:net'
import { v7 as uuid } from 'uuid'
import type { Config } from '../platform/config.ts'
import type { Db, Knex } from '../platform/db.ts'
import { keyedLock } from '../platform/limiter.ts'
import { append, type Relay } from '../platform/outbox.ts'
import { problem } from '../platform/problem.ts'
import { checkPassword, hashPassword, isOutdated } from './passwords.ts'
import type { Revocations } from './revocations.ts'
import { toChange, toRecipient } from './schema.ts'
import * as store from './store.ts'
import { codeHash, newCode, newSecret, sha256 } from './tokens.ts'

export interface Deps {
  db: Db
  relay: Relay
  revocations: Revocations
  config: Pick<Config<'auth'>, 'CODE_PEPPER' | 'CODE_PEPPER_PREVIOUS' | 'REFRESH_KEY' | 'PUBLIC_URL'>
}

interface NewUser {
  email: string
  password: string
  name: string
  locale: string
  timeZone: string
}

/** Makes an account and mails its verification; for a taken address mails its owner. The caller sees no difference. */
export async function register({ db, relay, config }: Deps, input: NewUser, ip: string) {
  const passwordHash = await hashPassword(input.password)
  await db.knex.transaction(async (trx) => {
    const { email, name, locale, timeZone } = input
    const user = await store.insertUser(trx, {
      id: uuid(),
      email,
      name,
      locale,
      time_zone: timeZone,
      password_hash: passwordHash,
    })
    if (user) {
      const secrets = await newVerification(trx, user.id, config.CODE_PEPPER)
      await store.recordAudit(trx, { event: 'account.registered', userId: user.id, ip })
      await append(trx, 'auth', 'msg.user.registered', { ...toRecipient(user), timeZone, ...secrets })
    } else {
      const owner = await store.userByEmail(trx, email)
      if (owner && (await store.issue(trx, owner.id, 'notice', {})))
        await append(trx, 'auth', 'msg.user.register_repeated', toRecipient(owner))
    }
  })
  relay.wake()
}

/** Link and code of one verification; a mail carries both and either ends it. Empty within the cool-down. */
async function newVerification(trx: Knex.Transaction, userId: string, pepper: string) {
  const token = newSecret()
  const code = newCode()
  const issued = await store.issue(trx, userId, 'verify', {
    linkHash: sha256(token),
    codeHash: codeHash(pepper, userId, code),
  })
  return issued ? { token, code } : { token: '', code: '' }
}

/** Mails a new verification to an unverified account; anything else does nothing, and looks the same. */
export async function resendVerification({ db, relay, config }: Deps, email: string) {
  await db.knex.transaction(async (trx) => {
    const user = await store.userByEmail(trx, email)
    if (!user || user.email_verified_at) return
    const secrets = await newVerification(trx, user.id, config.CODE_PEPPER)
    if (secrets.token)
      await append(trx, 'auth', 'msg.user.verification_requested', { ...toRecipient(user), ...secrets })
  })
  relay.wake()
}

/** Verifies an address by the link's token or the code. Throws 400 `bad_token` or `bad_code`, or 429. */
export async function verify(
  { db, relay, config }: Deps,
  input: { token: string } | { email: string; code: string },
  ip: string,
) {
  using _lock = 'code' in input ? await lockTries(codeKey(ip)) : undefined
  if ('code' in input) await slowDownCodes(db, ip)
  const done = await db.knex.transaction(async (trx) => {
    const userId =
      'token' in input
        ? await store.consumeLink(trx, 'verify', sha256(input.token))
        : await redeemCode(trx, config, 'verify', input.email, input.code)
    if (!userId) return false
    await markVerified(trx, userId)
    return true
  })
  relay.wake()
  if (done) return
  if ('token' in input)
    throw problem.badRequest(
      'bad_token',
      'The link was used, replaced by a newer one, or is older than 24 hours; ask for a new one.',
    )
  await store.countFailure(db.knex, codeKey(ip))
  throw problem.badRequest(
    'bad_code',
    'The code is wrong, used or too old, or was tried five times; ask for a new one.',
  )
}

/** Marks an address as verified; whether it was not verified before. */
async function markVerified(trx: Knex.Transaction, userId: string) {
  const user = await store.markVerified(trx, userId)
  if (!user) return false
  await store.recordAudit(trx, { event: 'account.verified', userId })
  await append(trx, 'auth', 'msg.user.verified', toRecipient(user))
  return true
}

/** Uses a mailed code up; the id of the user whose code it is, or undefined where it is wrong. */
async function redeemCode(
  trx: Knex.Transaction,
  config: Deps['config'],
  purpose: 'verify' | 'login',
  email: string,
  code: string,
) {
  const user = await store.userByEmail(trx, email)
  if (!user) return undefined
  const hashes = [config.CODE_PEPPER, config.CODE_PEPPER_PREVIOUS]
    .filter((p) => p !== undefined)
    .map((p) => codeHash(p, user.id, code))
  return (await store.consumeCode(trx, purpose, user.id, hashes)) ? user.id : undefined
}

/** Of failures at one account from one network. */
const accountKey = (email: string, ip: string) => sha256(`${email}|${networkOf(ip)}`)
/** Of wrong codes from one network: of a million one is right, so that five tries at each of many accounts would find some. */
const codeKey = (ip: string) => sha256(`code|${networkOf(ip)}`)
// Behind one who waits 8 s for a database that stands still, the others would be tried for minutes after their clients left.
const lock = keyedLock(5000, 'Too many sign-ins wait; try again in a moment.')
/** One try of a key at a time: many at once would all begin before the failure of any is counted. */
const lockTries = (key: Buffer) => lock(key.toString('hex'))
/** An IPv4 address as it is; of an IPv6 address its /64, all of which its holder has, as four groups. */
function networkOf(ip: string) {
  if (!isIPv6(ip)) return ip
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)?.[1]
  if (mapped) return mapped
  const [head = '', tail] = ip.split('::') as [string, string?]
  const groups = head ? head.split(':') : []
  const last = tail ? tail.split(':') : []
  const zeros = tail === undefined ? [] : Array(Math.max(0, 8 - groups.length - last.length)).fill('0')
  return [...groups, ...zeros, ...last]
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16))
    .join(':')
}

/** The user of a right password. Throws 401 `bad_credentials`, 403 `email_unverified`, or 429 after many failures. */
export async function loginByPassword(
  { db }: Deps,
  email: string,
  password: string,
  ip: string,
): Promise<store.UserRow> {
  const key = accountKey(email, ip)
  using _lock = await lockTries(key)
  const [hasFailed, user] = await Promise.all([slowDown(db, key), store.accountOf(db, email)])
  if (!(await checkPassword(password, user?.password_hash)) || !user) {
    await recordFailure(db, [key], { userId: user?.id, ip, detail: { by: 'password' } })
    throw badCredentials()
  }
  if (hasFailed) await store.forgetFailures(db.knex, key)
  if (!user.email_verified_at)
    throw problem.forbidden(
      'email_unverified',
      'Verify the mail address first: type the code of the mail, or open its link.',
    )
  const current = user.password_hash as string
  // A new password that came meanwhile stays.
  if (isOutdated(current)) await store.setPassword(db.knex, user.id, await hashPassword(password), current)
  return user
}

/** Mails a code to log in with, where there is such an account. */
export async function mailLoginCode({ db, relay, config }: Deps, email: string) {
  await db.knex.transaction(async (trx) => {
    const user = await store.userByEmail(trx, email)
    if (!user) return
    const code = newCode()
    if (await store.issue(trx, user.id, 'login', { codeHash: codeHash(config.CODE_PEPPER, user.id, code) }))
      await append(trx, 'auth', 'msg.user.login_code_requested', { ...toRecipient(user), code })
  })
  relay.wake()
}

/**
 * The user of a right code, whose address is thereby verified; a password from before that is forgotten, since whoever
 * registered the address may be another. Throws 401 `bad_credentials`, or 429.
 */
export async function loginByCode(
  { db, relay, config }: Deps,
  email: string,
  code: string,
  ip: string,
): Promise<store.UserRow> {
  const key = accountKey(email, ip)
  using _lock = await lockTries(codeKey(ip))
  await Promise.all([slowDown(db, key), slowDownCodes(db, ip)])
  const user = await db.knex.transaction(async (trx) => {
    const userId = await redeemCode(trx, config, 'login', email, code)
    if (!userId) return undefined
    if (await markVerified(trx, userId)) await store.setPassword(trx, userId, null)
    return store.userById(trx, userId)
  })
  relay.wake()
  if (user) return user
  await recordFailure(db, [key, codeKey(ip)], {
    userId: (await store.accountOf(db, email))?.id,
    ip,
    detail: { by: 'code' },
  })
  throw badCredentials()
}

const recordFailure = (db: Db, keys: Buffer[], entry: Omit<store.AuditEntry, 'event'>) =>
  db.knex.transaction(async (trx) => {
    for (const key of keys) await store.countFailure(trx, key)
    await store.recordAudit(trx, { event: 'login.failed', ...entry })
  })

/** Whether a failure is known. Throws 429 where it is too early to try again. */
async function slowDown(db: Db, key: Buffer, free = 5): Promise<boolean> {
  const seconds = await store.secondsToWait(db, key, free)
  if (seconds) throw problem.slowDown(seconds)
  return seconds !== undefined
}
/** A network, which may be an office's, mistypes more often than one of its people. */
const slowDownCodes = (db: Db, ip: string) => slowDown(db, codeKey(ip), 20)

/** The 401 of a login, the same whether the account, the password or the code is wrong. */
export const badCredentials = () =>
  problem.unauthenticated('bad_credentials', 'The address and the password or code do not match.')

/** Mails a link to set a new password, where there is such an account. */
export async function forgotPassword({ db, relay }: Deps, email: string, ip: string) {
  await db.knex.transaction(async (trx) => {
    const user = await store.userByEmail(trx, email)
    if (!user) return
    const token = newSecret()
    if (!(await store.issue(trx, user.id, 'reset', { linkHash: sha256(token) }))) return
    await store.recordAudit(trx, { event: 'password.reset_requested', userId: user.id, ip })
    await append(trx, 'auth', 'msg.user.password_reset_requested', { ...toRecipient(user), token })
  })
  relay.wake()
}

/** Sets a password by the mailed token, ends every session, tells the owner. Throws 400 `bad_token`. */
export async function resetPassword({ db, relay, revocations }: Deps, token: string, password: string, ip: string) {
  const passwordHash = await hashPassword(password)
  const ended = await db.knex.transaction(async (trx) => {
    const userId = await store.consumeLink(trx, 'reset', sha256(token))
    if (!userId) return undefined
    await store.setPassword(trx, userId, passwordHash)
    await markVerified(trx, userId)
    await store.recordAudit(trx, { event: 'password.changed', userId, ip })
    const user = (await store.userById(trx, userId)) as store.UserRow
    await append(trx, 'auth', 'msg.user.password_changed', toRecipient(user))
    return store.revoke(trx, userId)
  })
  if (!ended)
    throw problem.badRequest(
      'bad_token',
      'The link was used, replaced by a newer one, or is older than an hour; ask for a new one.',
    )
  revocations.announce(ended)
  relay.wake()
}

/** Changes what a user set of themself, and tells those who write to the user. */
export async function changeProfile(
  { db, relay }: Pick<Deps, 'db' | 'relay'>,
  id: string,
  { name, locale, timeZone }: { name?: string; locale?: string; timeZone?: string },
): Promise<store.UserRow> {
  const user = await db.knex.transaction(async (trx) => {
    // knex leaves out what is undefined
    const user = await store.changeProfile(trx, id, { name, locale, time_zone: timeZone })
    if (!user) throw problem.notFound('user', id)
    await append(trx, 'auth', 'msg.user.changed', toChange(user))
    return user
  })
  relay.wake()
  return user
}

/** Changes who a user is allowed to be; every session of the user ends, so that the change holds within 5 s. */
export async function changeRoles(
  { db, revocations }: Pick<Deps, 'db' | 'revocations'>,
  id: string,
  roles: string[],
  { actor, ip }: { actor: string; ip: string },
) {
  const { user, ended } = await db.knex.transaction(async (trx) => {
    const admins = await store.lockAdmins(trx)
    if (!roles.includes('admin') && admins.length === 1 && admins[0]?.id === id)
      throw problem.conflict('last_admin', 'This is the last admin; make another one first.')
    const before = await store.userById(trx, id)
    const user = await store.setRoles(trx, id, roles)
    if (!before || !user) throw problem.notFound('user', id)
    await store.recordAudit(trx, {
      event: 'roles.changed',
      userId: id,
      actor,
      ip,
      detail: { from: before.roles, to: roles },
    })
    return { user, ended: await store.revoke(trx, id) }
  })
  revocations.announce(ended)
  return user
}
