import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { AckPolicy, connect, type NatsConnection, nanos } from 'nats'
import { consumers } from '../../src/events.ts'
import { type Role, roleNames } from '../../src/platform/config.ts'
import { useShop } from '../support/shop.ts'

const shop = useShop(test, { roles: [] })

/** A connection with the NATS user of a role, and the faults that the server tells it of. */
async function connectAs(user: Role | 'migrate', change: { pass?: string } = {}) {
  const url = new URL(readFileSync(join(shop.secretsDir(user), 'NATS_BROKER_URL'), 'utf8'))
  return connect({
    servers: url.host,
    user,
    pass: url.password,
    inboxPrefix: `_INBOX.${user}`,
    reconnect: false,
    ...change,
  })
}
const within = 1500
/** Whether JetStream takes a message of this subject from the user. */
const mayPublish = (nc: NatsConnection, subject: string) =>
  nc
    .jetstream({ timeout: within })
    .publish(subject, '{}')
    .then(
      () => true,
      () => false,
    )
const mayAsk = (nc: NatsConnection, subject: string) =>
  nc.request(subject, '', { timeout: within }).then(
    () => true,
    () => false,
  )
const configuration = async () => {
  const nc = await connectAs('migrate')
  const jsm = await nc.jetstreamManager()
  const streams = (await jsm.streams.list().next()).map(({ config }) => config)
  const durables = (await jsm.consumers.list('messages').next()).map(({ config }) => config)
  await nc.close()
  return { streams, durables }
}

test.serial(
  'migrate → the stream of events on disk, 2 minutes without duplicates, 7 days; the dead letters 30; again, the same',
  async (t) => {
    const { streams, durables } = await configuration()
    const day = 24 * 3600 * 1000
    t.like(
      streams.find(({ name }) => name === 'messages'),
      {
        subjects: ['msg.>'],
        storage: 'file',
        num_replicas: 1,
        duplicate_window: nanos(120_000),
        max_age: nanos(7 * day),
        max_bytes: 6144 * 1024 ** 2,
        discard: 'old',
      },
    )
    t.like(
      streams.find(({ name }) => name === 'dlq'),
      { storage: 'file', max_age: nanos(30 * day), max_bytes: 256 * 1024 ** 2, discard: 'old' },
    )
    t.deepEqual(durables.map(({ durable_name }) => durable_name).sort(), Object.keys(consumers).sort())
    for (const { ack_policy, deliver_subject } of durables) {
      t.is(ack_policy, AckPolicy.Explicit)
      // Pulled.
      t.is(deliver_subject, undefined)
    }
    await shop.run('migrate', 'main.ts', 'migrate')
    t.deepEqual(await configuration(), { streams, durables })
  },
)

const size = (mebibytes: string) => writeFileSync(join(shop.secretsDir('migrate'), 'NATS_STREAM_SIZE'), mebibytes)

test.serial(
  'more events than there is room for → what was handled long ago goes, and publishing goes on',
  async (t) => {
    size('16')
    await shop.run('migrate', 'main.ts', 'migrate')
    const nc = await connectAs('migrate')
    t.teardown(() => nc.close())
    const event = JSON.stringify('x'.repeat(900_000))
    const seqs: number[] = []
    for (let i = 0; i < 40; i++) seqs.push((await nc.jetstream().publish('msg.user.changed', event)).seq)
    const { state } = await (await nc.jetstreamManager()).streams.info('messages')
    t.true(state.bytes <= 16 * 1024 ** 2, `${state.bytes} bytes`)
    t.true(state.first_seq > Number(seqs[0]))
    t.is(seqs.at(-1), state.last_seq)
  },
)

test.serial('more than NATS has room for → migrate ends with the setting, the rule and what to do', async (t) => {
  size('9000')
  const error = await t.throwsAsync(shop.run('migrate', 'main.ts', 'migrate'))
  t.regex(
    error?.message ?? '',
    /NATS_STREAM_SIZE is 9000, and NATS has no room .*set it lower, or give NATS a larger store/,
  )
  size('6144')
  await shop.run('migrate', 'main.ts', 'migrate')
})

const own: Record<Role, string[]> = {
  auth: ['msg.user.registered'],
  products: ['msg.product.image_changed'],
  orders: ['msg.order.placed'],
  notifications: [],
}
for (const role of roleNames)
  test(`the NATS user of ${role} → publishes its own events and no other, and has only its own consumers`, async (t) => {
    const nc = await connectAs(role)
    t.teardown(() => nc.close())
    const subjects = Object.values(own).flat()
    const published = await Promise.all(subjects.map((subject) => mayPublish(nc, subject)))
    t.deepEqual(
      subjects.filter((_, at) => published[at]),
      own[role],
    )
    const named = Object.entries(consumers)
    const seen = await Promise.all(named.map(([name]) => mayAsk(nc, `$JS.API.CONSUMER.INFO.messages.${name}`)))
    t.deepEqual(
      named.filter((_, at) => seen[at]).map(([name]) => name),
      named.filter(([, consumer]) => consumer.role === role).map(([name]) => name),
    )
    for (const administration of [
      'STREAM.INFO.messages',
      'STREAM.DELETE.messages',
      'STREAM.PURGE.messages',
      'STREAM.MSG.GET.messages',
      'CONSUMER.CREATE.messages',
      'STREAM.INFO.dlq',
    ])
      t.false(await mayAsk(nc, `$JS.API.${administration}`), administration)
  })

test('a wrong password, or none → the bus lets nobody in', async (t) => {
  await t.throwsAsync(connectAs('orders', { pass: 'wrong' }), { message: /authorization/i })
  const { host } = new URL(readFileSync(join(shop.secretsDir('orders'), 'NATS_BROKER_URL'), 'utf8'))
  await t.throwsAsync(connect({ servers: host, reconnect: false }), { message: /authorization/i })
})
