import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { Router } from '@koa/router'
import { json as readJson } from 'co-body'
import Koa, { type Context } from 'koa'
import type { z } from 'zod'
import type { Config } from './config.ts'
import { hasState, outOfReach } from './db.ts'
import { type Checks, readiness } from './health.ts'
import { assertionReader, type User } from './identity.ts'
import type { Logger } from './log.ts'
import { httpDuration } from './metrics.ts'
import { type FieldFault, Problem, problem } from './problem.ts'
import { type Access, allows, canonicalPath, type Route } from './routes.ts'

interface HttpOptions {
  /**
   * DRAIN_DELAY are the seconds to go on serving after a stop is asked for, until whoever balances over replicas has
   * noticed; SHUTDOWN_GRACE those that a stop may take in all, with what closes after this.
   */
  c: Pick<
    Config,
    'LISTEN_HOST' | 'LISTEN_PORT' | 'ASSERTION_KEY' | 'ASSERTION_KEY_PREVIOUS' | 'DRAIN_DELAY' | 'SHUTDOWN_GRACE'
  >
  log: Logger
  routes: Route[]
  checks: Checks
  /** Runs before the routes: what is no part of the route table. */
  before?: Koa.Middleware
  /** What the access PRODUCT_READ means here. */
  productRead?: 'public' | 'user'
}

/**
 * Serves a role's routes and its health checks. Closing first says so (not ready, `Connection: close` on every answer)
 * for DRAIN_DELAY, then stops accepting, lets running requests finish, and returns; 5 s before SHUTDOWN_GRACE is over at the latest.
 */
export async function openHttp(options: HttpOptions) {
  const { c, log } = options
  const [host, port] = [c.LISTEN_HOST, c.LISTEN_PORT]
  let closing = false
  const app = createApp(options, () => closing)
  const server = createServer(
    {
      keepAliveTimeout: 75_000,
      requestTimeout: 60_000,
      headersTimeout: 15_000,
      // The two before are looked at this often.
      connectionsCheckingInterval: 5000,
      // The edge takes 32 KiB and adds what it knows of the caller.
      maxHeaderSize: 48 * 1024,
    },
    app.callback(),
  )
  // Of one that is sent an answer and does not read it: with 90 s it was still there after 105 s. The edge waits 30 s for
  // an answer at most.
  server.setTimeout(45_000)
  server.on('clientError', refuseMalformed)
  const silent = silentSockets(server)
  await once(server.listen(port, host), 'listening')
  // Such as a lack of file descriptors: one connection is lost, and the next may come.
  server.on('error', (err) => log.error({ err }, 'a connection was not accepted'))
  log.info({ host, port }, 'listening')
  return {
    async [Symbol.asyncDispose]() {
      closing = true
      await pause(c.DRAIN_DELAY * 1000)
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeIdleConnections()
      // Neither are those closed that have asked nothing yet, nor do the timeouts above hold once the server closes.
      const timers = [
        setTimeout(() => {
          for (const socket of silent) socket.destroy()
        }, 2000),
        setTimeout(() => server.closeAllConnections(), Math.max(1, c.SHUTDOWN_GRACE - c.DRAIN_DELAY - 5) * 1000),
      ]
      await closed
      for (const timer of timers) clearTimeout(timer)
    },
  }
}

/** The health checks and the routes, behind what every request goes through. */
function createApp({ c, log, routes, checks, before, productRead }: HttpOptions, isClosing: () => boolean) {
  const app = new Koa()
  const router = new Router({ sensitive: true, strict: true })
  const readAssertion = assertionReader([c.ASSERTION_KEY, c.ASSERTION_KEY_PREVIOUS])

  router.get('/healthz', (ctx) => {
    ctx.body = { status: 'alive' }
  })
  router.get('/readyz', async (ctx) => {
    const state = await readiness(checks)
    ctx.status = state.ready && !isClosing() ? 200 : 503
    ctx.body = isClosing() ? { ready: false, checks: { process: 'stopping' } } : state
  })
  for (const route of routes) {
    const access = route.access === 'PRODUCT_READ' ? (productRead ?? 'public') : route.access
    router.register(route.path.replace(/\{(\w+)\}/g, ':$1'), [route.method], async (ctx) => {
      await answer(ctx, route, identify(ctx, access, readAssertion))
    })
  }

  app.use(async (ctx, next) => {
    await next()
    if (isClosing()) ctx.set('Connection', 'close')
  })
  app.use(observe(log))
  if (before) app.use(before)
  app.use(router.routes())
  app.use(router.allowedMethods())
  // The catcher in `observe` logs every fault of a handler; what reaches here is a broken connection.
  app.on('error', (err) => log.debug({ err }, 'connection fault'))
  return app
}

