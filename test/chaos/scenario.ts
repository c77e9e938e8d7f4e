import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { call } from '../../src/embedded/client.ts'
import { roleNames } from '../../src/platform/config.ts'
import {
  type Asked,
  type Buyer,
  newBuyer,
  openCatalogue,
  orderMails,
  type Sale,
  signIn,
  startLoad,
  stockProducts,
  whatIsLost,
} from '../support/load.ts'
import { eventually } from '../support/shop.ts'
import { type Best, best, byKind, type Fault, type Kind, kinds, lasts, type PartName, type Stage } from './stage.ts'

export interface Strike {
  part: PartName
  fault: Fault
}

export interface Outcome {
  strikes: Strike[]
  /** Accepted while the fault lasted, and in all. */
  orders: { meanwhile: number; all: number }
  /** Of what was asked while the fault lasted, the share that was answered as by a working shop. */
  availability: Record<Kind, number>
  /** The best that the design allows of it. */
  best: Record<Kind, Best>
  /** Milliseconds that the slowest answer took while the fault lasted. */
  slowest: number
  /** Milliseconds from the blow until the part was back. */
  lasted: number
  /** Milliseconds from the end of the fault until of each kind five requests in a row were answered well. */
  recovery: number
  /** Parts that were started again without our asking. */
  restarted: string[]
  /** What must not be, with what was seen; none in a shop that keeps its word. */
  findings: string[]
}

const isKind: Record<Kind, (method: string, path: string) => boolean> = {
  reads: (method, path) => method === 'GET' && path.startsWith('/product'),
  orders: (method, path) => method === 'POST' && path === '/order',
  pictures: (_, path) => path.startsWith('/image/'),
  uploads: (_, path) => path.endsWith('/image'),
  preferences: (_, path) => path === '/notification/preferences',
}
const ofKind = (asked: Asked[], kind: Kind) => asked.filter(({ method, path }) => isKind[kind](method, path))
/** Not a number where nothing was asked. */
const share = (asked: Asked[]) => asked.filter(({ good }) => good).length / asked.length

/** An admin and products that do not run out, for all that is played on a stage. */
export const openStock = (stage: Stage) => openCatalogue(stage, [1e6, 1e6, 1e6, 1e6])
export type Catalogue = Awaited<ReturnType<typeof openStock>>

/**
 * Customers of their own order while faults strike one after the other and end together; afterwards their ledger is
 * compared with database, streams, object store and inbox.
 */
export async function play(stage: Stage, { admin, stockAtFirst }: Catalogue, strikes: Strike[]): Promise<Outcome> {
  const { url, inboxUrl } = stage
  const buyers: Buyer[] = []
  for (let i = 0; i < 4; i++) buyers.push(await newBuyer(url, inboxUrl))
  // One that runs out while the fault lasts or right after it: selling it twice would show. Of 16, five orders take 3, and
  // the 20 before the blow some 12.
  Object.assign(admin, await signIn(url, admin))
  for (const [id, stock] of await stockProducts(url, admin, [16])) stockAtFirst.set(id, stock)

  const asked: Asked[] = []
  const sales = new Map<string, Sale>()
  const pictures: string[] = []
  const scarce = [...stockAtFirst.keys()].at(-1) as string
  const products = [...stockAtFirst.keys()].slice(0, 4).concat(scarce)
  const beside = { admin, pictures }
  const load = startLoad({ url, buyers, products, sales, scarce, beside, told: (one) => asked.push(one) })
  const findings: string[] = []
  const note = (error: Error) => void findings.push(error.message)
  let began = Number.NaN
  let ended = Number.NaN
  let recovered = Number.NaN
  const restartedBefore = stage.restarted.length
  try {
    await load.orders(20)
    await eventually('a picture is accepted', async () => pictures.length > 0, 60_000)
    began = Date.now()
    const heal: (() => Promise<void>)[] = []
    try {
      for (const { part, fault } of strikes) heal.push(await stage.strike(part, fault))
      const least = began + 1000 - Date.now()
      await sleep(Math.max(least, ...strikes.map(({ fault }) => 1000 * lasts[fault])))
    } finally {
      // Whatever becomes of one: what stays broken would be found in every fault after it.
      for (const healed of await Promise.allSettled(heal.map((take) => take())))
        if (healed.status === 'rejected') note(healed.reason)
      await stage.supervised().catch(note)
      ended = Date.now()
    }
    const later = asked.length
    let since: Record<Kind, number> | undefined
    recovered = await eventually(
      'of each kind five requests in a row are answered',
      async () => {
        const after = asked.slice(later).filter(({ at }) => at >= ended)
        since = byKind((kind) => firstOfFive(ofKind(after, kind)))
        return Math.max(...Object.values(since))
      },
      90_000,
    ).catch(() => Number.NaN)
    if (Number.isNaN(recovered))
      findings.push(`not answered again within 90 s: ${kinds.filter((kind) => Number.isNaN(since?.[kind])).join(', ')}`)
    else await load.orders(30)
  } catch (error) {
    note(error as Error)
  } finally {
    await load.stop().catch(note)
  }

  const bad = asked.filter(({ at, good }) => at > recovered && !good)
  if (bad.length > 0) findings.push(`${bad.length} failed after recovery, first ${JSON.stringify(bad[0])}`)
  await compare(stage, { buyers, sales, stockAtFirst, pictures, recovered }).then(
    (more) => findings.push(...more),
    note,
  )
  await stage.supervised().catch(note)
  // As an operator would, so that the next fault meets a whole shop.
  if (Number.isNaN(recovered))
    for (const { part } of strikes)
      await stage
        .strike(part, 'restart')
        .then((take) => take())
        .catch(note)
  const meanwhile = asked.filter(({ at, ms }) => at + ms >= began && at < ended)
  const allowed = strikes.map(({ part, fault }) => best(stage, part, fault))
  const least = (of: Best[]) => of.toSorted((one, other) => ranks.indexOf(one) - ranks.indexOf(other))[0] as Best
  const bests = byKind((kind) => least(allowed.map((one) => one[kind])))
  for (const kind of kinds) findings.push(...worse(kind, bests[kind], ofKind(meanwhile, kind)))
  return {
    best: bests,
    availability: byKind((kind) => share(ofKind(meanwhile, kind))),
    strikes,
    orders: { meanwhile: ofKind(meanwhile, 'orders').filter(({ status }) => status === 201).length, all: sales.size },
    slowest: Math.max(0, ...meanwhile.map(({ ms }) => ms)),
    lasted: ended - began,
    recovery: recovered - ended,
    restarted: stage.restarted.slice(restartedBefore),
    findings,
  }
}

