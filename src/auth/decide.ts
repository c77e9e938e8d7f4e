import type { Context } from 'koa'
import type { Config } from '../platform/config.ts'
import { assert, type User, uploadLifetime } from '../platform/identity.ts'
import { Problem, problem } from '../platform/problem.ts'
import { allows, canonicalPath, matcher, type Table } from '../platform/routes.ts'
import type { Revocations } from './revocations.ts'
import type { AccessTokens } from './tokens.ts'

export type Decision = { status: 204; user?: User; upload?: true } | { status: 401; invalid: boolean } | { status: 403 }
export type Decide = (request: { method: string; path: string; token?: string }) => Decision

interface Deps {
  table: Table
  tokens: AccessTokens
  revocations: Revocations
  productRead: 'public' | 'user'
}

/** Decides whether the holder of a token may call a method and path: on a public route always, on an unknown one never. */
export function decider({ table, tokens, revocations, productRead }: Deps): Decide {
  const find = matcher(table)
  return ({ method, path, token }) => {
    const canonical = canonicalPath(path)
    const row = canonical === undefined ? undefined : find(method, canonical)
    if (!row) return { status: 403 }
    const access = row.access === 'PRODUCT_READ' ? productRead : row.access
    if (access === 'public') return { status: 204 }
    const user = session({ tokens, revocations }, token)
    if (!user) return { status: 401, invalid: token !== undefined }
    return allows(access, user.roles) ? { status: 204, user, upload: row.upload } : { status: 403 }
  }
}

/** The user of a token whose session still stands. */
function session({ tokens, revocations }: Pick<Deps, 'tokens' | 'revocations'>, token: string | undefined) {
  const user = token === undefined ? undefined : tokens.verify(token)
  return user && !revocations.isRevoked(user.sid) ? user : undefined
}

/**
 * Which method and path the proxy asks about. The dialect is a setting and never guessed: a client could send the
 * headers of another proxy's family through this one.
 */
function originalRequest(ctx: Context, dialect: Config<'auth'>['AUTHZ_DIALECT']) {
  if (dialect === 'envoy') return { method: ctx.method, path: ctx.url.slice('/authz'.length) }
  const family = dialect === 'nginx' ? 'x-original' : 'x-forwarded'
  return { method: ctx.get(`${family}-method`), path: ctx.get(`${family}-uri`) }
}

/** Answers POST /authn and /authz (any method; for Envoy any path below /authz), for proxies and nobody else. */
export function answerProxy(
  deps: { decide: Decide; tokens: AccessTokens; revocations: Revocations },
  { AUTHZ_DIALECT, ASSERTION_KEY }: Pick<Config<'auth'>, 'AUTHZ_DIALECT' | 'ASSERTION_KEY'>,
) {
  return async (ctx: Context, next: () => Promise<unknown>) => {
    const isAuthn = ctx.path === '/authn'
    if (!isAuthn && ctx.path !== '/authz' && !ctx.path.startsWith('/authz/')) return next()
    await deps.revocations.ready()
    const token = bearer(ctx)
    let decision: Decision
    if (isAuthn) {
      const user = session(deps, token)
      decision = user ? { status: 204, user } : { status: 401, invalid: token !== undefined }
    } else decision = deps.decide({ ...originalRequest(ctx, AUTHZ_DIALECT), token })

    ctx._matchedRoute = isAuthn ? '/authn' : '/authz'
    const { user, upload } = decision.status === 204 ? decision : {}
    // Always all of them, empty where there is nothing, so that the proxy overwrites what the client sent.
    ctx.set({
      'X-User-Id': user?.id ?? '',
      'X-User-Email': encodeURI(user?.email ?? ''),
      'X-User-Roles': user?.roles.join(',') ?? '',
      'X-Session-Id': user?.sid ?? '',
      'X-Auth-Assertion': user ? assert(user, ASSERTION_KEY, upload && uploadLifetime) : '',
    })
    // All but nginx pass the answer of a refusal on to the client.
    if (decision.status === 401) throw unauthenticated(decision.invalid)
    if (decision.status === 403) throw forbidden()
    ctx.body = null
    // Envoy takes nothing but 200 for a yes, and would hand the client a 204 with the headers above.
    if (AUTHZ_DIALECT === 'envoy') ctx.status = 200
  }
}

const unauthenticated = (invalid: boolean) =>
  new Problem(
    401,
    'unauthenticated',
    'This needs a valid access token: Authorization: Bearer ….',
    {},
    { 'WWW-Authenticate': `Bearer realm="bodega"${invalid ? ', error="invalid_token"' : ''}` },
  )
const forbidden = () =>
  problem.forbidden('forbidden', 'This is not allowed for this session, or the path can be read in more than one way.')

const bearer = (ctx: Context) => /^Bearer +([\w.-]+)$/i.exec(ctx.get('authorization'))?.[1]
