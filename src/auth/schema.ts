import { z } from 'zod'
import { linksTo, PictureLinks } from '../platform/pictures.ts'
import { NextCursor, userRoles } from '../platform/routes.ts'
import { type AuditRow, avatarOf, type SessionRow, type UserRow } from './store.ts'

const isTimeZone = (zone: string) => {
  try {
    return Boolean(new Intl.DateTimeFormat('en', { timeZone: zone }))
  } catch {
    return false
  }
}

// zod's own refuses signs such as & and /, and domains of other scripts (xn--…), whose owners could not register.
const address =
  /^[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+([a-z]{2,63}|xn--[a-z0-9-]{1,59})$/
/** Addresses are compared in lower case and without surrounding blanks. */
const Email = z
  .string()
  .trim()
  .toLowerCase()
  .max(254, 'must have at most 254 characters')
  .pipe(z.email({ pattern: address, error: 'must be a mail address' }))
  .meta({ format: 'email', examples: ['asha@example.org'] })
// Half a surrogate pair is no text: it would be stored as U+FFFD, as every other half, and as what was no UTF-8.
const isText = (text: string) => text.isWellFormed() && !text.includes('\ufffd')
const Password = z
  .string()
  .min(10, 'must have at least 10 characters')
  .max(200, 'must have at most 200 characters')
  .refine(isText, 'must be text')
  .meta({ examples: ['correct horse battery'] })
const Code = z
  .string()
  .regex(/^[0-9]{6}$/, 'must be the six digits of the mail')
  .meta({ examples: ['204518'] })
const Secret = z
  .string()
  .regex(/^[A-Za-z0-9_-]{43}$/, 'must be the token as it was given')
  .meta({ examples: ['q0wq3bUQ8mIT0mFqJYB3uVZ7n1x2Kc5d-9_eHsRtLpA'] })
// The class Cc, written so that every dialect of regular expressions reads it.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const oneLine = /^[^\u0000-\u001f\u007f-\u009f]*$/u
const Name = z
  .string()
  .trim()
  .max(100, 'must have at most 100 characters')
  .regex(oneLine, 'must have no control characters')
  .refine(isText, 'must be text')
  .meta({ examples: ['Asha Rao'] })
const Locale = z.enum(['en', 'de', 'hi'])
const TimeZone = z
  .string()
  .max(64)
  .refine(isTimeZone, 'must be an IANA time zone such as Europe/Berlin')
  .meta({ examples: ['Asia/Kolkata'] })

export const NewUser = z.strictObject({
  email: Email,
  password: Password,
  name: Name.default(''),
  locale: Locale.optional().describe('Of the mails; what Accept-Language asks for unless said, else en.'),
  timeZone: TimeZone.default('UTC'),
})
export const Address = z.strictObject({ email: Email })
export const Verify = z.union(
  [z.strictObject({ token: Secret }), z.strictObject({ email: Email, code: Code })],
  'must be {token} or {email, code}, all of them text',
)
export const Login = z
  .strictObject({
    email: Email,
    password: z.string().max(200).optional(),
    code: Code.optional(),
    cookie: z.boolean().default(false).describe('Keeps the refresh token in a cookie, for browsers.'),
  })
  .refine((l) => !(l.password !== undefined && l.code !== undefined), 'takes a password or a code, not both')
  .meta({ examples: [{ email: 'asha@example.org', password: 'correct horse battery' }] })
export const Refresh = z.strictObject({ refreshToken: Secret.optional() }).optional()
export const Reset = z.strictObject({ token: Secret, password: Password })
export const Logout = z.strictObject({ everywhere: z.boolean().default(false) }).optional()
export const ProfileChange = z
  .strictObject({ name: Name.optional(), locale: Locale.optional(), timeZone: TimeZone.optional() })
  .refine((p) => Object.keys(p).length > 0, 'needs at least one of name, locale, timeZone')
  .meta({ examples: [{ name: 'Asha Rao', locale: 'hi', timeZone: 'Asia/Kolkata' }] })
export const Roles = z.strictObject({
  roles: z
    .array(z.enum(userRoles as ['customer']))
    .min(1)
    .max(3),
})
export const UserQuery = z.strictObject({
  q: z.string().max(254).regex(oneLine, 'must have no control characters').optional().describe('A part of the address'),
  cursor: z.string().max(400).optional(),
  limit: z.coerce.number().int().min(1).max(100).default(20),
})
export const AuditQuery = z.strictObject({
  user: z.uuid().toLowerCase().optional().describe('Only what happened to this account and its orders'),
  cursor: z.string().max(200).optional(),
  limit: z.coerce.number().int().min(1).max(100).default(20),
})
export const PageQuery = z.object({ token: z.string().max(100).optional() })

export const Accepted = z.object({ status: z.literal('accepted') })
export const Verified = z.object({ status: z.literal('verified') })
export const Tokens = z.object({
  accessToken: z
    .string()
    .meta({ examples: ['eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiIwMTkzIn0.c2lnbmF0dXJl'] }),
  tokenType: z.literal('Bearer'),
  expiresIn: z.int().meta({ description: 'Seconds.', examples: [600] }),
  refreshToken: z.string().optional().describe('Absent where it is kept in a cookie.'),
})
export const Profile = z.object({
  id: z.uuid(),
  email: z.string().meta({ examples: ['asha@example.org'] }),
  name: z.string().meta({ examples: ['Asha Rao'] }),
  locale: z.string().meta({ examples: ['hi'] }),
  timeZone: z.string().meta({ examples: ['Asia/Kolkata'] }),
  roles: z.array(z.string().meta({ examples: ['customer'] })),
  verified: z.boolean(),
  avatar: PictureLinks.nullable(),
  createdAt: z.iso.datetime(),
})
const Session = z.object({
  id: z.uuid(),
  current: z.boolean(),
  ip: z.string().meta({ examples: ['203.0.113.9'] }),
  userAgent: z.string().meta({ examples: ['Mozilla/5.0 (X11; Linux x86_64; rv:145.0)'] }),
  createdAt: z.iso.datetime(),
  lastUsedAt: z.iso.datetime(),
})
export const Sessions = z.object({ items: z.array(Session) })
export const Users = z.object({ items: z.array(Profile), next: NextCursor })
const AuditEntry = z.object({
  id: z.string().meta({ examples: ['01935f2e-7c1a-7b3e-9d52-6f0a4c8b1e07'] }),
  at: z.iso.datetime(),
  event: z
    .string()
    .meta({ description: 'As `login.failed`, `roles.changed`, `order.paid`', examples: ['login.failed'] }),
  userId: z.uuid().nullable().describe('Whose account or order; null where there is none'),
  actor: z.uuid().nullable().describe('Who did it; null where nobody was signed in, or a schedule or command did'),
  ip: z
    .string()
    .nullable()
    .meta({ examples: ['203.0.113.9'] }),
  detail: z.record(z.string(), z.unknown()).meta({ examples: [{}] }),
})
export const Audit = z.object({ items: z.array(AuditEntry), next: NextCursor })
export const Jwks = z.object({
  keys: z.array(
    z.record(z.string(), z.unknown()).meta({
      examples: [
        {
          kty: 'RSA',
          n: '0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx',
          e: 'AQAB',
          kid: '2026-11',
          alg: 'RS256',
          use: 'sig',
        },
      ],
    }),
  ),
})

export const toProfile = (u: UserRow): z.output<typeof Profile> => ({
  id: u.id,
  email: u.email,
  name: u.name,
  locale: u.locale,
  timeZone: u.time_zone,
  roles: u.roles,
  verified: u.email_verified_at !== null,
  avatar: linksTo('avatar', avatarOf(u)),
  createdAt: u.created_at.toISOString(),
})
export const toSession = (s: SessionRow, current: string): z.output<typeof Session> => ({
  id: s.id,
  current: s.id === current,
  ip: s.ip,
  userAgent: s.user_agent,
  createdAt: s.created_at.toISOString(),
  lastUsedAt: s.last_used_at.toISOString(),
})
export const toEntry = (row: AuditRow): z.output<typeof AuditEntry> => ({
  id: row.id,
  at: row.at,
  event: row.event,
  userId: row.user_id,
  actor: row.actor,
  ip: row.ip,
  detail: row.detail,
})
/**
 * The part of a user that every event for a mail carries. No name before the address is verified: nobody may register a
 * stranger's address to get words of their own into the stranger's inbox.
 */
export const toRecipient = ({ id, email, name, locale, email_verified_at }: UserRow) => ({
  userId: id,
  email,
  name: email_verified_at ? name : '',
  locale,
})
/** What the event of a changed user carries. */
export const toChange = (user: UserRow & { changed_at: string }) => ({
  ...toRecipient(user),
  timeZone: user.time_zone,
  at: user.changed_at,
})
