import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Clone, madeClone, newClone, readTemplate, testWith } from './clone.ts'

const secretsTest = testWith('sops', 'age-keygen')

/** Rotates, and proves that `changed` are exactly the keys with another ciphertext, here and unpacked. */
async function rotate(t: ExecutionContext, clone: Clone, what: string, changed: string[]) {
  const before = clone.sealed()
  const result = await clone.sh('rotate', ['dev', ...what.split(' ')])
  t.is(result.code, 0, result.out)
  const after = clone.sealed()
  t.deepEqual(
    Object.keys(after).filter((key) => after[key] !== before[key]),
    Object.keys(readTemplate()).filter((key) => changed.includes(key)),
    what,
  )
  const values = clone.decrypt()
  for (const [key, value] of Object.entries(values)) t.is(clone.plain(key), value, key)
  t.regex(result.out, /next: /)
  return { out: result.out, values }
}
const roles = ['AUTH', 'PRODUCTS', 'ORDERS', 'NOTIFICATIONS']

secretsTest('rotation of jwt → next is active, active is previous, previous is gone, a new next', async (t) => {
  const clone = await madeClone()
  const keys = () =>
    Object.fromEntries(
      (JSON.parse(clone.plain('JWT_KEYS')) as { kid: string; state: string; pem: string }[]).map((key) => [
        key.state,
        key,
      ]),
    )
  const first = keys()
  const { out } = await rotate(t, clone, 'jwt', ['JWT_KEYS'])
  t.regex(out, /mounted by: auth\s/)
  const second = keys()
  t.is(second.active?.pem, first.next?.pem)
  t.is(second.previous?.kid, first.active?.kid)
  await rotate(t, clone, 'jwt', ['JWT_KEYS'])
  const third = keys()
  t.deepEqual(Object.keys(third).sort(), ['active', 'next', 'previous'])
  t.is(third.active?.kid, second.next?.kid)
  t.is(third.previous?.kid, first.next?.kid)
  t.is(new Set([first, second, third].map((k) => k.next?.pem)).size, 3)
})

for (const [what, key] of [
  ['assertion', 'ASSERTION_KEY'],
  ['pepper', 'CODE_PEPPER'],
] as const)
  secretsTest(`rotation of ${what} → announced first, then used with the old one still accepted`, async (t) => {
    const clone = await madeClone()
    const old = clone.plain(key)
    const announced = await rotate(t, clone, what, [`${key}_PREVIOUS`])
    t.regex(announced.out, /step 1 of 2/)
    t.is(announced.values[key], old)
    const fresh = announced.values[`${key}_PREVIOUS`] as string
    t.regex(fresh, /^[0-9a-f]{64}$/)
    const used = await rotate(t, clone, what, [key, `${key}_PREVIOUS`])
    t.regex(used.out, /step 2 of 2/)
    t.deepEqual([used.values[key], used.values[`${key}_PREVIOUS`]], [fresh, old])
    const again = await rotate(t, clone, what, [`${key}_PREVIOUS`])
    t.regex(again.out, /step 1 of 2/)
    const forgotten = await rotate(t, clone, `${key}_PREVIOUS`, [`${key}_PREVIOUS`])
    t.is(forgotten.values[`${key}_PREVIOUS`], '')
    const twice = await clone.sh('rotate', ['dev', what, what])
    t.not(twice.code, 0)
    t.regex(twice.out, new RegExp(`WHAT has ${what} twice\n[\\s\\S]*next: `))
    t.deepEqual(clone.decrypt(), forgotten.values)
  })

secretsTest('rotation of database, twice → the other login each time, with a new password', async (t) => {
  const clone = await madeClone()
  const changed = roles.flatMap((role) => [`${role}_DATABASE_USER`, `${role}_DATABASE_PASSWORD`])
  const first = clone.plain('ORDERS_DATABASE_PASSWORD')
  const once = await rotate(t, clone, 'database', changed)
  t.is(once.values.ORDERS_DATABASE_USER, 'orders_b')
  t.regex(once.out, /run migrate .*, then restart/)
  const twice = await rotate(t, clone, 'database', changed)
  t.is(twice.values.ORDERS_DATABASE_USER, 'orders_a')
  t.is(new Set([first, once.values.ORDERS_DATABASE_PASSWORD, twice.values.ORDERS_DATABASE_PASSWORD]).size, 3)
})

