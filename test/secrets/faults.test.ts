import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Clone, has, madeClone, newClone, testWith } from './clone.ts'

const secretsTest = testWith('sops', 'age-keygen')

/** Runs a command that has to fail with `message` and a next step, and to change nothing. */
async function refused(
  t: ExecutionContext,
  clone: Clone,
  command: string[],
  message: RegExp,
  env: NodeJS.ProcessEnv = {},
) {
  const before = clone.files()
  const result = await clone.run(command, env)
  t.not(result.code, 0, result.out)
  t.regex(result.out, message)
  t.regex(result.out, /next: |run this again/)
  t.deepEqual(clone.files(), before)
}
const make = ['bash', 'secrets/make.sh', 'dev']
const sealed = 'secrets/dev/bodega.sops.yaml'

/** A PATH with all tools that the scripts use but one. */
function pathWithout(tool: string) {
  const dir = mkdtempSync(join(tmpdir(), 'path-'))
  const tools =
    'bash sh sops age-keygen openssl awk sed grep cut tr sort find cp mv rm ln ls mkdir chmod cmp comm cat head tail wc id uname stat dirname flock git'
  for (const name of tools.split(' '))
    if (name !== tool && has(name))
      symlinkSync(execFileSync('which', [name], { encoding: 'utf8' }).trim(), join(dir, name))
  return dir
}

for (const tool of ['sops', 'age-keygen', 'openssl'])
  secretsTest(`make secrets without ${tool} → says what to install and how`, async (t) => {
    await refused(t, newClone(), make, new RegExp(`not installed: ${tool}\n.*install`), { PATH: pathWithout(tool) })
  })

secretsTest('make secrets with an old sops → says which one is needed', async (t) => {
  const dir = pathWithout('sops')
  writeFileSync(join(dir, 'sops'), '#!/bin/sh\necho sops 3.9.4\n', { mode: 0o755 })
  await refused(t, newClone(), make, /sops is 3\.9\.4, 3\.11 or newer is needed/, { PATH: dir })
})

for (const [what, command, message] of [
  ['jwt', 'genpkey', /openssl could not make an RSA key/],
  ['database', 'rand', /AUTH_DATABASE_PASSWORD could not be made/],
  ['assertion', 'rand', /openssl makes no key/],
] as const)
  secretsTest(`rotation of ${what}, openssl ${command} fails → refused, and the values stay`, async (t) => {
    const dir = pathWithout('openssl')
    const openssl = execFileSync('which', ['openssl'], { encoding: 'utf8' }).trim()
    writeFileSync(join(dir, 'openssl'), `#!/bin/sh\n[ "$1" != ${command} ] || exit 1\nexec ${openssl} "$@"\n`, {
      mode: 0o755,
    })
    const rotate = ['bash', 'secrets/rotate.sh', 'dev', what]
    await refused(t, await madeClone(), rotate, message, { PATH: dir })
  })

for (const folder of ['$HOME/bodega', '~/bodega'])
  secretsTest(
    `BODEGA_SECRETS=${folder} in .env → refused, instead of a folder of that name in the checkout`,
    async (t) => {
      const clone = await madeClone()
      clone.write('.env', `BODEGA_ENV=dev\nBODEGA_SECRETS=${folder}\n`)
      await refused(
        t,
        clone,
        make,
        /BODEGA_SECRETS is .*bodega, which only a shell would read[\s\S]*next: write it out/,
      )
    },
  )

secretsTest('edit, rotate and unpack without the identity → say where it was looked for', async (t) => {
  const clone = await madeClone()
  rmSync(clone.identity)
  for (const args of [
    ['edit.sh', 'dev'],
    ['rotate.sh', 'dev', 'jwt'],
    ['unpack.sh', 'dev'],
  ])
    await refused(t, clone, ['bash', `secrets/${args[0]}`, ...args.slice(1)], /no age identity to open .*\n.*keys\.txt/)
})

