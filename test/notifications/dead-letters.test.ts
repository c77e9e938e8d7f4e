import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { headers } from 'nats'
import { stream } from '../../src/events.ts'
import { eventually } from '../support/shop.ts'
import { messageId, orderOf, person, usePost } from './post.ts'

const { shop, sink, publish, tell, mailOf, settled, onBus, metric } = usePost(test)

const dlq = async (...args: string[]) => (await shop.run('migrate', 'commands.ts', 'dlq', ...args)).stdout
/** The number of the letter whose line has `text`. */
const letterWith = (text: string) =>
  eventually(`a dead letter with ${text}`, async () => {
    const line = (await dlq()).split('\n').find((one) => one.includes(text))
    return line?.trim().split(' ')[0]
  })
const copiesOf = (id: string) => sink.taken.filter((mail) => mail.messageId === messageId(id)).length

test.serial.afterEach(() => {
  sink.judge = () => undefined
})

test.serial('dlq, nothing was given up → says so', async (t) => {
  for (const args of [[], ['replay', 'all'], ['drop', 'all']]) t.is(await dlq(...args), 'There are no dead letters.\n')
})

test.serial(
  '550, then the mailbox is mended → listed, shown without its secret, replayed: one mail, and no letter',
  async (t) => {
    sink.judge = () => ({ code: 550, text: '5.1.1 no such user here' })
    const user = person('en')
    const id = await tell('msg.user.login_code_requested', { ...user, code: '012345' })
    const number = await letterWith('550 5.1.1 no such user here')
    t.regex(await dlq(), / mailer {2}msg\.user\.login_code_requested {2}/)
    const shown = await dlq('show', number)
    for (const fact of [id, user.email, 'msg.user.login_code_requested', 'no such user here'])
      t.true(shown.includes(fact))
    t.false(shown.includes('012345'))

    sink.judge = () => undefined
    t.is(await dlq('replay', number), `${number} replayed\n`)
    await mailOf(id)
    await settled()
    t.is(copiesOf(id), 1)
    t.is(await dlq(), 'There are no dead letters.\n')
    // By which the code runs out, however late it is replayed.
    const { last, first } = await onBus(async (nc) => {
      const { streams } = await nc.jetstreamManager()
      const last = await streams.getMessage(stream, { last_by_subj: 'msg.user.login_code_requested' })
      return { last, first: await streams.getMessage(stream, { seq: last.seq - 1 }) }
    })
    t.is(last.header.get('Event-Time'), first.time.toISOString())
  },
)

test.serial('a code of 11 minutes, a link of 61 → not sent; a link of 59 is', async (t) => {
  const ages = [
    ['msg.user.login_code_requested', 11],
    ['msg.user.password_reset_requested', 61],
    ['msg.user.password_reset_requested', 59],
  ] as const
  const ids = await onBus((nc) =>
    Promise.all(
      ages.map(async ([subject, minutes]) => {
        const id = randomUUID()
        const carried = headers()
        carried.set('Event-Time', new Date(Date.now() - minutes * 60_000).toISOString())
        const data = JSON.stringify({ ...person('en'), code: '012345', token: 'a-token_of-43-characters' })
        await nc.jetstream().publish(subject, data, { msgID: id, headers: carried })
        return id
      }),
    ),
  )
  await settled()
  t.deepEqual(ids.map(copiesOf), [0, 0, 1])
})

test.serial('an error at every delivery → given up after maxDeliver of them, with the last reason', async (t) => {
  await onBus(async (nc) => (await nc.jetstreamManager()).consumers.update(stream, 'mailer', { max_deliver: 3 }))
  await shop.roles.notifications.restart()
  const user = person('en')
  sink.judge = (recipient) => (recipient === user.email ? { code: 450, text: '4.2.1 mailbox busy' } : undefined)
  const id = await tell('msg.user.password_changed', user)
  const number = await letterWith('given up after 3 deliveries: the mail server said: 450 4.2.1 mailbox busy')
  t.is(await metric('bus_messages_total', { consumer: 'mailer', result: 'nak' }), 2)
  t.is(await metric('bus_messages_total', { consumer: 'mailer', result: 'term' }), 1)
  t.is(copiesOf(id), 0)
  await dlq('drop', number)
})

test.serial(
  'an event of a later version → waits for code that knows it, and is given up when none comes',
  async (t) => {
    const nak = await metric('bus_messages_total', { consumer: 'mailer', result: 'nak' })
    await publish([{ subject: 'msg.order.of_a_later_version', data: orderOf(person('en')), id: randomUUID() }])
    const number = await letterWith(
      'given up after 3 deliveries: msg.order.of_a_later_version is an event of another version',
    )
    t.is(await metric('bus_messages_total', { consumer: 'mailer', result: 'nak' }), nak + 2)
    await dlq('drop', number)
  },
)

