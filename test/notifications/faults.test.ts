import { randomUUID } from 'node:crypto'
import { createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { headers } from 'nats'
import { openSmtp } from '../../src/notifications/smtp.ts'
import { openLog } from '../../src/platform/log.ts'
import { eventually } from '../support/shop.ts'
import { messageId, orderOf, person, restSchedules, usePost, zoneAt } from './post.ts'

// One role and one mail server for all, and each test breaks them: they run one after the other.
/** Milliseconds until the mail server greets. */
let greeting = 0
const { shop, sink, sql, onBus, publish, tell, mailOf, settled, waiting, deadLetters, metric } = usePost(test, {
  smtp: { onConnect: (_session, done) => void setTimeout(done, greeting) },
  shop: { ownPostgres: true },
})

test.serial.afterEach(async () => {
  sink.judge = () => undefined
  sink.pause = async () => {}
})

const notices = (count: number) =>
  Array.from({ length: count }, () => ({ subject: 'msg.user.password_changed', data: person('en'), id: randomUUID() }))
const copiesOf = (id: string) => sink.taken.filter((mail) => mail.messageId === messageId(id)).length

test.serial('mail server down → nothing is lost or given up; each mail is sent once when it is back', async (t) => {
  await sink.down()
  const messages = notices(300)
  await publish(messages)
  await eventually(
    'the role notices',
    async () => (await metric('dependency_reachable', { dependency: 'mail server' })) === 0,
  )
  await eventually('mails are held', async () => (await metric('mails_total', { result: 'held' })) > 0)
  t.is(await waiting(), 300)
  // Those it has begun; more would be delivered again, and again, while they wait.
  t.true((await metric('bus_consumer_lag', { consumer: 'mailer', state: 'in_hand' })) <= 64)
  t.is((await fetch(`${shop.roles.notifications.url}/readyz`)).status, 200)
  await sink.up()
  await settled(60_000)
  t.deepEqual(
    messages.filter(({ id }) => copiesOf(id) !== 1),
    [],
  )
  t.deepEqual(await deadLetters(), [])
  t.is(await metric('dependency_reachable', { dependency: 'mail server' }), 1)
})

test.serial(
  'mail server down, the role stops → within its grace, and the mail comes after the next start',
  async (t) => {
    await sink.down()
    const held = await metric('mails_total', { result: 'held' })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually('the mail is held', async () => (await metric('mails_total', { result: 'held' })) > held)
    const began = Date.now()
    await shop.roles.notifications.stop()
    t.true(Date.now() - began < 5000)
    await sink.up()
    await shop.roles.notifications.restart()
    await mailOf(id)
    await settled()
    t.is(copiesOf(id), 1)
    t.deepEqual(await deadLetters(), [])
  },
)

for (const [what, code, text] of [
  ['closes with 421', 421, '4.3.2 shutting down'],
  ['has no space', 452, '4.3.1 insufficient system storage'],
  ['wants us to sign in', 530, '5.7.0 authentication required'],
] as const)
  test.serial(`mail server ${what} → the mail is held, then sent`, async (t) => {
    sink.judge = () => ({ code, text })
    const held = await metric('mails_total', { result: 'held' })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually(
      'the mail is tried twice',
      async () => (await metric('mails_total', { result: 'held' })) >= held + 2,
    )
    sink.judge = () => undefined
    await mailOf(id)
    await settled()
    t.is(copiesOf(id), 1)
    t.deepEqual(await deadLetters(), [])
  })

test.serial('connection reset after the data → sent again under the same Message-ID', async (t) => {
  let tries = 0
  sink.pause = async () => {
    tries++
  }
  sink.judge = () => (tries < 3 ? 'reset' : undefined)
  const id = await tell('msg.user.password_changed', person('en'))
  await mailOf(id)
  await settled()
  t.is(tries, 3)
  t.is(copiesOf(id), 1)
})

test.serial('one mail always ends the connection, others pass → it stands in nobody’s way', async (t) => {
  const user = person('en')
  sink.judge = (recipient) => (recipient === user.email ? 'reset' : undefined)
  await tell('msg.user.password_changed', user)
  const deferred = await metric('mails_total', { result: 'deferred' })
  await eventually(
    'the mail itself is thought to be at fault',
    async () => {
      const other = await tell('msg.user.password_changed', person('en'))
      await mailOf(other)
      return (await metric('mails_total', { result: 'deferred' })) > deferred
    },
    60_000,
  )
  sink.judge = () => undefined
  await settled(60_000)
  t.deepEqual(await deadLetters(), [])
})

test.serial('450 for a recipient → tried again later, and others do not wait', async (t) => {
  const [busy, other] = [person('en'), person('en')]
  sink.judge = (recipient) => (recipient === busy.email ? { code: 450, text: '4.2.1 mailbox busy' } : undefined)
  const deferred = await metric('mails_total', { result: 'deferred' })
  const id = await tell('msg.user.password_changed', busy)
  await eventually('it is put off', async () => (await metric('mails_total', { result: 'deferred' })) > deferred)
  await mailOf(await tell('msg.user.password_changed', other))
  t.is(copiesOf(id), 0)
  sink.judge = () => undefined
  await mailOf(id)
  await settled()
  t.deepEqual(await deadLetters(), [])
})

test.serial('550 for a recipient → in the dead letters at once, with what the server said', async (t) => {
  sink.judge = () => ({ code: 550, text: '5.1.1 no such user here' })
  const [seq] = await publish(notices(1))
  await settled()
  const letter = (await deadLetters()).find((dead) => dead.seq === seq)
  t.regex(letter?.reason ?? '', /550 5\.1\.1 no such user here/)
  sink.judge = () => undefined
  const id = await tell('msg.user.password_changed', person('en'))
  await mailOf(id)
})

test.serial(
  '550 for more mails than there are connections, each ended before RSET is answered → in the dead letters at once, and the next goes out',
  async (t) => {
    sink.judge = () => ({ code: 550, text: '5.1.1 no such user here', cutsOnReset: true })
    const refused = await publish(notices(25))
    await settled()
    const letters = (await deadLetters()).filter(({ seq }) => refused.includes(seq))
    t.is(letters.length, 25)
    for (const { reason } of letters) t.regex(reason, /550 5\.1\.1 no such user here/)
    sink.judge = () => undefined
    await mailOf(await tell('msg.user.password_changed', person('en')))
    await settled()
  },
)

test.serial('connection reset after the data of a digest → it is lost, and never sent twice', async (t) => {
  const [user] = await sql(
    `insert into auth.user (id, email, name, locale, time_zone, roles, email_verified_at)
     values (gen_random_uuid(), 'staff@example.org', '', 'en', $1, '{staff}', now()) returning email`,
    zoneAt(10),
  )
  await sql(
    `insert into orders.order (id, user_id, email, status, currency, total)
     values (gen_random_uuid(), gen_random_uuid(), 'buyer@example.org', 'paid', 'EUR', 100)`,
  )
  await restSchedules(shop.databaseUrl)
  let tries = 0
  sink.pause = async (mail) => {
    if (mail.recipients.includes(user.email)) tries++
  }
  sink.judge = () => (tries > 0 ? 'reset' : undefined)
  const digests = async () => (await shop.run('notifications', 'commands.ts', 'job', 'send-digests')).stdout
  t.regex(await digests(), /^send-digests: \{"mails":0\}$/m)
  t.is(tries, 1)
  sink.judge = () => undefined
  t.regex(await digests(), /^send-digests: \{"mails":0\}$/m)
  t.is(tries, 1)
  await sql('truncate auth.user cascade')
})

test.serial(
  'a mail server that is slow to greet, and to answer a mail that it has → the mail comes once',
  async (t) => {
    // No connection stands that was greeted before.
    await sink.down()
    await sink.up()
    // Beyond the time to connect (3 s).
    greeting = 5000
    let came = 0
    // Beyond a sign of life (10 s), and the silence that is borne elsewhere (20 s).
    sink.pause = () => {
      came++
      return sleep(25_000)
    }
    const id = await tell('msg.user.password_changed', person('en'))
    await mailOf(id, 50_000)
    greeting = 0
    await settled()
    t.is(came, 1)
    t.is(copiesOf(id), 1)
  },
)

for (const [what, timeouts, code] of [
  ['never answers a mail that it has', { socketTimeout: 20_000, dataTimeout: 500 }, 'ETIMEDOUT'],
  ['is cut off late, before it answers a mail that it has', { socketTimeout: 500, dataTimeout: 20_000 }, 'ECONNECTION'],
] as const)
  test.serial(`a mail server that ${what} → the mail is told from a server away`, async (t) => {
    await using smtp = openSmtp({
      url: sink.url,
      hostname: 'shop.example.org',
      connections: 1,
      connectTimeout: 3000,
      ...timeouts,
      stopping: new AbortController().signal,
      log: openLog('silent', {}),
    })
    const envelope = { from: 'mail@example.org', to: ['ada@example.org'] }
    sink.judge = () => 'reset'
    sink.pause = () => sleep(1000)
    const fault = await smtp.send(envelope, Buffer.from('Subject: one\r\n\r\none\r\n')).catch((error) => error)
    t.like(fault, { code, unanswered: true })
    sink.judge = () => undefined
    sink.pause = async () => {}
    await t.notThrowsAsync(smtp.send(envelope, Buffer.from('Subject: two\r\n\r\ntwo\r\n')))
  })

test.serial('a mail waits for a connection longer than its claim, delivered again → sent once', async (t) => {
  const free = Promise.withResolvers<void>()
  let busy = 0
  sink.pause = () => {
    busy++
    return free.promise
  }
  await publish(notices(10))
  await eventually('every connection is busy', async () => busy === 10)
  const data = person('en')
  const id = await tell('msg.user.password_changed', data)
  // As if it had waited for 14 s: its claim ends in 11 s, the connections bear a silence of 20 s.
  await eventually('its claim is old', () =>
    sql(
      `update notifications.mail_delivery set claimed_until = claimed_until - interval '14 seconds'
       where event_id = $1 returning event_id`,
      id,
    ).then((rows) => rows.length === 1),
  )
  await sleep(12_500)
  const deferred = await metric('mails_total', { result: 'deferred' })
  await onBus(async (nc) => {
    const copy = headers()
    copy.set('Event-Id', id)
    await nc.jetstream().publish('msg.user.password_changed', JSON.stringify(data), { headers: copy })
  })
  await sleep(2000)
  free.resolve()
  await mailOf(id)
  await settled()
  t.is(copiesOf(id), 1)
  t.is((await metric('mails_total', { result: 'deferred' })) - deferred, 1)
})

test.serial('a mail server that takes connections and says nothing → the mail is held, then sent', async (t) => {
  await sink.down()
  const silent = createServer().listen(sink.port, '127.0.0.1')
  const sockets = new Set<Socket>()
  silent.on('connection', (socket) => sockets.add(socket.on('error', () => {})))
  const held = await metric('mails_total', { result: 'held' })
  const id = await tell('msg.user.password_changed', person('en'))
  await eventually('it is held', async () => (await metric('mails_total', { result: 'held' })) > held, 30_000)
  for (const socket of sockets) socket.destroy()
  await new Promise((resolve) => silent.close(resolve))
  await sink.up()
  await mailOf(id)
  await settled()
  t.is(copiesOf(id), 1)
})

test.serial('a mail server that comes and goes 20 times under 400 mails → each is taken, none given up', async (t) => {
  sink.pause = () => sleep(10)
  const letters = await deadLetters()
  const messages = notices(400)
  const before = sink.taken.length
  await publish(messages)
  for (let i = 0; i < 20; i++) {
    const taken = sink.taken.length
    // Down in the middle of work, each time.
    if (taken < before + 400)
      await eventually('some are taken', async () => sink.taken.length >= Math.min(taken + 5, before + 400))
    await sink.down()
    await sink.up()
  }
  await settled(90_000)
  const copies = messages.map(({ id }) => copiesOf(id))
  t.true(copies.every((count) => count >= 1))
  // What was taken while its answer was cut off comes again: at most one a connection, each time.
  t.true(copies.filter((count) => count > 1).length <= 200, String(copies.filter((count) => count > 1).length))
  t.deepEqual(await deadLetters(), letters)
})

test.serial(
  'PostgreSQL killed once a mail is taken and not yet marked → it waits, marks it, and sends no second',
  async (t) => {
    const postgres = shop.postgres
    if (!postgres) return t.fail('this file has a PostgreSQL of its own')
    sink.pause = async () => {
      sink.pause = async () => {}
      await postgres.kill('SIGKILL')
    }
    const messages = notices(20)
    await publish(messages)
    await eventually(
      'the role notices',
      async () => (await metric('dependency_reachable', { dependency: 'database' })) === 0,
    )
    await postgres.restart()
    await settled(60_000)
    t.deepEqual(
      messages.filter(({ id }) => copiesOf(id) !== 1),
      [],
    )
    const marked = await sql(
      'select event_id from notifications.mail_delivery where sent_at is not null and event_id = any($1)',
      messages.map(({ id }) => id),
    )
    t.is(marked.length, 20)
    t.deepEqual(await deadLetters().then((letters) => letters.filter(({ reason }) => !reason.includes('550'))), [])
  },
)

test.serial(
  'acknowledgement lost: NATS and the role killed after the mark → delivered again, and no second mail',
  async (t) => {
    const killed = Promise.withResolvers<void>()
    sink.pause = async () => {
      await shop.nats.kill('SIGKILL')
      killed.resolve()
    }
    const id = await tell('msg.user.password_changed', person('en'))
    await killed.promise
    sink.pause = async () => {}
    await eventually(
      'the mail is marked',
      async () =>
        (await sql('select from notifications.mail_delivery where event_id = $1 and sent_at is not null', id)).length,
    )
    await shop.roles.notifications.kill('SIGKILL')
    await shop.nats.restart()
    await shop.roles.notifications.restart()
    await settled(60_000)
    t.true((await metric('mails_total', { result: 'repeated' })) >= 1)
    t.is(copiesOf(id), 1)
  },
)

test.serial(
  'the role killed in the middle of many mails → after its start each was taken, all but those in hand once',
  async (t) => {
    sink.pause = () => sleep(20)
    const messages = Array.from({ length: 300 }, () => {
      const data = orderOf(person('de'))
      return { subject: 'msg.order.placed', data, id: randomUUID() }
    })
    const before = sink.taken.length
    await publish(messages)
    await eventually('some mails are taken', async () => sink.taken.length > before + 60)
    await shop.roles.notifications.kill('SIGKILL')
    t.true(sink.taken.length < before + 300)
    await shop.roles.notifications.restart()
    await settled(90_000)
    const copies = messages.map(({ id }) => copiesOf(id))
    t.true(copies.every((count) => count >= 1))
    // A mail that the server took whose mark died with the role cannot be told from one it did not take: at most one a connection, and those whose mark was on its way.
    t.true(copies.filter((count) => count > 1).length <= 30, String(copies.filter((count) => count > 1).length))
  },
)
