import { createHash } from 'node:crypto'
import type { Context } from 'koa'

/** A style or script that is in the page itself, as a content security policy names it. */
export const inline = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

/** Sends a page that a mail links to. Its address holds a token, so it tells nobody of it and loads only what `allowed` names. */
export function sendPage(ctx: Context, html: string, allowed: string) {
  ctx.set({
    'Content-Type': 'text/html; charset=utf-8',
    'Content-Security-Policy': `default-src 'none'; ${allowed}; base-uri 'none'; frame-ancestors 'none'`,
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
  })
  return html
}
