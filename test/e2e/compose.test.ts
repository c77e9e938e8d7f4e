import { randomBytes } from 'node:crypto'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import anyTest, { type ExecutionContext } from 'ava'
import sharp from 'sharp'
import { call } from '../../src/embedded/client.ts'
import { roleNames } from '../../src/platform/config.ts'
import { contents, type Market, openMarket, orderMails } from '../support/load.ts'
import { eventually } from '../support/shop.ts'
import { crowding, type Host, lacking, openHost, removeImages, run } from './host.ts'

// The dev form on a real Docker, from a clean clone to an upgrade; each test goes on from where the one before it left.
const missing = await lacking()
if (missing) process.stderr.write(`skipped, all of test/e2e/compose.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = `e2e-${randomBytes(3).toString('hex')}`
let host: Host
let url = ''
let market: Market

if (!missing) {
  anyTest.serial.before('a clean clone, with images', async (t) => {
    t.timeout(600_000)
    host = await openHost({ version })
    url = `http://127.0.0.1:${host.port}`
    await host.make(['secrets'])
    await host.compose(['build'], { seconds: 500 })
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(120_000)
    await host?.[Symbol.asyncDispose]()
    await removeImages(version, `${version}-previous`)
  })
}

/** Every request was answered as by a working shop; else the edge's own words are shown beside. */
async function noneFailed(t: ExecutionContext, { requests, failures }: { requests: number; failures: string[] }) {
  t.log(`${requests} requests, ${failures.length} failed`)
  if (failures.length > 0) {
    const { out } = await host.compose(['logs', '--no-log-prefix', '--timestamps', 'edge'])
    const words = out.split('\n').filter((line) => /\[(error|warn|alert|crit|emerg)\]|"status":5/.test(line))
    t.log(words.slice(-60).join('\n'))
  }
  t.deepEqual(failures, [])
}

test('docker compose up --wait with images present → the whole shop in 15 s, and nothing to do for another up', async (t) => {
  t.timeout(300_000)
  const crowdBefore = await crowding()
  const began = performance.now()
  await host.compose(['up', '--detach', '--wait'])
  const seconds = (performance.now() - began) / 1000
  const crowd = (crowdBefore + (await crowding())) / 2
  t.log(`up after ${seconds.toFixed(1)} s on a machine ${crowd.toFixed(1)} times as busy as with this alone`)
  t.true(seconds <= 15 * crowd, `up after ${seconds} s`)
  const before = (await host.containers(undefined, true)).sort()
  await host.compose(['up', '--detach', '--wait'])
  t.deepEqual((await host.containers(undefined, true)).sort(), before)
})

test('make tour → every step as promised', async (t) => {
  t.regex(await host.tour(url), /All \d+ steps as promised/)
})

test('every container → no capability, no new privileges, read-only root, a limit of memory, no port but the edge and the inbox', async (t) => {
  for (const id of await host.containers(undefined, true)) {
    const [facts] = JSON.parse((await run('docker', ['inspect', id])).out)
    const { CapDrop, SecurityOpt, ReadonlyRootfs, PortBindings, Memory } = facts.HostConfig
    const service = facts.Config.Labels['com.docker.compose.service']
    t.deepEqual(CapDrop, ['ALL'], service)
    t.deepEqual(SecurityOpt, ['no-new-privileges:true'], service)
    t.true(ReadonlyRootfs, service)
    if (!['migrate', 'seed'].includes(service)) t.true(Memory > 0, service)
    t.is(Object.keys(PortBindings ?? {}).length, ['edge', 'mail'].includes(service) ? 1 : 0, service)
    t.notRegex(JSON.stringify(facts.Config.Env), /PRIVATE KEY/)
  }
})

