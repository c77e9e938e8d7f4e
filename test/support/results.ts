import { stripVTControlCharacters } from 'node:util'

export interface Results {
  passed: number
  failed: number
  skipped: number
}

/**
 * Counts what AVA reports of each test as it ends; its closing summary leaves out what passed when something failed.
 * A file that crashes is one failure more; a test that did not run counts nowhere.
 */
export function countResults(report: string): Results {
  const [tests = ''] = stripVTControlCharacters(report).split(/^ {2}─$/m)
  const count = (pattern: RegExp) => tests.match(pattern)?.length ?? 0
  return {
    passed: count(/^ {2}[✔√] /gm),
    failed: count(/^ {2}[✘×] (?!\d+ tests? remaining)/gm),
    skipped: count(/^ {2}- \[(skip|todo)\] /gm),
  }
}

/** The counts on one line: `140 passed, 0 failed`. */
export const line = ({ passed, failed, skipped }: Results) =>
  `${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`
