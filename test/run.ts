import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
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
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort(signal))

if (!isE2e) findPrograms((text) => process.stderr.write(`${text}\n`))
const dir = mkdtempSync(join(tmpdir(), 'bodega-test-'))
process.once('exit', () => process.env.KEEP || rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))

let report = ''
let code = 1
if (isE2e) code = await runAva()
else {
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

async function runAva(TEST_POSTGRES_URL = '') {
  const args = isE2e ? ['--config', 'test/e2e/ava.config.mjs', ...process.argv.slice(3)] : process.argv.slice(2)
  const cli = join(dirname(fileURLToPath(import.meta.resolve('ava'))), 'cli.mjs')
  const ava = spawn(process.execPath, [cli, ...args], {
    cwd: root,
    env: { ...process.env, ...(process.stdout.isTTY ? { FORCE_COLOR: '1' } : {}), TEST_POSTGRES_URL, TMPDIR: dir },
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
