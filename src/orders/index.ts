import { openBus } from '../platform/bus.ts'
import { config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { announceReady } from '../platform/health.ts'
import { openHttp } from '../platform/http.ts'
import { measurePool, openMetrics } from '../platform/metrics.ts'
import { startRelay } from '../platform/outbox.ts'
import type { Process } from '../platform/process.ts'
import { routes } from './routes.ts'

/** Takes carts and orders; goes on while the bus is away, and its events wait in the outbox. */
export async function start({ env, log, stack, stopping }: Process) {
  const c = config('orders', env)
  const db = stack.use(
    openDb({
      role: 'orders',
      c,
      // Orders/s on two cores with 64 clients: 4 lanes 1,300, 8 lanes 1,550, 16 lanes 1,220.
      lanes: 8,
      log,
    }),
  )
  const bus = stack.use(openBus({ name: 'orders', c, log }))
  const relay = stack.use(startRelay({ db, schema: 'orders', bus, log }))
  measurePool(db)
  stack.use(await openMetrics({ c, log }))

  const checks = { database: { check: db.check, required: true }, bus: { check: bus.check, required: false } }
  stack.use(await openHttp({ c, log, routes: routes({ db, relay }), checks }))
  await announceReady(checks, log, stopping)
}