secretsTest('rotation of nats, s3, smtp, one key, the data key, several at once → exactly those', async (t) => {
  const clone = await madeClone()
  const nats = [...roles, 'MIGRATE'].map((user) => `${user}_NATS_PASSWORD`)
  await rotate(t, clone, 'nats', nats)
  for (const user of nats) t.true(clone.plain('nats.vars').includes(`${user}: "${clone.plain(user)}"`))
  const peers = await rotate(t, clone, 'NATS_PEER_PASSWORD', ['NATS_PEER_PASSWORD'])
  t.regex(peers.out, /next: where the bus has three servers, in a cluster, all of them restart at once/)
  await rotate(t, clone, 's3', ['S3_ACCESS_KEY', 'S3_SECRET_KEY'])
  const [identity] = (JSON.parse(clone.plain('s3.json')) as { identities: { credentials: unknown[] }[] }).identities
  t.deepEqual(identity?.credentials, [
    { accessKey: clone.plain('S3_ACCESS_KEY'), secretKey: clone.plain('S3_SECRET_KEY') },
  ])
  await rotate(t, clone, 'REFRESH_KEY', ['REFRESH_KEY'])
  await rotate(t, clone, 'jwt s3', ['JWT_KEYS', 'S3_ACCESS_KEY', 'S3_SECRET_KEY'])

  const values = clone.decrypt()
  const sealed = clone.sealed()
  t.is((await clone.sh('rotate', ['dev', 'data-key'])).code, 0)
  t.deepEqual(clone.decrypt(), values)
  for (const [key, value] of Object.entries(values)) if (value) t.not(clone.sealed()[key], sealed[key], key)

  const smtp = await clone.sh('rotate', ['dev', 'smtp'], {
    SMTP_URL: 'smtps://mail.example.org',
    SMTP_PASSWORD: 'newpassword',
  })
  t.is(smtp.code, 0, smtp.out)
  t.deepEqual(
    ['SMTP_URL', 'SMTP_USER', 'SMTP_PASSWORD'].map((key) => clone.plain(key)),
    ['smtps://mail.example.org', '', 'newpassword'],
  )
})

secretsTest(
  'a person goes between the two steps of a rotation, all that is said to do is done → no key or login that they know is good',
  async (t) => {
    t.timeout(300_000)
    const clone = await madeClone()
    t.is((await clone.sh('rotate', ['dev', 'assertion', 'pepper'])).code, 0)
    clone.commit()
    const leaver = colleague(clone)
    t.is((await clone.make('secrets-rotate', 'WHAT=recipients', `ADD=${leaver.recipient()}`)).code, 0)
    const single = ['POSTGRES_PASSWORD', 'REFRESH_KEY', 'NATS_PEER_PASSWORD']
    const secrets = () =>
      Object.entries(clone.decrypt())
        .filter(([key, value]) => value && !single.includes(key) && !/_USER$|_URL$/.test(key))
        .flatMap(([key, value]) =>
          key === 'JWT_KEYS' ? (JSON.parse(value) as { pem: string }[]).map(({ pem }) => pem) : [value],
        )
    const known = secrets()
    const { out } = await clone.make('secrets-rotate', 'WHAT=recipients', `REMOVE=${leaver.recipient()}`)
    const [first = '', again = '', last = ''] = [...out.matchAll(/WHAT="([^"]+)"/g)].map(([, what]) => what as string)
    for (const what of [first, again, again, last].filter((what) => what !== '')) {
      const done = await clone.sh('rotate', ['dev', ...what.split(' ')], { SMTP_URL: 'smtp://mail:25' })
      t.is(done.code, 0, done.out)
    }
    t.deepEqual(
      secrets().filter((value) => known.includes(value)),
      [],
    )
  },
)

secretsTest('rotation on a machine that does not run the environment → sealed, not unpacked there', async (t) => {
  const clone = newClone()
  await clone.sh('make', ['prod'], { UNPACK: 'no', SMTP_URL: 'smtp://mail.example.org:587' })
  const result = await clone.sh('rotate', ['prod', 'jwt'])
  t.is(result.code, 0, result.out)
  t.regex(result.out, /not unpacked: this host does not run prod/)
  t.false(clone.has('secrets/.plain'))
})

/** Another person's clone, with an identity of its own. */
function colleague(of: Clone) {
  const clone = newClone(of)
  mkdirSync(dirname(clone.identity), { recursive: true, mode: 0o700 })
  execFileSync('age-keygen', ['-o', clone.identity], { stdio: 'ignore' })
  return clone
}
const pull = (to: Clone, from: Clone) => to.git('pull', '-q', '--no-rebase', from.dir, 'HEAD')

