import { consume, openBus } from '../platform/bus.ts'
import { config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { announceReady, type Checks } from '../platform/health.ts'
import { openHttp } from '../platform/http.ts'
import { measurePool, openMetrics } from '../platform/metrics.ts'
import { openObjects } from '../platform/objects.ts'
import { startRelay } from '../platform/outbox.ts'
import { openPictures } from '../platform/pictures.ts'
import type { Process } from '../platform/process.ts'
import { avatarSizes } from './avatar.ts'
import { answerProxy, decider } from './decide.ts'
import { openRevocations } from './revocations.ts'
import { routes } from './routes.ts'
import { accessTokens } from './tokens.ts'

/** Accounts, sessions and avatars; answers the proxy's question who may call what. */
export async function start({ env, log, stack, stopping, table }: Process) {
  const c = config('auth', env)
  const db = stack.use(openDb({ role: 'auth', c, lanes: 4, log }))
  const bus = stack.use(openBus({ name: 'auth', c, log }))
  const relay = stack.use(startRelay({ db, schema: 'auth', bus, log }))
  const objects = stack.use(openObjects(c))
  const avatars = openPictures({ db, schema: 'auth', objects, name: 'avatar', sizes: avatarSizes, log })
  // One at a time: each holds a connection of the pool for as long as the object store takes.
  stack.use(consume(bus, 'avatars', { concurrency: 1, handle: avatars.tidy, log }))
  const revocations = stack.use(openRevocations({ db, bus, log }))
  const tokens = accessTokens(c.JWT_KEYS, c.PUBLIC_URL)
  const decide = decider({ table: await table(), tokens, revocations, productRead: c.PRODUCT_READ })
  const checks: Checks = {
    database: { check: db.check, required: true },
    revocations: { check: revocations.check, required: true },
    bus: { check: bus.check, required: false },
    objects: { check: objects.check, required: false },
  }
  measurePool(db)
  stack.use(await openMetrics({ c, log }))
  stack.use(
    await openHttp({
      c,
      log,
      routes: routes({ db, relay, revocations, tokens, avatars, config: c }),
      before: answerProxy({ decide, tokens, revocations }, c),
      checks,
    }),
  )
  void announceReady(checks, log, stopping)
}
