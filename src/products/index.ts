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
import { imageSizes } from './image.ts'
import { routes } from './routes.ts'

/** Opens the catalogue: its database, bus and pictures, its metrics, its routes. */
export async function start({ env, log, stack, stopping }: Process) {
  const c = config('products', env)
  const db = stack.use(openDb({ role: 'products', c, log }))
  const bus = stack.use(openBus({ name: 'products', c, log }))
  const relay = stack.use(startRelay({ db, schema: 'products', bus, log }))
  const objects = stack.use(openObjects(c))
  const images = openPictures({ db, schema: 'products', objects, name: 'image', sizes: imageSizes, log })
  // One at a time: each holds a connection of the pool for as long as the object store takes.
  stack.use(consume(bus, 'images', { concurrency: 1, handle: images.tidy, log }))
  measurePool(db)
  stack.use(await openMetrics({ c, log }))
  const checks: Checks = {
    database: { check: db.check, required: true },
    bus: { check: bus.check, required: false },
    objects: { check: objects.check, required: false },
  }
  stack.use(await openHttp({ c, log, routes: routes({ db, relay, images }), checks, productRead: c.PRODUCT_READ }))
  void announceReady(checks, log, stopping)
}
