import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Child, type Part, startChild } from './child.ts'

export interface Mail extends Child {
  readonly smtpUrl: string
  /** Web page; its API is below /api. */
  readonly inboxUrl: string
}

/** Starts MailDev, which keeps every mail in `dir` and shows it on a web page instead of sending it on. */
export async function startMail(
  options: Part & {
    dir: string
    smtpPort: number
    webPort: number
    host?: string
  },
): Promise<Mail> {
  const { dir, log, signal, onEnd, smtpPort, webPort, host = '127.0.0.1' } = options
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const program = join(dirname(fileURLToPath(import.meta.resolve('maildev'))), 'bin/maildev.js')
  const inboxUrl = `http://${host}:${webPort}`
  const child = await startChild({
    name: 'MailDev',
    command: process.execPath,
    args: [
      program,
      ...['--ip', '127.0.0.1', '--smtp', String(smtpPort), '--web-ip', host, '--web', String(webPort)],
      ...['--mail-directory', dir],
    ],
    // MailDev looks for its settings in this directory and above it.
    cwd: dir,
    log,
    signal,
    onEnd,
    ready: async () => (await fetch(`${inboxUrl}/api/healthz`)).ok,
  })
  return Object.assign(child, { smtpUrl: `smtp://127.0.0.1:${smtpPort}`, inboxUrl })
}
