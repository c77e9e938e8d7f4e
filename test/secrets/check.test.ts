import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Clone, madeClone, newClone, testWith } from './clone.ts'

const secretsTest = testWith('sops', 'age-keygen')
const file = 'secrets/dev/bodega.sops.yaml'

/** Expects a refusal whose text matches, and shows no secret. */
async function refused(t: ExecutionContext, clone: Clone, message: RegExp, env: NodeJS.ProcessEnv = {}) {
  const result = await clone.sh('check', [], env)
  t.not(result.code, 0, result.out)
  t.regex(result.out, message)
  t.regex(result.out, /next: /)
  for (const value of Object.values(secretsOf(clone))) t.false(result.out.includes(value))
}
const secretsOf = (clone: Clone) =>
  Object.fromEntries(
    ['REFRESH_KEY', 'ORDERS_NATS_PASSWORD', 'JWT_KEYS'].map((key) => [key, clone.plain(key)]),
  ) as Record<'REFRESH_KEY' | 'ORDERS_NATS_PASSWORD' | 'JWT_KEYS', string>
const pem = () => generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
const rsa = () =>
  generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' }) as string

async function committed() {
  const clone = await madeClone()
  clone.commit()
  return clone
}

secretsTest('secrets-check of what make secrets made → nothing found', async (t) => {
  const clone = await committed()
  clone.write(
    'page.md',
    'A key begins with AGE-SECRET-KEY-1 or with -----BEGIN PRIVATE KEY-----\nand orders_a is a login.\n',
  )
  const rule = clone.read('.sops.yaml').match(/ {2}- path_regex: \^secrets\/prod[\s\S]*$/)?.[0] ?? ''
  clone.write('.sops.yaml', clone.read('.sops.yaml') + rule.replace('secrets/prod/', 'secrets/EU_west/'))
  const another = await clone.sh('make', ['EU_west'], { UNPACK: 'no', SMTP_URL: 'smtp://mail.example.org' })
  t.is(another.code, 0, another.out)
  const result = await clone.make('secrets-check')
  t.is(result.code, 0, result.out)
  t.regex(result.out, /sealed and whole[\s\S]*no secret in the tree[\s\S]*no secret in the history/)
})

secretsTest(
  'secrets-check before anything is sealed, and in a clone that has no identity → passes, and says what it left out',
  async (t) => {
    const empty = newClone()
    empty.commit()
    const nothing = await empty.sh('check')
    t.is(nothing.code, 0, nothing.out)
    t.regex(nothing.out, /nothing is sealed yet/)

    const stranger = newClone(await committed())
    const result = await stranger.sh('check')
    t.is(result.code, 0, result.out)
    t.regex(result.out, /MAC is not checked[\s\S]*values were not searched for/)
  },
)

const plants: [string, (clone: Clone) => string][] = [
  ['a password in a URL', (clone) => `nats://orders:${secretsOf(clone).ORDERS_NATS_PASSWORD}@nats:4222`],
  ['a key in base64, as kubectl shows it', (clone) => Buffer.from(secretsOf(clone).REFRESH_KEY).toString('base64')],
  [
    'a private key as a PEM file',
    (clone) => (JSON.parse(secretsOf(clone).JWT_KEYS) as { pem: string }[])[1]?.pem as string,
  ],
]
for (const [title, plant] of plants)
  secretsTest(`secrets-check, ${title} in a new file, then only in the history → refused, named by key`, async (t) => {
    const clone = await committed()
    clone.write('notes.md', `first line\nsee ${plant(clone)}\n`)
    await refused(t, clone, /✘ notes\.md holds (\w+ of dev|a private key)/)
    clone.commit('oops')
    rmSync(clone.path('notes.md'))
    clone.commit('taken out again')
    await refused(
      t,
      clone,
      /no secret in the tree[\s\S]*✘ the history holds (\w+ of dev|a private key).*commit \w+, notes\.md/,
    )
  })

secretsTest(
  'secrets-check, a secret in a commit message, in a binary file, in a commit that no branch has → refused',
  async (t) => {
    const message = await committed()
    message.git('commit', '-q', '--allow-empty', '-m', `the key is ${secretsOf(message).REFRESH_KEY}`)
    await refused(t, message, /the history holds REFRESH_KEY of dev in the clear: the commit/)

    const binary = await committed()
    binary.write('dump.bin', `\0\x01\x02${secretsOf(binary).REFRESH_KEY}\0`)
    await refused(t, binary, /✘ dump\.bin holds REFRESH_KEY/)

    const lost = await committed()
    lost.write('notes.md', secretsOf(lost).REFRESH_KEY)
    lost.commit('oops')
    lost.git('reset', '-q', '--hard', 'HEAD~1')
    await refused(t, lost, /the history holds REFRESH_KEY/)
    lost.git('reflog', 'expire', '--expire=now', '--all')
    await refused(t, lost, /the history holds REFRESH_KEY of dev in the clear: object \w+, which no branch reaches/)
    lost.git('gc', '-q', '--prune=now')
    t.is((await lost.sh('check')).code, 0)
  },
)

