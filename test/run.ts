import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startPostgres } from '../src/embedded/postgres.ts'
import { findPrograms } from '../src/embedded/programs.ts'
import { countResults, line } from './support/results.ts'

/**
 * Runs AVA with the given arguments beside one PostgreSQL that all test files share, and ends with the counts.
 * `--e2e` first: the tests of the shop as it ships instead, on this machine's Docker.
 */
const root = join(import.meta.dirname, '..')
const isE2e = process.argv[2] === '--e2e'
/** In the names of what the tests make on this machine's Docker. */
const BODEGA_E2E_RUN = randomBytes(3).toString('hex')
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort(signal))

if (!isE2e) findPrograms((text) => process.stderr.write(`${text}\n`))
const dir = mkdtempSync(join(tmpdir(), 'bodega-test-'))
process.once('exit', () => process.env.KEEP || rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))

let report = ''
let code = 1
if (isE2e) {
  code = await runAva()
  if (stop.signal.aborted) removeLeftovers()
} else {
  await using postgres = await startPostgres({
    dir: join(dir, 'postgres'),
    log: join(dir, 'postgres.log'),
    password: `p${randomBytes(16).toString('hex')}`,
    // Speed: these data need not survive a crash. What must survive one is tested on a server of its own.
    settings: { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '400' },
  })
  code = await runAva(postgres.adminUrl)
}
const results = countResults(report)
if (code !== 0 && results.failed === 0) results.failed = 1
console.log(line(results))
process.exitCode = code || (results.failed ? 1 : 0)

/** Interrupted tests take nothing down: what they started goes on, and so do containers. */
function removeLeftovers() {
  for (const pid of existsSync('/proc') ? readdirSync('/proc').map(Number).filter(Boolean) : [])
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8')
      if (environment.includes(`BODEGA_E2E_RUN=${BODEGA_E2E_RUN}\0`)) process.kill(pid, 'SIGKILL')
    } catch {
      // It has ended, or is not ours.
    }
  const docker = (...args: string[]) => spawnSync('docker', args, { encoding: 'utf8' }).stdout ?? ''
  for (const [kind, all, ...rm] of [
    ['container', '--all', '--force', '--volumes'],
    ['volume', '--quiet', '--force'],
    ['network', '--quiet'],
  ] as const) {
    const names = docker(kind, 'ls', '--quiet', all, '--filter', `name=bodega-e2e-${BODEGA_E2E_RUN}`)
    if (names) docker(kind, 'rm', ...rm, ...names.trim().split('\n'))
  }
}

async function runAva(TEST_POSTGRES_URL = '') {
  // A stop that came before there was anything to stop.
  if (stop.signal.aborted) return 130
  const args = isE2e ? ['--config', 'test/e2e/ava.config.mjs', ...process.argv.slice(3)] : process.argv.slice(2)
  const cli = join(dirname(fileURLToPath(import.meta.resolve('ava'))), 'cli.mjs')
  const ava = spawn(process.execPath, [cli, ...args], {
    cwd: root,
    env: {
      ...process.env,
      ...(process.stdout.isTTY ? { FORCE_COLOR: '1' } : {}),
      TEST_POSTGRES_URL,
      BODEGA_E2E_RUN,
      TMPDIR: dir,
    },
    stdio: ['inherit', 'pipe', 'inherit'],
  })
  ava.stdout.on('data', (chunk: Buffer) => {
    process.stdout.write(chunk)
    report += chunk
  })
  stop.signal.addEventListener('abort', () => ava.kill('SIGINT'))
  const [exit] = await once(ava, 'close')
  return (exit as number | null) ?? 1
}
