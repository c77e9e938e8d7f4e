import { differences } from './differences.ts'
import { faults } from './faults.ts'
import { groups, type Row, rows, toModels } from './model.ts'
import { type Form, forms, lacking, render, targets } from './render.ts'

/** Prints how the three targets are equal: a table, or with the name of a part every value of it. */
const missing = await lacking('docker', 'kubectl', 'helm')
if (missing.length > 0) {
  console.error(`make parity renders the three targets by their own tools; these do not answer: ${missing.join(', ')}`)
  process.exit(1)
}
const wanted = process.argv[2]
let wrong = 0
for (const form of forms) {
  const rendered = await render(form)
  const all = rows(toModels(rendered), form, differences)
  const found = faults(rendered, form)
  wrong += found.length
  console.log(`\n${form}`)
  if (wanted)
    printPart(
      all.filter(({ part }) => part === wanted || part.startsWith(`${wanted}/`)),
      form,
    )
  else printTable(all)
  for (const fault of found) console.log(`  ✘ ${fault}`)
}
if (!wanted) printReasons()
process.exitCode = wrong ? 1 : 0

function printTable(all: Row[]) {
  const parts = [...new Set(all.map(({ part }) => part))]
  const width = Math.max(...parts.map((part) => part.length)) + 2
  const wide = (word: string) => word.padEnd(Math.max(word.length, 6) + 1)
  console.log(`  ${''.padEnd(width)}${groups.map(wide).join('')}`)
  for (const part of parts) {
    const whole = all.find((row) => row.part === part && row.field === undefined)
    const cells = groups.map((group) => {
      const fields = all.filter(({ part: of, field }) => of === part && field?.split(' ')[0] === group)
      const other = fields.filter(({ equal }) => !equal).length
      return (fields.length ? `${fields.length - other}${other ? ` ≠${other}` : ''}` : '·').padEnd(
        Math.max(group.length, 6) + 1,
      )
    })
    const where = whole ? `in ${targets.filter((target) => whole.values[target]).join(' and ')} alone` : ''
    console.log(`  ${part.padEnd(width)}${where ? where : cells.join('')}`.trimEnd())
  }
  const compared = all.filter(({ field }) => field !== undefined)
  const reasoned = compared.filter(({ equal, difference }) => !equal && difference).length
  console.log(
    `  ${compared.length} fields compared: ${compared.filter(({ equal }) => equal).length} equal, ${reasoned} differ for a reason (≠)`,
  )
}

function printPart(all: Row[], form: Form) {
  if (all.length === 0) console.log(`  no part of ${form} is called ${wanted}`)
  for (const { part, field, values, equal, difference } of all) {
    const name = `  ${part} ${field ?? ''}`.padEnd(44)
    if (equal) console.log(`${name} ${targets.map((target) => values[target]).find((value) => value !== undefined)}`)
    else
      console.log(
        `${name} ≠ ${targets.map((target) => `${target}: ${values[target] ?? '-'}`).join('  ')}\n${''.padEnd(47)}${difference?.reason ?? 'no reason'}`,
      )
  }
}

function printReasons() {
  console.log('\nThe differences, each with its reason')
  const byReason = Map.groupBy(differences, ({ reason }) => reason)
  for (const [reason, same] of byReason) {
    const fields = new Set(
      same.map(({ field = 'the part itself' }) =>
        typeof field === 'string' ? field : field.source.replace(/[\^$]/g, ''),
      ),
    )
    const parts = new Set(same.flatMap(({ parts = ['all parts'] }) => parts))
    console.log(`  ${[...parts].join(', ')}: ${[...fields].join(', ')}\n      ${reason}`)
  }
  console.log('\nmake parity PART=orders shows every value of a part.')
}
