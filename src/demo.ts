import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { commandOf, isFree, whoListens, whyNotFree } from './embedded/ports.ts'
import { type PortName, type Shop, startShop } from './embedded/shop.ts'

// Runs the whole shop on this machine until Ctrl-C; with `reset`, forgets its data.

/** Options, by environment. BIND is the address to listen on. */
const choices = {
  PORT: { port: 'edge', usual: 8080, what: 'the shop' },
  MAIL_PORT: { port: 'inbox', usual: 1080, what: 'the mail inbox' },
} as const
const host = process.env.BIND || '127.0.0.1'

const root = join(import.meta.dirname, '..')
const wanted = Object.fromEntries(
  Object.entries(choices).map(([key, { usual }]) => [key, portOf(key, usual)]),
) as Record<keyof typeof choices, number>
// One directory for each port, so that a second shop beside the first needs nothing but other ports.
const dir = join(root, '.demo', String(wanted.PORT))
const shown = relative(process.cwd(), dir) || dir
const pidFile = join(dir, 'demo.pid')
const stop = new AbortController()

const { positionals } = parseArgs({ allowPositionals: true })
try {
  if (host.includes(':')) throw new Error(`BIND is ${host}, and must be an IPv4 address. All of them: 0.0.0.0`)
  if (positionals[0] === 'reset') reset()
  else await demo()
} catch (error) {
  console.error(stop.signal.aborted ? 'Stopped before it was open.' : `\n${(error as Error).message}`)
  process.exitCode = 1
}

async function demo() {
  refuseSecond()
  await refuseTakenPorts()
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  writeFileSync(pidFile, String(process.pid))
  process.once('exit', () => rmSync(pidFile, { force: true }))
  let signals = 0
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      signals++
      if (signals === 1) stop.abort(new Error('stopped'))
      else if (signals > 2) process.exit(130)
      else console.log('Still stopping; once more leaves at once.')
    })

  const begun = performance.now()
  console.log(`Opening the shop in ${shown}${existsSync(join(dir, 'seeded')) ? ', with the data it had' : ''}\n`)
  let open = false
  await using shop = await startShop({
    dir,
    host,
    ports: { ...(await rememberedPorts()), edge: wanted.PORT, inbox: wanted.MAIL_PORT },
    env: logLevel(),
    signal: stop.signal,
    say: (text) => console.log(`  · ${text}`),
    onStep: progress,
    onEnd: (how, child) => {
      if (!open || stop.signal.aborted) return
      console.log(`\n${child.name} ended (${how}); starting it again`)
      child.restart().then(
        () => console.log(`${child.name} runs again`),
        (error) => console.error(error.message),
      )
    },
  })
  rememberPorts(shop)
  await seed(shop)
  open = true
  if (!stop.signal.aborted) console.log(welcome(shop, seconds(performance.now() - begun)))
  await new Promise<void>((resolve) => {
    if (stop.signal.aborted) resolve()
    // A pending promise alone does not keep a process alive.
    const alive = setInterval(() => {}, 1 << 30)
    stop.signal.addEventListener('abort', () => {
      clearInterval(alive)
      resolve()
    })
  })
  console.log('\nStopping: finishing what runs, then closing in reverse order.')
  const stopping = performance.now()
  await shop.close()
  console.log(`Stopped after ${seconds(performance.now() - stopping)}. The data stay in ${shown}.`)
}

async function seed(shop: Shop) {
  const marker = join(dir, 'seeded')
  if (existsSync(marker)) return
  const begun = performance.now()
  await shop.run('products', 'commands.ts', 'seed')
  writeFileSync(marker, '')
  progress('catalogue', performance.now() - begun)
}

function reset() {
  refuseSecond()
  const there = existsSync(dir)
  rmSync(dir, { recursive: true, force: true })
  console.log(there ? `Forgot ${shown}.` : `There is nothing in ${shown}.`)
}

