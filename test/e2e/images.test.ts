import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import anyTest from 'ava'
import { roleNames } from '../../src/platform/config.ts'
import { type Host, lacking, openHost, removeImages, run } from './host.ts'

// What the two images are made of, and how they begin and end.
const missing = await lacking()
if (missing) process.stderr.write(`skipped, all of test/e2e/images.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = `e2e-${randomBytes(3).toString('hex')}`
const names = ['app', 'edge'] as const
const image = (name: string) => `bodega-${name}:${version}`
const planted = `planted-${randomBytes(12).toString('hex')}`
const base = { app: `bodega-base-app:${version}`, edge: `bodega-base-edge:${version}` }
let host: Host

interface Inspected {
  Architecture: string
  RootFS: { Layers: string[] }
  Config: { User: string; Labels: Record<string, string>; Env: string[]; Healthcheck?: unknown }
}
const inspect = async (name: string) =>
  JSON.parse((await run('docker', ['image', 'inspect', '--format', '{{json .}}', name])).out) as Inspected
const bake = () =>
  host.on('docker', ['buildx', 'bake', '--load'], { seconds: 500, env: { VERSION: version, REVISION: 'abc123' } })
/** Every path in an image, without the first slash. */
async function filesOf(name: string) {
  const { out: id } = await run('docker', ['create', name])
  try {
    const { out } = await run('bash', ['-c', `docker export ${id} | tar -t`])
    return out.split('\n')
  } finally {
    await run('docker', ['rm', id])
  }
}

if (!missing) {
  anyTest.serial.before('a clone with what must not come into an image, and both images made of it', async (t) => {
    t.timeout(600_000)
    host = await openHost({ version })
    await host.make(['secrets'])
    mkdirSync(join(host.clone, 'node_modules/planted'), { recursive: true })
    for (const path of ['.env.local', 'secrets/planted', 'node_modules/planted/index.js', 'planted'])
      host.write(path, planted)
    await bake()
    const dockerfile = readFileSync(join(host.clone, 'Dockerfile'), 'utf8')
    for (const [name, argument] of [
      ['app', 'NODE_IMAGE'],
      ['edge', 'NGINX_IMAGE'],
    ] as const) {
      const from = new RegExp(`^ARG ${argument}=(.*)$`, 'm').exec(dockerfile)?.[1]
      await run('docker', ['build', '--quiet', '--tag', base[name], '-'], { input: `FROM ${from}\n` })
    }
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(120_000)
    await host?.[Symbol.asyncDispose]()
    await removeImages(version)
    await run('docker', ['image', 'rm', '--force', ...Object.values(base)], { any: true })
  })
}

test('the images → user 10001, labels, no health check of their own, and no secret in what they set', async (t) => {
  for (const name of names) {
    const { Config } = await inspect(image(name))
    t.is(Config.User, '10001:10001')
    t.is(Config.Healthcheck, undefined)
    t.like(Config.Labels, {
      'org.opencontainers.image.title': `bodega-${name}`,
      'org.opencontainers.image.version': version,
      'org.opencontainers.image.revision': 'abc123',
      'org.opencontainers.image.licenses': 'Apache-2.0',
    })
    t.notRegex(Config.Env.join('\n'), /PASSWORD|SECRET|_KEY|TOKEN/)
  }
})

test('the layers above the base → at most 25 MB compressed', async (t) => {
  for (const name of names) {
    const dir = mkdtempSync(join(tmpdir(), 'bodega-layers-'))
    t.teardown(() => rmSync(dir, { recursive: true }))
    await run('bash', ['-c', `docker save ${image(name)} | tar -x -C ${dir}`])
    const [{ Layers }] = JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8')) as [{ Layers: string[] }]
    const below = (await inspect(base[name])).RootFS.Layers
    t.deepEqual((await inspect(image(name))).RootFS.Layers.slice(0, below.length), below)
    const sizes = Layers.slice(below.length).map((layer) => gzipSync(readFileSync(join(dir, layer))).length / 1e6)
    const sum = sizes.reduce((a, b) => a + b)
    t.log(`${name}: ${sizes.map((mb) => mb.toFixed(2)).join(' + ')} = ${sum.toFixed(2)} MB`)
    t.true(sum <= 25)
  }
})

test('what is in them → the tracked sources and production dependencies; no package manager, compiler or secret', async (t) => {
  const app = await filesOf(image('app'))
  const edge = await filesOf(image('edge'))
  for (const files of [app, edge]) {
    const programs = files
      .filter((path) => /^(usr\/(local\/)?)?s?bin\//.test(path))
      .map((path) => path.split('/').at(-1))
    const unwanted = /^(apt|apt-get|dpkg|npm|npx|yarn|corepack|pip3?|cc|gcc|g\+\+|clang|make|git)$/
    t.deepEqual(
      programs.filter((name) => unwanted.test(name as string)),
      [],
    )
    t.deepEqual(
      files.filter((path) => /(^|\/)(\.git|\.env[^/]*|\.npmrc|planted|secrets)(\/|$)/.test(path)),
      [],
    )
  }

  const { out } = await host.on('git', ['ls-files', 'src'])
  const ships = out.split('\n').filter((path) => !/^src\/(embedded\/|demo\.ts|tour\.ts)/.test(path))
  const has = app.filter((path) => /^app\/./.test(path) && !path.endsWith('/')).map((path) => path.slice(4))
  t.deepEqual(
    has.filter((path) => !/^(node_modules|\.compiled)\//.test(path)).sort(),
    ['package.json', ...ships].sort(),
  )
  const rules = edge.filter((path) => /^edge\/(?!docs\/)./.test(path) && !path.endsWith('/'))
  t.deepEqual(rules.map((path) => `src/${path}`).sort(), ships.filter((path) => path.startsWith('src/edge/')).sort())

  // Each package has a package.json of its own; one inside it that only says its module format is in no node_modules.
  const lock = JSON.parse(readFileSync(join(host.clone, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: true; optional?: true; peer?: true; devOptional?: true }>
  }
  const installed = has.flatMap(
    (path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/@]+)\/package\.json$/.exec(path)?.[1] ?? [],
  )
  const known = Object.entries(lock.packages)
  const allowed = new Set(known.filter(([path, { dev }]) => path && !dev).map(([path]) => path))
  t.deepEqual(
    installed.filter((path) => !allowed.has(path)),
    [],
  )
  const needed = known
    .filter(([path, p]) => path && !(p.dev || p.optional || p.peer || p.devOptional))
    .map(([path]) => path)
  t.deepEqual(
    needed.filter((path) => !installed.includes(path)),
    [],
  )
})

test('a change of source → its layer and what is compiled from it are new, all else comes from the cache', async (t) => {
  const before = await inspect(image('app'))
  host.write('src/roles.ts', `${readFileSync(join(host.clone, 'src/roles.ts'), 'utf8')}// changed\n`)
  const began = performance.now()
  await bake()
  t.log(`built again in ${((performance.now() - began) / 1000).toFixed(1)} s`)
  const after = await inspect(image('app'))
  t.deepEqual(after.RootFS.Layers.slice(0, -2), before.RootFS.Layers.slice(0, -2))
  t.not(after.RootFS.Layers.at(-2), before.RootFS.Layers.at(-2))
})

