import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Clone, madeClone, newClone, testWith } from './clone.ts'

const secretsTest = testWith('sops', 'age-keygen')

/** Lines that `.env` must have: the environment, and a hash for each user in the template. */
const envLines =
  1 +
  new Set(
    readFileSync(join(import.meta.dirname, '../../secrets/template.yaml'), 'utf8')
      .match(/(?<=used: \{).*(?=\})/g)
      ?.flatMap((used) => used.split(',').map((pair) => pair.split(':')[0]?.trim())),
  ).size

/** bash reads this first: it counts the commands that write, and ends the script by SIGKILL before number KILL_AT. */
const bashEnv = join(mkdtempSync(join(tmpdir(), 'kill-')), 'env.sh')
writeFileSync(
  bashEnv,
  `set -T
writes=0
trap '[[ ! $BASH_COMMAND =~ ^(mkdir|age-keygen|ln|rm|cp|mv|sops|chmod|publish_sealed|unpack|write_dotenv|printf.*\\>) ]] ||
  { writes=$((writes + 1)); [ -z "\${STEPS_TO:-}" ] || printf "%s %s\\n" "$writes" "$BASH_COMMAND" >>"$STEPS_TO"
    [ "$writes" != "\${KILL_AT:-}" ] || kill -9 $$; }' DEBUG
`,
)

// All steps take minutes: KILL_EVERY=1 takes them all.
const every = Number(process.env.KILL_EVERY ?? 6)

/** Numbers of the writing commands of a run to kill at; of one that repeats (27 files), the first two. */
async function steps(clone: Clone, name: string, args: string[], env: NodeJS.ProcessEnv) {
  const list = join(mkdtempSync(join(tmpdir(), 'steps-')), 'list')
  const run = await clone.sh(name, args, { ...env, BASH_ENV: bashEnv, STEPS_TO: list })
  if (run.code !== 0) throw new Error(run.out)
  const seen = new Map<string, number>()
  const numbers = readFileSync(list, 'utf8')
    .trim()
    .split('\n')
    .flatMap((line) => {
      const [, number = '', command = ''] = line.match(/^(\d+) (.*)$/) ?? []
      seen.set(command, (seen.get(command) ?? 0) + 1)
      return number && (seen.get(command) as number) <= 2 ? [Number(number)] : []
    })
  return [...new Set(numbers)].filter((_, i) => i % every === 0)
}

/** Whatever is there is whole, and nothing in the clear lies outside the directory for it. */
function whole(t: ExecutionContext, clone: Clone, at: string) {
  if (existsSync(clone.identity)) t.regex(clone.recipient(), /^age1/, at)
  const sealed = clone.has('secrets/dev/bodega.sops.yaml')
  const values = sealed ? clone.decrypt() : {}
  for (const [name, text] of Object.entries(clone.files())) {
    if (name.startsWith('home/') || name.startsWith('shop/secrets/.plain/dev/.new/')) continue
    if (name.startsWith('shop/secrets/.plain/dev/')) {
      const key = name.split('/').at(-1) as string
      if (key in values && !(clone as { changing?: boolean }).changing)
        t.is(text, values[key] as string, `${at}: ${name}`)
      continue
    }
    t.false(/BEGIN PRIVATE KEY-----\\?n?\n?MII|AGE-SECRET-KEY-1[0-9A-Z]{50}/.test(text), `${at}: ${name}`)
    for (const [key, value] of Object.entries(values))
      if (value.length >= 40) t.false(text.includes(value), `${at}: ${key} in ${name}`)
  }
  if (clone.has('.env')) t.is(clone.read('.env').match(/^BODEGA_(ENV|HASH_\w+)=\w+$/gm)?.length, envLines, at)
}

/** The run again brings everything to its end, and leaves nothing of the interrupted one. */
async function healed(
  t: ExecutionContext,
  clone: Clone,
  name: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  at: string,
) {
  const identity = existsSync(clone.identity) && readFileSync(clone.identity, 'utf8')
  const again = await clone.sh(name, args, env)
  t.is(again.code, 0, `${at}: ${again.out}`)
  if (identity) t.is(readFileSync(clone.identity, 'utf8'), identity, at)
  t.deepEqual(
    Object.keys(clone.files()).filter((file) => file.includes('.new')),
    [],
    at,
  )
  const values = clone.decrypt()
  for (const [key, value] of Object.entries(values)) t.is(clone.plain(key), value, `${at}: ${key}`)
  const files = clone.files()
  t.is((await clone.sh('make', ['dev'])).code, 0)
  t.deepEqual(clone.files(), files, at)
}

