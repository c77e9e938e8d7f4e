import type { Db } from '../platform/db.ts'
import type { Logger } from '../platform/log.ts'
import type { Composer } from './compose.ts'
import type { Mailer } from './mailer.ts'

/** What the room works with, be it for an event or on a schedule. */
export interface Deps {
  db: Db
  mailer: Mailer
  composer: Composer
  publicUrl: string
  stopping: AbortSignal
  log: Logger
}