test('a wrong environment → every fault of it in one list, and exit code 78', async (t) => {
  const begin = (name: string, ...args: string[]) =>
    run('docker', ['run', '--rm', '--read-only', '--tmpfs', '/tmp', ...args, image(name)], { any: true })
  for (const role of roleNames) {
    const { code, all } = await begin(
      'app',
      '-e',
      `ROLE=${role}`,
      '-e',
      'DATABASE_URL=mysql://db',
      '-e',
      'LISTEN_PORT=80x80',
    )
    t.is(code, 78)
    for (const fault of ['DATABASE_URL must be', 'LISTEN_PORT is "80x80"', 'ASSERTION_KEY is missing'])
      t.true(all.includes(fault), all)
    t.notRegex(all, /^\s+at /m)
  }
  const odd = await begin('app', '-e', 'ROLE=shipping')
  t.is(odd.code, 78)
  t.regex(odd.all, /ROLE is shipping, and must be one of auth, products, orders, notifications/)
  const edge = await begin('edge', '-e', 'PRODUCT_READ=all', '-e', 'AUTH_UPSTREAM=auth:3000')
  t.is(edge.code, 78)
  for (const fault of ['PRODUCTS_UPSTREAM', 'ORDERS_UPSTREAM', 'NOTIFICATIONS_UPSTREAM', 'PRODUCT_READ is all'])
    t.true(edge.all.includes(fault), edge.all)
})

test('the shop without any shell in app, on read-only roots → all of it comes up; each part ends by SIGTERM with 0', async (t) => {
  t.timeout(300_000)
  const shells = `for (const name of ['sh', 'dash', 'bash', 'rbash']) for (const dir of ['/bin/', '/usr/bin/']) require('fs').rmSync(dir + name, { force: true })`
  const dockerfile = `FROM ${image('app')}\nUSER 0\nRUN ${JSON.stringify(['node', '-e', shells])}\nUSER 10001:10001\n`
  await run('docker', ['build', '--quiet', '--tag', image('app'), '-'], { input: dockerfile })
  t.not((await run('docker', ['run', '--rm', '--entrypoint', 'sh', image('app'), '-c', 'true'], { any: true })).code, 0)
  await host.compose(['up', '--wait', '--no-build', '--pull', 'never'], { seconds: 200 })
  const { items } = (await (await fetch(`http://127.0.0.1:${host.port}/product`)).json()) as {
    items: { image: { small: string } }[]
  }
  t.is((await fetch(`http://127.0.0.1:${host.port}${items[0]?.image.small}`)).status, 200)

  for (const service of [...roleNames, 'edge']) {
    const [id] = await host.containers(service)
    t.is(await host.inspect(id as string, '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}'), 'true 10001:10001')
    const began = performance.now()
    await run('docker', ['stop', '--timeout', '30', id as string])
    const seconds = (performance.now() - began) / 1000
    t.is(await host.inspect(id as string, '{{.State.ExitCode}} {{.State.OOMKilled}}'), '0 false', service)
    t.log(`${service} ended in ${seconds.toFixed(1)} s`)
    t.true(seconds < 20)
  }
})
