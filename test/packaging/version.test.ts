import { spawnSync } from 'node:child_process'
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { withVersion } from '../../scripts/version.ts'

const root = join(import.meta.dirname, '../..')
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

test('the version in package.json → is the one in every other file', (t) => {
  for (const { file, now, then } of withVersion(root, version))
    t.is(now, then, `${file} has another version; run: make version V=${version}`)
})

test('make version → everywhere, nothing else changed; again → nothing to change; a wrong one → refused with the rule', (t) => {
  const clone = mkdtempSync(join(tmpdir(), 'version-'))
  t.teardown(() => rmSync(clone, { recursive: true, force: true }))
  const shipped = [
    'package.json',
    'package-lock.json',
    'docker-bake.hcl',
    'compose',
    'kustomize',
    'helm',
    'docs',
    'scripts',
  ]
  for (const path of [...shipped, 'src/edge']) cpSync(join(root, path), join(clone, path), { recursive: true })
  const files = () =>
    Object.fromEntries(
      globSync('**/*', { cwd: clone, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name))
        .map((path) => [path.slice(clone.length + 1), readFileSync(path, 'utf8')]),
    )
  const run = (v: string) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(clone, 'scripts/version.ts'), v], {
      encoding: 'utf8',
    })
    return { status, out: stdout + stderr }
  }
  const before = files()

  for (const wrong of ['', '1.4', 'v1.4.0', '1.04.0', '1.4.0-beta', '1.4.0\n', 'latest'])
    t.like(run(wrong), { status: 64 }, JSON.stringify(wrong))
  t.regex(
    run('v1.4.0').out,
    /V is "v1\.4\.0", and must be three numbers, such as 1\.4\.0.*\nNothing was changed\.\nnext: /,
  )
  t.deepEqual(files(), before)

  for (const v of ['98.76.54', '98.76.54-rc.1', '98.76.55']) {
    t.like(run(v), { status: 0 })
    t.regex(run(v).out, /is there already; nothing was changed/)
  }
  const after = files()
  // What ships has it nowhere else.
  for (const [file, text] of Object.entries(after))
    if (/^(compose|kustomize|helm|package\.json|docker-bake)/.test(file))
      t.notRegex(text, new RegExp(`(?<![\\d.])(${version}|${version.replaceAll('.', '-')})(?![\\d.])`), file)
  const back = Object.fromEntries(
    Object.entries(after).map(([file, text]) => [
      file,
      text.replaceAll('98.76.55', version).replaceAll('98-76-55', version.replaceAll('.', '-')),
    ]),
  )
  t.deepEqual(back, before)
})
