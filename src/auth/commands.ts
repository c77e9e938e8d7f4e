import { v7 as uuid } from 'uuid'
import { ConfigError, config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { openLog } from '../platform/log.ts'
import { append } from '../platform/outbox.ts'
import { Address, toChange } from './schema.ts'
import * as store from './store.ts'

/**
 * Makes the account of `email` an admin, and makes the account first where there is none. Where nobody has verified the
 * address yet its password is forgotten, since somebody else may have registered it: the owner logs in by a mailed code.
 * Throws ConfigError where `email` is no mail address.
 */
export async function makeAdmin(email: string | undefined, env: NodeJS.ProcessEnv) {
  const parsed = Address.safeParse({ email })
  if (!parsed.success)
    throw new ConfigError('admin', [
      `EMAIL ${email ? `is ${email}, and ` : ''}must be a mail address. Example: make admin EMAIL=ada@example.org`,
    ])
  const c = config('auth', env)
  await using db = openDb({ role: 'auth', c, log: openLog('warn', { role: 'admin' }) })
  const { made, isNew, unproven } = await db.knex.transaction(async (trx) => {
    const address = parsed.data.email
    const isNew = await store.insertUser(trx, {
      id: uuid(),
      email: address,
      name: '',
      locale: 'en',
      time_zone: 'UTC',
      password_hash: null,
    })
    const user = (await store.userByEmail(trx, address)) as store.UserRow
    const unproven = user.email_verified_at === null
    if (unproven) await store.setPassword(trx, user.id, null)
    await store.markVerified(trx, user.id)
    await store.revoke(trx, user.id)
    const roles = [...new Set([...user.roles, 'admin'])]
    const detail = { from: user.roles, to: roles, by: 'command' }
    await store.recordAudit(trx, { event: 'roles.changed', userId: user.id, detail })
    await store.setRoles(trx, user.id, roles)
    // Whoever writes to the user knows nothing of an account made here; the change of nothing says when.
    const made = await store.changeProfile(trx, user.id, {})
    if (made) await append(trx, 'auth', 'msg.user.changed', toChange(made))
    return { made, isNew, unproven }
  })
  const way = unproven
    ? `${isNew ? 'There was no account of this address, and now there is' : 'The address was not verified'}, so no password counts. Log in by a code: POST /auth/login {"email"}; then set one by POST /auth/password/forgot`
    : 'Log in with the password, or ask for a code: POST /auth/login {"email"}'
  process.stdout.write(`${made?.email} is an admin now. ${way}\n`)
}
