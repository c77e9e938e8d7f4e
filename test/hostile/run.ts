import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Row } from '../support/cases.ts'

/**
 * `make hostile`: all tests that mean the shop harm, with many times as much left to chance as in `make test`, and a
 * table of what was tried. Ends with 1 where anything was found.
 */
const { values, positionals } = parseArgs({
  options: {
    times: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    /** A file for the table. */
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const files = positionals.length
  ? positionals
  : ['test/hostile/*.test.ts', 'test/edge/*.test.ts', 'test/objects/pictures.test.ts', 'test/flows/properties.test.ts']

const dir = mkdtempSync(join(tmpdir(), 'hostile-'))
const table = join(dir, 'table')
writeFileSync(table, '')
const tests = spawn(process.execPath, [join(import.meta.dirname, '../run.ts'), ...files], {
  env: { ...process.env, HOSTILE_TIMES: values.times, HOSTILE_SEED: values.seed, HOSTILE_TABLE: table },
  stdio: 'inherit',
})
// It stops what it has started; the table of what was tried until then is printed all the same.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => tests.kill(signal))
const [code] = await once(tests, 'exit')
const rows = readFileSync(table, 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as Row)
rmSync(dir, { recursive: true })

const sum = (of: 'cases' | 'findings' | 'seconds') => rows.reduce((total, row) => total + row[of], 0)
const cells = ({ what, cases, findings, seconds }: Row) =>
  `| ${what} | ${cases.toLocaleString('en')} | ${findings} | ${Math.round(seconds)} |`
const today = new Date().toISOString().slice(0, 10)
const text = [
  `${today}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, load ${loadavg()[0]?.toFixed(1)}; ${values.times} times, seed ${values.seed}`,
  '',
  '| what | cases | findings | seconds |',
  '|---|---|---|---|',
  ...rows.sort((a, b) => a.what.localeCompare(b.what)).map(cells),
  cells({ what: '**all**', cases: sum('cases'), findings: sum('findings'), seconds: sum('seconds') }),
].join('\n')
console.log(`\n${text}`)
if (code !== 0) console.log('\nSome tests failed, see above: what they would have tried is not in the table.')
if (values.out) writeFileSync(values.out, `${text}\n`)
process.exitCode = code !== 0 || sum('findings') > 0 ? 1 : 0
