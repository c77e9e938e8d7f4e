import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import test from 'ava'
import { run } from '../e2e/host.ts'

const root = join(import.meta.dirname, '../..')

/** A folder of programs that come first, each with its text, and what is before them in PATH. */
function programs(texts: Record<string, string>) {
  const bin = mkdtempSync(join(tmpdir(), 'bin-'))
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(bin, name), text, { mode: 0o755 })
  return { bin, PATH: `${bin}:${process.env.PATH}` }
}

/** A copy of what the commands for operators need. */
function checkout() {
  const dir = mkdtempSync(join(tmpdir(), 'checkout-'))
  for (const name of ['Makefile', 'package.json', 'scripts', 'compose', 'kustomize', 'helm'])
    cpSync(join(root, name), join(dir, name), { recursive: true })
  return dir
}

/** A cluster with a shop whose database is elsewhere and whose release is called knowledge, as test/support/kubectl.ts has it. */
function newCluster() {
  const CLUSTER = mkdtempSync(join(tmpdir(), 'cluster-'))
  const file = (name: string) => join(CLUSTER, name)
  const replicas = { auth: 3, products: 3, orders: 2, notifications: 1, edge: 3 }
  writeFileSync(file('replicas.json'), JSON.stringify(replicas))
  writeFileSync(file('pods.json'), '[]')
  // An identity on a token: age says nothing of it.
  const { PATH } = programs({
    kubectl: `#!/bin/sh\nexec '${process.execPath}' '${join(root, 'test/support/kubectl.ts')}' "$@"\n`,
    'age-keygen': '#!/bin/sh\nexit 1\n',
  })
  writeFileSync(file('token'), 'AGE-PLUGIN-TOKEN-1\n')
  mkdirSync(file('backups'))
  const env = {
    CLUSTER,
    PATH,
    SOPS_AGE_KEY_FILE: file('token'),
    BODEGA_BACKUPS: file('backups'),
    TARGET: 'cluster',
    ENV: 'dev',
  }
  return {
    env,
    replicas,
    file,
    is: (name: string) => JSON.parse(readFileSync(file(name), 'utf8')),
    async backup() {
      const { code, all } = await run('make', ['-s', 'backup'], { env, any: true })
      return { code, all, backup: join(file('backups'), readdirSync(file('backups'))[0] ?? 'none') }
    },
  }
}

test('make backup and restore TARGET=cluster, the database elsewhere, a release with "edge" in its name, an identity on a token → restored, with all replicas, the edge last', async (t) => {
  const cluster = newCluster()
  const { code, all, backup } = await cluster.backup()
  t.is(code, 0, all)
  t.regex(all, /bodega-dev-\d+T\d+Z\.tar: \d+ bytes, 2 rows/)
  const restored = await run('make', ['-s', 'restore', `FILE=${backup}`], { env: cluster.env, any: true })
  t.is(restored.code, 0, restored.all)
  t.regex(restored.all, /restored, 2 rows in 1 tables compared/)
  t.deepEqual([cluster.is('replicas.json'), cluster.is('pods.json')], [cluster.replicas, []])
  const calls = readFileSync(cluster.file('calls'), 'utf8')
  t.regex(calls, /name: bodega-database\n[\s\S]*image: postgres:18\n/)
  t.regex(
    calls,
    /--replicas=0[\s\S]*scale deployment knowledge-bodega-auth[\s\S]*rollout status[\s\S]*scale deployment knowledge-bodega-edge/,
  )
})

test('make restore TARGET=cluster, the terminal closes in the middle → the shop comes back, and no pod stays', async (t) => {
  const cluster = newCluster()
  const { backup } = await cluster.backup()
  const child = spawn('bash', ['scripts/restore.sh', backup], {
    cwd: root,
    env: { ...process.env, ...cluster.env, HANG: 'restore' },
    detached: true,
    stdio: 'ignore',
  })
  const ended = once(child, 'exit')
  while (!existsSync(cluster.file('hangs')) && child.exitCode === null) await new Promise(setImmediate)
  t.deepEqual(Object.values(cluster.is('replicas.json')), [0, 0, 0, 0, 0])
  process.kill(-(child.pid as number), 'SIGHUP')
  await ended
  t.deepEqual([cluster.is('replicas.json'), cluster.is('pods.json')], [cluster.replicas, []])
})