secretsTest(
  'secrets-check, an age identity or a stranger’s private key in tree or history, without any identity at hand → refused',
  async (t) => {
    const made = await committed()
    for (const [text, what] of [
      [readFileSync(made.identity, 'utf8'), 'an age identity'],
      [pem(), 'a private key'],
      [rsa().replace(/^/gm, '    '), 'a private key'],
      [JSON.stringify({ pem: rsa() }), 'a private key'],
    ] as const) {
      const stranger = newClone(made)
      stranger.write('key.txt', text)
      const found = await stranger.sh('check')
      t.regex(found.out, new RegExp(`✘ key\\.txt holds ${what}`))
      stranger.commit('oops')
      stranger.git('rm', '-q', 'key.txt')
      stranger.commit('out')
      const past = await stranger.sh('check')
      t.not(past.code, 0)
      t.regex(past.out, new RegExp(`✘ the history holds ${what}.*key\\.txt`))
    }
  },
)

secretsTest('secrets-check, a file that only looks sealed → refused, with an identity and without', async (t) => {
  const clone = await committed()
  const whole = clone.read(file)
  const value = /^( {4}REFRESH_KEY: ).*$/m
  const posing = `ENC[AES256_GCM,data:${Buffer.from('this is the very secret in the clear').toString('base64')},iv:${'A'.repeat(43)}=,tag:${'A'.repeat(22)}==,type:str]`
  const fakes: [string, string][] = [
    ['a value in the clear', whole.replace(value, '$1opensesame')],
    ['ENC around the value', whole.replace(value, '$1ENC[opensesame]')],
    ['the value in base64 as ciphertext', whole.replace(value, `$1${posing}`)],
    ['no sops part', whole.replace(/^sops:[\s\S]*/m, '')],
    ['no MAC', whole.replace(/^ {4}mac: .*\n/m, '')],
    ['no recipients', whole.replace(/^ {4}age:[\s\S]*?(?= {4}encrypted_regex)/m, '')],
    ['a comment in the clear', whole.replace(value, '    # opensesame\n$&')],
    ['a second document in the clear', `${whole}---\nstringData:\n  A: opensesame\n`],
    ['a block of text', whole.replace(value, '$1|-\n        opensesame')],
    ['all in one line', whole.replace(/^stringData:[\s\S]*?(?=^sops:)/m, 'stringData: { A: opensesame }\n')],
  ]
  const stranger = newClone(clone)
  for (const [title, text] of fakes) {
    t.not(text, whole, title)
    for (const some of [clone, stranger]) {
      some.write(file, text)
      const result = await some.sh('check')
      t.not(result.code, 0, `${title}: ${result.out}`)
      t.regex(result.out, /✘ secrets\/dev\/bodega\.sops\.yaml is not sealed/, title)
    }
  }
  stranger.git('checkout', '-q', '--', file)
  stranger.write('secrets/other.sops.yaml', 'password: opensesame\nsops: {}\n')
  t.regex((await stranger.sh('check')).out, /✘ secrets\/other\.sops\.yaml is not sealed/)

  clone.write(file, whole.replace('name: bodega', 'name: other'))
  await refused(t, clone, /✘ .*bodega\.sops\.yaml was changed by something other than sops/)
})

secretsTest(
  'secrets-check, a key of the template missing, recipients that differ, unpacked files in git → refused',
  async (t) => {
    const clone = await committed()
    const template = clone.read('secrets/template.yaml')
    clone.write(
      'secrets/template.yaml',
      `${template}NEW_KEY:\n  used: { orders: NEW_KEY }\n  make: key\n  help: New.\n`,
    )
    await refused(t, clone, /✘ secrets\/dev\/bodega\.sops\.yaml lacks: NEW_KEY/)
    clone.write('secrets/template.yaml', template)

    const rules = clone.read('.sops.yaml')
    execFileSync('age-keygen', ['-o', join(clone.base, 'home/other')], { stdio: 'ignore' })
    const other = execFileSync('age-keygen', ['-y', join(clone.base, 'home/other')], { encoding: 'utf8' }).trim()
    clone.write('.sops.yaml', rules.replace('    age:\n', `    age:\n      - ${other} # ben\n`))
    await refused(t, clone, /sealed for others than \.sops\.yaml says/)
    clone.write('.sops.yaml', rules)

    clone.git('add', '-f', 'secrets/.plain', '.env')
    await refused(t, clone, /✘ in git, and must not be: \.env secrets\/\.plain/)
  },
)