/** The open connections over which nothing has been asked yet. */
function silentSockets(server: Server): Set<Socket> {
  const silent = new Set<Socket>()
  server.on('connection', (socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
  })
  server.on('request', ({ socket }) => silent.delete(socket))
  return silent
}

/** Answers what cannot be read as a request at all, such as a control character that the edge lets pass in a header. */
function refuseMalformed({ code }: NodeJS.ErrnoException, socket: Duplex) {
  const { _httpMessage: begun } = socket as { _httpMessage?: ServerResponse }
  // In the middle of another answer it would be read as a part of that.
  if (!socket.writable || begun?.headersSent) return void socket.destroy()
  const answer = malformed[code ?? ''] ?? malformed.other
  const { status } = answer
  const text = JSON.stringify(answer.document())
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n` +
      `Cache-Control: no-store\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  )
}
/** By the code of the parser's error. */
const malformed = {
  HPE_HEADER_OVERFLOW: new Problem(431, 'headers_too_large', 'The headers are too large.'),
  HPE_CHUNK_EXTENSIONS_OVERFLOW: new Problem(413, 'body_too_large', 'The body is larger than this route takes.'),
  ERR_HTTP_REQUEST_TIMEOUT: new Problem(408, 'request_timeout', 'The request came too slowly.'),
  other: new Problem(400, 'bad_request', 'The request cannot be read.'),
} as Record<string, Problem> & { other: Problem }

// Asked all the time by probes and by the proxy; the metrics count them.
const unlogged = new Set(['/healthz', '/readyz', '/authn', '/authz'])

/** Gives each request an id, answers its faults as problems, logs it in one line and measures it. */
function observe(log: Logger): Koa.Middleware {
  // A line holds these facts and no secret; to look for one in it would take a fifth of the time of a short request.
  const lines = log.child({}, { redact: [] })
  return async (ctx, next) => {
    const began = process.hrtime.bigint()
    const id = ctx.get('x-request-id') || randomUUID()
    ctx.set('X-Request-Id', id)
    ctx.state.log = log
    try {
      if (canonicalPath(ctx.url) === undefined)
        throw problem.forbidden('bad_path', 'The path can be read in more than one way.')
      await next()
      if (ctx.status === 405 || ctx.status === 501)
        throw new Problem(
          405,
          'method_not_allowed',
          `${ctx.path} has no ${ctx.method}.`,
          {},
          { Allow: ctx.response.get('Allow') },
        )
      if (ctx.status === 404 && ctx.body === undefined)
        throw new Problem(404, 'no_route', `There is no ${ctx.method} ${ctx.path}.`)
    } catch (error) {
      refuse(ctx, error, log, id)
    }
    const ms = Number(process.hrtime.bigint() - began) / 1e6
    const route = (ctx._matchedRoute as string | undefined) ?? 'none'
    httpDuration.observe({ method: ctx.method, route, status: ctx.status }, ms / 1000)
    if (unlogged.has(route)) return
    lines.info(
      {
        requestId: id,
        userId: (ctx.state.user as User | undefined)?.id,
        method: ctx.method,
        route,
        status: ctx.status,
        ms: Math.round(ms * 100) / 100,
      },
      'request',
    )
  }
}

/** Answers with the problem that an error is, or a 500, and logs what is not the caller's fault. */
function refuse(ctx: Context, error: unknown, log: Logger, id: string) {
  const known = asProblem(error)
  const answer = known ?? new Problem(500, 'internal', `Something failed here; the log has it under request ${id}.`)
  if (!known) log.error({ err: error, requestId: id }, 'unknown fault')
  else if (known.status >= 500) log.warn({ err: error, requestId: id }, known.code)
  ctx.status = answer.status
  ctx.set(answer.headers)
  ctx.set('Cache-Control', 'no-store')
  ctx.type = 'application/problem+json'
  ctx.body = JSON.stringify(answer.document())
}

