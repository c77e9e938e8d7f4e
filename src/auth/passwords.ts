import { argon2, randomBytes, timingSafeEqual } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { promisify } from 'node:util'
import { limiter } from '../platform/limiter.ts'

const derive = promisify(argon2)
/** OWASP's second set: 19 MiB, two passes, one lane. */
const current = { m: 19_456, t: 2, p: 1 }
// Each hash holds a core for tens of milliseconds; more at once than cores only makes all of them late.
const hashing = limiter(availableParallelism(), 200, 'Too many sign-ins at once.')

const tag = (password: string, salt: Buffer, { m, t, p }: typeof current, length: number) =>
  hashing(() =>
    derive('argon2id', {
      message: password.normalize('NFKC'),
      nonce: salt,
      memory: m,
      passes: t,
      parallelism: p,
      tagLength: length,
    }),
  )

const base64 = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '')

/** The PHC string of a password: argon2id with the current parameters and a new salt. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(16)
  const hash = await tag(password, salt, current, 32)
  return `$argon2id$v=19$m=${current.m},t=${current.t},p=${current.p}$${base64(salt)}$${base64(hash)}`
}

// What an unknown account is compared with, so that it takes the same time as a known one.
const nobody = `$argon2id$v=19$m=${current.m},t=${current.t},p=${current.p}$${base64(randomBytes(16))}$${base64(randomBytes(32))}`

/** Whether the password matches the PHC string; without one, the same work is done and the answer is no. */
export async function checkPassword(password: string, stored: string | null | undefined): Promise<boolean> {
  const parts = parsePhc(stored ?? nobody)
  const hash = await tag(password, parts.salt, parts, parts.hash.length)
  return timingSafeEqual(hash, parts.hash) && Boolean(stored)
}

/** Whether the string was made with other parameters than the current ones. */
export function isOutdated(stored: string): boolean {
  const { m, t, p } = parsePhc(stored)
  return m !== current.m || t !== current.t || p !== current.p
}

function parsePhc(phc: string) {
  const match = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([^$]+)\$([^$]+)$/.exec(phc)
  if (!match) throw new Error('a stored password is not an argon2id PHC string')
  const [, m, t, p, salt, hash] = match
  return {
    m: Number(m),
    t: Number(t),
    p: Number(p),
    salt: Buffer.from(salt ?? '', 'base64'),
    hash: Buffer.from(hash ?? '', 'base64'),
  }
}
