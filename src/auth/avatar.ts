import type { Picture } from '../events.ts'
import { append } from '../platform/outbox.ts'
import { problem } from '../platform/problem.ts'
import type { Sizes } from '../platform/resize-worker.ts'
import type { Deps } from './routes.ts'
import * as store from './store.ts'

/** Of the files of an avatar, in pixels. */
export const avatarSizes: Sizes = { large: 512, small: 128, square: true }

/** Sets the avatar to files that are stored already, or clears it, and tells so. */
export async function changeAvatar(
  { db, relay, avatars }: Pick<Deps, 'db' | 'relay' | 'avatars'>,
  userId: string,
  avatar: Picture | null,
): Promise<store.UserRow> {
  const user = await db.knex.transaction(async (trx) => {
    const before = await store.setAvatar(trx, userId, avatar)
    if (!before) throw problem.notFound('user', userId)
    const replaced = store.avatarOf(before)
    if (replaced) await avatars.release(trx, replaced)
    if (replaced || avatar)
      await append(trx, 'auth', 'msg.user.avatar_changed', { userId, avatar, replaced, at: new Date().toISOString() })
    return { ...before, avatar_large: avatar?.large ?? null, avatar_small: avatar?.small ?? null }
  })
  relay.wake()
  return user
}
