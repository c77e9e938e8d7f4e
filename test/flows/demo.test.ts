import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { startChild } from '../../src/embedded/child.ts'
import { freePorts, isFree } from '../../src/embedded/ports.ts'

const root = join(import.meta.dirname, '../..')
const [PORT = 0, MAIL_PORT = 0, other = 0] = await freePorts(3)
const env = { ...process.env, PORT: String(PORT), MAIL_PORT: String(MAIL_PORT) }
const run = (file: string, ...args: string[]) =>
  promisify(execFile)(process.execPath, [join(root, file), ...args], { env })

const dir = mkdtempSync(join(tmpdir(), 'demo-'))
/** The demo once it is open; it dies with this process. */
async function openDemo(name: string) {
  const ended = Promise.withResolvers<string>()
  const log = join(dir, name)
  const said = () => readFileSync(log, 'utf8')
  const demo = await startChild({
    name: 'the demo',
    command: process.execPath,
    args: [join(root, 'src/demo.ts')],
    env: { PORT: env.PORT, MAIL_PORT: env.MAIL_PORT },
    log,
    stopSignal: 'SIGINT',
    deadline: 60_000,
    ready: async () => said().includes('The shop is open'),
    onEnd: ended.resolve,
  })
  return {
    said: said(),
    /** Ctrl-C, and how it ended. */
    stop() {
      if (demo.pid) process.kill(demo.pid, 'SIGINT')
      return ended.promise
    },
  }
}

test.after.always('the demo is forgotten', () => run('src/demo.ts', 'reset'))

test.serial('make demo, make tour, Ctrl-C, again → every step as promised, all stopped, the data kept', async (t) => {
  t.timeout(120_000)
  const first = await openDemo('first')
  t.teardown(async () => void (await first.stop()))
  t.regex(first.said, new RegExp(`http://127.0.0.1:${PORT}/docs`))
  t.regex(first.said, new RegExp(`http://127.0.0.1:${MAIL_PORT}`))
  const tour = await run('src/tour.ts', '--url', `http://127.0.0.1:${PORT}`, '--inbox', `http://127.0.0.1:${MAIL_PORT}`)
  t.regex(tour.stdout, /All \d+ steps as promised/)
  const list = () => fetch(`http://127.0.0.1:${PORT}/product?limit=100`).then((answer) => answer.text())
  const before = await list()
  t.is(await first.stop(), 'exit code 0')
  t.true(await isFree(PORT))
  t.true(await isFree(MAIL_PORT))

  const second = await openDemo('second')
  t.teardown(async () => void (await second.stop()))
  t.regex(second.said, /with the data it had/)
  t.is(await list(), before)
  t.is(await second.stop(), 'exit code 0')
})

test.serial('make tour, no shop there → says so and exits 1', async (t) => {
  const error = await t.throwsAsync<Error & { code: number; stderr: string }>(
    run('src/tour.ts', '--url', `http://127.0.0.1:${other}`),
  )
  t.is(error.code, 1)
  t.regex(error.stderr, /nothing answers at/)
})

for (const [option, name] of [
  ['--url', 'URL'],
  ['--inbox', 'INBOX'],
] as const)
  test.serial(`make tour, ${name} without http:// → says what it must be`, async (t) => {
    const address = `localhost:${other}`
    const error = await t.throwsAsync<Error & { code: number; stderr: string }>(run('src/tour.ts', option, address))
    t.is(error.code, 1)
    t.regex(error.stderr, new RegExp(`${name} is "${address}", and must begin with http://`))
  })

test.serial('make demo, a port taken → which, by what, and what to say instead', async (t) => {
  const server = createServer().listen(PORT, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const error = await t.throwsAsync<Error & { code: number; stderr: string }>(run('src/demo.ts'))
  t.is(error.code, 1)
  t.regex(error.stderr, new RegExp(`Port ${PORT} \\(the shop\\) is taken by .*\\(process ${process.pid}\\)`))
  t.regex(error.stderr, /make demo PORT=\d+/)
})
