import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'

const root = join(import.meta.dirname, '..')

test('docs/coverage.md → every proof is a file that is there, with a title that has those words', (t) => {
  const rows = readFileSync(join(root, 'docs/coverage.md'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| ') && !line.startsWith('| promise'))
  t.true(rows.length > 80)
  for (const row of rows) {
    const proofs = (row.split(' | ').at(-1) as string).replace(/ \|$/, '').split('; ')
    for (const proof of proofs) {
      const [, file, words] = /^`([\w/-]+)` › (.+)$/.exec(proof) ?? []
      if (!file || !words) {
        t.fail(`not \`file\` › words of a title: ${proof}`)
        continue
      }
      const path = join(root, file === 'tour' ? 'src/tour.ts' : `test/${file}.test.ts`)
      t.true(
        existsSync(path) && readFileSync(path, 'utf8').includes(words),
        `${proof}: not there any more; change docs/coverage.md too`,
      )
    }
  }
})
