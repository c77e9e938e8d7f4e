import { mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { query } from '../../src/embedded/postgres.ts'
import { findSeaweedfs } from '../../src/embedded/programs.ts'
import { type Seaweedfs, startSeaweedfs } from '../../src/embedded/seaweedfs.ts'
import { eventually, openShop, type TestShop, type TestUser } from '../support/shop.ts'
import { jpeg } from './corpus.ts'

let s3: Seaweedfs
let shop: TestShop
let user: TestUser
let close = async () => {}
test.serial.before(async (t) => {
  t.timeout(300_000)
  const dir = mkdtempSync(join(tmpdir(), 'weed-'))
  s3 = await startSeaweedfs({ program: findSeaweedfs(t.log), dir, log: join(dir, 'log') })
  const env = { S3_URL: s3.url, S3_ACCESS_KEY: s3.accessKey, S3_SECRET_KEY: s3.secretKey }
  ;({ shop, close } = await openShop({ env, ownPostgres: true }))
  user = await shop.user()
})
test.after.always(async () => {
  await close()
  await s3?.stop()
})

const put = async (side: number) => {
  const answer = await shop.call('PUT', '/profile/avatar', {
    token: user.token,
    body: await jpeg(side, side),
    headers: { 'Content-Type': 'image/jpeg' },
  })
  return { status: answer.status, code: answer.body.code, avatar: answer.body.avatar }
}
const standsStill = (pid: number) =>
  process.platform !== 'linux' ||
  readdirSync(`/proc/${pid}/task`).every((id) =>
    /^State:\s+T/m.test(readFileSync(`/proc/${pid}/task/${id}/status`, 'utf8')),
  )
const statusOf = async (path: string, headers = {}) => (await shop.call('GET', path, { headers })).status
/** Brings a change of a picture whose day is over. */
const aDayIsOver = () => query(shop.databaseUrl, `select auth.tell_unused('', 1000)`)
const profile = async () => (await shop.call('GET', '/profile', { token: user.token })).body

test.serial('an S3 without the bucket → the roles make it, and pictures go there and come from there', async (t) => {
  await eventually('the store is ready', async () => {
    const { checks } = (await (await fetch(`${shop.roles.auth.url}/readyz`)).json()) as { checks: { objects: string } }
    return checks.objects === 'ok'
  })
  const { status, avatar } = await put(300)
  t.is(status, 200)
  t.is(await statusOf(avatar.large), 200)
  t.is(await statusOf(avatar.small, { Range: 'bytes=2-5' }), 206)
  t.is(await statusOf(avatar.small, { Range: 'bytes=999999-' }), 416)
  t.is(await statusOf(`/avatar/${'0'.repeat(64)}`), 404)
})

test.serial('the S3 killed → 503 for pictures and nothing else; back again, all is as before', async (t) => {
  t.timeout(150_000)
  const { avatar } = await put(310)
  await s3.kill('SIGKILL')
  t.is(await statusOf(avatar.large), 503)
  t.is(await statusOf(avatar.large, { Range: 'bytes=0-1' }), 503)
  t.is(await statusOf(avatar.large, { 'If-None-Match': `"${avatar.large.split('/').at(-1)}"` }), 304)
  t.like(await put(320), { status: 503, code: 'unavailable' })
  t.deepEqual((await profile()).avatar, avatar)
  t.is(await statusOf('/product'), 200)
  const ready = await fetch(`${shop.roles.auth.url}/readyz`)
  t.is(ready.status, 200)
  t.not(((await ready.json()) as { checks: { objects: string } }).checks.objects, 'ok')

  t.is((await shop.call('DELETE', '/profile/avatar', { token: user.token })).status, 204)
  await query(shop.databaseUrl, `update auth.object set used_at = used_at - interval '2 days'`)
  await aDayIsOver()
  await eventually('the removal is tried in vain', async () => {
    const metrics = await (await fetch(shop.roles.auth.metricsUrl)).text()
    return /bus_messages_total\{consumer="avatars",result="nak"\} [1-9]/.test(metrics)
  })
  // SeaweedFS takes 15 s and more to find itself again; the message that waits would be tried up to 30 s after that.
  await s3.restart()
  await aDayIsOver()
  await eventually('the picture is removed', async () => (await statusOf(avatar.large)) === 404, 60_000)
  t.is((await put(330)).status, 200)
})

test.serial('the S3 frozen → 503 before the edge gives up, and again as before when it goes on', async (t) => {
  t.timeout(120_000)
  const { avatar } = await put(340)
  await s3.kill('SIGSTOP')
  await eventually('all its threads stand still', async () => standsStill(s3.pid as number))
  try {
    const [got, sent] = await Promise.all([statusOf(avatar.large), put(350)])
    t.is(got, 503)
    t.like(sent, { status: 503, code: 'unavailable' })
  } finally {
    await s3.kill('SIGCONT')
  }
  await eventually('the picture is there', async () => (await statusOf(avatar.large)) === 200, 40_000)
  t.deepEqual((await profile()).avatar, avatar)
})
