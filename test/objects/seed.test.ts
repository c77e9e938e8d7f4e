import test from 'ava'
import sharp from 'sharp'
import { query } from '../../src/embedded/postgres.ts'
import { useProducts } from '../products/role.ts'

const { shop, command } = useProducts(test)
const products = async () => {
  const { rows } = await query(
    shop.databaseUrl,
    `select sku, version, image_large as large, image_small as small from products.product order by sku`,
  )
  return rows as { sku: string; version: number; large: string; small: string }[]
}

test.serial(
  'seed, the store of pictures out of reach → the products are there, and one line says what is missing',
  async (t) => {
    const away = { S3_URL: 'http://127.0.0.1:1', S3_ACCESS_KEY: 'a', S3_SECRET_KEY: 'b' }
    const { code, stderr } = await command(away, 'seed')
    t.is(code, 1)
    t.regex(stderr, /^The pictures are missing: The object store is out of reach.*Seed again to add them\.\n$/)
    t.true((await products()).length > 200)
  },
)

test.serial(
  'seed → each product has a picture of its category and colour; again → those that staff took away come back',
  async (t) => {
    const begun = performance.now()
    const first = await command({}, 'seed')
    t.log(`${Math.round(performance.now() - begun)} ms with the start of Node`)
    t.is(first.code, 0, first.stderr)
    const seeded = await products()
    t.true(seeded.every(({ large, small }) => large && small))
    t.true(new Set(seeded.map(({ large }) => large)).size > 80)

    for (const [hash, side] of [
      [seeded[0]?.large, 512],
      [seeded[0]?.small, 256],
    ]) {
      const answer = await fetch(`${shop.roles.products.url}/image/${hash}`)
      t.is(answer.status, 200)
      const head = await sharp(Buffer.from(await answer.arrayBuffer())).metadata()
      t.deepEqual([head.format, head.width, head.height], ['webp', side, side])
    }

    t.is((await command({}, 'seed')).code, 0)
    t.deepEqual(await products(), seeded)
    await query(
      shop.databaseUrl,
      `update products.product set image_large = null, image_small = null where sku = (select min(sku) from products.product)`,
    )
    t.is((await command({}, 'seed')).code, 0)
    const [changed, ...others] = await products()
    t.like(changed, { large: seeded[0]?.large, version: Number(seeded[0]?.version) + 1 })
    t.deepEqual(others, seeded.slice(1))
  },
)
