import { consume, openBus } from '../platform/bus.ts'
import { config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { announceReady, type Checks } from '../platform/health.ts'
import { openHttp } from '../platform/http.ts'
import { measurePool, openMetrics } from '../platform/metrics.ts'
import type { Process } from '../platform/process.ts'
import { openComposer } from './compose.ts'
import { openHandler } from './consumers.ts'
import { openMailer } from './mailer.ts'
import { routes } from './routes.ts'
import { startSchedules } from './schedules.ts'

/** Turns events into mails, runs the schedules, and serves what users say about optional mails. */
export async function start({ env, log, stack, stopping }: Process) {
  const c = config('notifications', env)
  const db = stack.use(
    openDb({
      role: 'notifications',
      c,
      lanes: 4,
      log,
    }),
  )
  const bus = stack.use(openBus({ name: 'notifications', c, log }))
  const mailer = stack.use(openMailer({ c, stopping, log }))
  const publicUrl = c.PUBLIC_URL
  const composer = await openComposer({ publicUrl, from: c.MAIL_FROM })
  const handle = openHandler({ db, mailer, composer, publicUrl, stopping, log })
  stack.use(startSchedules({ db, mailer, composer, publicUrl, stopping, log }))

  measurePool(db)
  stack.use(await openMetrics({ host: c.LISTEN_HOST, port: c.METRICS_PORT, log }))
  const checks: Checks = {
    database: { check: () => db.check(), required: true },
    // Without it no mail goes out; preferences and the links of mails go on.
    bus: { check: () => bus.check(), required: false },
  }
  stack.use(
    await openHttp({
      host: c.LISTEN_HOST,
      port: c.LISTEN_PORT,
      log,
      routes: routes({ db, composer }),
      checks,
      assertionKeys: [c.ASSERTION_KEY, c.ASSERTION_KEY_PREVIOUS],
      drainDelay: c.DRAIN_DELAY,
      grace: c.SHUTDOWN_GRACE,
    }),
  )
  // Last, so that a stop ends the taking of messages first.
  stack.use(consume(bus, 'mailer', { concurrency: 64, handle, log }))
  await announceReady(checks, log, stopping)
}
