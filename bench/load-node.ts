import { readFileSync } from 'node:fs'
import { connect } from 'node:net'

/** What load.lua does with wrk, where there is no wrk: one closed loop a connection, on bare sockets. */
interface Options {
  url: string
  headers: Record<string, string>
  seconds: number
  connections: number
}
const { url, headers, seconds, connections }: Options = JSON.parse(process.argv[2] ?? '{}')
const { hostname, port, pathname, search } = new URL(url)

const plan = process.env.PLAN ? readFileSync(process.env.PLAN, 'utf8').trim().split('\n') : undefined
const named = (kind: string) =>
  (plan ?? []).filter((l) => l.startsWith(`${kind} `)).map((l) => l.slice(kind.length + 1))
const [run] = named('run')
const callers = named('caller').map((caller) => caller.replace(' ', ': '))
const products = named('product')
const given = Object.entries(headers).map(([header, value]) => `${header}: ${value}\r\n`)
const get = `GET ${pathname}${search} HTTP/1.1\r\nHost: ${hostname}\r\n${given.join('')}\r\n`
let sent = 0

function order() {
  sent++
  const first = Math.floor(Math.random() * products.length)
  const second = (first + 1 + Math.floor(Math.random() * (products.length - 1))) % products.length
  const body = JSON.stringify({
    items: [
      { productId: products[first], quantity: 1 },
      { productId: products[second], quantity: 2 },
    ],
  })
  const head = `POST ${pathname} HTTP/1.1\r\nHost: ${hostname}\r\nContent-Type: application/json\r\n`
  return `${head}Idempotency-Key: ${run}-${sent}\r\n${callers[sent % callers.length]}\r\nContent-Length: ${body.length}\r\n\r\n${body}`
}

const times: number[] = []
let refused = 0
let broken = 0
const began = performance.now()
const end = began + seconds * 1000

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

const loops = Array.from(
  { length: connections },
  () =>
    new Promise<void>((resolve) => {
      const socket = connect(Number(port), hostname).setNoDelay().setEncoding('latin1')
      let got = ''
      let asked = 0
      const ask = () => {
        asked = performance.now()
        socket.write(plan ? order() : get)
      }
      socket.once('connect', ask)
      socket.on('data', (text: string) => {
        got += text
        const bytes = whole(got)
        if (bytes === 0) return
        times.push(performance.now() - asked)
        if (Number(got.slice(9, 12)) > 399) refused++
        got = got.slice(bytes)
        if (performance.now() < end) ask()
        else socket.end()
      })
      socket.once('error', () => broken++)
      socket.once('close', () => resolve())
    }),
)
await Promise.all(loops)
times.sort((a, b) => a - b)
const at = (share: number) => times[Math.floor(times.length * share)] ?? 0
console.log(
  JSON.stringify({
    requests: times.length,
    seconds: (performance.now() - began) / 1000,
    p50: at(0.5),
    p99: at(0.99),
    refused,
    broken,
  }),
)
