import { generateKeyPair, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { roleNames } from '../platform/config.ts'

const newKeyPair = promisify(generateKeyPair)

export interface Generated {
  jwtKeys: string
  keys: Record<'ASSERTION_KEY' | 'CODE_PEPPER' | 'REFRESH_KEY', string>
  /** Of logins and users: postgres, and each role on the database and on the bus. */
  passwords: Record<string, string>
}

/** The random values of a shop, kept in `dir/generated.json`: made on the first start, the same ever after. */
export async function generatedSecrets(dir: string): Promise<Generated> {
  const file = join(dir, 'generated.json')
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw new Error(`${file} cannot be read: ${error}`)
  }
  const random = () => randomBytes(32).toString('hex')
  const users = roleNames.flatMap((role) => [`${role}_database`, `${role}_nats`])
  const made: Generated = {
    jwtKeys: JSON.stringify(await Promise.all([signingKey('next'), signingKey('active')])),
    keys: { ASSERTION_KEY: random(), CODE_PEPPER: random(), REFRESH_KEY: random() },
    // NATS reads a password that starts with a digit as a number.
    passwords: Object.fromEntries([...users, 'postgres', 'migrate_nats'].map((user) => [user, `p${random()}`])),
  }
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  writeFileSync(file, JSON.stringify(made, null, 2), { mode: 0o600 })
  return made
}

async function signingKey(state: 'next' | 'active') {
  const { privateKey } = await newKeyPair('rsa', { modulusLength: 2048 })
  return { kid: randomBytes(8).toString('hex'), state, pem: privateKey.export({ type: 'pkcs8', format: 'pem' }) }
}

/** Writes each value to the file `dir/KEY`, readable by its owner only, and removes the files of other keys. */
export function writeSecrets(dir: string, values: Record<string, string>) {
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  for (const [key, value] of Object.entries(values)) writeFileSync(join(dir, key), value, { mode: 0o600 })
}
