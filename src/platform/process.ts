import { once } from 'node:events'
import type { Logger } from './log.ts'
import type { Table } from './routes.ts'

/** What a role's door gets: its log, and the stack that closes what it opened, last opened first. */
export interface Process {
  env: NodeJS.ProcessEnv
  log: Logger
  stack: AsyncDisposableStack
  /** The route table of all roles. */
  table(): Promise<Table>
  /** Aborted when the process is asked to stop. */
  stopping: AbortSignal
}

/**
 * Runs `start`, waits for SIGTERM or SIGINT, then closes the stack in reverse order of opening.
 * A second signal, or `grace` seconds, ends the process at once with exit code 1.
 */
export async function run(
  { log, grace, table }: { log: Logger; grace: number; table: Process['table'] },
  start: (p: Process) => Promise<void>,
) {
  const stop = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.on(signal, () => {
      if (stop.signal.aborted) leave(log, 'second signal, leaving at once')
      else stop.abort(signal)
    })
  process.on('unhandledRejection', (err) => log.error({ err }, 'unhandled rejection'))
  process.on('uncaughtException', (err) => {
    log.fatal({ err }, 'uncaught exception')
    leave(log, 'uncaught exception')
  })

  const stack = new AsyncDisposableStack()
  await start({ env: process.env, log, stack, table, stopping: stop.signal })
  if (!stop.signal.aborted) await once(stop.signal, 'abort')
  log.info({ signal: stop.signal.reason, grace }, 'stopping')
  setTimeout(() => leave(log, 'the grace period is over'), grace * 1000).unref()
  await stack.disposeAsync()
  log.info('stopped')
  log.flush(() => process.exit(0))
}

function leave(log: Logger, why: string) {
  log.error(why)
  log.flush(() => process.exit(1))
  // The log's pipe may be stuck; 200 ms is enough for one that is not.
  setTimeout(() => process.exit(1), 200)
}
