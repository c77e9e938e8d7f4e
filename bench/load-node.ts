import { readFileSync } from 'node:fs'
import { connect } from 'node:net'

/**
 * Asks on bare sockets. With `rate`: requests at set moments, whether or not those before are answered (an open loop), as
 * when many customers come. Without it: on each connection one request after the other (a closed loop), as wrk does it
 * with load.lua; for machines that have no wrk.
 */
interface Options {
  url: string
  headers: Record<string, string>
  seconds: number
  connections: number
  /** Requests a second. */
  rate?: number
}
const { url, headers, seconds, connections, rate }: Options = JSON.parse(process.argv[2] ?? '{}')
const { hostname, port, pathname, search } = new URL(url)

const plan = process.env.PLAN ? readFileSync(process.env.PLAN, 'utf8').trim().split('\n') : []
const named = (kind: string) => plan.filter((line) => line.startsWith(`${kind} `)).map((l) => l.slice(kind.length + 1))
const [run] = named('run')
const callers = named('caller').map((caller) => caller.replace(' ', ': '))
const products = named('product')
const bodies = named('body')
const given = Object.entries(headers).map(([header, value]) => `${header}: ${value}\r\n`)
const target = `${pathname}${search} HTTP/1.1\r\nHost: ${hostname}\r\n${given.join('')}`
const get = `GET ${target}\r\n`
let sent = 0

const post = (body: string, head = '') =>
  `POST ${target}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n${head}\r\n${body}`

function next() {
  sent++
  if (bodies.length > 0) return post(bodies[sent % bodies.length] as string)
  if (callers.length === 0) return get
  const first = Math.floor(Math.random() * products.length)
  const second = (first + 1 + Math.floor(Math.random() * (products.length - 1))) % products.length
  const items = [
    { productId: products[first], quantity: 1 },
    { productId: products[second], quantity: 2 },
  ]
  return post(JSON.stringify({ items }), `Idempotency-Key: ${run}-${sent}\r\n${callers[sent % callers.length]}\r\n`)
}

/** Bytes of the first whole answer in `text` (latin1), or 0 where it is not whole yet. */
function whole(text: string): number {
  const head = text.indexOf('\r\n\r\n')
  if (head < 0) return 0
  const top = text.slice(0, head).toLowerCase()
  const body = head + 4
  if (/^http\/1\.1 (204|304)/.test(top)) return body
  const length = /\ncontent-length: (\d+)/.exec(top)?.[1]
  if (length !== undefined) return text.length >= body + Number(length) ? body + Number(length) : 0
  const last = text.indexOf('0\r\n\r\n', body - 2)
  return last < 0 ? 0 : last + 5
}

const good: number[] = []
const refusals: number[] = []
let hinted = 0
/** Good answers that came within the time that counts. */
let served = 0
let broken = 0
/** Connections open and the code is compiled in the first second of an open loop, which is not counted. */
const warmUp = rate ? 1000 : 0
const began = performance.now()
const end = began + warmUp + seconds * 1000

/** A connection that asks one thing after the other; `done` hears of each answer, and whether the connection is left. */
function open(done: (isOpen: boolean) => void) {
  const socket = connect(Number(port), hostname).setNoDelay().setEncoding('latin1')
  let got = ''
  let since: number | undefined
  socket.on('data', (text: string) => {
    got += text
    const bytes = whole(got)
    if (bytes === 0 || since === undefined) return
    const now = performance.now()
    const ms = now - since
    const isCounted = since >= began + warmUp
    const isGood = Number(got.slice(9, 12)) < 400
    if (isGood && now >= began + warmUp && now < end) served++
    if (isCounted && isGood) good.push(ms)
    else if (isCounted) {
      refusals.push(ms)
      if (/\r\nretry-after: \d/i.test(got)) hinted++
    }
    const isLast = /\r\nconnection: close/i.test(got.slice(0, bytes))
    got = got.slice(bytes)
    since = undefined
    if (!isLast) done(true)
  })
  socket.once('error', () => undefined)
  socket.once('close', () => {
    if (since !== undefined) broken++
    since = undefined
    done(false)
  })
  return {
    socket,
    isBusy: () => since !== undefined,
    ask(from: number) {
      since = from
      socket.write(next())
    },
  }
}

/** One after the other on each connection until the time is over. */
async function closedLoops() {
  const loop = () =>
    new Promise<void>((resolve) => {
      const connection = open((isOpen) => {
        if (!isOpen) resolve()
        else if (performance.now() < end) connection.ask(performance.now())
        else connection.socket.end()
      })
      connection.socket.once('connect', () => connection.ask(performance.now()))
    })
  await Promise.all(Array.from({ length: connections }, loop))
}

/** Asks when it is due, over a connection that is free or a new one; times count from the moment it was due. */
async function openLoop(perSecond: number) {
  const free: ReturnType<typeof open>[] = []
  const all = new Set<ReturnType<typeof open>>()
  const waiting: number[] = []
  const serve = (connection: ReturnType<typeof open>) => {
    const due = waiting.shift()
    if (due === undefined) free.push(connection)
    else connection.ask(due)
  }
  const send = (due: number) => {
    const idle = free.pop()
    if (idle) return idle.ask(due)
    if (all.size >= connections) return waiting.push(due)
    const connection = open((isOpen) => {
      if (isOpen) return serve(connection)
      all.delete(connection)
      if (free.includes(connection)) free.splice(free.indexOf(connection), 1)
    })
    all.add(connection)
    connection.ask(due)
  }
  let due = began
  while (due < end) {
    for (const now = performance.now(); due <= now && due < end; due += 1000 / perSecond) send(due)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  // The last ones have 10 s to come back; what does not is broken.
  for (const last = end + 10_000; free.length < all.size && performance.now() < last; )
    await new Promise((resolve) => setTimeout(resolve, 5))
  broken += waiting.length
  for (const { socket, isBusy } of all) {
    if (isBusy()) broken++
    socket.destroy()
  }
}

await (rate ? openLoop(rate) : closedLoops())
const took = rate ? seconds : (performance.now() - began) / 1000
const { user, system } = process.cpuUsage()
const at = (times: number[], share: number) => times.sort((a, b) => a - b)[Math.floor(times.length * share)] ?? 0
console.log(
  JSON.stringify({
    requests: good.length + refusals.length,
    seconds: took,
    p50: at(good, 0.5),
    p99: at(good, 0.99),
    refused: refusals.length,
    refusedP99: at(refusals, 0.99),
    hinted,
    broken,
    served,
    /** Microseconds of processor time that a request costs this side. */
    cost: (user + system) / Math.max(1, sent),
  }),
)