test('make backup, openssl missing → no backup, instead of one that no restore takes', async (t) => {
  const cluster = newCluster()
  const { PATH } = programs({ openssl: '#!/bin/sh\nexit 127\n' })
  const env = { ...cluster.env, PATH: `${PATH.split(':')[0]}:${cluster.env.PATH}` }
  const { code, all } = await run('make', ['-s', 'backup'], { env, any: true })
  t.not(code, 0)
  t.regex(all, /openssl makes no checksum[\s\S]*next: /)
  t.deepEqual(readdirSync(cluster.file('backups')), [])
})

test('make status TARGET=cluster, nothing answers in it → each part is said to be silent, and the last backup is told, also where its folder is a link', async (t) => {
  const cluster = newCluster()
  const { backup } = await cluster.backup()
  symlinkSync('backups', cluster.file('link'))
  const linked = await run('make', ['-s', 'status'], {
    env: { ...cluster.env, BODEGA_BACKUPS: cluster.file('link') },
    any: true,
  })
  t.true(linked.all.includes(join(cluster.file('link'), basename(backup))), linked.all)
  const { code, all } = await run('make', ['-s', 'status'], { env: cluster.env, any: true })
  t.is(code, 0, all)
  t.regex(all, /figures: no answer[\s\S]*database +no answer\n[\s\S]*last backup/)
  t.true(all.includes(backup))
})

test('make restore into a PostgreSQL 16 → its programs, of 18, set nothing there that it does not know, and no row is touched', async (t) => {
  const line = 'SET transaction_timeout = 0;'
  const script = ['SET lock_timeout = 0;', line, "SET client_encoding = 'UTF8';", 'COPY a.b (c) FROM stdin;', line]
  const { bin, PATH } = programs({
    pg_restore: `#!/bin/sh\n[ "$1" = --file=- ] && cat <<'END'\n${script.join('\n')}\nEND\n`,
    psql: `#!/bin/sh\ninput=$(cat)\ncase $input in *transaction_timeout\\'*) echo f ;; esac\ncase "$*" in *_restore) printf '%s\\n' "$input" >>"$0.in" ;; esac\n`,
  })
  writeFileSync(join(bin, 'DATABASE_PASSWORD'), 'x')
  const program = readFileSync(join(root, 'scripts/inside/database.sh'), 'utf8').replaceAll('/secrets/', `${bin}/`)
  const env = { PATH, DATABASE_URL: 'postgres://db:5432/bodega', DATABASE_USER: 'postgres' }
  const { code, all } = await run('bash', ['-c', program, 'database', 'restore'], { env, any: true })
  t.is(code, 0, all)
  const [first, , ...rest] = script
  t.true(readFileSync(join(bin, 'psql.in'), 'utf8').startsWith([first, ...rest, ''].join('\n')))
})

for (const command of ['up', 'down', 'logs', 'roll', 'upgrade', 'rollback'])
  test(`make ${command} TARGET=cluster → refused: the shop of this machine is another`, async (t) => {
    const { bin, PATH } = programs({ docker: '#!/bin/sh\ntouch "$0.called"\n' })
    const { code, all } = await run('make', ['-s', command, 'TARGET=cluster'], { any: true, env: { PATH } })
    t.not(code, 0)
    t.regex(all, new RegExp(`make ${command} is for one host.*next: docs/kubernetes\\.md`))
    t.false(existsSync(join(bin, 'docker.called')))
  })

for (const command of ['status', 'backup', 'restore'])
  test(`make ${command} TARGET=cluster without ENV → refused before the cluster is asked, with the next command`, async (t) => {
    const env = { ENV: '', KUBECONFIG: '/nowhere' }
    const { code, all } = await run('make', ['-s', command, 'TARGET=cluster', 'FILE=a.tar'], { any: true, env })
    t.not(code, 0)
    t.regex(all, /which environment is the shop of the cluster\?[\s\S]*next: the same with ENV=prod/)
  })

test('make backup, a folder in .env as a shell would read it → refused, instead of a folder of that name in the checkout', async (t) => {
  for (const folder of ['$HOME/backups', `"\${HOME}/backups"`, '~/backups']) {
    const cwd = checkout()
    writeFileSync(join(cwd, '.env'), `BODEGA_BACKUPS=${folder}\n`)
    const before = readdirSync(cwd)
    const { PATH } = programs({ docker: '#!/bin/sh\nexit 1\n' })
    const { code, all } = await run('make', ['-s', 'backup'], { cwd, env: { PATH }, any: true })
    t.not(code, 0)
    t.regex(all, /backup: BODEGA_BACKUPS is .*backups in \.env[\s\S]*next: write it out/)
    t.deepEqual(readdirSync(cwd), before)
  }
})

