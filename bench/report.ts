import type { Sample } from './load.ts'

export interface Figure {
  what: string
  /** One for each round, or for each try. */
  values: number[]
  /** Written after the number; a ratio has none. */
  unit?: string
  goal?: { least: number } | { most: number }
}

export const median = (numbers: number[]) => {
  const sorted = numbers.toSorted((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 ? (sorted[half] as number) : ((sorted[half - 1] as number) + (sorted[half] as number)) / 2
}

/** A bar of eighths of a character; `share` of `width`. */
function bar(share: number, width: number) {
  const eighths = Math.round(Math.min(Math.max(share, 0), 1) * width * 8)
  return '█'.repeat(eighths >> 3) + ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths & 7]
}

/** Rates and times of each target, with bars against the fastest of its group. */
export function printTargets(targets: { group: string; name: string; samples: Sample[] }[]) {
  const rate = (t: { samples: Sample[] }) => median(t.samples.map((s) => s.rate))
  console.log(`${''.padEnd(30)}${'requests/s'.padStart(11)}${'p50 ms'.padStart(9)}${'p99 ms'.padStart(9)}`)
  let group = ''
  for (const target of targets) {
    if (target.group !== group) console.log(target.group)
    group = target.group
    const fastest = Math.max(...targets.filter((t) => t.group === group).map(rate))
    const p50 = median(target.samples.map((s) => s.p50)).toFixed(2)
    const p99 = median(target.samples.map((s) => s.p99)).toFixed(2)
    const numbers = `${whole(rate(target)).padStart(11)}${p50.padStart(9)}${p99.padStart(9)}`
    console.log(`  ${target.name.padEnd(28)}${numbers}  ${bar(rate(target) / fastest, 30)}`)
  }
}

/** The median of each figure with its least and most, and whether its goal is reached; bars have the goal at the mark. */
export function printFigures(figures: Figure[]) {
  const width = Math.max(...figures.map((f) => f.what.length))
  console.log(`\n${''.padEnd(width)}${'median'.padStart(11)}${'least – most'.padStart(18)}${'goal'.padStart(10)}`)
  for (const { what, values, unit = '', goal } of figures) {
    const show = (n: number) => (unit ? whole(n) : n.toFixed(2))
    const value = median(values)
    const spread = values.length > 1 ? `${show(Math.min(...values))} – ${show(Math.max(...values))}` : ''
    const line = `${what.padEnd(width)}${(show(value) + unit).padStart(11)}${spread.padStart(18)}`
    if (!goal) {
      console.log(line)
      continue
    }
    const aim = 'least' in goal ? goal.least : goal.most
    const isReached = 'least' in goal ? value >= goal.least : value <= goal.most
    const drawn = bar(value / aim / 2, 24).padEnd(24)
    const marked = `${drawn.slice(0, 12)}┃${drawn.slice(12)}`
    const sign = 'least' in goal ? '≥' : '≤'
    console.log(`${line}${`${sign} ${aim}`.padStart(10)}  ${isReached ? '✔' : '✘'} ${marked.trimEnd()}`)
  }
  console.log()
}

const whole = (n: number) => Math.round(n).toLocaleString('en')
