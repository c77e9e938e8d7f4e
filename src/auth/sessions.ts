import { v7 as uuid } from 'uuid'
import { append } from '../platform/outbox.ts'
import { problem } from '../platform/problem.ts'
import { type Deps as AccountDeps, badCredentials } from './accounts.ts'
import { checkPassword } from './passwords.ts'
import { toRecipient } from './schema.ts'
import * as store from './store.ts'
import { type AccessTokens, accessLifetime, newSecret, sha256, successor } from './tokens.ts'

export interface Deps extends AccountDeps {
  tokens: AccessTokens
}

export interface Tokens {
  accessToken: string
  tokenType: 'Bearer'
  /** Seconds. */
  expiresIn: number
  refreshToken: string
}

/**
 * Begins a session of a user whose password or code was right: an access token, and the first refresh token of a new
 * family. A password or roles that change meanwhile end the sessions that there are, so this one begins by the new ones,
 * or not: 401 `bad_credentials`.
 */
export async function beginSession(
  { db, tokens }: Pick<Deps, 'db' | 'tokens'>,
  { id, password_hash }: Pick<store.UserRow, 'id' | 'password_hash'>,
  client: { ip: string; userAgent: string; password: string | undefined },
): Promise<Tokens> {
  const sid = uuid()
  const refreshToken = newSecret()
  const { ip, password } = client
  const session = { id: sid, user_id: id, ip, user_agent: client.userAgent.slice(0, 300) }
  const by = password === undefined ? 'code' : 'password'
  for (let expected = by === 'code' ? null : password_hash; ; ) {
    const user = await store.insertSession(db, session, { tokenHash: sha256(refreshToken), expected, by })
    if (user?.began) return answer(tokens, user, sid, refreshToken)
    // Another hash may be of the same password, which a login with outdated parameters stores anew.
    if (!user || !(await checkPassword(password as string, user.password_hash))) throw badCredentials()
    expected = user.password_hash
  }
}

/**
 * Exchanges a refresh token for its successor. The same token again within 60 s is a retry and gets the same answer (the
 * edge alone may keep an answer for 20 s before its client asks anew); later it means that the token was copied: the
 * session ends and its owner is told. Throws 401 `bad_refresh_token`.
 */
export async function refresh({ db, relay, revocations, tokens, config }: Deps, token: string): Promise<Tokens> {
  const next = successor(config.REFRESH_KEY, token)
  const { user, sid, ended } = await db.knex.transaction(async (trx): Promise<Exchange> => {
    const rotated = await store.rotate(trx, sha256(token), sha256(next))
    if (rotated) return { user: await store.userById(trx, rotated.user_id), sid: rotated.session_id }
    const used = await store.usedToken(trx, sha256(token))
    if (!used?.live) return {}
    const { user_id: userId, session_id: sessionId } = used
    const user = await store.userById(trx, userId)
    if (used.fresh) return { user, sid: sessionId }
    const ended = await store.revoke(trx, userId, sessionId)
    // Of several at once, one ends the session, records it and tells its owner.
    if (ended.length > 0) {
      await store.recordAudit(trx, { event: 'session.reused', userId, detail: { sessionId } })
      if (user) await append(trx, 'auth', 'msg.user.session_reused', toRecipient(user))
    }
    return { ended }
  })
  if (ended) {
    revocations.announce(ended)
    relay.wake()
  }
  if (!user || !sid)
    throw problem.unauthenticated('bad_refresh_token', 'The refresh token is unknown, used or over; log in again.')
  return answer(tokens, user, sid, next)
}

/** What came of a refresh token: the session that goes on, or the sessions that ended, or neither. */
interface Exchange {
  user?: store.UserRow
  sid?: string
  ended?: string[]
}

const answer = (tokens: AccessTokens, user: store.UserRow, sid: string, refreshToken: string): Tokens => ({
  accessToken: tokens.sign({ id: user.id, email: user.email, roles: user.roles, sid }),
  tokenType: 'Bearer',
  expiresIn: accessLifetime,
  refreshToken,
})

/** Ends one session of a user, or all; returns how many were live. */
export async function endSessions({ db, revocations }: Pick<Deps, 'db' | 'revocations'>, userId: string, sid?: string) {
  const ended = await db.knex.transaction(async (trx) => {
    const sessions = await store.revoke(trx, userId, sid)
    if (sessions.length > 0)
      await store.recordAudit(trx, { event: 'session.ended', userId, actor: userId, detail: { sessions } })
    return sessions
  })
  revocations.announce(ended)
  return ended.length
}
