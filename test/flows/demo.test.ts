import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { freePorts, isFree } from '../../src/embedded/ports.ts'
import { eventually } from '../support/shop.ts'

const root = join(import.meta.dirname, '../..')
const [PORT = 0, MAIL_PORT = 0, other = 0] = await freePorts(3)
const env = { ...process.env, PORT: String(PORT), MAIL_PORT: String(MAIL_PORT) }
const run = (file: string, ...args: string[]) =>
  promisify(execFile)(process.execPath, [join(root, file), ...args], { env })

function openDemo() {
  const demo = spawn(process.execPath, [join(root, 'src/demo.ts')], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  demo.stdout.on('data', (chunk) => {
    said += chunk
  })
  const open = () =>
    eventually(
      'the demo is open',
      async () => {
        if (demo.exitCode !== null) throw new Error(`the demo ended: ${said}`)
        return said.includes('The shop is open') && said
      },
      60_000,
    )
  const stop = async () => {
    if (demo.exitCode === null) {
      const gone = once(demo, 'exit')
      demo.kill('SIGINT')
      await gone
    }
    return demo.exitCode
  }
  return { open, stop }
}

test.after.always('the demo is forgotten', () => run('src/demo.ts', 'reset'))

test.serial('make demo, make tour, Ctrl-C, again → every step as promised, all stopped, the data kept', async (t) => {
  t.timeout(120_000)
  const first = openDemo()
  t.teardown(first.stop)
  const said = await first.open()
  t.regex(said, new RegExp(`http://127.0.0.1:${PORT}/docs`))
  t.regex(said, new RegExp(`http://127.0.0.1:${MAIL_PORT}`))
  const tour = await run('src/tour.ts', '--url', `http://127.0.0.1:${PORT}`, '--inbox', `http://127.0.0.1:${MAIL_PORT}`)
  t.regex(tour.stdout, /All \d+ steps as promised/)
  const list = () => fetch(`http://127.0.0.1:${PORT}/product?limit=100`).then((answer) => answer.text())
  const before = await list()
  t.is(await first.stop(), 0)
  t.true(await isFree(PORT))
  t.true(await isFree(MAIL_PORT))

  const second = openDemo()
  t.teardown(second.stop)
  t.regex(await second.open(), /with the data it had/)
  t.is(await list(), before)
  t.is(await second.stop(), 0)
})

test.serial('make tour, no shop there → says so and exits 1', async (t) => {
  const error = await t.throwsAsync<Error & { code: number; stderr: string }>(
    run('src/tour.ts', '--url', `http://127.0.0.1:${other}`),
  )
  t.is(error.code, 1)
  t.regex(error.stderr, /nothing answers at/)
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
