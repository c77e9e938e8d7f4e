import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openOnCluster } from './cluster.ts'
import { openCompose } from './compose.ts'
import { openEmbedded } from './embedded.ts'
import { type Outcome, openStock, play, type Strike } from './scenario.ts'
import { type Fault, faults, kinds, type PartName, parts, type Stage } from './stage.ts'

/**
 * `make chaos`: every part of the shop with every fault that it can have, under an order load, then (on embedded parts)
 * for some minutes two at a time by a seeded schedule; after each the ledger is compared. Ends with 1 where anything was
 * found.
 */
const { values } = parseArgs({
  options: {
    /** Where the shop runs: embedded, compose or cluster (as for make e2e-cluster). */
    on: { type: 'string', default: 'embedded' },
    parts: { type: 'string', default: parts.join() },
    faults: { type: 'string', default: faults.join() },
    /** Minutes of two faults at a time; 10 on embedded parts, none elsewhere. */
    pairs: { type: 'string' },
    /** Leaves out what strikes alone. */
    'only-pairs': { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' },
    /** A file for the table. */
    out: { type: 'string' },
  },
})
const known = <T extends string>(list: readonly T[], given: string, what: string) =>
  given
    .split(',')
    .filter(Boolean)
    .map((name) => {
      if (!list.includes(name as T)) throw new Error(`there is no ${what} ${name}: ${list.join(', ')}`)
      return name as T
    })
const someParts = known<PartName>(parts, values.parts, 'part')
const someFaults = known<Fault>(faults, values.faults, 'fault')

/** Mulberry32: the same numbers for the same seed. */
function random(seed: number) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

const lines: string[] = []
const print = (line: string) => {
  console.log(line)
  lines.push(line)
}
const percent = (share: number) => (Number.isNaN(share) ? '–' : `${(share * 100).toFixed(share < 1 ? 1 : 0)} %`)
const nameOf = (strikes: Strike[]) => strikes.map(({ part, fault }) => `${part} ${fault}`).join(' + ')
const seconds = (ms: number) => (Number.isNaN(ms) ? '–' : `${(ms / 1000).toFixed(1)} s`)
const row = ({ strikes, best, orders, availability, slowest, lasted, recovery, restarted, findings }: Outcome) =>
  `| ${[
    nameOf(strikes),
    `${percent(availability.reads)} (${best.reads})`,
    `${percent(availability.orders)} (${best.orders})`,
    kinds
      .filter((kind) => !['reads', 'orders'].includes(kind) && availability[kind] !== 1)
      .map((kind) => `${kind} ${percent(availability[kind])} (${best[kind]})`)
      .join(', ') || 'all',
    `${orders.meanwhile} of ${orders.all}`,
    seconds(slowest),
    seconds(lasted),
    seconds(recovery),
    [...new Set(restarted)].join(', ') || '–',
    findings.join('; ') || 'none',
  ].join(' | ')} |`

const dir = mkdtempSync(join(tmpdir(), 'chaos-'))
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort())
let played = 0
let found = 0
const say = (text: string) => process.stderr.write(`${text}\n`)
/** Each shop that is opened here, with the faults that it is made ready for. */
const prepared: Fault[] = ['slow', 'reset', 'full', 'ahead', 'behind']
const plain = faults.filter((fault) => !prepared.includes(fault))
const stages: Record<string, [Fault[], () => Promise<Stage>][]> = {
  embedded: [[[...faults], () => openEmbedded(dir, { say })]],
  compose: [
    [plain, () => openCompose({ dir, prepared: false, say })],
    [prepared, () => openCompose({ dir, prepared: true, say })],
  ],
  cluster: [
    [plain, () => openOnCluster({ dir, prepared: false, say })],
    [prepared, () => openOnCluster({ dir, prepared: true, say })],
  ],
}
const shops = stages[values.on]
if (!shops) throw new Error(`there is no ${values.on}: ${Object.keys(stages).join(', ')}`)
try {
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`
  print(
    `${new Date().toISOString().slice(0, 10)}, ${cpus().length} cores, ${memory}, load ${loadavg()[0]?.toFixed(1)}\n`,
  )
  print(
    '| fault | reads answered (best) | orders answered (best) | the rest (best) | orders accepted meanwhile | slowest answer | lasted | recovery | started again | found |',
  )
  print('|---|---|---|---|---|---|---|---|---|---|')
  const left: string[] = []
  for (const [ready, open] of shops) {
    const wanted = someFaults.filter((fault) => ready.includes(fault))
    if (wanted.length === 0 || stop.signal.aborted) continue
    await using stage = await open()
    const catalogue = await openStock(stage)
    const perform = async (strikes: Strike[]) => {
      const outcome = await play(stage, catalogue, strikes)
      played++
      if (outcome.findings.length > 0) found++
      print(row(outcome))
    }
    const possible: Strike[] = []
    for (const part of someParts)
      for (const fault of wanted) {
        const reason = stage.cannot(part, fault)
        if (reason) left.push(`${part} ${fault} (${reason})`)
        else possible.push({ part, fault })
      }
    for (const strike of values['only-pairs'] ? [] : possible) if (!stop.signal.aborted) await perform([strike])

    const next = random(Number(values.seed))
    const minutes = Number(values.pairs ?? (values.on === 'embedded' ? 10 : 0))
    const canPair = new Set(possible.map(({ part }) => part)).size > 1
    const end = Date.now() + (canPair ? minutes * 60_000 : 0)
    while (Date.now() < end && !stop.signal.aborted) {
      const pick = () => possible[Math.floor(next() * possible.length)] as Strike
      const [one, other] = [pick(), pick()]
      if (one.part !== other.part) await perform([one, other])
    }
  }
  if (left.length > 0) print(`\nNot here: ${left.join(', ')}.`)
  print(`\n${played} faults, ${found} with findings, seed ${values.seed}.`)
} finally {
  if (values.out) writeFileSync(values.out, `${lines.join('\n')}\n`)
  if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
}
process.exitCode = found > 0 || played === 0 ? 1 : 0