test('make deploy of an overlay with a database over a shop whose database is elsewhere → refused; where it is the overlay’s, or with ANYWAY=yes, not', async (t) => {
  const cwd = checkout()
  const deploy = async (url: string, ...words: string[]) => {
    const { bin, PATH } = programs({
      kubectl: `#!/bin/sh
case "$*" in
  # A policy has the server's name in each overlay for production, also where the server is elsewhere.
  kustomize*/prod-standalone) printf '  name: bodega-postgres\\n  serviceName: bodega-postgres\\n' ;;
  kustomize*/mine) echo '  name: bodega-postgres' ;;
  *'get secret bodega -o'*) echo prod ;;
  *'get statefulset'* | *'get postgrescluster'*) exit 1 ;;
  *'get deployment bodega-orders'*) echo bodega-parts-1 ;;
  *'get configmap bodega-parts-1'*) echo '${url}' ;;
  *apply*) touch "$0.applied" && exit 1 ;;
esac
`,
    })
    const ended = await run('make', ['-s', 'deploy', 'ENV=prod', 'OVERLAY=prod-standalone', ...words], {
      cwd,
      env: { PATH },
      any: true,
    })
    return { ...ended, applied: existsSync(join(bin, 'kubectl.applied')) }
  }
  cpSync(join(cwd, 'kustomize/overlays/prod'), join(cwd, 'kustomize/overlays/mine'), { recursive: true })
  t.true((await deploy('postgres://db.example.org:5432/bodega', 'OVERLAY=mine')).applied)
  const refused = await deploy('postgres://me:secret@db.example.org:5432/bodega')
  t.not(refused.code, 0)
  t.regex(refused.all, /data are at db\.example\.org:5432\/bodega, and the overlay[\s\S]*next: the OVERLAY= of before/)
  t.false(refused.applied)
  t.true((await deploy('postgres://db.example.org:5432/bodega', 'ANYWAY=yes')).applied)
  t.true((await deploy('postgres://bodega-postgres:5432/bodega')).applied)
})

test('make roll again after migrate has failed, with nothing changed → it runs again before the roles are touched; once it is done, no more', async (t) => {
  const cwd = checkout()
  // A host whose one container is that of migrate, current, with the exit code of the file `code`.
  const { bin, PATH } = programs({
    docker: `#!/bin/sh
case "$*" in
  *'config --hash'*) echo 'migrate hash' ;;
  *' ps '*) echo 'm1 ' ;;
  'inspect -f {{.State.ExitCode}}'*) cat "$0.code" ;;
  'inspect -f {{.State.Status}}'*) echo exited ;;
  'inspect '*) echo 'migrate exited hash image name' ;;
  'image inspect '*) echo image ;;
  'compose '*' up '*) echo "$*" >>"$0.ups" && echo 0 >"$0.code" ;;
  'wait '*) cat "$0.code" ;;
esac
`,
  })
  writeFileSync(join(bin, 'docker.code'), '1\n')
  const roll = () => run('make', ['-s', 'roll'], { cwd, env: { PATH }, any: true })
  const first = await roll()
  t.is(first.code, 0, first.all)
  t.regex(first.all, /migrate: done\n/)
  t.notRegex((await roll()).all, /migrate/)
  t.regex(readFileSync(join(bin, 'docker.ups'), 'utf8'), /^compose [^\n]* up -d --no-deps migrate\n$/)
})

test('make pin, a registry that has more to say of an image than its digest → the digest is written', async (t) => {
  const cwd = checkout()
  const digest = `sha256:${'a'.repeat(64)}`
  const { PATH } = programs({
    docker: `#!/bin/sh\necho 'Digest: ${digest}'\nhead -c 200000 /dev/zero | tr '\\0' '\\n'\n`,
  })
  const { code, all } = await run('make', ['-s', 'pin'], { cwd, env: { PATH }, any: true })
  t.is(code, 0, all)
  t.notRegex(all, /no registry answers/)
  t.true(readFileSync(join(cwd, 'helm/bodega/values.yaml'), 'utf8').includes(digest))
})

test('make tour and admin, an EMAIL in the environment → not taken for the one that is meant; one that is given is', async (t) => {
  const env = { EMAIL: 'me@example.org' }
  for (const command of ['tour', 'admin']) t.notRegex((await run('make', ['-n', command], { env })).out, /me@/)
  t.regex((await run('make', ['-n', 'admin', 'EMAIL=you@example.org'], { env })).out, /admin "you@example\.org"/)
  t.regex((await run('make', ['-n', 'tour', 'EMAIL=you@example.org'], { env })).out, /--email "you@example\.org"/)
})