secretsTest('another identity than the file is sealed for → named with those who can help, and kept', async (t) => {
  const clone = await madeClone()
  const owner = clone.recipient()
  execFileSync('age-keygen', ['-o', join(clone.base, 'other')], { stdio: 'ignore' })
  const env = { SOPS_AGE_KEY_FILE: join(clone.base, 'other') }
  rmSync(clone.identity)
  await refused(t, clone, make, new RegExp(`none of your identities opens[\\s\\S]*sealed for: ${owner} \\(`), env)
  await refused(t, clone, make, /next: .*WHAT=recipients ENV=dev ADD=age1/, env)
})

secretsTest('a damaged identity → neither used nor overwritten', async (t) => {
  const clone = newClone()
  mkdirSync(join(clone.identity, '..'), { recursive: true })
  writeFileSync(clone.identity, 'AGE-SECRET-KEY-1BROKEN\n')
  await refused(t, clone, make, /holds no age identity that can be read\n.*never overwritten/)
})

secretsTest('a damaged sealed file → refused in whatever way it is damaged', async (t) => {
  const clone = await madeClone()
  const whole = clone.read(sealed)
  const damages: [string, RegExp][] = [
    [whole.slice(0, 700), /is damaged/],
    ['', /is damaged/],
    [whole.replace(/(REFRESH_KEY: ENC\[AES256_GCM,data:)..../, '$1AAAA'), /is damaged/],
    [whole.replace(/^ {4}mac: .*\n/m, ''), /MAC mismatch/],
    [whole.replace(/^ {4}REFRESH_KEY: .*\n/m, ''), /MAC mismatch/],
    [whole.replace('name: bodega', 'name: other'), /changed by something other than sops \(MAC mismatch\)/],
  ]
  for (const [text, message] of damages) {
    clone.write(sealed, text)
    await refused(t, clone, make, message)
    await refused(t, clone, ['bash', 'secrets/rotate.sh', 'dev', 'jwt'], message)
  }
})

secretsTest('.sops.yaml names a recipient that is none → named, nothing sealed', async (t) => {
  const clone = newClone()
  clone.write('.sops.yaml', clone.read('.sops.yaml').replace('age: []', 'age:\n      - age1nobody # asha'))
  const result = await clone.run(make)
  t.not(result.code, 0)
  t.regex(result.out, /recipient of dev that age does not know: "age1nobody"[\s\S]*next: /)
  t.false(clone.has(sealed))
  t.false(clone.has('secrets/.plain'))
  t.deepEqual(
    Object.keys(clone.files()).filter((name) => name.includes('.new')),
    [],
  )
})

secretsTest(
  'an environment without a rule, a template of another form, a missing WHAT → said with what there is',
  async (t) => {
    const clone = await madeClone()
    await refused(t, clone, ['bash', 'secrets/make.sh', 'staging'], /no environment 'staging'[\s\S]*dev prod/)
    await refused(t, clone, ['bash', 'secrets/make.sh', '../dev'], /no environment/)
    await refused(t, clone, ['bash', 'secrets/rotate.sh', 'dev'], /WHAT is to be rotated/)
    await refused(t, clone, ['bash', 'secrets/rotate.sh', 'dev', 'jwt', 'nonsense'], /neither a group nor a key/)
    await refused(t, clone, ['bash', 'secrets/rotate.sh', 'dev', 'ORDERS_DATABASE_PASSWORD'], /WHAT=database/)
    clone.write('secrets/template.yaml', `${clone.read('secrets/template.yaml')}lower_key:\n  make: key\n`)
    await refused(t, clone, make, /template\.yaml, line \d+: not of the form/)
  },
)

secretsTest(
  'a directory that Docker made in place of a file, a directory that others may write → refused',
  async (t) => {
    const clone = await madeClone()
    rmSync(clone.path('secrets/.plain/dev/JWT_KEYS'))
    mkdirSync(clone.path('secrets/.plain/dev/JWT_KEYS'))
    await refused(t, clone, make, /JWT_KEYS is a directory[\s\S]*rmdir/)
    rmSync(clone.path('secrets/.plain'), { recursive: true })
    mkdirSync(clone.path('secrets/.plain/dev'), { recursive: true })
    chmodSync(clone.path('secrets/.plain/dev'), 0o777)
    await refused(t, clone, make, /writable for others/)
  },
)

// The right of root to write anywhere is put off for this.
const asUser = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override'] : []
testWith(
  'sops',
  'age-keygen',
  ...asUser.slice(0, 1),
)('a directory that cannot be written → named, nothing half made', async (t) => {
  const fresh = newClone()
  for (const dir of [fresh.path('secrets'), fresh.dir, fresh.env.HOME as string]) {
    chmodSync(dir, 0o555)
    const result = await fresh.run([...asUser, ...make])
    t.not(result.code, 0, dir)
    t.regex(result.out, /cannot be (written|made)[\s\S]*next: /, dir)
    t.false(fresh.has(sealed))
    t.deepEqual(
      Object.keys(fresh.files()).filter((name) => /\.new|\.plain|\.env|keys/.test(name)),
      [],
    )
    chmodSync(dir, 0o755)
  }
  const clone = await madeClone()
  chmodSync(clone.path('secrets/dev'), 0o555)
  await refused(t, clone, [...asUser, 'bash', 'secrets/rotate.sh', 'dev', 'jwt'], /secrets\/dev cannot be written/)
  chmodSync(clone.path('secrets/dev'), 0o755)

  // A server whose tree is read-only still unpacks at boot, also after a power cut in the middle of another command.
  const target = join(clone.base, 'run')
  for (const left of ['.env.new', 'secrets/dev/.new.bodega.sops.yaml']) clone.write(left, '')
  for (const dir of ['secrets/dev', 'secrets', '.']) chmodSync(clone.path(dir), 0o555)
  mkdirSync(target, { mode: 0o700 })
  const boot = await clone.run([...asUser, 'bash', 'secrets/unpack.sh', 'dev'], { BODEGA_SECRETS: target })
  t.is(boot.code, 0, boot.out)
  t.is(readFileSync(join(target, 'REFRESH_KEY'), 'utf8'), clone.decrypt().REFRESH_KEY as string)
  for (const dir of ['.', 'secrets', 'secrets/dev']) chmodSync(clone.path(dir), 0o755)
})

secretsTest(
  'secrets-edit: saved, left as it was, editor failed, file spoilt → sealed and unpacked, or untouched',
  async (t) => {
    const clone = await madeClone()
    const editor = (script: string) => {
      const file = join(clone.base, 'home/editor')
      writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
      return { EDITOR: file, SOPS_EDITOR: file }
    }
    const before = clone.sealed()
    const edited = await clone.sh(
      'edit',
      ['dev'],
      editor(
        `ls -l "$1"; sed -i.bak -e 's|smtp:.*|smtp://new:25|' -e 's|POSTGRES_PASSWORD:.*|POSTGRES_PASSWORD: hunter2!|' "$1"; rm "$1.bak"`,
      ),
    )
    t.is(edited.code, 0, edited.out)
    t.regex(edited.out, /-rw-------/)
    t.regex(edited.out, /changed .*SMTP_URL[\s\S]*mounted by: .*notifications/)
    t.is(clone.plain('SMTP_URL'), 'smtp://new:25')
    t.is(clone.plain('POSTGRES_PASSWORD'), 'hunter2!')
    const others = { SMTP_URL: '', POSTGRES_PASSWORD: '' }
    t.deepEqual({ ...clone.sealed(), ...others }, { ...before, ...others })

    const files = clone.files()
    const same = await clone.sh('edit', ['dev'], editor('true'))
    t.is(same.code, 0, same.out)
    t.regex(same.out, /not changed/)
    for (const script of ['false', `printf 'apiVersion: v1\\nstringData:\\n  A: [1]\\n' > "$1"`]) {
      const failed = await clone.sh('edit', ['dev'], editor(script))
      t.not(failed.code, 0)
      t.regex(failed.out, /next: /)
    }
    const { 'home/editor': _, ...left } = clone.files()
    const { 'home/editor': __, ...was } = files
    t.deepEqual(left, was)
  },
)
