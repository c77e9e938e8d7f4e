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
  const db = stack.use(openDb({ role: 'notifications', c, lanes: 4, log }))
  const bus = stack.use(openBus({ name: 'notifications', c, log }))
  const mailer = stack.use(openMailer({ c, stopping, log }))
  const publicUrl = c.PUBLIC_URL
  const composer = await openComposer({ publicUrl, from: c.MAIL_FROM })
  const handle = openHandler({ db, mailer, composer, publicUrl, stopping, log })
  stack.use(startSchedules({ db, mailer, composer, publicUrl, stopping, log }))

  measurePool(db)
  stack.use(await openMetrics({ c, log }))
  const checks: Checks = {
    database: { check: db.check, required: true },
    // Without it no mail goes out; preferences and the links of mails go on.
    bus: { check: bus.check, required: false },
  }
  stack.use(await openHttp({ c, log, routes: routes({ db, composer }), checks }))
  // Last, so that a stop ends the taking of messages first.
  stack.use(consume(bus, 'mailer', { concurrency: 64, handle, log }))
  await announceReady(checks, log, stopping)
}
