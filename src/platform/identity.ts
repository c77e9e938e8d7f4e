import jwt from 'jsonwebtoken'
import { LRUCache } from 'lru-cache'

export interface User {
  id: string
  email: string
  roles: string[]
  /** The session. */
  sid: string
}

/** Seconds that an assertion of the proxy's decision holds. */
const lifetime = 60
/** Of an upload, whose body the edge takes in after the decision: as an access token, enough for 5 MiB at 70 kbit/s. */
export const uploadLifetime = 600
const audience = 'internal'

/** Signs who the caller is, for the roles behind the edge (HS256, 60 s unless said). */
export const assert = (user: User, key: string, expiresIn = lifetime) =>
  jwt.sign({ email: user.email, roles: user.roles, sid: user.sid }, key, {
    algorithm: 'HS256',
    subject: user.id,
    audience,
    expiresIn,
  })

/**
 * Checks X-Auth-Assertion against the current key and the previous one; undefined where it does not hold.
 * The edge repeats one assertion for 3 s, so the last 10,000 are kept until they expire.
 */
export function assertionReader(keys: (string | undefined)[]) {
  const known = new LRUCache<string, User>({ max: 10_000 })
  return (assertion: string): User | undefined => {
    const seen = known.get(assertion)
    if (seen) return seen
    for (const key of keys) {
      if (!key) continue
      try {
        const claims = jwt.verify(assertion, key, {
          algorithms: ['HS256'],
          audience,
          clockTolerance: 5,
        }) as jwt.JwtPayload
        const user: User = { id: claims.sub ?? '', email: claims.email, roles: claims.roles, sid: claims.sid }
        // Capped, for a clock that is wrong for a while.
        const ttl = Math.min((claims.exp ?? 0) * 1000 - Date.now(), lifetime * 1000)
        if (ttl > 0) known.set(assertion, user, { ttl })
        return user
      } catch {
        // the next key may be the one
      }
    }
    return undefined
  }
}