test('customers, and products with pictures', async (t) => {
  market = await openMarket({
    url,
    inboxUrl: host.inboxUrl,
    makeAdmin: (email) => host.compose(['exec', '-T', 'auth', 'node', 'src/commands.ts', 'admin', email]),
  })
  const { admin, products } = market
  const picture = await sharp({ create: { width: 300, height: 200, channels: 3, background: '#a52' } })
    .jpeg()
    .toBuffer()
  const { headers } = await call(url, 'GET', `/product/${products[0]}`)
  const put = await call(url, 'PUT', `/product/${products[0]}/image`, {
    token: admin.token,
    body: picture,
    headers: { 'Content-Type': 'image/jpeg', 'If-Match': headers.etag as string },
  })
  t.true(put.status < 300, put.text)
})

test('--scale to 3 and 2 → found without a restart of nginx, and the load is spread evenly', async (t) => {
  t.timeout(240_000)
  const [edge] = await host.containers('edge')
  const startedAt = await host.inspect(edge as string, '{{.State.StartedAt}}')
  await host.compose([
    ...['up', '--detach', '--wait', '--no-recreate'],
    ...['--scale', 'orders=3', '--scale', 'auth=2', '--scale', 'products=2', '--scale', 'notifications=2'],
  ])
  const answered = async (service: string) => {
    const counts: number[] = []
    for (const id of await host.containers(service)) {
      const { out } = await run('docker', [
        'exec',
        id,
        'node',
        '-e',
        "fetch('http://127.0.0.1:9090/metrics').then((r) => r.text()).then(console.log)",
      ])
      const lines = out
        .split('\n')
        .filter((line) => line.startsWith('http_request_duration_seconds_count') && !/healthz|readyz/.test(line))
      counts.push(lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0))
    }
    return counts
  }
  const served = async (service: string, count: number) =>
    eventually(`${count} ${service} serve`, async () => {
      await call(url, 'GET', service === 'orders' ? '/order' : '/product', { token: market.buyers[0]?.token as string })
      const counts = await answered(service)
      return counts.length === count && counts.every((n) => n > 0)
    })
  await served('orders', 3)
  await served('products', 2)
  const before = { orders: await answered('orders'), products: await answered('products') }
  const customers = await market.during(async () => undefined, { orders: 60 })
  await noneFailed(t, customers)
  for (const service of ['orders', 'products'] as const) {
    const after = await answered(service)
    const counts = after.map((n, i) => n - (before[service][i] as number))
    t.log(`${service}: ${counts.join(', ')}`)
    t.true(Math.max(...counts) / Math.min(...counts) < 1.3, `${service}: ${counts}`)
  }
  t.is(await host.inspect(edge as string, '{{.State.StartedAt}}'), startedAt)
})

/** Ends a container's first process as a crash would: its restart policy applies, which a `docker kill` switches off. */
async function crash(id: string) {
  const pid = Number(await host.inspect(id, '{{.State.Pid}}'))
  const restarts = Number(await host.inspect(id, '{{.RestartCount}}'))
  try {
    process.kill(pid, 'SIGKILL')
    await eventually(
      'it was restarted',
      async () => Number(await host.inspect(id, '{{.RestartCount}}')) > restarts,
      30_000,
    )
  } catch (error) {
    // Docker's processes are in another machine, or not ours.
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    await run('docker', ['kill', id])
    await run('docker', ['start', id])
  }
}
/** Freezes a container. Docker gives up where a busy machine has not stopped every thread of it in time: then once more. */
async function pause(id: string) {
  for (let tries = 1; ; tries++) {
    const { code, all } = await run('docker', ['pause', id], { any: true })
    if (code === 0) return
    if (tries === 10 || !all.includes('unable to freeze')) throw new Error(all)
  }
}
const isHealthy = async (id: string) => (await host.inspect(id, '{{.State.Health.Status}}')) === 'healthy'

