import { randomBytes } from 'node:crypto'
import {
  copyFileSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import anyTest from 'ava'
import { type Host, lacking, openHost, removeImages, run } from './host.ts'

// From a bundle to a running shop without a network; each test goes on from where the one before it left.
const missing = await lacking()
if (missing) process.stderr.write(`skipped, all of test/e2e/bundle.test.ts: ${missing}\n`)
const test = missing ? anyTest.serial.skip : anyTest.serial

const version = `e2e-${randomBytes(3).toString('hex')}`
// Names of their own, so that taking them away takes nothing from anyone else here.
const servers = {
  POSTGRES_IMAGE: 'postgres:18',
  NATS_IMAGE: 'nats:2.14-alpine',
  OBJECTSTORE_IMAGE: 'chrislusf/seaweedfs:4.48',
}
const own = Object.fromEntries(Object.entries(servers).map(([key, name]) => [key, name.replace(/:.*/, `:${version}`)]))
const names = [`bodega-app:${version}`, `bodega-edge:${version}`, ...Object.values(own)]
let host: Host
let bundle = ''
let ids = ''
/** What a command starts with to run as us without a network; undefined where nothing here can do that. */
async function withoutNetwork() {
  const us = ['setpriv', `--reuid=${process.getuid?.()}`, `--regid=${process.getgid?.()}`, '--init-groups']
  const bySudo = ['-nE', 'unshare', '-n', ...us, 'env', `PATH=${process.env.PATH}`]
  for (const [program, args] of [['unshare', ['-n']] as const, ['sudo', bySudo] as const])
    if ((await run(program, [...args, 'true'], { any: true }).catch(() => undefined))?.code === 0)
      return [program, ...args]
}
const prefix = missing ? undefined : await withoutNetwork()
if (!missing && !prefix)
  process.stderr.write('skipped in test/e2e/bundle.test.ts: no namespace without a network can be made here\n')
const apart = prefix ? test : anyTest.serial.skip
/** A shell in the host's own directory, where only the bundle came; without a network where this machine can do that. */
const away = (script: string) => {
  const [command = '', ...args] = [...(prefix ?? []), 'sh', '-c', script]
  return host.on(command, args, { cwd: host.dir, any: true, seconds: 300 })
}

const idsOf = async (images: string[]) =>
  (await run('docker', ['image', 'inspect', '--format', '{{.Id}}', ...images])).out
const removeOwn = () => run('docker', ['image', 'rm', '--force', ...names], { any: true })

if (!missing) {
  anyTest.serial.before('a clean clone with images', async (t) => {
    t.timeout(600_000)
    for (const [key, name] of Object.entries(servers)) {
      const { code } = await run('docker', ['image', 'inspect', name], { any: true })
      if (code !== 0) await run('docker', ['pull', '--quiet', name], { seconds: 300 })
      await run('docker', ['tag', name, own[key] as string])
    }
    host = await openHost({ version, env: own })
  })
  anyTest.after.always('nothing is left', async (t) => {
    t.timeout(120_000)
    await host?.[Symbol.asyncDispose]()
    await removeOwn()
    await removeImages(version)
  })
}

test('make bundle → one archive of what is committed and every image of the form, and no secret', async (t) => {
  t.timeout(600_000)
  await host.make(['secrets'])
  const secret = readFileSync(join(host.clone, 'secrets/.plain/dev/REFRESH_KEY'), 'utf8')
  await host.on('git', ['add', '-A'])
  await host.on('git', ['commit', '-qm', 'the sealed secrets of a fork'])
  const { out } = await host.make(['bundle'], { seconds: 500 })
  t.log(out.split('\n').find((line) => line.includes('SHA-256')))
  const made = readdirSync(host.clone).filter((name) => /^(\.new\.)?bodega-/.test(name))
  t.is(made.length, 1, made.join(' '))
  // What it made is no change that would refuse the next one.
  t.is((await host.on('git', ['status', '--porcelain'])).out, '')
  bundle = made[0] as string
  renameSync(join(host.clone, bundle), join(host.dir, bundle))
  ids = await idsOf(names)
  const whole = join(host.dir, bundle)
  const manifest = (await run('tar', ['-xOf', whole, 'manifest'])).out
  for (const name of names) t.true(manifest.includes(`image ${name}\n`), `${name} is not in\n${manifest}`)
  t.true(manifest.includes('image maildev/maildev:3.0.0\n'))
  const files = (await run('sh', ['-c', `tar -xOf ${whole} tree.tar | tar -tf -`])).out.split('\n')
  for (const path of [
    'compose.yaml',
    'helm/bodega/Chart.yaml',
    'kustomize/base/kustomization.yaml',
    'secrets/template.yaml',
  ])
    t.true(files.includes(path), path)
  t.deepEqual(
    files.filter((path) => /keys\.txt|\.plain|(^|\/)\.env$|\.sops\.yaml$|^secrets\/[^/]+\/./.test(path)),
    ['.sops.yaml'],
  )
  t.is((await run('grep', ['-c', '-F', secret, whole], { any: true })).out, '0')
})

test('make bundle, changes that are not committed → refused, with the next command', async (t) => {
  host.write('compose/compose.yaml', `${readFileSync(join(host.clone, 'compose/compose.yaml'), 'utf8')}# changed\n`)
  const { code, all } = await host.make(['bundle', `FOLDER=${host.dir}`], { any: true })
  await host.on('git', ['checkout', '--', 'compose'])
  t.not(code, 0)
  t.regex(all, /not committed[\s\S]*next: /)
})

test('unbundle of a truncated, damaged or foreign archive → refused with the reason, and nothing is loaded', async (t) => {
  t.timeout(300_000)
  await removeOwn()
  const whole = join(host.dir, bundle)
  const size = statSync(whole).size
  const spoil = (name: string, how: (file: string) => void) => {
    copyFileSync(whole, join(host.dir, name))
    how(join(host.dir, name))
  }
  spoil('short.tar', (file) => truncateSync(file, Math.floor(size * 0.7)))
  spoil('flipped.tar', (file) => writeSync(openSync(file, 'r+'), 'x', Math.floor(size * 0.7)))
  spoil('manifest.tar', (file) => writeSync(openSync(file, 'r+'), 'bodega-bundle 1\nversion 9', 512))
  await run('tar', ['-cf', join(host.dir, 'foreign.tar'), '-C', host.clone, 'README.md'])
  for (const [name, reason] of [
    ['short.tar', /truncated/],
    ['flipped.tar', /images\.tar\.gz is damaged/],
    ['manifest.tar', /its manifest is damaged/],
    ['foreign.tar', /no bundle of this shop/],
    ['nowhere.tar', /cannot be read/],
  ] as const) {
    const { code, all } = await away(`sh bodega/scripts/unbundle.sh ${name} refused`)
    t.not(code, 0, name)
    t.regex(all, reason)
  }
  t.false(readdirSync(host.dir).includes('refused'))
  t.not((await run('docker', ['image', 'inspect', ...names], { any: true })).code, 0)
})

apart('nothing but the bundle and no network → the images as they were, and the shop comes up and sells', async (t) => {
  t.timeout(600_000)
  const first = await away(`tar -xOf ${bundle} unbundle.sh | sh -s ${bundle}`)
  t.is(first.code, 0, first.all)
  t.is(await idsOf(names), ids)
  const again = await away(`tar -xOf ${bundle} unbundle.sh | sh -s ${bundle}`)
  t.not(again.code, 0)
  t.regex(again.all, /exists[\s\S]*next: /)
  const folder = /next: cd (\S+) && make secrets ENV=dev && docker compose up/.exec(first.all)?.[1] as string
  const up = await away(
    `cd ${folder} && make -s secrets ENV=dev && docker compose up --no-build --pull never --detach --wait`,
  )
  t.is(up.code, 0, up.all)
  t.regex(await host.tour(`http://127.0.0.1:${host.port}`), /All \d+ steps as promised/)
  const upgrade = await away(`cd ${folder} && make -s upgrade`)
  t.is(upgrade.code, 0, upgrade.all)
  t.regex(upgrade.all, /this shop runs/)
  t.is(await idsOf(names), ids)

  // Back to what was there before, and on again: a bundle's images have no other place to come from.
  for (const image of names.slice(0, 2)) {
    const copy = `id=$(docker create ${image}) && docker commit -c 'LABEL before=yes' $id ${image}-previous && docker rm $id`
    await run('sh', ['-c', copy])
  }
  const runs = async () =>
    (await away(`cd ${folder} && docker inspect -f '{{.Image}}' $(docker compose ps -q orders)`)).out
  const bundled = await runs()
  const back = await away(`cd ${folder} && make -s rollback`)
  t.is(back.code, 0, back.all)
  t.not(await runs(), bundled)
  t.is((await away(`cd ${folder} && make -s upgrade`)).code, 0)
  t.is(await runs(), bundled)
  t.is(await idsOf(names), ids)
})
