import type { Context } from 'koa'
import { z } from 'zod'
import type { Role } from './config.ts'
import type { User } from './identity.ts'

/** What each role of a user permits. */
export const permissions = {
  customer: [],
  staff: ['product:write', 'order:manage'],
  admin: ['product:write', 'order:manage', 'user:manage', 'audit:read'],
} as const satisfies Record<string, readonly string[]>
export type UserRole = keyof typeof permissions
/** The roles that a user may have. */
export const userRoles = Object.keys(permissions) as UserRole[]
export type Permission = (typeof permissions)[UserRole][number]

/** Who may call a route: anyone, a signed-in user, whom a setting names, or who holds a permission. */
export type Access = 'public' | 'user' | 'PRODUCT_READ' | Permission

/** The cookie of a browser's refresh token. */
export const refreshCookie = '__Secure-refresh'

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
type Input = z.ZodType
type Parsed<S extends Input | undefined> = S extends Input ? z.output<S> : undefined

export interface Call<P, Q, B> {
  ctx: Context
  params: P
  query: Q
  body: B
  /** The caller, proven by the edge's assertion; on a public route undefined. */
  user: User
}

export interface Route {
  method: Method
  /** A template such as `/product/{id}`; each name in braces is one path segment. */
  path: string
  access: Access
  summary: string
  params?: Input
  query?: Input
  body?: Input
  /** Most bytes of a body; 64 KiB unless said. */
  bodyLimit?: number
  /** Request headers that the route reads; a trailing `!` marks a required one. */
  headers?: string[]
  /** Response headers of its good answers that a client may need. */
  sends?: string[]
  /** The schema of each good answer; the first is what a handler's return value is sent with. `null`: no body. */
  answers: Record<number, Input | null>
  /** Problems beyond those that every route has, as `409 out_of_stock`. */
  problems?: string[]
  /** Takes a picture, as the body itself or in a form, and reads it by itself; the edge lets a larger body through. */
  upload?: true
  /** Media type of a good answer that is not JSON. */
  media?: string
  /** Takes the refresh token from its cookie too. */
  cookie?: true
  /** Counts against a limit per address at the edge. */
  limit?: 'sign-in' | 'mail' | 'picture'
  /** Roles call it among themselves; the edge never forwards it, and it is not in the table that /authz reads. */
  internal?: true
  /** What it returns is the JSON body; a string is JSON text already. */
  handle(call: Call<unknown, unknown, unknown>): Promise<unknown>
}

/** Declares a route; the types of its handler's input come from its schemas. */
export const route = <
  P extends Input | undefined = undefined,
  Q extends Input | undefined = undefined,
  B extends Input | undefined = undefined,
>(
  declared: Omit<Route, 'params' | 'query' | 'body' | 'handle'> & {
    params?: P
    query?: Q
    body?: B
    handle(call: Call<Parsed<P>, Parsed<Q>, Parsed<B>>): Promise<unknown>
  },
) => declared as unknown as Route

/** `{id: uuid}`, the parameters of most paths, in the small letters that every id here has; anything else is a 404. */
export const Id = z.object({ id: z.uuid().toLowerCase() })

/** Where a list goes on, as every list's answer has it. */
export const NextCursor = z
  .string()
  .nullable()
  .meta({ description: 'The cursor of the next page; null on the last.', examples: [null] })

export interface TableRow extends Omit<Route, 'handle'> {
  role: Role
}
export type Table = TableRow[]

/** The path as every party must read it: query cut, decoded once; undefined where parties could read it differently. */
export function canonicalPath(uri: string): string | undefined {
  const raw = uri.split('?', 1)[0] as string
  if (!raw.startsWith('/') || /%2f|%5c|%00|\\/i.test(raw)) return undefined
  let path: string
  try {
    path = decodeURIComponent(raw)
  } catch {
    return undefined
  }
  if (/\/\/|(^|\/)\.{1,2}(\/|$)|\p{Cc}/u.test(path)) return undefined
  return path
}

/** Finds the row of a method and a canonical path. HEAD is read as GET. */
export function matcher<Row extends Pick<Route, 'method' | 'path'>>(rows: Row[]) {
  const fixed = new Map(rows.filter((r) => !r.path.includes('{')).map((r) => [`${r.method} ${r.path}`, r]))
  const open = rows.filter((r) => r.path.includes('{')).map((row) => ({ row, pattern: pathPattern(row.path) }))
  return (method: string, path: string): Row | undefined => {
    const asked = method === 'HEAD' ? 'GET' : method
    return fixed.get(`${asked} ${path}`) ?? open.find((o) => o.row.method === asked && o.pattern.test(path))?.row
  }
}

/** `/product/{id}` → /^\/product\/[^/]+$/ */
export const pathPattern = (path: string) =>
  new RegExp(`^${path.replace(/[.*+?^$()|[\]\\]/g, '\\$&').replace(/\{\w+\}/g, '[^/]+')}$`)

/** Whether the holder of `roles` may call a route of this access; undefined roles mean no session. */
export function allows(access: Exclude<Access, 'PRODUCT_READ'>, roles: readonly string[] | undefined): boolean {
  if (access === 'public') return true
  if (!roles) return false
  if (access === 'user') return true
  return roles.some((role) => (permissions[role as UserRole] as readonly string[] | undefined)?.includes(access))
}
