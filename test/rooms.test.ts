import { globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import test from 'ava'
import { roleNames } from '../src/platform/config.ts'

const source = join(import.meta.dirname, '../src')
/** Which folders a file of a room may import from, besides its own. The files at the top hold the rooms together. */
const allowed: Record<string, string[]> = {
  ...Object.fromEntries(roleNames.map((role) => [role, ['platform', 'events.ts']])),
  platform: ['events.ts'],
  'events.ts': [],
  embedded: ['platform', 'events.ts'],
}

const room = (file: string) => relative(source, file).split('/')[0] as string
const imports = (file: string) =>
  [...readFileSync(file, 'utf8').matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((m) =>
    join(dirname(file), m[1] as string),
  )

test('every import of src/ → points inward: roles to the platform and the events, never to each other', (t) => {
  const files = globSync('**/*.ts', { cwd: source }).map((file) => join(source, file))
  t.true(files.length > 20)
  const wrong = files.flatMap((file) => {
    const from = room(file)
    const may = allowed[from]
    if (!may) return []
    return imports(file)
      .filter((target) => room(target) !== from && !may.includes(room(target)))
      .map((target) => `${relative(source, file)} imports ${relative(source, target)}`)
  })
  t.deepEqual(wrong, [])
})

test('the names of the rooms → are the roles', (t) => {
  const folders = globSync('*/index.ts', { cwd: source }).map((file) => dirname(file))
  t.deepEqual(folders.sort(), [...roleNames].sort())
})

test('a list of the roles that a file has in its own words → has all of them', (t) => {
  const quoted = `'${roleNames.join("', '")}'`
  const capital = roleNames.map((role) => role.toUpperCase())
  const lists: [file: string, list: string][] = [
    ['Dockerfile', `[${quoted}]`],
    ['scripts/lib.sh', `roles=(${roleNames.join(' ')})`],
    ['scripts/inside/database.sh', `schemas="${quoted}, `],
    ['scripts/inside/database.sh', `array['owner', ${quoted}]`],
    ['secrets/rotate.sh', `for role in ${capital.join(' ')};`],
    ['secrets/rotate.sh', capital.map((role) => `${role}_NATS_PASSWORD`).join(' ')],
    ['src/edge/start.sh', capital.map((role) => `"$${role}_UPSTREAM"`).join(' ')],
  ]
  for (const [file, list] of lists)
    t.true(readFileSync(join(source, '..', file), 'utf8').includes(list), `${file} should have: ${list}`)
})
