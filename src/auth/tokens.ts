import {
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  randomBytes,
  randomInt,
  randomUUID,
} from 'node:crypto'
import jwt from 'jsonwebtoken'
import { LRUCache } from 'lru-cache'
import type { SigningKey } from '../platform/config.ts'
import type { User } from '../platform/identity.ts'

/** Seconds. */
export const accessLifetime = 600
const skew = 30
const audience = 'bodega'
const type = 'at+jwt'

export interface AccessTokens {
  /** A signed RS256 access token (10 min). */
  sign(user: User): string
  /** The user of a valid token; undefined for any other. Revocation is not looked at here. */
  verify(token: string): User | undefined
  /** The public keys: next, active and previous. */
  jwks: { keys: object[] }
}

/** Signs by the active key and verifies by all; `issuer` is the PUBLIC_URL. */
export function accessTokens(keys: SigningKey[], issuer: string): AccessTokens {
  const byId = new Map(keys.map((key) => [key.kid, createPublicKey(key.pem)]))
  const active = keys.find((key) => key.state === 'active') as SigningKey
  const privateKey = createPrivateKey(active.pem)
  const verified = new LRUCache<string, User>({ max: 10_000 })

  return {
    sign: (user) =>
      jwt.sign({ sid: user.sid, email: user.email, roles: user.roles }, privateKey, {
        algorithm: 'RS256',
        keyid: active.kid,
        header: { alg: 'RS256', typ: type },
        issuer,
        audience,
        subject: user.id,
        jwtid: randomUUID(),
        expiresIn: accessLifetime,
      }),
    verify(token) {
      const seen = verified.get(token)
      if (seen) return seen
      try {
        const { header } = jwt.decode(token, { complete: true }) ?? {}
        const key = byId.get(header?.kid ?? '')
        if (!key || header?.typ !== type) return undefined
        const claims = jwt.verify(token, key, {
          algorithms: ['RS256'],
          issuer,
          audience,
          clockTolerance: skew,
        }) as jwt.JwtPayload
        if (!claims.sub || !claims.sid || !claims.exp || !Array.isArray(claims.roles)) return undefined
        const user = { id: claims.sub, sid: claims.sid, email: claims.email, roles: claims.roles }
        // By a clock that is wrong for a while, it would be kept for as long as that.
        const left = Math.min((claims.exp + skew) * 1000 - Date.now(), (accessLifetime + skew) * 1000)
        verified.set(token, user, { ttl: Math.max(1, left) })
        return user
      } catch {
        return undefined
      }
    },
    jwks: {
      keys: keys.map(({ kid }) => ({ ...byId.get(kid)?.export({ format: 'jwk' }), kid, alg: 'RS256', use: 'sig' })),
    },
  }
}

/** 256 random bits, base64url: a refresh token or the secret of a link. */
export const newSecret = () => randomBytes(32).toString('base64url')
/** 32 bytes, the stored form of a secret. */
export const sha256 = (text: string) => createHash('sha256').update(text).digest()
/** The successor of a refresh token is derived, so that a retry of the same rotation gets the same answer. */
export const successor = (key: string, token: string) => createHmac('sha256', key).update(token).digest('base64url')

/** Six digits. */
export const newCode = () => String(randomInt(1_000_000)).padStart(6, '0')
/** The stored form of a code: keyed, since a million guesses at a bare hash take no time. */
export const codeHash = (pepper: string, userId: string, code: string) =>
  createHmac('sha256', pepper).update(`${userId}:${code}`).digest()
