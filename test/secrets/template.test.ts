import test from 'ava'
import { type Reader, roleNames, settings } from '../../src/platform/config.ts'
import { readTemplate } from './clone.ts'

// Where a server's credentials come apart from its address, these are plain environment values.
const plain = ['DATABASE_URL', 'NATS_BROKER_URL', 'NATS_USER']
const plainForMigrate = ['DATABASE_USER']

test('the template against the table of settings → each reader gets every secret of its own, and nothing else', (t) => {
  const keys = Object.values(readTemplate())
  for (const reader of [...roleNames, 'migrate'] as Reader[]) {
    const wanted = Object.entries(settings)
      .filter(([, s]) => 'secret' in s && (s.for as readonly Reader[]).includes(reader))
      .map(([name]) => name)
      .filter((name) => !plain.includes(name) && !(reader === 'migrate' && plainForMigrate.includes(name)))
    const given = keys.flatMap(({ used }) => used[reader] ?? [])
    t.deepEqual(given.sort(), wanted.sort(), reader)
  }
})

test('the template against the servers → bus, database and object store mount what their configuration names', (t) => {
  const mounted = (user: string) => Object.values(readTemplate()).flatMap(({ used }) => used[user] ?? [])
  t.deepEqual(
    mounted('nats').sort(),
    [...roleNames, 'migrate'].map((name) => `${name.toUpperCase()}_NATS_PASSWORD`).sort(),
  )
  t.deepEqual(mounted('postgres'), ['POSTGRES_PASSWORD'])
  t.deepEqual(mounted('objectstore'), ['S3_ACCESS_KEY', 'S3_SECRET_KEY'])
})
