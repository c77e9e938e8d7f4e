import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { openEmbedded } from './embedded.ts'
import { type Catalogue, openStock, play } from './scenario.ts'
import { parts, type Stage } from './stage.ts'

// The part of `make chaos` that needs neither toxiproxy nor the right to mount a disk.
let stage: Stage
let catalogue: Catalogue
const dir = mkdtempSync(join(tmpdir(), 'chaos-'))

test.serial.before('the shop, with an object store', async (t) => {
  t.timeout(300_000)
  stage = await openEmbedded(dir, { network: false, disks: false, clocks: false, say: (text) => t.log(text) })
  catalogue = await openStock(stage)
})
test.after.always(async () => {
  await stage?.[Symbol.asyncDispose]()
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
})

for (const part of parts)
  test.serial(`kill -9 of ${part} under an order load → all that was promised is there, once`, async (t) => {
    t.timeout(300_000)
    const { findings, orders, recovery } = await play(stage, catalogue, [{ part, fault: 'kill' }])
    t.log(`${orders.all} orders, ${orders.meanwhile} of them meanwhile; answers again after ${recovery} ms`)
    t.deepEqual(findings, [])
  })
