import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { table } from '../../src/table.ts'
import { useShop } from '../support/shop.ts'

const shop = useShop(test, { roles: [] })

test('GET /docs with no role there → the page and all that it loads come from the edge, and nothing from elsewhere', async (t) => {
  const page = await shop.call('GET', '/docs')
  t.is(page.status, 200)
  t.regex(page.headers['content-security-policy'] as string, /^default-src 'self';/)
  const parts = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path as string)
  t.true(parts.length >= 3)
  for (const path of parts) {
    t.true(path.startsWith('/'), path)
    t.is((await shop.call('GET', path)).status, 200, path)
  }
  const document = await shop.call('GET', '/openapi.json')
  t.is(document.status, 200)
  for (const { method, path, internal } of await table())
    t.is(document.body.paths[path]?.[method.toLowerCase()] !== undefined, !internal, `${method} ${path}`)
})

test('GET /healthz of the edge with no role there → alive', async (t) => {
  t.is((await shop.call('GET', '/healthz')).status, 200)
})

/** Who may call what, by role. */
const specified: Record<string, Record<string, string[]>> = {
  auth: {
    anyone: [
      ...[
        'POST /auth/register',
        'POST /auth/verify',
        'POST /auth/verify/resend',
        'POST /auth/login',
        'POST /auth/refresh',
      ],
      ...['POST /auth/password/forgot', 'POST /auth/password/reset', 'GET /auth/verify', 'GET /auth/password/reset'],
      ...['GET /avatar/{hash}', 'GET /.well-known/jwks.json'],
    ],
    'signed in': [
      ...['POST /auth/logout', 'GET /auth/sessions', 'DELETE /auth/sessions/{id}', 'GET /profile', 'PATCH /profile'],
      ...['PUT /profile/avatar', 'DELETE /profile/avatar'],
    ],
    'audit:read (admin)': ['GET /audit'],
    'user:manage (admin)': ['GET /user', 'PUT /user/{id}/roles'],
  },
  products: {
    anyone: ['GET /product', 'GET /image/{hash}'],
    'anyone (signed in where PRODUCT_READ=user)': ['GET /product/{id}'],
    'product:write (staff, admin)': [
      ...['POST /product', 'PUT /product/{id}', 'DELETE /product/{id}', 'PUT /product/{id}/stock'],
      ...['PUT /product/{id}/image', 'DELETE /product/{id}/image'],
    ],
  },
  orders: {
    'signed in': [
      ...['GET /cart', 'DELETE /cart', 'PUT /cart/items/{productId}', 'DELETE /cart/items/{productId}'],
      ...['POST /order', 'GET /order', 'GET /order/{id}', 'POST /order/{id}/cancel'],
    ],
    'order:manage (staff, admin)': ['POST /order/{id}/pay', 'POST /order/{id}/ship', 'POST /order/{id}/deliver'],
  },
  notifications: {
    anyone: ['GET /unsubscribe/{token}', 'POST /unsubscribe/{token}'],
    'signed in': ['GET /notification/preferences', 'PUT /notification/preferences'],
  },
}

test('every endpoint of the specification, and no other → in make policy under its role, for whom it is', async (t) => {
  const { stdout } = await shop.run('migrate', 'commands.ts', 'policy')
  const printed = stdout.trim().replaceAll(/ +/g, ' ').split('\n')
  const expected = Object.entries(specified).flatMap(([role, holders]) =>
    Object.entries(holders).flatMap(([who, routes]) => routes.map((route) => `${route} ${role} ${who}`)),
  )
  t.deepEqual(printed.sort(), expected.sort())
})

test('routes of the edge’s map → none that the table has not', (t) => {
  const map = readFileSync(join(import.meta.dirname, '../../src/edge/routes.conf'), 'utf8')
  t.notRegex(map, /authn|authz|metrics|readyz/)
})

test('another method on a page of the edge → 405 with Allow, and a problem whatever the path ends with', async (t) => {
  for (const path of ['/healthz', '/openapi.json', '/docs', '/docs/docs.js', '/docs/swagger-ui.css']) {
    const answer = await shop.call('DELETE', path)
    t.is(answer.status, 405, path)
    t.is(answer.headers.allow, 'GET, HEAD')
    t.is(answer.headers['content-type'], 'application/problem+json')
    t.is(answer.body.code, 'method_not_allowed')
  }
  const ambiguous = await shop.call('GET', '/product//page.html')
  t.is(ambiguous.status, 403)
  t.is(ambiguous.headers['content-type'], 'application/problem+json')
})

test('a version or a range that a page does not have → 412 and 416 as problems', async (t) => {
  for (const path of ['/openapi.json', '/docs', '/docs/swagger-ui.css'])
    for (const [header, value, status] of [
      ['If-Match', '"another"', 412],
      ['If-Unmodified-Since', 'Thu, 01 Jan 1970 00:00:00 GMT', 412],
      ['Range', 'bytes=99999999-', 416],
    ] as const) {
      const answer = await shop.call('GET', path, { headers: { [header]: value } })
      t.is(answer.status, status, path)
      t.regex(answer.headers['content-type'] as string, /^application\/problem\+json/)
      t.is(answer.body.status, status)
    }
})
