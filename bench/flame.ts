import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { memoryEnv, startShop } from '../src/embedded/shop.ts'
import type { Role } from '../src/platform/config.ts'
import { findGenerator, type Load } from './load.ts'
import { type Customer, fillCatalogue, makeCustomers, timeOf } from './setup.ts'

/**
 * `make flame`: where a role's time goes in GET /product and in POST /order, under load through the edge: a flame graph of
 * each as docs/flame-*.svg, and a table of the parts. The wider a frame, the more of the role's processor time it takes.
 */
interface Frame {
  functionName: string
  url: string
}
interface Profile {
  nodes: { id: number; callFrame: Frame; children?: number[] }[]
  startTime: number
  samples: number[]
  timeDeltas: number[]
}
interface Stack {
  name: string
  part: string
  time: number
  children: Map<string, Stack>
}

const root = join(import.meta.dirname, '..')
const seconds = 10
const dir = mkdtempSync(join(tmpdir(), 'flame-'))
process.once('exit', () => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))
const say = (text: string) => console.log(text)

/** The part of the program that a frame belongs to: our file, a package, or Node.js. */
function partOf({ url, functionName }: Frame) {
  const found = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1]
  if (found) return found
  if (url.startsWith('file://')) return relative(root, new URL(url).pathname)
  if (functionName === '(garbage collector)') return 'garbage collection'
  return /^write(v|Buffer|\w+String)$/.test(functionName) ? 'writing to sockets' : 'Node.js'
}

/** The stacks of a profile between two moments (µs), without the time that the process waits. */
function stacksOf({ nodes, startTime, samples, timeDeltas }: Profile, from: number, to: number): Stack {
  const frames = new Map(nodes.map((node) => [node.id, node.callFrame]))
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)))
  const all: Stack = { name: 'all', part: '', time: 0, children: new Map() }
  let now = startTime
  samples.forEach((sample, i) => {
    const took = timeDeltas[i] as number
    now += took
    if (now < from || now > to || frames.get(sample)?.functionName === '(idle)') return
    const path: Frame[] = []
    for (let id: number | undefined = sample; id !== undefined; id = parents.get(id))
      path.unshift(frames.get(id) as Frame)
    let at = all
    at.time += took
    for (const frame of path.slice(1)) {
      const part = partOf(frame)
      const name = frame.functionName || '(anonymous)'
      const key = `${name} ${part}`
      const child = at.children.get(key) ?? { name, part, time: 0, children: new Map() }
      at.children.set(key, child)
      child.time += took
      at = child
    }
  })
  return all
}

/** Each part's own time: the frames of Node.js count for the part that called them. */
function sharesOf(all: Stack) {
  const shares = new Map<string, number>()
  const walk = (stack: Stack, caller: string) => {
    const part = stack.part === 'Node.js' && caller ? caller : stack.part
    let own = stack.time
    for (const child of stack.children.values()) {
      own -= child.time
      walk(child, part)
    }
    shares.set(part, (shares.get(part) ?? 0) + own / all.time)
  }
  for (const child of all.children.values()) walk(child, '')
  return [...shares].toSorted((a, b) => b[1] - a[1])
}

const escaped = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`)
const colours: [RegExp, string][] = [
  [/^src\//, '#7cc47f'],
  [/^garbage/, '#e8806f'],
  [/^Node/, '#c9ccd1'],
  [/^writing/, '#f0a35e'],
  [/^pg/, '#7fb2e5'],
  [/koa/, '#f2c14e'],
  [/./, '#cda2dd'],
]

/** A flame graph as SVG: callers below, callees above, frames of less than a 500th left out. */
function draw(title: string, all: Stack) {
  const [width, row] = [1200, 16]
  const boxes: string[] = []
  let deepest = 0
  const place = (stack: Stack, x: number, depth: number) => {
    const w = (stack.time / all.time) * width
    if (w < width / 500) return
    deepest = Math.max(deepest, depth)
    const label = depth === 0 ? title : `${stack.name} · ${stack.part}`
    const share = `${((stack.time / all.time) * 100).toFixed(1)} %`
    const fill = depth === 0 ? '#eeeeee' : colours.find(([what]) => what.test(stack.part))?.[1]
    const room = Math.floor((w - 6) / 6)
    const text =
      room > 3
        ? `<text x="${(x + 3).toFixed(1)}" y="${-depth * row - 4}">${escaped(label.length > room ? `${label.slice(0, room - 1)}…` : label)}</text>`
        : ''
    boxes.push(
      `<g><title>${escaped(`${label} · ${share}`)}</title><rect x="${x.toFixed(1)}" y="${-(depth + 1) * row}" width="${Math.max(w - 0.5, 0.5).toFixed(1)}" height="${row - 1}" fill="${fill}"/>${text}</g>`,
    )
    let at = x
    for (const child of [...stack.children.values()].toSorted((a, b) => b.time - a.time)) {
      place(child, at, depth + 1)
      at += (child.time / all.time) * width
    }
  }
  place(all, 0, 0)
  const height = (deepest + 1) * row
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 ${-height} ${width} ${height}" font-family="monospace" font-size="10">
<title>${escaped(title)}</title>
<rect x="0" y="${-height}" width="${width}" height="${height}" fill="#ffffff"/>
${boxes.join('\n')}
</svg>
`
}

const profiles = join(dir, 'profiles')
mkdirSync(profiles)
const options = `${memoryEnv.NODE_OPTIONS} --cpu-prof --cpu-prof-dir=${profiles} --cpu-prof-interval=500`
const windows: { title: string; file: string; pid?: number; from: number; to: number; cost: number }[] = []
{
  await using shop = await startShop({ dir: join(dir, 'shop'), say, env: { NODE_OPTIONS: options } })
  const products = await fillCatalogue(shop.databaseUrl, 1000)
  const customers = await makeCustomers(shop, 8)
  const callers = customers.map((c: Customer): [string, string] => ['Authorization', `Bearer ${c.token}`])
  // Mails would run beside it; without a mail server their events wait in the stream.
  await shop.mail.stop()
  const generator = findGenerator(dir, say)
  const run = async (role: Role, title: string, file: string, load: Load) => {
    await generator.run(load, 4, 32)
    const { pid } = shop.roles[role]
    const [from, before] = [Number(process.hrtime.bigint() / 1000n), timeOf(pid)]
    const { rate } = await generator.run(load, seconds, 32)
    const to = Number(process.hrtime.bigint() / 1000n)
    const cost = (timeOf(pid) - before) / (rate * seconds)
    windows.push({ title, file, pid, from, to, cost })
  }
  await run('products', 'GET /product?limit=20', 'flame-list.svg', { url: `${shop.url}/product?limit=20` })
  await run('orders', 'POST /order', 'flame-order.svg', {
    url: `${shop.url}/order`,
    orders: { callers, products: products.slice(0, 200) },
  })
}
for (const { title, file, pid, from, to, cost } of windows) {
  const name = readdirSync(profiles).find((profile) => profile.split('.')[3] === String(pid)) as string
  const all = stacksOf(JSON.parse(readFileSync(join(profiles, name), 'utf8')), from, to)
  writeFileSync(join(root, 'docs', file), draw(`${title}, ${seconds} s`, all))
  say(`\n${title}: ${cost.toFixed(0)} µs of the role's processor time each (docs/${file})`)
  for (const [part, share] of sharesOf(all).slice(0, 14)) say(`  ${(share * 100).toFixed(1).padStart(5)} %  ${part}`)
}
