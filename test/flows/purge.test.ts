import { randomUUID } from 'node:crypto'
import test from 'ava'
import sharp from 'sharp'
import { query } from '../../src/embedded/postgres.ts'
import { eventually, useShop } from '../support/shop.ts'

const shop = useShop(test)
const sql = async (text: string, ...values: unknown[]) => (await query(shop.databaseUrl, text, values)).rows
const purge = async (): Promise<Record<string, number>> =>
  JSON.parse((await shop.run('notifications', 'commands.ts', 'job', 'purge')).stdout.replace('purge: ', ''))
const count = async (from: string, ...values: unknown[]) =>
  (await sql(`select count(*)::int as n from ${from}`, ...values))[0].n as number

test.serial(
  'purge, sessions, codes and failures that are long over → gone with their tokens; what counts stays',
  async (t) => {
    const [live, old] = [await shop.user(), await shop.user()]
    await sql(`update auth.session set revoked_at = now() - interval '8 days' where user_id = $1`, old.id)
    await sql(
      `update auth.verification set sent_at = now() - interval '3 days', day_began_at = now() - interval '3 days' where user_id = $1`,
      old.id,
    )
    await shop.call('POST', '/auth/login', { body: { email: old.email, password: 'not the password' } })
    await sql(`update auth.login_failure set last_at = now() - interval '2 days'`)
    await shop.call('POST', '/auth/login', { body: { email: live.email, password: 'not the password' } })

    t.is((await purge()).logins, 3)
    t.is(await count('auth.session where user_id = $1', old.id), 0)
    t.is(await count('auth.verification where user_id = $1', old.id), 0)
    t.is(await count('auth.login_failure'), 1)
    t.is(await count('auth.refresh_token t left join auth.session s on s.id = t.session_id where s.id is null'), 0)
    t.is(await count('auth.verification where user_id = $1', live.id), 1)
    const refreshed = await shop.call('POST', '/auth/refresh', { body: { refreshToken: live.refreshToken } })
    t.is(refreshed.status, 200)
    t.is((await shop.login(old)).token.length > 100, true)
    t.is((await purge()).logins, 0)
  },
)

test.serial('purge, keys past their 24 hours → gone; a younger one still brings back its order', async (t) => {
  const staff = await shop.staff()
  const user = await shop.user()
  const facts = { sku: randomUUID(), name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 9 }
  const { body: product } = await shop.call('POST', '/product', { token: staff.token, body: facts })
  const order = (key: string) =>
    shop.call('POST', '/order', {
      token: user.token,
      body: { items: [{ productId: product.id, quantity: 1 }] },
      headers: { 'Idempotency-Key': key },
    })
  const young = await order('young')
  await order('old')
  await sql(`update orders.idempotency set created_at = now() - interval '25 hours' where key = 'old'`)
  t.is((await purge()).keys, 1)
  t.is((await order('young')).body.id, young.body.id)
  t.is(await count('orders.order where user_id = $1', user.id), 2)
})

test.serial('purge, pictures that nothing refers to and no message tells of → removed; others stay', async (t) => {
  const staff = await shop.staff()
  const upload = async (path: string, background: string, headers = {}) => {
    const picture = await sharp({ create: { width: 600, height: 600, channels: 3, background } })
      .png()
      .toBuffer()
    const answer = await shop.call('PUT', path, {
      token: staff.token,
      body: picture,
      headers: { 'Content-Type': 'image/png', ...headers },
    })
    t.is(answer.status, 200, answer.text)
    return answer.body.image ?? answer.body.avatar
  }
  const facts = { sku: randomUUID(), name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 9 }
  const { body: product } = await shop.call('POST', '/product', { token: staff.token, body: facts })
  const image = await upload(`/product/${product.id}/image`, '#aa0000', { 'If-Match': '*' })
  const avatar = await upload('/profile/avatar', '#00aa00')
  // As where the role died between the files and the row: nothing refers to them, and nobody ever said so.
  await sql('update products.product set image_large = null, image_small = null where id = $1', product.id)
  await sql('update auth.user set avatar_large = null, avatar_small = null where id = $1', staff.id)
  const kept = await upload(`/product/${product.id}/image`, '#0000aa', { 'If-Match': '*' })
  for (const schema of ['products', 'auth'])
    await sql(`update ${schema}.object set used_at = now() - interval '26 hours'`)

  t.is((await purge()).objects, 4)
  for (const path of [image.large, image.small, avatar.large, avatar.small])
    await eventually(`${path} is gone`, async () => (await shop.call('GET', path)).status === 404)
  t.is((await shop.call('GET', kept.large)).status, 200)
  t.is((await purge()).objects, 0)
})

