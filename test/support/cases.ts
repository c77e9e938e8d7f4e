import { appendFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import fc from 'fast-check'

/** How many times as much as in `make test` is left to chance. */
export const times = Number(process.env.HOSTILE_TIMES ?? 1)
/** What chance begins with; the same tries for the same one. */
const seed = Number(process.env.HOSTILE_SEED ?? 1)

/** A line of the table of `make hostile`. */
export interface Row {
  what: string
  cases: number
  findings: number
  seconds: number
}

/** Counts what is tried, and keeps what a sound shop would not do. */
export function trial(what: string) {
  const began = performance.now()
  const findings: string[] = []
  let cases = 0
  return {
    findings,
    /** One case; `finding` tells of one where the shop did not do what it must. */
    check(isGood: boolean, finding: () => string) {
      cases++
      if (!isGood) findings.push(finding())
    },
    /** What must hold besides, and is no case of its own. */
    also(isGood: boolean, finding: () => string) {
      if (!isGood) findings.push(finding())
    },
    /** Cases that are checked together. */
    count(more: number) {
      cases += more
    },
    /** Adds the line of the table, and fails the test that found anything. */
    done(t: ExecutionContext) {
      const seconds = Math.round((performance.now() - began) / 100) / 10
      const row: Row = { what, cases, findings: findings.length, seconds }
      if (process.env.HOSTILE_TABLE) appendFileSync(process.env.HOSTILE_TABLE, `${JSON.stringify(row)}\n`)
      t.log(`${cases} cases, seed ${seed}`)
      t.true(cases > 0)
      t.deepEqual(findings.slice(0, 20), [], `${findings.length} findings`)
    },
  }
}
export type Trial = ReturnType<typeof trial>

/** So many values of an arbitrary, times `times`, the same ones for the same seed. */
export const some = <T>(arbitrary: fc.Arbitrary<T>, count: number) =>
  fc.sample(arbitrary, { seed, numRuns: count * times })
