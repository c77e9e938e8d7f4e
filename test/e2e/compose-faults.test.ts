import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { call } from '../../src/embedded/client.ts'
import { roleNames } from '../../src/platform/config.ts'
import { type Market, openMarket } from '../support/load.ts'
import { eventually } from '../support/shop.ts'
import { type Host, lacking, openHost, removeImages, run } from './host.ts'

// What a host does to a shop: secrets that are gone, a disk that is full, a clock that jumps, a volume of another server.
const missing = (await lacking()) ?? (process.getuid?.() === 0 ? undefined : 'only root can mount a small disk')
if (missing) process.stderr.write(`skipped, all of test/e2e/compose-faults.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = `e2e-${randomBytes(3).toString('hex')}`
const faketime = `bodega-e2e-faketime:${version}`
let host: Host
let url = ''
let disk = ''
let clock = ''
let market: Market

if (!missing) {
  anyTest.serial.before(
    'a clean clone, with images, a database on a small disk, and a clock that can be set',
    async (t) => {
      t.timeout(600_000)
      host = await openHost({ version })
      url = `http://127.0.0.1:${host.port}`
      disk = join(host.dir, 'disk')
      mkdirSync(disk)
      await run('mount', ['-t', 'tmpfs', '-o', 'size=400m,mode=700,uid=999,gid=999', 'bodega-e2e', disk])
      clock = join(host.dir, 'clock')
      mkdirSync(clock)
      writeFileSync(join(clock, 'now'), '+0\n')
      // The library comes from the distribution of the images, which loads it before everything else.
      await run('docker', ['build', '--quiet', '--tag', faketime, '-'], {
        seconds: 300,
        input:
          'FROM debian:trixie-slim\nRUN apt-get update -qq && apt-get install -qqy --no-install-recommends libfaketime\n',
      })
      const { out } = await run('docker', ['create', faketime, 'true'])
      await run('sh', [
        '-c',
        `docker cp -L "$0:$(docker run --rm ${faketime} sh -c 'ls /usr/lib/*/faketime/libfaketimeMT.so.1')" "$1"`,
        out,
        join(clock, 'library.so'),
      ])
      await run('docker', ['rm', out])
      host.write(
        'compose.override.yaml',
        `x-clock: &clock
  volumes: ["${clock}:/clock:ro"]
  environment:
    LD_PRELOAD: /clock/library.so
    FAKETIME_TIMESTAMP_FILE: /clock/now
    FAKETIME_CACHE_DURATION: "1"
    FAKETIME_DONT_FAKE_MONOTONIC: "1"
services:
${[...roleNames, 'postgres'].map((service) => `  ${service}: *clock\n`).join('')}
volumes:
  postgres: { driver_opts: { type: none, o: bind, device: "${disk}" } }
`,
      )
      await host.make(['secrets'])
      await host.compose(['build'], { seconds: 500 })
    },
  )
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(120_000)
    await host?.compose(['--profile', '*', 'down', '--volumes', '--remove-orphans', '--timeout', '5'], { any: true })
    await run('umount', ['--lazy', disk], { any: true })
    await host?.[Symbol.asyncDispose]()
    await removeImages(version)
    await run('docker', ['image', 'rm', '--force', faketime], { any: true })
  })
}

test('a secret that was not unpacked → its file is named, and nothing serves', async (t) => {
  t.timeout(120_000)
  const path = join(host.clone, 'secrets/.plain/dev/JWT_KEYS')
  renameSync(path, `${path}.away`)
  const { code, all } = await host.compose(['up', '--detach', '--wait'], { any: true })
  renameSync(`${path}.away`, path)
  t.not(code, 0)
  t.regex(all, /secrets\/\.plain\/dev\/JWT_KEYS/)
  t.false(existsSync(path) && statSync(path).isDirectory())
  t.deepEqual(await host.containers('edge'), [])
  // make secrets brings back what is gone.
  rmSync(path)
  await host.make(['secrets'])
  await host.compose(['up', '--detach', '--wait'], { seconds: 180 })
  market = await openMarket({
    url,
    inboxUrl: host.inboxUrl,
    makeAdmin: (email) => host.compose(['exec', '-T', 'auth', 'node', 'src/commands.ts', 'admin', email]),
  })
})