test('a replica of each role killed under load → no customer sees an error', async (t) => {
  t.timeout(240_000)
  const customers = await market.during(
    async () => {
      for (const role of ['orders', 'auth', 'products'] as const) {
        const [victim] = await host.containers(role)
        await run('docker', ['kill', victim as string])
        await customersGoOn()
        await run('docker', ['start', victim as string])
        await eventually(`${role} is back`, () => isHealthy(victim as string), 60_000)
      }
    },
    { orders: 30 },
  )
  await noneFailed(t, customers)
})
/** Waits until the customers of the test have ordered some more. */
async function customersGoOn(count = 15) {
  const goal = market.sales.size + count
  await eventually(`${count} more orders`, async () => market.sales.size >= goal, 60_000)
}

test('restart, kill and pause of each service under an order load → orders go on once it is back', async (t) => {
  t.timeout(600_000)
  await host.compose(['up', '--detach', '--wait', ...roleNames.flatMap((role) => ['--scale', `${role}=1`])])
  const customers = await market.load({ strict: false, of: [...market.products, market.scarce] })
  try {
    await customers.orders(20)
    for (const service of ['edge', ...roleNames, 'postgres', 'nats', 'objectstore']) {
      const began = Date.now()
      const [id] = (await host.containers(service)) as [string]
      await host.compose(['restart', service])
      await customers.orders(5)
      await crash(id)
      await customers.orders(5)
      await pause(id)
      // How long the fault lasts, not a wait.
      await sleep(3000)
      await run('docker', ['unpause', id])
      await customers.orders(5)
      await eventually(`${service} is healthy`, () => isHealthy(id), 60_000)
      t.log(
        `${service}: ${((Date.now() - began) / 1000).toFixed(1)} s; answers so far ${JSON.stringify(customers.seen)}`,
      )
    }
  } finally {
    await customers.stop()
  }
  t.pass()
})

const nothingLost = () => market.lost(host.sql)

test('after all of that → no accepted order is lost, stock is exact, each order has one mail', async (t) => {
  t.timeout(180_000)
  t.deepEqual(await nothingLost(), [])
  await eventually(
    'the outboxes are empty',
    async () => (await host.sql('select count(*) from orders.outbox'))[0] === '0',
    60_000,
  )
  for (const buyer of market.buyers) {
    const own = new Set(
      await host.sql(
        `select o.id from orders."order" o join auth."user" u on u.id = o.user_id where u.email = '${buyer.email}'`,
      ),
    )
    const mails = await eventually(
      `a mail for each of ${own.size} orders of ${buyer.email}`,
      async () => {
        const told = await orderMails(host.inboxUrl, buyer.email)
        return [...own].every((id) => told.has(id)) && told
      },
      90_000,
    )
    t.deepEqual(
      [...own].filter((id) => mails.get(id)?.size !== 1),
      [],
      'orders told of under more than one Message-ID',
    )
  }
  t.regex((await host.make(['dlq', 'TARGET=compose'])).out, /There are no dead letters/)
  t.log(`${market.sales.size} orders`)
})

test('rotate every secret on the running host → no failed request', async (t) => {
  t.timeout(400_000)
  const logins = () => host.sql(`select distinct usename from pg_stat_activity where usename like 'orders\\_%'`)
  t.deepEqual(await logins(), ['orders_a'])
  const smtp = { SMTP_URL: 'smtp://mail:1025', SMTP_USER: 'shop', SMTP_PASSWORD: 'new password' }
  const customers = await market.during(async () => {
    await host.make(['secrets-rotate', 'WHAT=jwt assertion pepper database nats smtp'], { env: smtp })
    t.log((await host.make(['roll'], { seconds: 240 })).all.trim())
    await host.make(['secrets-rotate', 'WHAT=assertion pepper'])
    await host.make(['roll'], { seconds: 240 })
  })
  await noneFailed(t, customers)
  t.deepEqual(await logins(), ['orders_b'])
  t.deepEqual(await nothingLost(), [])
})