/** When the first of five good ones in a row was asked (ms since 1970); not a number where there are none. */
const firstOfFive = (asked: Asked[]) =>
  asked.find((_, i) => i + 5 <= asked.length && asked.slice(i, i + 5).every(({ good }) => good))?.at ?? Number.NaN

const ranks: Best[] = ['none', 'at once', 'all']

/** What is below the best that the design allows by more than a busy machine makes of it; all of nothing is below it. */
function worse(what: Kind, allowed: Best, asked: Asked[]): string[] {
  if (allowed === 'all' && !(share(asked) >= 0.99)) return [`${what} below the best`]
  // A picture is resized before the store is asked, by a process that the first one starts.
  const most = what === 'uploads' ? 10_000 : 3500
  const late = asked.filter(({ good, ms }) => !good && ms > most)
  return allowed === 'none' || late.length === 0 ? [] : [`${late.length} ${what} refused late`]
}

/** What of the ledger is not in the database, the object store, the streams and the inbox, or is there more than once. */
async function compare(
  { url, inboxUrl, sql, deadLetters }: Stage,
  {
    buyers,
    sales,
    stockAtFirst,
    pictures,
    recovered,
  }: {
    buyers: Buyer[]
    sales: Map<string, Sale>
    stockAtFirst: Map<string, number>
    pictures: string[]
    recovered: number
  },
) {
  const findings = await whatIsLost(sql, { buyers, sales, stockAtFirst })

  // A customer who never got the answer asks again under the same key: of the orders that the fault may have met, and of
  // those after it.
  const met = [...sales].filter(([, { askedAt }]) => !(askedAt > recovered))
  const again = new Map([...met.slice(-20), ...[...sales].slice(-20)])
  const unlike: string[] = []
  for (const [id, { buyer, key, items }] of again) {
    const { token } = buyers.find(({ email }) => email === buyer) as Buyer
    const answer = await call(url, 'POST', '/order', { token, body: { items }, headers: { 'Idempotency-Key': key } })
    if (answer.body?.id !== id || answer.headers['idempotent-replayed'] !== 'true')
      unlike.push(`${id}: ${answer.status} ${answer.text.slice(0, 200)}`)
  }
  if (unlike.length > 0)
    findings.push(`${unlike.length} of ${again.size} orders answered otherwise under their key, first ${unlike[0]}`)

  const missing: string[] = []
  for (const path of pictures) {
    const answer = await fetch(url + path)
    const hash = createHash('sha256')
      .update(await answer.bytes())
      .digest('hex')
    if (!answer.ok || path !== `/image/${hash}`) missing.push(`${path} (${answer.status})`)
  }
  if (missing.length > 0)
    findings.push(`${missing.length} of ${pictures.length} files of accepted pictures lost: ${missing[0]}`)

  const outboxes = roleNames.filter((role) => role !== 'notifications').map((role) => `select 1 from ${role}.outbox`)
  await eventually('empty outboxes', async () => (await sql(outboxes.join(' union all '))).length === 0, 90_000).catch(
    (error: Error) => findings.push(error.message),
  )
  for (const { email } of buyers) {
    const own = await sql(
      `select o.id from orders."order" o join auth."user" u on u.id = o.user_id where u.email = '${email}'`,
    )
    let told = new Map<string, Set<string>>()
    await eventually(
      `a mail for each of ${own.length} orders`,
      async () => {
        told = await orderMails(inboxUrl, email)
        return own.every((id) => told.has(id))
      },
      90_000,
    ).catch(() => findings.push(`${own.filter((id) => !told.has(id)).length} mails missing of ${own.length}`))
    const twice = own.filter((id) => (told.get(id)?.size ?? 0) > 1)
    if (twice.length > 0) findings.push(`${twice.length} orders told of under two Message-IDs: ${twice[0]}`)
  }
  const dead = await deadLetters()
  if (!dead.includes('no dead letters')) findings.push(`dead letters: ${dead.slice(0, 500)}`)
  // The inbox reads all of its mails when it starts: with the ten thousands of a whole matrix it takes over 30 s.
  await fetch(`${inboxUrl}/api/email/all`, { method: 'DELETE' }).then(
    ({ ok, status }) => ok || findings.push(`the inbox does not empty: ${status}`),
    ({ cause }) => findings.push(`the inbox does not empty: ${cause}`),
  )
  return findings
}