secretsTest('two operators and one CI → each comes by one command, opens the file, and goes by one', async (t) => {
  const asha = await madeClone()
  asha.commit()
  const ben = colleague(asha)

  const refusedBen = await ben.make('secrets')
  t.not(refusedBen.code, 0)
  const command = refusedBen.out.match(/make (secrets-rotate WHAT=recipients ENV=dev ADD=age1\w+) NAME=you/)?.[1]
  t.truthy(command, refusedBen.out)
  const sealed = asha.sealed()
  const added = await asha.make(...(command as string).split(' '), 'NAME=ben')
  t.is(added.code, 0, added.out)
  t.deepEqual(asha.sealed(), sealed)
  t.regex(asha.read('.sops.yaml'), new RegExp(`- ${ben.recipient()} # ben`))

  const ci = colleague(asha)
  t.is((await asha.make('secrets-rotate', 'WHAT=recipients', `ADD=${ci.recipient()}`, 'NAME=ci')).code, 0)
  // Once more changes nothing.
  const files = asha.files()
  t.is((await asha.make('secrets-rotate', 'WHAT=recipients', `ADD=${ci.recipient()}`, 'NAME=ci')).code, 0)
  t.deepEqual(asha.files(), files)
  asha.commit('people')
  pull(ben, asha)
  pull(ci, asha)
  t.is((await ben.make('secrets')).code, 0)
  t.is(ben.plain('REFRESH_KEY'), asha.plain('REFRESH_KEY'))
  // CI has its identity in the environment, not in a file.
  const key = execFileSync('grep', ['AGE-SECRET', ci.identity], { encoding: 'utf8' }).trim()
  const checked = await ci.run(['make', '-s', 'secrets-check'], { SOPS_AGE_KEY: key, HOME: join(ci.base, 'nobody') })
  t.is(checked.code, 0, checked.out)
  t.regex(checked.out, /✔ secrets\/dev\/bodega.sops.yaml is sealed and whole/)

  const mine = await ben.make('secrets-rotate', 'WHAT=recipients', `REMOVE=${ben.recipient()}`)
  t.not(mine.code, 0)
  t.regex(mine.out, /is you/)
  const gone = await ben.make('secrets-rotate', 'WHAT=recipients', `REMOVE=${asha.recipient()}`)
  t.is(gone.code, 0, gone.out)
  t.regex(gone.out, /may have kept every value until now; change them: make secrets-rotate/)
  t.false(ben.read('.sops.yaml').includes(asha.recipient()))
  ben.commit('asha has left')
  pull(asha, ben)
  const shut = await asha.make('secrets')
  t.not(shut.code, 0)
  t.regex(shut.out, new RegExp(`none of your identities opens[\\s\\S]*${ben.recipient()} \\(ben\\)`))
  // The data key changed too: with the one that a leaver kept, the new file stays shut.
  t.not(asha.sealed().REFRESH_KEY, sealed.REFRESH_KEY)
  pull(ci, ben)
  t.is((await ci.make('secrets')).code, 0)
})

secretsTest(
  'recipients, an identity in place of a recipient, a stranger removed, yourself not in the list → refused',
  async (t) => {
    const clone = await madeClone()
    const identity = execFileSync('grep', ['AGE-SECRET', clone.identity], { encoding: 'utf8' }).trim()
    const files = clone.files()
    for (const [env, message] of [
      [{ ADD: identity }, /is not a recipient/],
      [{ ADD: `age1${'q'.repeat(58)}` }, /ADD= or .sops.yaml names a recipient of dev that age does not know/],
      [{ REMOVE: 'age1stranger' }, /is no recipient of dev[\s\S]*there are: age1/],
    ] as const) {
      const result = await clone.sh('rotate', ['dev', 'recipients'], env)
      t.not(result.code, 0)
      t.regex(result.out, message)
      t.deepEqual(clone.files(), files)
    }
    const other = colleague(Object.assign(clone, { commit: clone.commit() }))
    writeFileSync(clone.path('.sops.yaml'), clone.read('.sops.yaml').replace(clone.recipient(), other.recipient()))
    const without = await clone.sh('rotate', ['dev', 'recipients'])
    t.not(without.code, 0)
    t.regex(without.out, /you .* are not among the recipients/)
    t.is((await clone.sh('make', ['dev'])).out.match(/sealed for others than \.sops\.yaml says/)?.length, 1)
  },
)