test('the disk of the database full under an order load → 503 and a line that says why; with room again orders go on, nothing is lost', async (t) => {
  t.timeout(300_000)
  const customers = await market.load({ strict: false })
  try {
    await customers.orders(20)
    // To the last byte, so that neither a table nor the log can grow.
    const filler = join(disk, 'filler')
    await run('dd', ['if=/dev/zero', `of=${filler}`, 'bs=1M'], { any: true })
    await eventually('an order is refused with 503', async () => (customers.seen['503'] ?? 0) > 0, 90_000)
    await eventually(
      'the server says why',
      async () => /No space left on device/.test((await host.compose(['logs', 'postgres'])).out),
      90_000,
    )
    t.regex((await host.make(['status'], { any: true })).all, /postgres/)
    rmSync(filler)
    await customers.orders(20, 120_000)
  } finally {
    await customers.stop()
  }
  t.log(JSON.stringify(customers.seen))
  t.is(customers.seen['500'], undefined)
  t.deepEqual(await market.lost(host.sql), [])
})

test('the clock of the host an hour ahead, and back → who signs in again orders on, nothing is lost or expired twice', async (t) => {
  t.timeout(240_000)
  for (const ahead of ['+1h', '+0', '-1h', '+0']) {
    const before = Number((await host.sql('select extract(epoch from now())::bigint'))[0])
    writeFileSync(join(clock, 'next'), `${ahead}\n`)
    renameSync(join(clock, 'next'), join(clock, 'now'))
    await eventually(
      'the database has the new time',
      async () => {
        const now = Number((await host.sql('select extract(epoch from now())::bigint'))[0])
        return Math.abs(Math.abs(now - before) - 3600) < 120
      },
      30_000,
    )
    await eventually(
      'every role has it',
      async () => {
        for (const role of roleNames) {
          const { out } = await host.compose(['exec', '-T', role, 'node', '-p', 'Date.now()'])
          const shift = Math.round((Number(out) - Date.now()) / 3_600_000)
          if (shift !== Number.parseInt(ahead, 10)) return false
        }
        return true
      },
      30_000,
    )
    const customers = await market.load()
    await customers.orders(20)
    await customers.stop()
    t.deepEqual(customers.failures, [], ahead)
  }
  t.deepEqual(await market.lost(host.sql), [])
  const again = await host.sql(
    `select order_id, status, count(*) from orders.order_event group by 1, 2 having count(*) > 1`,
  )
  t.deepEqual(again, [])
})

test('docker compose watch, a file of the source saved → the role serves it without a command', async (t) => {
  t.timeout(180_000)
  const stop = new AbortController()
  const watching = host.compose(['watch', '--no-up'], { any: true, signal: stop.signal, seconds: 150 })
  try {
    const path = 'src/platform/problem.ts'
    const text = readFileSync(join(host.clone, path), 'utf8')
    const lookUp = async () =>
      (await call(url, 'GET', `/product/${'0'.repeat(8)}-0000-7000-8000-${'0'.repeat(12)}`)).text
    t.notRegex(await lookUp(), /as saved a moment ago/)
    // What is saved before the watch has begun is not seen: saved again until it is.
    let n = 0
    await eventually(
      'the new words are served',
      async () => {
        if (n++ % 200 === 0)
          host.write(
            path,
            text.replace(/There is no \$\{/, `As saved a moment ago, there is no \${`).replace(/^/, `// ${n}\n`),
          )
        return /As saved a moment ago/.test(await lookUp())
      },
      90_000,
    )
    t.pass()
  } finally {
    stop.abort()
    t.log((await watching).all.split('\n').slice(-8).join('\n'))
  }
})

test('a volume of another major version of PostgreSQL → the server says so and the roles wait; with the right one all is there', async (t) => {
  t.timeout(240_000)
  const before = await market.lost(host.sql)
  const orders = await host.sql('select count(*) from orders."order"')
  await host.compose(['down'])
  const label = (await run('sh', ['-c', `echo ${disk}/*/docker/PG_VERSION`])).out
  const is = readFileSync(label, 'utf8')
  writeFileSync(label, '17\n')
  const { code, all } = await host.compose(['up', '--detach', '--wait', '--wait-timeout', '20'], { any: true })
  t.not(code, 0)
  t.regex(all, /postgres/)
  t.regex(
    (await host.compose(['logs', 'postgres'])).out,
    /initialized by PostgreSQL version 17, which is not compatible/,
  )
  t.deepEqual(await host.containers('edge'), [])
  writeFileSync(label, is)
  await host.compose(['up', '--detach', '--wait'], { seconds: 180 })
  t.deepEqual(await host.sql('select count(*) from orders."order"'), orders)
  t.deepEqual(await market.lost(host.sql), before)
})