function refuseSecond() {
  if (!existsSync(pidFile)) return
  const pid = Number(readFileSync(pidFile, 'utf8'))
  if (pid !== process.pid && commandOf(pid)?.includes('demo'))
    throw new Error(`This demo runs already, as process ${pid}. Stop it with Ctrl-C there, or with: kill ${pid}`)
}

async function refuseTakenPorts() {
  if (wanted.PORT === wanted.MAIL_PORT)
    throw new Error(
      `PORT and MAIL_PORT are both ${wanted.PORT}, and must be two ports: make demo PORT=8080 MAIL_PORT=1080`,
    )
  const taken: string[] = []
  const others: string[] = []
  for (const [key, { usual, what }] of Object.entries(choices)) {
    let port = wanted[key as keyof typeof choices]
    const fault = await whyNotFree(port, host)
    if (fault && fault !== 'EADDRINUSE' && fault !== 'EACCES')
      throw new Error(
        `BIND is ${host}, where nothing can listen here (${fault}). Take an address of this machine, or 0.0.0.0`,
      )
    if (fault) {
      const why = fault === 'EACCES' ? 'only for root: it is below 1024' : `taken by ${whoListens(port)}`
      taken.push(`Port ${port} (${what}) is ${why}.`)
      port = await nextFree(Math.max(port + 1, fault === 'EACCES' ? 1024 : 0))
    }
    if (port !== usual) others.push(`${key}=${port}`)
  }
  if (taken.length > 0) throw new Error(`${taken.join('\n')}\nChoose others: make demo ${others.join(' ')}`)
}

async function nextFree(from: number) {
  for (let port = from; port < 65_536; port++) if (await isFree(port, host)) return port
  return 0
}

function portOf(key: string, usual: number) {
  const text = process.env[key] || String(usual)
  if (/^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) < 65_536) return Number(text)
  console.error(`${key} is ${JSON.stringify(text)}, and must be a port such as ${usual}`)
  process.exit(78)
}

/** Inner ports stay the same from start to start where they are still free, so that other tools can keep them. */
async function rememberedPorts(): Promise<Partial<Record<PortName, number>>> {
  const file = join(dir, 'ports.json')
  if (!existsSync(file)) return {}
  let remembered: Record<string, number>
  try {
    remembered = JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    // Cut off by a full disk; they are only a convenience.
    return {}
  }
  const ports = Object.entries(remembered)
  const free = await Promise.all(ports.map(([, port]) => isFree(port)))
  return Object.fromEntries(ports.filter((_, i) => free[i]))
}
function rememberPorts({ ports: { edge, inbox, ...inner } }: Shop) {
  writeFileSync(join(dir, 'ports.json'), JSON.stringify(inner, null, 2))
}

function logLevel(): Record<string, string> {
  return process.env.LOG_LEVEL ? { LOG_LEVEL: process.env.LOG_LEVEL } : {}
}

function progress(name: string, ms: number) {
  console.log(`  ✔ ${name.padEnd(22)}${seconds(ms).padStart(8)}`)
}

function seconds(ms: number) {
  return `${(ms / 1000).toFixed(1)} s`
}

function welcome(shop: Shop, took: string) {
  const others = Object.entries(choices)
    .filter(([key, { usual }]) => wanted[key as keyof typeof choices] !== usual)
    .map(([key]) => ` ${key}=${wanted[key as keyof typeof choices]}`)
    .join('')
  return `
The shop is open after ${took}.

  shop       ${shop.url}/product?limit=3
  API page   ${shop.url}/docs
  mail       ${shop.inboxUrl}   every mail of the shop lands here
  logs       ${join(shown, 'log')}

In another terminal:

  make tour${others}
      registers, reads the code from the mail, fills a cart and orders, step by step
  curl '${shop.url}/product?q=lamp&limit=2'
      searches the catalogue
  make admin${others} EMAIL=you@example.org
      makes an account an admin, and the account where there is none

Ctrl-C stops it and keeps its data; make demo-reset${others} forgets them.`
}
