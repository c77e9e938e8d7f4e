import test from 'ava'
import { lackingDocker, openPostgresHa, openShopOn } from './postgres-ha.ts'

const missing = await lackingDocker()
if (missing) console.error(`${import.meta.filename}: skipped, ${missing}`)
const it = missing ? test.serial.skip : test.serial

const ways = { kill: 'killed', cut: 'cut off the network' } as const

for (const way of ['kill', 'cut'] as const)
  it(`the primary ${ways[way]} under a load of orders → orders again within 30 s, none lost, stock exact`, async (t) => {
    t.timeout(240_000)
    await using database = await openPostgresHa({ nodes: 2 })
    await using opened = await openShopOn(database)
    const { market, lost } = opened
    const before = await database.leader()
    t.truthy(before)

    const gaps = watch(() => market.sales.size)
    // Answers that were on their way are among the first orders after it.
    const { seen } = await market.during(() => database[way](before as string), { strict: false, orders: 200 })
    const longest = gaps.stop()
    const after = await database.leader()
    t.log(`${market.sales.size} orders; ${before} led, then ${after}; answers ${JSON.stringify(seen)}`)
    t.log(`longest time without an order: ${longest} ms`)
    t.truthy(after)
    t.not(after, before)
    t.true(longest <= 30_000, `${longest} ms`)
    t.deepEqual(await lost(), [])
  })

/** The longest time, in milliseconds, in which a count did not grow. */
function watch(count: () => number) {
  let [last, since, longest] = [count(), Date.now(), 0]
  const timer = setInterval(() => {
    longest = Math.max(longest, Date.now() - since)
    if (count() === last) return
    last = count()
    since = Date.now()
  }, 20)
  return {
    stop() {
      clearInterval(timer)
      return longest
    },
  }
}
