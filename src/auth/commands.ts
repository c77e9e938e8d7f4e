import { v7 as uuid } from 'uuid'
import { ConfigError, config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { openLog } from '../platform/log.ts'
import { Address } from './schema.ts'
import * as store from './store.ts'

/** Makes the account of `email` an admin, and the account where there is none: its owner logs in by a mailed code. */
export async function makeAdmin(email: string | undefined, env: NodeJS.ProcessEnv) {
  const parsed = Address.safeParse({ email })
  if (!parsed.success)
    throw new ConfigError('admin', [
      `EMAIL ${email ? `is ${email}, and ` : ''}must be a mail address. Example: make admin EMAIL=ada@example.org`,
    ])
  const c = config('auth', env)
  await using db = openDb({ role: 'auth', c, log: openLog('warn', { role: 'admin' }) })
  const made = await db.knex.transaction(async (trx) => {
    const address = parsed.data.email
    await store.insertUser(trx, {
      id: uuid(),
      email: address,
      name: '',
      locale: 'en',
      time_zone: 'UTC',
      password_hash: null,
    })
    const user = (await store.userByEmail(trx, address)) as store.UserRow
    await store.markVerified(trx, user.id)
    await store.revoke(trx, user.id)
    const roles = [...new Set([...user.roles, 'admin'])]
    const detail = { from: user.roles, to: roles, by: 'command' }
    await store.note(trx, { event: 'roles.changed', userId: user.id, detail })
    return store.setRoles(trx, user.id, roles)
  })
  process.stdout.write(
    `${made?.email} is an admin now. Log in with the password, or ask for a code: POST /auth/login {"email"}\n`,
  )
}
