import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { generated } from '../src/commands.ts'

test('the route table and the settings as they are now → the files made from them are not stale', async (t) => {
  for (const [file, text] of Object.entries(await generated()))
    t.is(readFileSync(join(import.meta.dirname, '..', file), 'utf8'), text, `${file} is stale; run: make routes`)
})