/** The problem that an error is or means; undefined for a fault that nobody foresaw. */
function asProblem(error: unknown): Problem | undefined {
  if (error instanceof Problem) return error
  if (outOfReach(error))
    return problem.unavailable('The database is out of reach. A change that was asked for may have been made or not.')
  // PostgreSQL's text cannot hold a null character.
  if (hasState(error, '22021')) return problem.badRequest('bad_text', 'A text holds a character that cannot be stored.')
  return undefined
}

/** The caller of a route, proven by the edge's assertion; undefined on a public one. Throws 401 and 403. */
function identify(
  ctx: Context,
  access: Exclude<Access, 'PRODUCT_READ'>,
  read: (assertion: string) => User | undefined,
) {
  if (access === 'public') return undefined
  const assertion = ctx.get('x-auth-assertion')
  const user = assertion ? read(assertion) : undefined
  if (!user) throw problem.unauthenticated('unauthenticated', 'This route needs a session, proven by the edge.')
  ctx.state.user = user
  // Of one person, and so for no disk of a shared computer and no proxy's cache. A handler may say otherwise.
  ctx.set('Cache-Control', 'no-store')
  if (!allows(access, user.roles)) throw problem.forbidden('forbidden', `This needs the permission ${access}.`)
  return user
}

/** Parses the input, calls the handler, and sends what it returns with the route's first good status. */
async function answer(ctx: Context, route: Route, user: User | undefined) {
  if (ctx.headers.accept && !ctx.accepts('json', 'html', 'image/webp'))
    throw new Problem(406, 'not_acceptable', 'The answer is JSON; accept application/json.')
  const result = await route.handle({
    ctx,
    params: route.params && parseParams(route.params, ctx),
    query: route.query && parse(route.query, ctx.query, 'query'),
    body: route.body && parse(route.body, await readBody(ctx, route), 'body'),
    user: user as User,
  })
  if (ctx.status === 404 && ctx.body === undefined) ctx.status = Number(Object.keys(route.answers)[0])
  if (typeof result === 'string') {
    if (!ctx.response.get('Content-Type')) ctx.set('Content-Type', 'application/json; charset=utf-8')
    ctx.body = result
  } else if (result !== undefined) ctx.body = result
  else if (ctx.body === undefined) ctx.body = null
}

/** The parsed JSON of a body; undefined where there is none and the route can do without. Throws 400, 413 and 415. */
async function readBody(ctx: Context, route: Route): Promise<unknown> {
  if (!hasBody(ctx.req)) {
    if (route.body?.safeParse(undefined).success) return undefined
    throw problem.badRequest('body_missing', 'This route needs a JSON body.')
  }
  if (!ctx.is('json')) throw new Problem(415, 'json_only', 'The body must be application/json.')
  try {
    return await readJson(ctx.req, { limit: route.bodyLimit ?? 64 * 1024, strict: false })
  } catch (error) {
    throw unreadable(error as { type?: string; status?: number })
  }
}

/** Whatever goes wrong while a body is read, unpacked and parsed is a fault of the body. */
function unreadable({ type, status }: { type?: string; status?: number }) {
  if (type === 'entity.too.large')
    return new Problem(413, 'body_too_large', 'The body is larger than this route takes.')
  if (type === 'charset.unsupported' || status === 415)
    return new Problem(415, 'unsupported_encoding', 'The encoding of the body is not supported.')
  return problem.badRequest('bad_body', 'The body is not valid JSON.')
}

const hasBody = (request: IncomingMessage) =>
  request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0

function parseParams(schema: z.ZodType, ctx: Context) {
  const result = schema.safeParse(ctx.params)
  if (!result.success) throw new Problem(404, 'not_found', `There is nothing at ${ctx.path}.`)
  return result.data
}

/** Parses input at the door; throws a 400 that names every field and its rule. */
function parse<S extends z.ZodType>(schema: S, input: unknown, what: string): z.output<S> {
  const result = schema.safeParse(input)
  if (result.success) return result.data
  const faults: FieldFault[] = result.error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys'
      ? issue.keys.map((key) => ({ field: [...issue.path, key].join('.'), rule: 'is not a known field' }))
      : [{ field: issue.path.join('.') || what, rule: issue.message }],
  )
  throw problem.invalid(faults)
}
