import type { EventEmitter } from 'node:events'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import knexFactory, { type Knex } from 'knex'
import pg from 'pg'
import type { Config, Role } from './config.ts'
import type { Logger } from './log.ts'

export type { Knex } from 'knex'

/** One prepared statement; `name` is its name on the server, so it must be unique for its text. */
export interface Statement {
  name: string
  text: string
}

export interface Db extends AsyncDisposable {
  /** For transactions and statements that are not hot. */
  knex: Knex
  /**
   * Runs one prepared statement (its own transaction) on a pipelined connection: no check-out, no wait for the answer
   * before it. Measured 2–3 times the rate of a pool. Not for anything that spans statements.
   */
  run<Row extends object>(statement: Statement, values: unknown[]): Promise<Row[]>
  /** Throws when the database does not answer, or lacks a migration that this code needs. */
  check(): Promise<void>
}

// int8 and numeric counts as numbers: every such column here stays below 2^53 by a constraint.
const types = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === pg.types.builtins.INT8 ? Number : pg.types.getTypeParser(oid, format as 'text'),
} as pg.CustomTypesConfig

interface DbOptions {
  role: Role
  c: Pick<Config, 'DATABASE_URL' | 'DATABASE_CA' | 'DATABASE_POOL' | 'CONN_TIMEOUT'>
  /** Pipelined connections: 2 for reads; more where statements write, since one connection commits one at a time. */
  lanes?: number
  log: Logger
}

/** Opens nothing yet: connections are made when first used, and made again after a fault. */
export function openDb({ role, c, lanes = 2, log }: DbOptions): Db {
  const connectTimeout = c.CONN_TIMEOUT
  // A frozen database answers nothing: the client gives up, so that callers get a quick 503.
  const patience = connectTimeout + 5000
  const connection: pg.ClientConfig = {
    connectionString: c.DATABASE_URL,
    ssl: c.DATABASE_CA ? { ca: c.DATABASE_CA } : undefined,
    connectionTimeoutMillis: connectTimeout,
    keepAlive: true,
    // By the system's 2 h, firewalls and load balancers would long have forgotten a quiet connection, some after 4 minutes, and
    // say nothing: the next statement on it, an order perhaps, would wait until it is given up.
    keepAliveInitialDelayMillis: 60_000,
    application_name: role,
    types,
  }
  const knex = knexFactory({
    client: 'pg',
    connection: { ...connection, query_timeout: patience } as Knex.PgConnectionConfig,
    pool: {
      min: 0,
      max: c.DATABASE_POOL,
      propagateCreateError: true,
      afterCreate(client: Pooled, done: (error: undefined, client: Pooled) => void) {
        const began = performance.now()
        client.connection.on('errorMessage', (error) => {
          client.outlived ||= onlyReads(error, began)
        })
        done(undefined, client)
      },
      // A connection whose last statement was given up is still waiting for its answer, and so would be the next one. Where that
      // was a BEGIN, or a ROLLBACK was given up behind it, what is answered later leaves a transaction open, which the next
      // statement would be a part of: acknowledged, and never committed.
      validate: (client: Pooled) => client.readyForQuery && client.getTransactionStatus() === 'I' && !client.outlived,
    },
    acquireConnectionTimeout: connectTimeout,
  })
  const all = Array.from({ length: lanes }, () => openLane(connection, patience, log))
  const newest = migrationsOf(role).at(-1) ?? ''

  return {
    knex,
    async run<Row extends object>(statement: Statement, values: unknown[]) {
      // One that cannot connect fails at once, and so would always have the least to do: it is asked where none is connected.
      let lane = all[0] as Lane
      for (const other of all) {
        other.connect()
        if (other.connected === lane.connected ? other.pending < lane.pending : other.connected) lane = other
      }
      return lane.run<Row>(statement, values)
    },
    async check() {
      for (const lane of all) lane.connect()
      const { rows } = await knex.raw('select max(name) as name from bodega.migration where schema = ?', [role])
      if ((rows[0]?.name ?? '') < newest)
        throw new Error(`the schema ${role} lacks migration ${newest}; run: node src/main.ts migrate`)
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([knex.destroy(), ...all.map((lane) => lane.close())])
    },
  }
}

type Pooled = pg.Client & { readyForQuery: boolean; connection: EventEmitter; outlived?: boolean }

/**
 * Whether a session, begun at `began`, may only read. It stays so where it reached what had been the primary before a failover,
 * while another can be written to by now. Where none can, as with a disk that is full, each is tried for a second.
 */
const onlyReads = (error: unknown, began: number) => hasState(error, '25006') && performance.now() - began > 1000

const gathering = new WeakSet<Duplex>()

/** Sends what is asked in one turn of the event loop as one write: a fifth of the time of a short request is the write. */
function gather(client: pg.Client) {
  const stream = streamOf(client)
  if (gathering.has(stream)) return
  gathering.add(stream)
  stream.cork()
  setImmediate(() => {
    gathering.delete(stream)
    stream.uncork()
  })
}

/**
 * Asks by a callback, and keeps the time itself. The client's own promise and timeout make a function for each query that
 * V8 puts among its old objects, since it is a literal assigned to a property: it held the whole answer until the next
 * full collection, which came every 0.4 s (pg 8.23, measured at 2,000 lists/s).
 */
const ask = <Row extends object>(client: pg.Client, query: pg.QueryConfig, patience: number) =>
  new Promise<Row[]>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new Error('Query read timeout'))
      streamOf(client).destroy()
    }, patience)
    client.query<Row>(query, (error, result) => {
      clearTimeout(timer)
      if (error) reject(error)
      else resolve(result.rows)
    })
  })