test('a role and the edge that end again and again → make roll tells, and brings them back once it can; a container of `compose run` is no replica', async (t) => {
  t.timeout(400_000)
  await host.compose(['up', '--detach', '--wait'])
  const states = async (...services: string[]) => {
    const ids = (await Promise.all(services.map((service) => host.containers(service, true)))).flat()
    return (await run('docker', ['inspect', '-f', '{{.State.Status}}', ...ids])).out.split('\n')
  }
  const file = 'compose/compose.dev.yaml'
  const whole = readFileSync(join(host.clone, file), 'utf8')
  const broken = 'entrypoint: [sh, -c, exit 1]'
  host.write(file, whole.replace(/(?<=^ {2}(auth|edge):\n)/gm, `    ${broken}\n`))
  // Each alone: together, the edge would wait for auth.
  for (const service of ['edge', 'auth']) await host.compose(['up', '--detach', '--no-deps', service])
  await eventually(
    'both wait for their next start',
    async () => (await states('auth', 'edge')).every((state) => state === 'restarting'),
    60_000,
  )
  const dead = await host.make(['roll'], { any: true, seconds: 200 })
  t.not(dead.code, 0, dead.all)
  t.regex(dead.all, /end again and again: (auth edge|edge auth)[\s\S]*next: /)

  const commands = await Promise.all(
    ['products', 'migrate'].map(async (service) => {
      const args = ['--detach', '--no-deps', '--entrypoint', 'sleep', service, '600']
      return (await host.compose(['run', ...args])).out
    }),
  )
  host.write(file, whole)
  t.log((await host.make(['roll'], { seconds: 240 })).all.trim())
  t.log((await host.make(['roll', 'SERVICE=products migrate'], { seconds: 240 })).all.trim())
  for (const service of ['auth', 'edge', 'products']) {
    const ids = await host.containers(service)
    t.is(ids.length, 1, service)
    t.true(await isHealthy(ids[0] as string), service)
  }
  t.is((await call(url, 'GET', '/product')).status, 200)
  for (const id of commands) t.is(await host.inspect(id, '{{.State.Status}}'), 'running')
  await run('docker', ['rm', '--force', ...commands])
})

