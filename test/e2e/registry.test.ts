import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { eventually } from '../support/shop.ts'
import { freePort, type Host, lacking, openHost, run } from './host.ts'

// What leads through a registry, with a real one: a bundle that is made from it and pushed to it, make pin, and the chart.
// The images are small ones under the names of the real: their content plays no part here.
const works = (command: string, ...args: string[]) =>
  run(command, args).then(
    () => true,
    () => false,
  )
const missing =
  (await lacking()) ??
  ((await works('docker-registry', '--version')) ? undefined : 'docker-registry is not installed') ??
  ((await works('helm', 'version')) ? undefined : 'helm is not installed') ??
  ((await works('kubectl', 'version', '--client')) ? undefined : 'kubectl is not installed')
if (missing) process.stderr.write(`skipped, all of test/e2e/registry.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = `e2e-${randomBytes(3).toString('hex')}`
const servers = {
  POSTGRES_IMAGE: 'postgres:18',
  NATS_IMAGE: 'nats:2.14-alpine',
  OBJECTSTORE_IMAGE: 'chrislusf/seaweedfs:4.48',
}
const own = [`bodega-app:${version}`, `bodega-edge:${version}`]
let host: Host
let registry = ''
let folder = ''
const used: string[] = []
let stop: () => Promise<unknown> = async () => {}

async function startRegistry(dir: string) {
  const address = `127.0.0.1:${await freePort()}`
  const config = join(dir, 'registry.yml')
  writeFileSync(
    config,
    `version: 0.1\nlog: { level: error }\nstorage: { filesystem: { rootdirectory: ${join(dir, 'registry')} } }\nhttp: { addr: "${address}" }\n`,
  )
  const server = spawn('docker-registry', ['serve', config], { stdio: 'ignore' })
  stop = async () => {
    server.kill()
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
  }
  await eventually(
    'the registry answers',
    async () => (await fetch(`http://${address}/v2/`).catch(() => undefined))?.ok,
  )
  return address
}
/** What the registry itself says of a tag. */
async function digestOf(path: string, tag: string) {
  const accept = [
    'application/vnd.oci.image.index.v1+json',
    'application/vnd.docker.distribution.manifest.list.v2+json',
    'application/vnd.oci.image.manifest.v1+json',
    'application/vnd.docker.distribution.manifest.v2+json',
  ].join(', ')
  const answer = await fetch(`http://${registry}/v2/${path}/manifests/${tag}`, { headers: { accept } })
  return answer.headers.get('docker-content-digest')
}
const imagesIn = (text: string) => [
  ...new Set([...text.matchAll(/^ *(?:- )?image: "?([^\s"]+)/gm)].map(([, name]) => name as string)),
]

if (!missing) {
  anyTest.serial.before('a registry with images', async (t) => {
    t.timeout(120_000)
    host = await openHost({ version })
    registry = await startRegistry(host.dir)
    mkdirSync(join(host.dir, 'image'))
    for (const name of [...own, ...Object.values(servers)]) {
      const image = `${registry}/shop/${name}`
      writeFileSync(join(host.dir, 'image/name'), name)
      writeFileSync(join(host.dir, 'image/Dockerfile'), 'FROM scratch\nCOPY name /\n')
      await run('docker', ['build', '--quiet', '--tag', image, join(host.dir, 'image')])
      await run('docker', ['push', '--quiet', image])
      used.push(image)
    }
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(60_000)
    await run('docker', ['image', 'rm', '--force', ...used, ...own], { any: true })
    await stop()
    await host?.[Symbol.asyncDispose]()
  })
}

