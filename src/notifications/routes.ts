import type { Context } from 'koa'
import type { Db } from '../platform/db.ts'
import { inline, sendPage } from '../platform/pages.ts'
import { problem } from '../platform/problem.ts'
import { type Route, route } from '../platform/routes.ts'
import { type Composer, pageStyle } from './compose.ts'
import { Preferences, UnsubscribeToken } from './schema.ts'
import { type Link, linkOf, preferencesOf, setPreferences, unsubscribe } from './store.ts'

export interface Deps {
  db: Db
  composer: Composer
}

/** The room's part of the route table; what it is given is used only when a handler runs. */
export const routes = ({ db, composer }: Deps): Route[] => {
  /** What a link of a mail would end; throws 404 where there is no such link. */
  const find = async (token: string) => {
    const link = await linkOf(db, token)
    if (!link) throw problem.notFound('unsubscribe link', token)
    return link
  }
  return [
    route({
      method: 'GET',
      path: '/notification/preferences',
      access: 'user',
      summary: 'Which optional mails the signed-in user wants.',
      answers: { 200: Preferences },
      handle: ({ user }) => preferencesOf(db, user.id),
    }),
    route({
      method: 'PUT',
      path: '/notification/preferences',
      access: 'user',
      summary: 'Say which optional mails are wanted. Mails that an account or an order needs are sent anyway.',
      body: Preferences,
      answers: { 200: Preferences },
      async handle({ body, user }) {
        await setPreferences(db, user.id, body)
        return body
      },
    }),
    route({
      method: 'GET',
      path: '/unsubscribe/{token}',
      access: 'public',
      summary: 'The page that the link of an optional mail opens; only its button ends these mails.',
      params: UnsubscribeToken,
      answers: { 200: null },
      media: 'text/html',
      handle: async ({ ctx, params }) => page(ctx, composer, await find(params.token), false),
    }),
    route({
      method: 'POST',
      path: '/unsubscribe/{token}',
      access: 'public',
      summary: 'End mails of this kind, without a login: by the page, or by a mail program in one click (RFC 8058).',
      params: UnsubscribeToken,
      answers: { 200: null },
      media: 'text/html',
      async handle({ ctx, params }) {
        const link = await find(params.token)
        await unsubscribe(db, params.token)
        return page(ctx, composer, link, true)
      },
    }),
  ]
}

const allowed = `style-src ${inline(pageStyle)}; form-action 'self'`
const page = (ctx: Context, composer: Composer, { topic, locale }: Link, done: boolean) =>
  sendPage(ctx, composer.page(topic, locale ?? undefined, done), allowed)
