import { headers, type JetStreamManager, type NatsConnection, type StoredMsg } from 'nats'
import { z } from 'zod'
import { stream } from '../events.ts'
import { idOf, openBus, timeOf } from './bus.ts'
import { ConfigError, config } from './config.ts'
import { openLog } from './log.ts'

/** An advisory of the server: which consumer gave which message up, after how many deliveries, and why. */
const Advisory = z.object({
  timestamp: z.string(),
  consumer: z.string(),
  stream_seq: z.int(),
  deliveries: z.int(),
  reason: z.string().default('nobody ended its last delivery'),
})

interface Letter extends z.output<typeof Advisory> {
  number: number
}

/** Letters that are listed, the newest. */
const most = 50
/** Letters that are asked for at once: of 250,000 in one go, some 40,000 to 90,000 came, and nothing said so (nats 2.29). */
const page = 1000

/**
 * What consumers gave up: `dlq` lists it, `dlq show NUMBER` shows one letter whole, `dlq replay NUMBER|all` puts messages
 * into the stream again, `dlq drop NUMBER|all` forgets them. The exit code is 1 where a message could not be replayed.
 */
export async function runDeadLetters(env: NodeJS.ProcessEnv, verb = 'list', which = '') {
  const number = /^[1-9]\d{0,14}$/.test(which) ? Number(which) : undefined
  const takes = { list: which === '', show: number, replay: number ?? which === 'all', drop: number ?? which === 'all' }
  if (!Object.hasOwn(takes, verb) || !takes[verb as keyof typeof takes])
    throw new ConfigError('the command line', [
      `dlq ${verb} ${which} is unknown; say dlq, dlq show NUMBER, dlq replay NUMBER|all or dlq drop NUMBER|all`,
    ])
  const c = config('migrate', env)
  await using bus = openBus({ name: 'migrate', c, log: openLog('error', { role: 'dlq' }), givesUp: true })
  const impatience = setTimeout(() => {
    process.stderr.write('NATS does not answer; try again when it is up\n')
    process.exit(1)
  }, c.CONN_TIMEOUT + 5000)
  const nc = await bus.connection
  clearTimeout(impatience)

  const jsm = await nc.jetstreamManager()
  const all = await readLetters(nc, jsm)
  const letters = number ? all.filter((letter) => letter.number === number) : all
  if (number && letters.length === 0)
    throw new ConfigError('the command line', [`there is no dead letter ${number}; dlq lists them`])
  if (letters.length === 0) print('There are no dead letters.')
  if (verb === 'list') await list(jsm, letters)
  else for (const letter of letters) await end(nc, jsm, letter, verb)
}

/** All letters, oldest first. */
async function readLetters(nc: NatsConnection, jsm: JetStreamManager): Promise<Letter[]> {
  const { state } = await jsm.streams.info('dlq')
  const consumer = await nc.jetstream().consumers.get('dlq')
  const letters: Letter[] = []
  while (letters.length < state.messages) {
    const known = letters.length
    const messages = await consumer.fetch({ max_messages: Math.min(page, state.messages - known), expires: 5000 })
    for await (const m of messages) letters.push({ ...Advisory.parse(m.json()), number: m.seq })
    // Somebody else has dropped the rest meanwhile.
    if (letters.length === known) break
  }
  return letters
}

/** The message of a letter; undefined where the stream has it no more: it keeps messages for 7 days at most, and letters for 30. */
const messageOf = (jsm: JetStreamManager, letter: Letter): Promise<StoredMsg | undefined> =>
  jsm.streams.getMessage(stream, { seq: letter.stream_seq }).catch((error) => {
    if (error.api_error?.code === 404) return undefined
    throw error
  })

async function list(jsm: JetStreamManager, letters: Letter[]) {
  const shown = letters.slice(-most)
  const messages = await Promise.all(shown.map((letter) => messageOf(jsm, letter)))
  for (const [at, letter] of shown.entries()) {
    const subject = messages[at]?.subject ?? '(gone)'
    const when = letter.timestamp.slice(0, 19)
    print(`${String(letter.number).padStart(6)}  ${when}  ${letter.consumer}  ${subject}  ${letter.reason}`)
  }
  if (letters.length > most) print(`and ${letters.length - most} older ones`)
}

async function end(nc: NatsConnection, jsm: JetStreamManager, letter: Letter, verb: string) {
  const message = await messageOf(jsm, letter)
  if (verb === 'show') return show(letter, message)
  if (verb === 'replay') {
    if (!message) {
      process.stderr.write(`${letter.number}: the stream has its message no more; it keeps them for 7 days at most\n`)
      process.exitCode = 1
      return
    }
    await replay(nc, letter, message)
  }
  await jsm.streams.deleteMessage('dlq', letter.number)
  print(`${letter.number} ${verb === 'replay' ? 'replayed' : 'dropped'}`)
}

/**
 * Under the event's own id, so that a mail which went out after all goes out no more, and with its time, by which a code has
 * run out; the stream, which would take that id for a duplicate within 2 minutes, gets one of the letter.
 */
async function replay(nc: NatsConnection, letter: Letter, message: StoredMsg) {
  const id = idOf(message.header, letter.stream_seq)
  const carried = headers()
  carried.set('Event-Id', id)
  carried.set('Event-Time', timeOf(message.header, message.time).toISOString())
  await nc.jetstream().publish(message.subject, message.data, {
    msgID: `${id}.${letter.number}`,
    headers: carried,
    expect: { streamName: stream },
  })
}

function show(letter: Letter, message: StoredMsg | undefined) {
  print(`letter      ${letter.number}, of ${letter.timestamp}`)
  print(`consumer    ${letter.consumer}, after ${letter.deliveries} deliveries`)
  print(`reason      ${letter.reason}`)
  if (!message) return print('message     gone; the stream keeps messages for 7 days at most')
  print(`message     ${message.subject}, of ${message.time.toISOString()}`)
  print(`event       ${idOf(message.header, letter.stream_seq)}`)
  print(readable(message.string()))
}

/** A payload for people: what opens an account is left out, and a terminal gets no control characters. */
function readable(payload: string) {
  let text = payload
  try {
    text = JSON.stringify(JSON.parse(payload), (key, value) => (/^(token|code)$/.test(key) ? '…' : value), 2)
  } catch {
    // shown as it is
  }
  return text.replace(/[^\P{Cc}\n]/gu, '\ufffd').slice(0, 10_000)
}

const print = (text: string) => process.stdout.write(`${text}\n`)
