import { existsSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { startChild } from '../../src/embedded/child.ts'
import { freePorts, isFree, whoListens } from '../../src/embedded/ports.ts'
import { query, startPostgres } from '../../src/embedded/postgres.ts'
import { generatedSecrets, writeSecrets } from '../../src/embedded/secrets.ts'
import { countResults, line } from '../support/results.ts'

const newDir = (name: string) => mkdtempSync(join(tmpdir(), name))

test('PostgreSQL, killed in a private directory with a blank in its name → starts again with what was committed', async (t) => {
  const dir = newDir('my data-')
  await using postgres = await startPostgres({ dir, log: join(dir, 'log'), password: 'secret' })
  await query(postgres.adminUrl, 'create table public.kept as select 1 as a')
  await postgres.kill('SIGKILL')
  t.is(postgres.pid, undefined)

  // The number in the lock file may belong to a living stranger by now.
  const lock = join(dir, 'data/postmaster.pid')
  t.true(existsSync(lock))
  writeFileSync(lock, readFileSync(lock, 'utf8').replace(/^\d+/, String(process.pid)))
  await postgres.restart()
  t.deepEqual((await query(postgres.adminUrl, 'select a from public.kept')).rows, [{ a: 1 }])
})

test('PostgreSQL, second server on the same data → refused with the process that has them', async (t) => {
  const dir = newDir('postgres-')
  const options = { dir, log: join(dir, 'log'), password: 'secret' }
  await using postgres = await startPostgres(options)
  const error = await t.throwsAsync(startPostgres(options))
  t.regex(error.message, new RegExp(`in use by process ${postgres.pid}`))
})

test('a child that ends before it is ready → the fault shows the end of its log', async (t) => {
  const log = join(newDir('child-'), 'log')
  const starting = startChild({
    name: 'sample',
    command: 'sh',
    args: ['-c', 'echo the reason >&2; exit 3'],
    log,
    ready: async () => false,
  })
  const error = await t.throwsAsync(starting)
  t.regex(error.message, /sample ended \(exit code 3\) before it was ready[\s\S]*the reason/)
})

test('a child that ignores its stop signal → is gone after the grace', async (t) => {
  const log = join(newDir('child-'), 'log')
  const child = await startChild({
    name: 'stubborn',
    command: 'sh',
    args: ['-c', 'trap "" TERM; echo up; while :; do sleep 1; done'],
    log,
    grace: 200,
    ready: async () => readFileSync(log, 'utf8').includes('up'),
  })
  await child.stop()
  t.is(child.pid, undefined)
})

test('a taken port → is not free, and its listener is named', async (t) => {
  const [port = 0] = await freePorts(1)
  t.true(await isFree(port))
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  t.false(await isFree(port))
  t.regex(whoListens(port), new RegExp(`process ${process.pid}\\b`))
  server.close()
})

test('free ports, asked for many times at once → no port comes twice', async (t) => {
  const ports = (await Promise.all(Array.from({ length: 8 }, () => freePorts(8)))).flat()
  t.is(new Set(ports).size, 64)
})

test('secrets, made twice in one directory → stay the same, and only their owner reads them', async (t) => {
  const dir = newDir('secrets-')
  const made = await generatedSecrets(dir)
  t.deepEqual(await generatedSecrets(dir), made)
  t.is(statSync(join(dir, 'generated.json')).mode & 0o777, 0o600)
  writeSecrets(join(dir, 'auth'), { KEY: 'value' })
  t.is(statSync(join(dir, 'auth')).mode & 0o777, 0o700)
  t.is(statSync(join(dir, 'auth/KEY')).mode & 0o777, 0o600)
})

test('a report of AVA with every kind of ending → counts what ran, and each crash as a failure', (t) => {
  const report = [
    '  \u001b[32m✔\u001b[39m a › good (12ms)',
    '    ℹ ✔ a log that looks like one',
    '  ✔ [expected fail] a › known',
    '  ✘ [fail]: a › bad Error thrown in test',
    '  - [skip] a › skipped',
    '  - [todo] a › later',
    '  ✘ test/b.test.ts exited with a non-zero exit code: 1',
    '  ✘ 1 test remaining in test/d.test.ts',
    '  ─',
    '  ✔ in the details of a failure',
    '  2 tests failed',
  ]
  t.is(line(countResults(report.join('\n'))), '2 passed, 2 failed, 2 skipped')
})