test('a roll that was interrupted, then another change → what it left is neither started again nor trusted before it is healthy', async (t) => {
  t.timeout(400_000)
  const file = 'compose/compose.dev.yaml'
  const whole = readFileSync(join(host.clone, file), 'utf8')
  const [was] = await host.containers('orders')
  // As an interruption leaves it: new ones beside the old.
  const half = async (change: string) => {
    host.write(file, whole.replace(/(?<=^ {2}orders: \{)/m, ` ${change},`))
    await host.compose(['up', '--detach', '--no-deps', '--no-recreate', '--scale', 'orders=2', 'orders'])
  }
  await half('entrypoint: [sleep, "600"]')
  const { code, all } = await host.make(['roll'], { any: true, seconds: 200 })
  t.not(code, 0, all)
  t.regex(all, /the new orders does not become healthy[\s\S]*the old one goes on/)
  t.deepEqual(await host.containers('orders', true), [was as string])

  // And in the middle of the old one's end.
  await half('environment: { LOG_LEVEL: warn }')
  const halfway = await host.containers('orders')
  await run('docker', ['stop', was as string])
  host.write(file, whole)
  t.log((await host.make(['roll'], { seconds: 240 })).all.trim())
  const now = await host.containers('orders', true)
  t.is(now.length, 1)
  t.false([...halfway, was].includes(now[0]))
  t.is(await host.inspect(now[0] as string, '{{.State.Status}}'), 'running')
})

/** What is in the shop; how it differs from another moment is how these differ. */
const kept = () => contents(host.sql, [...roleNames])
const backups = () => {
  mkdirSync(join(host.clone, 'backups'), { recursive: true })
  return readdirSync(join(host.clone, 'backups')).filter((name) => name.endsWith('.tar'))
}

test('make backup while orders run → a whole backup, and no failed request', async (t) => {
  t.timeout(180_000)
  const customers = await market.during(() => host.make(['backup']))
  await noneFailed(t, customers)
  t.is(backups().length, 1)
  t.regex((await host.make(['status'])).out, /last backup +backups\/bodega-dev-/)
})

test('restore an interrupted, truncated, damaged or foreign backup, or over data → refused with its reason, nothing changed', async (t) => {
  t.timeout(180_000)
  const [name] = backups() as [string]
  const whole = join(host.clone, 'backups', name)
  const size = readFileSync(whole).length
  const bad: Record<string, [RegExp, (path: string) => void]> = {
    'cut in the middle': [/truncated/, (path) => truncateSync(path, Math.floor(size / 2))],
    'cut at its end': [/damaged|truncated/, (path) => truncateSync(path, size - 20_480)],
    empty: [/truncated|no backup/, (path) => truncateSync(path, 0)],
    'one byte changed': [
      /checksum/,
      (path) => {
        const bytes = readFileSync(path)
        bytes[Math.floor(size / 2)] = (bytes[Math.floor(size / 2)] as number) ^ 1
        writeFileSync(path, bytes)
      },
    ],
    'not a tar': [/no backup of this shop/, (path) => writeFileSync(path, randomBytes(20_000))],
  }
  const before = await kept()
  for (const [what, [reason, spoil]] of Object.entries(bad)) {
    const path = join(host.dir, 'bad.tar')
    copyFileSync(whole, path)
    spoil(path)
    const { code, all } = await host.make(['restore', `FILE=${path}`], { any: true })
    t.not(code, 0, what)
    t.regex(all, reason, what)
    t.regex(all, /Nothing was changed/, what)
  }
  await host.on('tar', ['-cf', join(host.dir, 'foreign.tar'), 'Makefile'])
  t.regex(
    (await host.make(['restore', `FILE=${join(host.dir, 'foreign.tar')}`], { any: true })).all,
    /no backup of this shop/,
  )
  t.regex((await host.make(['restore', `FILE=${whole}`], { any: true })).all, /this shop has data/)
  const elsewhere = await host.make(['restore', `FILE=${whole}`], { any: true, env: { SOPS_AGE_KEY_FILE: '/nowhere' } })
  t.regex(elsewhere.all, /open with the identity age1/)
  t.deepEqual(await kept(), before)

  // Interrupted: what there is of it is not taken for a backup.
  const stop = new AbortController()
  const interrupted = host.make(['backup'], { any: true, signal: stop.signal })
  await eventually('a backup has begun', async () => readdirSync(join(host.clone, 'backups')).some((n) => n === '.new'))
  stop.abort()
  t.not((await interrupted).code, 0)
  t.deepEqual(backups(), [name])
})

test('down, all volumes gone, restore → containers end by themselves, and the shop is the same row by row', async (t) => {
  t.timeout(300_000)
  await eventually(
    'nothing waits to be sent',
    async () => (await host.sql('select count(*) from orders.outbox'))[0] === '0',
  )
  const image = (await call(url, 'GET', `/product/${market.products[0]}`)).body.image.large as string
  const picture = (await call(url, 'GET', image)).text
  await host.compose(['stop', 'edge', ...roleNames])
  const before = await kept()
  await host.compose(['start', ...roleNames, 'edge'])
  const { out } = await host.make(['backup'])
  const file = /backups\/\S+\.tar/.exec(out)?.[0] as string

  const codes = await host.down('--volumes')
  t.log(JSON.stringify(codes))
  t.true(Object.keys(codes).length >= 9)
  t.deepEqual(
    Object.entries(codes).filter(([, code]) => code !== '0'),
    [],
  )

  const stop = new AbortController()
  const interrupted = host.make(['restore', `FILE=${file}`], { any: true, signal: stop.signal })
  await eventually(
    'the restore has begun',
    async () => (await host.sql(`select 1 from pg_database where datname = 'bodega_restore'`)).length > 0,
    60_000,
  )
  stop.abort()
  t.not((await interrupted).code, 0)
  await host.make(['restore', `FILE=${file}`], { seconds: 200 }).then(({ out }) => t.log(out.split('\n').at(-1)))
  // The seeded catalogue and the sessions of customers are among them.
  const changing = (row: string) => /^auth\.(session|refresh_token)/.test(row)
  t.deepEqual(
    (await kept()).filter((row) => !changing(row)),
    before.filter((row) => !changing(row)),
  )
  t.is((await call(url, 'GET', image)).text, picture)
  t.regex(await host.tour(url), /All \d+ steps as promised/)
})

test('make upgrade to the next version under load, and back → no failed request, new and old side by side', async (t) => {
  t.timeout(400_000)
  const migration = 'src/orders/migrations/900_next.sql'
  host.write(migration, 'alter table orders."order" add column note text;\n')
  const text = readFileSync(join(host.clone, 'src/platform/health.ts'), 'utf8')
  host.write('src/platform/health.ts', `${text}\nexport const next = true\n`)
  const [edge] = await host.containers('edge')
  const column = () =>
    host.sql(`select 1 from information_schema.columns where table_name = 'order' and column_name = 'note'`)
  const isNew = async () =>
    (
      await host.compose(['exec', '-T', 'orders', 'grep', '-c', 'next = true', '/app/src/platform/health.ts'], {
        any: true,
      })
    ).out === '1'
  const customers = await market.during(async () => {
    t.log((await host.make(['upgrade'], { seconds: 300 })).out.split('\n').slice(-12).join('\n'))
    t.deepEqual(await column(), ['1'])
    t.true(await isNew())
    await customersGoOn()
    await host.make(['rollback'], { seconds: 200 })
    t.false(await isNew())
  })
  await noneFailed(t, customers)
  t.deepEqual(await host.containers('edge'), [edge as string])
  t.deepEqual(await nothingLost(), [])
})

test('an upgrade that stops half-way and is run again → the way back is still the version from before', async (t) => {
  t.timeout(600_000)
  const roles = ['auth', 'products', 'orders', 'notifications']
  const images = async () => {
    const ids = (await Promise.all(roles.map((role) => host.containers(role)))).flat()
    return (await run('docker', ['inspect', '-f', '{{.Image}}', ...ids])).out.split('\n')
  }
  const before = await images()
  const file = 'compose/compose.dev.yaml'
  const whole = readFileSync(join(host.clone, file), 'utf8')
  const text = readFileSync(join(host.clone, 'src/platform/health.ts'), 'utf8')
  host.write('src/platform/health.ts', `${text}\nexport const second = true\n`)
  host.write(file, whole.replace(/(?<=^ {2}notifications: \{)/m, ' environment: { LOG_LEVEL: loud },'))
  const { code, all } = await host.make(['upgrade'], { any: true, seconds: 300 })
  t.not(code, 0)
  t.regex(all, /LOG_LEVEL is "loud"[\s\S]*the old one goes on/)
  t.is(new Set(await images()).size, 2)

  host.write(file, whole)
  await host.make(['upgrade'], { seconds: 300 })
  t.is(new Set(await images()).size, 1)
  t.notDeepEqual(await images(), before)
  await host.make(['rollback'], { seconds: 300 })
  t.deepEqual(await images(), before)
})

test('an upgrade whose new role never becomes healthy → it is taken away, the old one serves on', async (t) => {
  t.timeout(240_000)
  const before = await host.containers('auth')
  host.write(
    'compose/compose.dev.yaml',
    readFileSync(join(host.clone, 'compose/compose.dev.yaml'), 'utf8').replace(
      '  auth:\n',
      '  auth:\n    environment: { PRODUCT_READ: nobody }\n',
    ),
  )
  const customers = await market.during(async () => {
    const { code, all } = await host.make(['roll'], { any: true, seconds: 200 })
    t.not(code, 0)
    t.regex(all, /PRODUCT_READ is "nobody"/)
    t.regex(all, /the old one goes on/)
  })
  await noneFailed(t, customers)
  t.deepEqual(await host.containers('auth'), before)
})
