import { setTimeout as pause } from 'node:timers/promises'
import type { Context } from 'koa'
import { FileHash, type Pictures } from '../platform/pictures.ts'
import { problem } from '../platform/problem.ts'
import { Id, type Route, refreshCookie, route } from '../platform/routes.ts'
import * as accounts from './accounts.ts'
import { changeAvatar } from './avatar.ts'
import { readAuditCursor, readUserCursor, writeAuditCursor, writeUserCursor } from './cursor.ts'
import { sendResetPage, sendVerifyPage } from './pages.ts'
import * as schema from './schema.ts'
import * as sessions from './sessions.ts'
import * as store from './store.ts'

export interface Deps extends sessions.Deps {
  avatars: Pictures
}

const accepted = { status: 'accepted' } as const

/** The room's part of the route table; `deps` is used only when a handler runs. */
export const routes = (deps: Deps): Route[] => [
  route({
    method: 'POST',
    path: '/auth/register',
    access: 'public',
    limit: 'mail',
    summary:
      'Make an account; a mail brings the code and the link that verify it. The answer never tells whether the address is taken.',
    body: schema.NewUser,
    headers: ['Accept-Language'],
    answers: { 202: schema.Accepted },
    async handle({ ctx, body }) {
      const locale = body.locale ?? (ctx.acceptsLanguages('en', 'de', 'hi') || 'en')
      await evenTiming(accounts.register(deps, { ...body, locale }, address(ctx)))
      return accepted
    },
  }),
  route({
    method: 'GET',
    path: '/auth/verify',
    access: 'public',
    summary: 'The page that the link of a verification mail opens; only its button verifies.',
    query: schema.PageQuery,
    headers: ['Accept-Language'],
    answers: { 200: null },
    handle: ({ ctx }) => sendVerifyPage(ctx),
  }),
  route({
    method: 'POST',
    path: '/auth/verify',
    access: 'public',
    limit: 'sign-in',
    summary: 'Verify an address by the token of the link, or by address and code.',
    body: schema.Verify,
    answers: { 200: schema.Verified },
    problems: ['400 bad_token', '400 bad_code'],
    async handle({ ctx, body }) {
      await evenTiming(accounts.verify(deps, body, address(ctx)))
      return { status: 'verified' }
    },
  }),
  route({
    method: 'POST',
    path: '/auth/verify/resend',
    access: 'public',
    limit: 'mail',
    summary: 'Mail a new verification: after 60 s at the earliest, five times a day.',
    body: schema.Address,
    answers: { 202: schema.Accepted },
    async handle({ body }) {
      await evenTiming(accounts.resendVerification(deps, body.email))
      return accepted
    },
  }),
  route({
    method: 'POST',
    path: '/auth/login',
    access: 'public',
    limit: 'sign-in',
    summary:
      'Log in by {email, password} or {email, code}; {email} alone mails a code and answers 202. A code verifies the address; ' +
      'a password from before the address was verified counts no more then.',
    body: schema.Login,
    sends: ['Set-Cookie'],
    answers: { 200: schema.Tokens, 202: schema.Accepted },
    problems: ['401 bad_credentials', '403 email_unverified', '429 slow_down'],
    async handle({ ctx, body }) {
      const { email, password, code, cookie } = body
      if (password === undefined && code === undefined) {
        await evenTiming(accounts.mailLoginCode(deps, email))
        ctx.status = 202
        return accepted
      }
      const user =
        password === undefined
          ? await evenTiming(accounts.loginByCode(deps, email, code as string, address(ctx)))
          : await accounts.loginByPassword(deps, email, password, address(ctx))
      const client = { ip: address(ctx), userAgent: ctx.get('user-agent'), password }
      return presentTokens(ctx, await sessions.beginSession(deps, user, client), cookie)
    },
  }),
  route({
    method: 'POST',
    path: '/auth/refresh',
    access: 'public',
    cookie: true,
    limit: 'sign-in',
    summary: 'Exchange the refresh token, from the body or the cookie, for new tokens. Each is good for one exchange.',
    body: schema.Refresh,
    sends: ['Set-Cookie'],
    answers: { 200: schema.Tokens },
    problems: ['401 bad_refresh_token', '403 wrong_origin'],
    async handle({ ctx, body }) {
      const fromCookie = body?.refreshToken === undefined
      const token = body?.refreshToken ?? ctx.cookies.get(refreshCookie)
      if (!token)
        throw problem.unauthenticated(
          'bad_refresh_token',
          'There is no refresh token, neither in the body nor in the cookie.',
        )
      if (fromCookie && ctx.get('origin') !== new URL(deps.config.PUBLIC_URL).origin)
        throw problem.forbidden('wrong_origin', 'A refresh by cookie must come from the shop itself.')
      return presentTokens(ctx, await sessions.refresh(deps, token), fromCookie)
    },
  }),
  route({
    method: 'POST',
    path: '/auth/logout',
    access: 'user',
    summary: 'End this session, or all of them with {everywhere: true}; its tokens stop working within 5 s.',
    body: schema.Logout,
    answers: { 204: null },
    async handle({ ctx, body, user }) {
      await sessions.endSessions(deps, user.id, body?.everywhere ? undefined : user.sid)
      setCookie(ctx, '', 0)
    },
  }),
  route({
    method: 'POST',
    path: '/auth/password/forgot',
    access: 'public',
    limit: 'mail',
    summary: 'Mail a link to set a new password: after 60 s at the earliest, and after five of a day one an hour.',
    body: schema.Address,
    answers: { 202: schema.Accepted },
    async handle({ ctx, body }) {
      await evenTiming(accounts.forgotPassword(deps, body.email, address(ctx)))
      return accepted
    },
  }),
  route({
    method: 'GET',
    path: '/auth/password/reset',
    access: 'public',
    summary: 'The page that the link of a password mail opens; only its form changes anything.',
    query: schema.PageQuery,
    headers: ['Accept-Language'],
    answers: { 200: null },
    handle: ({ ctx }) => sendResetPage(ctx),
  }),
  route({
    method: 'POST',
    path: '/auth/password/reset',
    access: 'public',
    limit: 'sign-in',
    summary: 'Set a new password by the token of the link; every session ends.',
    body: schema.Reset,
    answers: { 204: null },
    problems: ['400 bad_token'],
    async handle({ ctx, body }) {
      await accounts.resetPassword(deps, body.token, body.password, address(ctx))
    },
  }),
  route({
    method: 'GET',
    path: '/auth/sessions',
    access: 'user',
    summary: `Where this user is signed in: ${store.mostSessions} sessions at most, then a new one ends the one used longest ago.`,
    answers: { 200: schema.Sessions },
    async handle({ user }) {
      const rows = await store.listSessions(deps.db.knex, user.id)
      return { items: rows.map((row) => schema.toSession(row, user.sid)) }
    },
  }),
  route({
    method: 'DELETE',
    path: '/auth/sessions/{id}',
    access: 'user',
    summary: 'End one session of this user.',
    params: Id,
    answers: { 204: null },
    async handle({ params, user }) {
      if ((await sessions.endSessions(deps, user.id, params.id)) === 0) throw problem.notFound('session', params.id)
    },
  }),
  route({
    method: 'GET',
    path: '/profile',
    access: 'user',
    summary: 'The account of the signed-in user.',
    answers: { 200: schema.Profile },
    async handle({ user }) {
      const row = await store.userById(deps.db.knex, user.id)
      if (!row) throw problem.notFound('user', user.id)
      return schema.toProfile(row)
    },
  }),
  route({
    method: 'PATCH',
    path: '/profile',
    access: 'user',
    summary: 'Change name, language or time zone.',
    body: schema.ProfileChange,
    answers: { 200: schema.Profile },
    async handle({ body, user }) {
      return schema.toProfile(await accounts.changeProfile(deps, user.id, body))
    },
  }),
  route({
    method: 'PUT',
    path: '/profile/avatar',
    access: 'user',
    limit: 'picture',
    upload: true,
    summary: 'Set the avatar: a JPEG, PNG or WebP of at most 5 MiB. Its middle square is kept, in 512 and 128 pixels.',
    answers: { 200: schema.Profile },
    async handle({ ctx, user }) {
      return schema.toProfile(await changeAvatar(deps, user.id, await deps.avatars.take(ctx)))
    },
  }),
  route({
    method: 'DELETE',
    path: '/profile/avatar',
    access: 'user',
    summary: 'Remove the avatar.',
    answers: { 204: null },
    async handle({ user }) {
      await changeAvatar(deps, user.id, null)
    },
  }),
  route({
    method: 'GET',
    path: '/avatar/{hash}',
    access: 'public',
    summary: 'A file of an avatar. Whoever knows its path may see it; it stays for a day after the avatar has changed.',
    params: FileHash,
    headers: ['Range', 'If-Range', 'If-None-Match'],
    sends: ['ETag', 'Content-Range'],
    answers: { 200: null, 206: null, 304: null },
    problems: ['416 range_not_satisfiable'],
    media: 'image/webp',
    handle: ({ ctx, params }) => deps.avatars.send(ctx, params.hash),
  }),
  route({
    method: 'GET',
    path: '/user',
    access: 'user:manage',
    summary: 'All accounts in order of address.',
    query: schema.UserQuery,
    answers: { 200: schema.Users },
    problems: ['400 bad_cursor'],
    async handle({ query }) {
      const after = readUserCursor(query.cursor)
      const rows = await store.listUsers(deps.db.knex, { q: query.q, after, limit: query.limit + 1 })
      const page = rows.slice(0, query.limit)
      const last = rows.length > query.limit ? page.at(-1) : undefined
      return { items: page.map(schema.toProfile), next: last ? writeUserCursor(last) : null }
    },
  }),
  route({
    method: 'PUT',
    path: '/user/{id}/roles',
    access: 'user:manage',
    summary: 'Set the roles of an account; its sessions end, so that the change holds within 5 s.',
    params: Id,
    body: schema.Roles,
    answers: { 200: schema.Profile },
    problems: ['409 last_admin'],
    async handle({ ctx, params, body, user }) {
      const by = { actor: user.id, ip: address(ctx) }
      return schema.toProfile(await accounts.changeRoles(deps, params.id, [...new Set(body.roles)], by))
    },
  }),
  route({
    method: 'GET',
    path: '/audit',
    access: 'audit:read',
    summary: 'What happened to accounts and orders, newest first; kept for a year, of orders as long as they are.',
    query: schema.AuditQuery,
    answers: { 200: schema.Audit },
    problems: ['400 bad_cursor'],
    async handle({ query }) {
      const before = readAuditCursor(query.cursor)
      const rows = await store.listAudit(deps.db.knex, { before, user: query.user, limit: query.limit + 1 })
      const page = rows.slice(0, query.limit)
      const last = rows.length > query.limit ? page.at(-1) : undefined
      return { items: page.map(schema.toEntry), next: last ? writeAuditCursor(last) : null }
    },
  }),
  route({
    method: 'GET',
    path: '/.well-known/jwks.json',
    access: 'public',
    summary: 'The public keys of the access tokens: next, active and previous.',
    answers: { 200: schema.Jwks },
    async handle({ ctx }) {
      // Shorter than a key waits as `next` before it signs.
      ctx.set('Cache-Control', 'public, max-age=300')
      return deps.tokens.jwks
    },
  }),
]

/** Delays the end of `work` to a multiple of 100 ms, so that its time does not tell whether an account exists. */
async function evenTiming<T>(work: Promise<T>): Promise<T> {
  const began = performance.now()
  try {
    return await work
  } finally {
    await pause(100 - ((performance.now() - began) % 100))
  }
}

/** The client's address as the edge saw it. */
const address = (ctx: Context) => ctx.get('x-real-ip') || ctx.ip

/** The tokens as the answer has them: the refresh token in the body or, where `cookie`, in a cookie alone. */
function presentTokens(ctx: Context, tokens: sessions.Tokens, cookie: boolean) {
  ctx.set('Cache-Control', 'no-store')
  if (!cookie) return tokens
  const { refreshToken, ...rest } = tokens
  setCookie(ctx, refreshToken, 7 * 24 * 3600)
  return rest
}

const setCookie = (ctx: Context, value: string, maxAge: number) =>
  ctx.append(
    'Set-Cookie',
    `${refreshCookie}=${value}; Max-Age=${maxAge}; Path=/auth; HttpOnly; Secure; SameSite=Strict`,
  )
