import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { text } from 'node:stream/consumers'
import test from 'ava'

const root = join(import.meta.dirname, '../..')

export const has = (tool: string) =>
  (process.env.PATH ?? '').split(delimiter).some((dir) => dir && existsSync(join(dir, tool)))

/** `test` where the tools are; elsewhere the test is skipped, and says aloud what was missing. */
export function testWith(...tools: string[]): typeof test | typeof test.skip {
  const missing = tools.filter((tool) => !has(tool))
  if (missing.length > 0) process.stderr.write(`skipped in test/secrets, not installed: ${missing.join(', ')}\n`)
  return missing.length > 0 ? test.skip : test
}

export type Clone = ReturnType<typeof newClone>

/** What a person has after `git clone`, as far as secrets go, with a home of its own. Identities are never shared. */
export function newClone(from?: { dir: string }) {
  const base = mkdtempSync(join(tmpdir(), 'secrets-'))
  const dir = join(base, 'shop')
  const env: NodeJS.ProcessEnv = {
    PATH: process.env.PATH,
    HOME: join(base, 'home'),
    GIT_CONFIG_GLOBAL: '/dev/null',
    TMPDIR: base,
  }
  mkdirSync(env.HOME as string)
  const git = (...args: string[]) => execFileSync('git', args, { cwd: dir, env, encoding: 'utf8', stdio: 'pipe' })
  if (from) execFileSync('git', ['clone', '-q', from.dir, dir], { env })
  else {
    mkdirSync(dir)
    for (const name of ['.sops.yaml', '.gitignore', '.gitleaks.toml', 'Makefile'])
      cpSync(join(root, name), join(dir, name))
    mkdirSync(join(dir, 'secrets'))
    cpSync(join(root, 'scripts/shared.sh'), join(dir, 'scripts/shared.sh'))
    for (const name of readdirSync(join(root, 'secrets')))
      if (/\.sh$|^template\.yaml$/.test(name)) cpSync(join(root, 'secrets', name), join(dir, 'secrets', name))
    git('init', '-q')
  }
  git('config', 'user.name', 'tester')
  git('config', 'user.email', 'tester@example.org')

  const run = async (command: string[], more: NodeJS.ProcessEnv = {}) => {
    const [file = '', ...args] = command
    const child = spawn(file, args, { cwd: dir, env: { ...env, ...more }, stdio: ['ignore', 'pipe', 'pipe'] })
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
    return { code: child.exitCode, signal: child.signalCode, out: stdout + stderr }
  }
  const clone = {
    base,
    dir,
    env,
    git,
    run,
    /** Runs secrets/NAME.sh. */
    sh: (name: string, args: string[] = [], more: NodeJS.ProcessEnv = {}) =>
      run(['bash', `secrets/${name}.sh`, ...args], more),
    make: (...args: string[]) => run(['make', '-s', ...args]),
    commit(message = 'secrets') {
      git('add', '-A')
      git('commit', '-q', '-m', message)
    },
    path: (name: string) => join(dir, name),
    read: (name: string) => readFileSync(join(dir, name), 'utf8'),
    write: (name: string, content: string) => writeFileSync(join(dir, name), content),
    has: (name: string) => existsSync(join(dir, name)),
    identity: join(base, 'home/.config/sops/age/keys.txt'),
    recipient: () => execFileSync('age-keygen', ['-y', clone.identity], { encoding: 'utf8' }).trim(),
    plain: (key: string, name = 'dev') => readFileSync(join(dir, 'secrets/.plain', name, key), 'utf8'),
    /** "KEY" → "ENC[…]" of the sealed file. */
    sealed: (name = 'dev') =>
      Object.fromEntries(
        [
          ...readFileSync(join(dir, `secrets/${name}/bodega.sops.yaml`), 'utf8').matchAll(/^ {4}([A-Z0-9_]+): (.*)$/gm),
        ].map(([, key, value]) => [key, value]),
      ) as Record<string, string>,
    decrypt: (name = 'dev') =>
      JSON.parse(
        execFileSync(
          'sops',
          ['decrypt', '--output-type', 'json', '--extract', '["stringData"]', `secrets/${name}/bodega.sops.yaml`],
          { cwd: dir, env, encoding: 'utf8', stdio: 'pipe' },
        ),
      ) as Record<string, string>,
    /** Every file with its content, and the time it was written; not what git keeps for itself. */
    files() {
      const found: Record<string, string> = {}
      for (const entry of readdirSync(base, { recursive: true, withFileTypes: true })) {
        const path = join(entry.parentPath, entry.name)
        if (entry.isFile() && !path.includes('/.git/')) found[path.slice(base.length + 1)] = readFileSync(path, 'utf8')
      }
      return found
    },
  }
  return clone
}

/** A clone after its first `make secrets`. */
export async function madeClone(name = 'dev', more: NodeJS.ProcessEnv = {}) {
  const clone = newClone()
  const made = await clone.sh('make', [name], more)
  if (made.code !== 0) throw new Error(made.out)
  return clone
}

export interface TemplateKey {
  used: Record<string, string>
  make: string
  dev?: string
  help: string
}
/** secrets/template.yaml, each key with its fields. */
export function readTemplate() {
  const keys: Record<string, TemplateKey> = {}
  let key = ''
  for (const line of readFileSync(join(root, 'secrets/template.yaml'), 'utf8').split('\n')) {
    const field = line.match(/^ {2}([a-z]+): (.*)$/)
    if (/^[A-Z]/.test(line)) {
      key = line.replace(/:$/, '')
      keys[key] = { used: {}, make: '', help: '' }
    } else if (field?.[1] === 'used')
      (keys[key] as TemplateKey).used = Object.fromEntries(
        [...(field[2] as string).matchAll(/([a-z]+): ([A-Z0-9_]+)/g)].map(([, user, name]) => [user, name]),
      )
    else if (field) Object.assign(keys[key] as TemplateKey, { [field[1] as string]: field[2] })
  }
  return keys
}