test.serial('a mail that cannot be recorded, among 30 → they are sent at once, and it alone is given up', async (t) => {
  await shop.roles.notifications.stop()
  // Longer than an entry of an index may be. They are recorded together, so it could take the others with it.
  const ids = [...Array.from({ length: 30 }, () => randomUUID()), randomBytes(2000).toString('hex')]
  await publish(ids.map((id) => ({ subject: 'msg.user.password_changed', data: person('en'), id })))
  await shop.roles.notifications.restart()
  for (const id of ids.slice(0, 30)) await mailOf(id)
  const number = await letterWith('given up after 3 deliveries: index row size')
  t.is(await metric('bus_messages_total', { consumer: 'mailer', result: 'ack' }), 30)
  t.is(await metric('bus_messages_total', { consumer: 'mailer', result: 'nak' }), 2)
  await dlq('drop', number)
})

test.serial(
  'the role dies at the last delivery → the server gives the message up, and the letter says what is known',
  async (t) => {
    await onBus(async (nc) =>
      (await nc.jetstreamManager()).consumers.update(stream, 'mailer', { max_deliver: 1, ack_wait: 1_000_000_000 }),
    )
    await shop.roles.notifications.restart()
    const user = person('en')
    const reached = Promise.withResolvers<void>()
    sink.pause = async () => {
      reached.resolve()
      await sleep(60_000, undefined, { ref: false })
    }
    await tell('msg.user.password_changed', user)
    await reached.promise
    await shop.roles.notifications.kill('SIGKILL')
    sink.pause = async () => {}
    await shop.roles.notifications.restart()
    const number = await letterWith('nobody ended its last delivery')
    t.is(await dlq('drop', number), `${number} dropped\n`)
    await shop.run('migrate', 'main.ts', 'migrate')
    await shop.roles.notifications.restart()
  },
)

test.serial(
  'replay all, a poison message among the letters → the others go out, and it is given up once more',
  async (t) => {
    sink.judge = () => ({ code: 550, text: '5.1.1 no such user here' })
    const ids = await Promise.all([person('de'), person('hi')].map((user) => tell('msg.user.password_changed', user)))
    await publish([{ subject: 'msg.order.placed', data: 'no json \u001b[31m', id: randomUUID() }])
    await eventually('three letters', async () => (await dlq()).trim().split('\n').length === 3)
    const poison = await letterWith('the payload is not JSON')
    t.false((await dlq('show', poison)).includes('\u001b'))

    sink.judge = () => undefined
    t.is((await dlq('replay', 'all')).match(/replayed/g)?.length, 3)
    for (const id of ids) await mailOf(id)
    t.not(await letterWith('the payload is not JSON'), poison)
    t.is((await dlq()).trim().split('\n').length, 1)
  },
)

test.serial('a mail that went out after all, replayed → no second mail', async (t) => {
  const id = await tell('msg.user.password_changed', person('en'))
  await mailOf(id)
  await settled()
  // What a replay of its letter would send.
  await onBus(async (nc) => {
    const carried = headers()
    carried.set('Event-Id', id)
    const jsm = await nc.jetstreamManager()
    const { data, subject } = await jsm.streams.getMessage(stream, { last_by_subj: 'msg.user.password_changed' })
    await nc.jetstream().publish(subject, data, { msgID: `${id}.1`, headers: carried })
  })
  await eventually('it is known', async () => (await metric('mails_total', { result: 'repeated' })) > 0)
  t.is(copiesOf(id), 1)
})

test.serial('1,100 letters, more than are asked for at once → all of them are counted', async (t) => {
  const none = () => onBus(async (nc) => (await nc.jetstreamManager()).streams.purge('dlq'))
  await none()
  await publish(
    Array.from({ length: 1100 }, () => ({ subject: 'msg.order.placed', data: 'no json', id: randomUUID() })),
  )
  await settled()
  t.regex(await dlq(), /\nand 1050 older ones\n$/)
  await none()
})

for (const args of [['show'], ['replay', 'everything'], ['replay', '0'], ['constructor'], ['show', '999999']])
  test.serial(`dlq ${args.join(' ')} → exit code 78, and what there is to say`, async (t) => {
    const error = await t.throwsAsync(dlq(...args))
    t.regex(error?.message ?? '', /dlq show NUMBER|there is no dead letter 999999; dlq lists them/)
  })

test.serial('dlq, the bus refuses what is asked → says so, and names no other part', async (t) => {
  await onBus(async (nc) => (await nc.jetstreamManager()).streams.delete('dlq'))
  t.teardown(() => shop.run('migrate', 'main.ts', 'migrate'))
  const error = await t.throwsAsync(dlq())
  t.regex(error?.message ?? '', /dlq: NATS refuses or does not answer \(stream not found\); migrate makes the streams/)
  // Its answers go to an inbox that this login may not read.
  const stranger = await t.throwsAsync(shop.run('notifications', 'commands.ts', 'dlq'))
  t.regex(stranger?.message ?? '', /dlq: NATS refuses or does not answer/)
})
