import { config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { announceReady } from '../platform/health.ts'
import { openHttp } from '../platform/http.ts'
import { measurePool, openMetrics } from '../platform/metrics.ts'
import type { Process } from '../platform/process.ts'
import { routes } from './routes.ts'

/** Opens the catalogue: its database, its metrics, its routes. */
export async function start({ env, log, stack, stopping }: Process) {
  const c = config('products', env)
  const db = stack.use(
    openDb({
      role: 'products',
      url: c.DATABASE_URL,
      ca: c.DATABASE_CA,
      pool: c.DATABASE_POOL,
      connectTimeout: c.CONN_TIMEOUT,
      log,
    }),
  )
  measurePool(db)
  stack.use(await openMetrics({ host: c.LISTEN_HOST, port: c.METRICS_PORT, log }))
  const checks = { database: { check: db.check, required: true } }
  stack.use(
    await openHttp({
      host: c.LISTEN_HOST,
      port: c.LISTEN_PORT,
      log,
      routes: routes({ db }),
      checks,
      assertionKeys: [c.ASSERTION_KEY, c.ASSERTION_KEY_PREVIOUS],
      drainDelay: c.DRAIN_DELAY,
      productRead: c.PRODUCT_READ,
    }),
  )
  void announceReady(checks, log, stopping)
}