test.serial(
  'purge, mails and digests of 41 days ago → forgotten; of 39 days → known, as long as a dead letter may be replayed',
  async (t) => {
    for (const days of [39, 41]) {
      await sql(
        `insert into notifications.mail_delivery (event_id, kind, claimed_by, claimed_until, created_at, sent_at)
      values ($1::int || ' days', 'order_placed', gen_random_uuid(), now(), now() - make_interval(days => $1), now())`,
        days,
      )
      await sql(
        `insert into notifications.digest (user_id, day, until)
      values (gen_random_uuid(), current_date - $1::int, now() - make_interval(days => $1))`,
        days,
      )
    }
    const { mails, digests } = await purge()
    t.deepEqual([mails, digests], [1, 1])
    t.is(await count(`notifications.mail_delivery where event_id = '39 days'`), 1)
  },
)

test.serial(
  'purge, more mails and keys than one statement has time for → all of them go, some at a time',
  async (t) => {
    await sql(
      `insert into notifications.mail_delivery (event_id, kind, claimed_by, claimed_until, created_at)
     select 'late ' || i, 'order_placed', gen_random_uuid(), now(), now() - interval '41 days' from generate_series(1, 600) i`,
    )
    await sql(
      `insert into orders.idempotency (user_id, key, fingerprint, order_id, body, created_at)
     select gen_random_uuid(), 'late', '', gen_random_uuid(), '', now() - interval '25 hours' from generate_series(1, 600)`,
    )
    // 8 ms a row: the 8 s that a statement has are enough for 1,000 of them.
    await sql(`create function public.dawdle() returns trigger language plpgsql as $$ begin
    perform pg_sleep(0.008); return old; end $$;
    create trigger dawdle before delete on notifications.mail_delivery for each row execute function public.dawdle();
    create trigger dawdle before delete on orders.idempotency for each row execute function public.dawdle()`)
    t.teardown(() => sql('drop function public.dawdle cascade'))
    const { mails, keys } = await purge()
    t.deepEqual([mails, keys], [600, 600])
    t.is((await purge()).mails, 0)
  },
)

test.serial('purge, much that is over while the database thinks that there is none → all of it goes', async (t) => {
  const tables = ['session', 'login_failure', 'audit']
  const { id } = await shop.user()
  for (const table of tables) await sql(`alter table auth.${table} set (autovacuum_enabled = off)`)
  await sql(
    `insert into auth.session (id, user_id, ip, user_agent, expires_at)
     select gen_random_uuid(), $1, '203.0.113.9', '', now() - interval '8 days' from generate_series(1, 20000)`,
    id,
  )
  await sql(
    `insert into auth.login_failure (key, failures, last_at)
     select sha256(i::text::bytea), 1, now() - interval '2 days' from generate_series(1, 20000) i`,
  )
  await sql(
    `insert into auth.audit (event, at)
     select 'login.failed', now() - interval '366 days' from generate_series(1, 20000)`,
  )
  // As after a look at what was empty, and is full again.
  for (const table of tables)
    await sql(`update pg_class set reltuples = 0, relpages = 100 where oid = $1::regclass`, `auth.${table}`)
  const { logins, audit } = await purge()
  t.deepEqual([logins, audit], [40_000, 20_000])
})