test('make bundle from a registry, unbundle with REGISTRY → every image is in that registry', async (t) => {
  t.timeout(120_000)
  const env = Object.fromEntries(Object.entries(servers).map(([key, name]) => [key, `${registry}/shop/${name}`]))
  await host.make(['bundle', 'ENV=prod', `FOLDER=${host.dir}`], {
    env: { ...env, BODEGA_REGISTRY: `${registry}/shop/` },
  })
  const bundle = readdirSync(host.dir).find((name) => name.endsWith('.tar')) as string
  await run('docker', ['image', 'rm', '--force', ...used, ...own], { any: true })
  const { out } = await host.on('sh', ['-c', `tar -xOf ${bundle} unbundle.sh | sh -s ${bundle}`], {
    cwd: host.dir,
    env: { REGISTRY: `${registry}/mirror` },
  })
  folder = join(host.dir, /make pin REGISTRY=\S+/.test(out) ? (/cd (\S+) /.exec(out)?.[1] as string) : 'none')
  for (const name of own) {
    used.push(`${registry}/mirror/${name}`)
    t.truthy(await digestOf(`mirror/${name.split(':')[0]}`, version), name)
  }
  // Servers that were named with a registry of their own keep their path in the new one.
  for (const name of Object.values(servers)) {
    used.push(`${registry}/mirror/shop/${name}`)
    const [path, tag] = name.split(':')
    t.truthy(await digestOf(`mirror/shop/${path}`, tag as string), name)
  }
})

test('make pin → the digests of the registry in every target, none invented, and once more changes nothing', async (t) => {
  t.timeout(120_000)
  const on = (command: string, args: string[], options = {}) => host.on(command, args, { cwd: folder, ...options })
  const pinned = await on('make', ['-s', 'pin', `REGISTRY=${registry}/shop`], { any: true })
  // The inbox is not in that registry.
  t.not(pinned.code, 0)
  t.regex(pinned.all, /left as it is: no registry answers for \S+\/shop\/maildev\/maildev:3\.0\.0/)
  const expected: string[] = []
  for (const name of [...own, ...Object.values(servers)]) {
    const [path, tag] = name.split(':') as [string, string]
    expected.push(`${registry}/shop/${path}@${await digestOf(`shop/${path}`, tag)}`)
  }
  const bare = (images: string[]) => images.map((image) => image.replace(/:[^:@/]+@/, '@')).sort()
  const kustomize = await on('kubectl', ['kustomize', 'kustomize/overlays/prod-standalone'])
  t.deepEqual(bare(imagesIn(kustomize.out)), [...expected].sort())
  const helm = await on('helm', ['template', 'bodega', 'helm/bodega'])
  t.deepEqual(bare(imagesIn(helm.out)), [...expected].sort())
  const compose = await on('docker', ['compose', 'config', '--images'], {
    env: { BODEGA_ENV: 'prod', PUBLIC_URL: 'x', MAIL_FROM: 'x' },
  })
  // The shop's own go by their tag on one host, which make rollback moves.
  const ofServers = bare(compose.out.split('\n').filter((image) => !image.includes('bodega-')))
  t.deepEqual(ofServers, expected.filter((image) => !image.includes('bodega-')).sort())

  const files = () =>
    run('sh', ['-c', 'cat compose/*.yaml helm/bodega/values.yaml $(find kustomize -type f | sort)'], { cwd: folder })
  const before = (await files()).out
  await on('make', ['-s', 'pin', `REGISTRY=${registry}/shop`], { any: true })
  t.is((await files()).out, before)
})

test('the chart, packaged, pushed and pulled → renders what the tree renders', async (t) => {
  const on = (command: string, ...args: string[]) => host.on(command, args, { cwd: folder })
  await on('helm', 'package', 'helm/bodega', '--destination', 'package')
  const [file] = readdirSync(join(folder, 'package'))
  await on('helm', 'push', `package/${file}`, `oci://${registry}/charts`, '--plain-http')
  const number = JSON.parse(readFileSync(join(host.clone, 'package.json'), 'utf8')).version
  const args = ['--version', number, '--plain-http', '-f', 'helm/bodega/values-dev.yaml']
  const pulled = await on('helm', 'template', 'bodega', `oci://${registry}/charts/bodega`, ...args)
  const tree = await on('helm', 'template', 'bodega', 'helm/bodega', '-f', 'helm/bodega/values-dev.yaml')
  t.is(pulled.out.replace(/^(Pulled|Digest): .*\n/gm, ''), tree.out)
})