const streamOf = (client: pg.Client) => (client as unknown as { connection: { stream: Duplex } }).connection.stream

interface Lane {
  pending: number
  connected: boolean
  /** Begins to connect where it is not; once a second where that fails. */
  connect(): void
  run<Row extends object>(statement: Statement, values: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

/** `patience` is milliseconds until an answer that does not come is given up, and the connection with it. */
function openLane(connection: pg.ClientConfig, patience: number, log: Logger): Lane {
  let client: Promise<pg.Client> | undefined
  let failed = Number.NEGATIVE_INFINITY
  let began = 0
  const open = () => {
    const fresh = new pg.Client({ ...connection, pipeline: true })
    const opening = fresh.connect().then(() => {
      lane.connected = client === opening
      if (lane.connected) began = performance.now()
      return fresh
    })
    const forget = () => {
      if (client !== opening) return
      client = undefined
      lane.connected = false
    }
    fresh.on('error', (err) => {
      log.warn({ err }, 'database connection lost')
      forget()
    })
    fresh.on('end', forget)
    opening.catch(() => {
      failed = performance.now()
      forget()
    })
    return opening
  }
  const lane: Lane = {
    pending: 0,
    connected: false,
    connect() {
      if (!client && performance.now() - failed > 1000) client = open()
    },
    async run<Row extends object>(statement: Statement, values: unknown[]) {
      lane.pending++
      try {
        client ??= open()
        const opening = client
        const current = await opening
        gather(current)
        try {
          return await ask<Row>(current, { name: statement.name, text: statement.text, values }, patience)
        } catch (error) {
          // After a client-side timeout the answers of this connection would be out of step: begin a new one.
          const isOver = /timeout/i.test((error as Error).message) || onlyReads(error, began)
          if (isOver && client === opening) {
            client = undefined
            lane.connected = false
            current.end().catch(() => undefined)
          }
          throw error
        }
      } finally {
        lane.pending--
      }
    },
    async close() {
      const current = await client?.catch(() => undefined)
      await current?.end()
    },
  }
  return lane
}

/**
 * Turns many calls into few statements, which shares their commits: what is asked while `run` is under way goes into its
 * next run together. `run` answers in the order it was asked. Where it fails by the database's judgement, each call is run
 * alone, so that a bad one takes no other with it.
 */
export function batched<In, Out>(run: (all: In[]) => Promise<Out[]>): (one: In) => Promise<Out> {
  let asked: { one: In; resolve(answer: Out): void; reject(error: unknown): void }[] = []
  let running = false
  const go = async () => {
    // By the next turn of the event loop more may have been asked.
    for (; asked.length > 0; await nextTurn()) {
      const batch = asked
      asked = []
      try {
        const answers = await run(batch.map(({ one }) => one))
        for (const [at, answer] of answers.entries()) batch[at]?.resolve(answer)
      } catch (error) {
        if (batch.length === 1 || outOfReach(error)) for (const { reject } of batch) reject(error)
        else for (const { one, resolve, reject } of batch) run([one]).then(([answer]) => resolve(answer as Out), reject)
      }
    }
    running = false
  }
  return (one) =>
    new Promise((resolve, reject) => {
      asked.push({ one, resolve, reject })
      if (!running) void nextTurn().then(go)
      running = true
    })
}

/** The folder of a room's migrations. */
export const migrationsIn = (role: Role) => join(import.meta.dirname, '..', role, 'migrations')
/** The names of a room's migrations, oldest first, for example `002_search.sql`. */
export const migrationsOf = (role: Role) =>
  readdirSync(migrationsIn(role))
    .filter((file) => /^\d{3}_\w+\.sql$/.test(file))
    .sort()

/** Whether `error` is PostgreSQL's report that `constraint` does not hold. */
export const violates = (error: unknown, constraint: string) =>
  error instanceof pg.DatabaseError && error.constraint === constraint

/** Whether `error` is PostgreSQL's with this SQLSTATE. */
export const hasState = (error: unknown, sqlstate: string): error is pg.DatabaseError =>
  error instanceof pg.DatabaseError && error.code === sqlstate

/**
 * Runs `work`, one whole transaction, and up to three times again where PostgreSQL rolled it back in favour of another:
 * for a deadlock (40P01) or a serialization failure (40001).
 */
export async function retryConflicts<T>(work: () => Promise<T>, retries = 3): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (retries > 0 && (hasState(error, '40P01') || hasState(error, '40001'))) return retryConflicts(work, retries - 1)
    throw error
  }
}

// What Node.js says of a network, a name or a certificate by which there is no way: ECONNREFUSED, ENETUNREACH, EAI_AGAIN,
// CERT_HAS_EXPIRED, UNABLE_TO_VERIFY_LEAF_SIGNATURE, ERR_TLS_CERT_ALTNAME_INVALID and their like.
const lostConnection = /^E(CONN|HOST|NET|AI_|PIPE|NOTFOUND|TIMEDOUT|ADDRNOTAVAIL|PROTO)|CERT|SIGNATURE|^ERR_(TLS|SSL)/
/** Whether the database was out of reach, as opposed to having refused the statement. */
export function outOfReach(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.some(outOfReach)
  const { code, message = '', name } = error as { code?: string; message?: string; name?: string }
  // 08 connection, 28 login refused, 57P shut down or starting, 53 no disk, memory or connection left, 58030 a disk that fails,
  // 25006 a standby
  if (error instanceof pg.DatabaseError) return /^(08|28|57P|53|58030|25006)/.test(code ?? '')
  return (
    lostConnection.test(code ?? '') ||
    name === 'KnexTimeoutError' ||
    /Connection terminated|timeout|not queryable|Connection ended|Client was closed|SSL connection/i.test(message)
  )
}
