import { randomUUID } from 'node:crypto'
import { ConfigError, config } from '../platform/config.ts'
import { openDb } from '../platform/db.ts'
import { openLog } from '../platform/log.ts'
import { openComposer } from './compose.ts'
import { lease, whileClaimed } from './coordinator.ts'
import { openMailer } from './mailer.ts'
import { jobs } from './schedules.ts'
import { claimRun, finishRun } from './store.ts'

/**
 * Runs a scheduled job now, beside its schedule, with the settings of notifications in `env`; the ledger gets an entry.
 * Prints what it did. Throws ConfigError, which lists the jobs, for an unknown name.
 */
export async function runJob(name: string | undefined, env: NodeJS.ProcessEnv) {
  const job = jobs.find((candidate) => candidate.name === name)
  if (!job)
    throw new ConfigError('the command line', [
      `${name || 'nothing'} is no job; the jobs are ${jobs.map((known) => known.name).join(', ')}`,
    ])
  const c = config('notifications', env)
  const log = openLog(c.LOG_LEVEL, { role: 'notifications', job: job.name })
  const stopping = new AbortController().signal
  const publicUrl = c.PUBLIC_URL
  await using db = openDb({ role: 'notifications', c, log })
  await using mailer = openMailer({ c, stopping, log })
  const composer = await openComposer({ publicUrl, from: c.MAIL_FROM })
  const [slot, owner] = [new Date(), randomUUID()]
  await claimRun(db, job.name, slot, owner, lease)
  try {
    const deps = { db, mailer, composer, publicUrl, stopping, log }
    const result = await whileClaimed({ db, log, job: job.name, slot, owner }, () => job.run(deps))
    await finishRun(db, job.name, slot, owner, { result })
    process.stdout.write(`${job.name}: ${JSON.stringify(result)}\n`)
  } catch (error) {
    await finishRun(db, job.name, slot, owner, { error: (error as Error).message })
    throw error
  }
}