secretsTest(
  'make secrets from nothing, killed at every step → never half a file, and the next run finishes',
  async (t) => {
    t.timeout(600_000)
    const numbers = await steps(newClone(), 'make', ['dev'], {})
    t.true(numbers.length * every > 30, `${numbers}`)
    for (const at of numbers) {
      const clone = newClone()
      const killed = await clone.sh('make', ['dev'], { BASH_ENV: bashEnv, KILL_AT: String(at) })
      t.is(killed.signal, 'SIGKILL', `step ${at}: ${killed.out}`)
      whole(t, clone, `step ${at}`)
      await healed(t, clone, 'make', ['dev'], {}, `step ${at}`)
    }
  },
)

for (const [title, name, args, env] of [
  ['rotation of jwt and database', 'rotate', ['dev', 'jwt', 'database'], {}],
  ['a person added', 'rotate', ['dev', 'recipients'], { ADD: '', NAME: 'asha' }],
] as const)
  secretsTest(
    `${title}, killed at every step → the old or the new file whole, and the next run finishes`,
    async (t) => {
      t.timeout(600_000)
      const made = await madeClone()
      const other = join(made.base, 'home/other')
      execFileSync('age-keygen', ['-o', other], { stdio: 'ignore' })
      const more: NodeJS.ProcessEnv = { ...env }
      if ('ADD' in more) more.ADD = execFileSync('age-keygen', ['-y', other], { encoding: 'utf8' }).trim()
      const copy = () => {
        const clone = newClone()
        cpSync(made.base, clone.base, { recursive: true })
        return Object.assign(clone, { changing: true })
      }
      for (const at of await steps(copy(), name, [...args], more)) {
        const clone = copy()
        const killed = await clone.sh(name, [...args], { ...more, BASH_ENV: bashEnv, KILL_AT: String(at) })
        t.is(killed.signal, 'SIGKILL', `step ${at}: ${killed.out}`)
        whole(t, clone, `step ${at}`)
        await healed(t, clone, name, [...args], more, `step ${at}`)
        if (more.ADD) {
          t.true(clone.read('secrets/dev/bodega.sops.yaml').includes(`recipient: ${more.ADD}`))
          t.true(clone.read('.sops.yaml').includes(`- ${more.ADD} # asha`))
        }
      }
    },
  )

secretsTest(
  'a person removed, killed between list and file → whatever the next run is, the person stays out',
  async (t) => {
    const clone = await madeClone()
    const other = join(clone.base, 'home/other')
    execFileSync('age-keygen', ['-o', other], { stdio: 'ignore' })
    const REMOVE = execFileSync('age-keygen', ['-y', other], { encoding: 'utf8' }).trim()
    t.is((await clone.sh('rotate', ['dev', 'recipients'], { ADD: REMOVE, NAME: 'ben' })).code, 0)

    const BASH_ENV = join(clone.base, 'home/second')
    writeFileSync(
      BASH_ENV,
      `set -T
moves=0
trap '[[ ! $BASH_COMMAND =~ ^mv\\ -f\\ (\\.sops|\\"\\$draft) ]] || [ $((moves += 1)) -lt 2 ] || kill -9 $$' DEBUG
`,
    )
    const killed = await clone.sh('rotate', ['dev', 'recipients'], { REMOVE, BASH_ENV })
    t.is(killed.signal, 'SIGKILL', killed.out)
    t.is((await clone.sh('rotate', ['dev', 'recipients'])).code, 0)
    for (const file of ['secrets/dev/bodega.sops.yaml', '.sops.yaml']) t.false(clone.read(file).includes(REMOVE), file)
  },
)

secretsTest('make secrets, the whole group of processes killed at any time → never half a file', async (t) => {
  t.timeout(300_000)
  for (let ms = 20; ms < 1200; ms += 60 * every) {
    const clone = newClone()
    const child = spawn('bash', ['secrets/make.sh', 'dev'], {
      cwd: clone.dir,
      env: clone.env,
      stdio: 'ignore',
      detached: true,
    })
    const ended = once(child, 'exit')
    const timer = setTimeout(() => process.kill(-(child.pid as number), 'SIGKILL'), ms)
    await ended
    clearTimeout(timer)
    whole(t, clone, `after ${ms} ms`)
    await healed(t, clone, 'make', ['dev'], {}, `after ${ms} ms`)
  }
})

secretsTest('make secrets, SIGTERM → it cleans up behind itself', async (t) => {
  const clone = newClone()
  const child = spawn('bash', ['secrets/make.sh', 'dev'], {
    cwd: clone.dir,
    env: { ...clone.env, BASH_ENV: bashEnv, STEPS_TO: join(clone.base, 'home/steps') },
    stdio: 'ignore',
  })
  const ended = once(child, 'exit')
  const deadline = Date.now() + 20_000
  while (!clone.has('secrets/dev/.new.bodega.sops.yaml') && Date.now() < deadline && child.exitCode === null)
    await new Promise(setImmediate)
  child.kill('SIGTERM')
  await ended
  t.not(child.exitCode, 0)
  t.deepEqual(
    Object.keys(clone.files()).filter((file) => file.includes('.new')),
    [],
  )
})
