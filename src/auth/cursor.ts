import { problem } from '../platform/problem.ts'

/** Where a page of the audit ended; before `newest` there is everything. */
export interface AuditPosition {
  /** ISO 8601, in microseconds. */
  at: string
  id: string
}
const newest: AuditPosition = { at: 'infinity', id: '' }

/** The opaque cursor after an entry of the audit. */
export const writeAuditCursor = ({ at, id }: AuditPosition) => Buffer.from(`${at} ${id}`).toString('base64url')

/** Reads a cursor of the audit; the newest position where there is none. Throws 400 `bad_cursor`. */
export function readAuditCursor(cursor: string | undefined): AuditPosition {
  if (cursor === undefined) return newest
  const [at = '', id = ''] = Buffer.from(cursor, 'base64url').toString().split(' ')
  // Date reads the 30th of February as a day in March; PostgreSQL reads neither that nor the year 0.
  const moment = new Date(/^[1-9]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(at) ? at : Number.NaN)
  const isMoment = moment.getTime() > 0 && moment.toISOString().slice(0, 19) === at.slice(0, 19)
  if (!isMoment || !/^[0-9a-f-]{36}(:[a-z]+)?$/.test(id)) throw problem.badCursor()
  return { at, id }
}

/** The opaque cursor after a user in the list by address. */
export const writeUserCursor = ({ email }: { email: string }) => Buffer.from(email).toString('base64url')

/** The address that a page of users ended with; undefined without a cursor. Throws 400 `bad_cursor`. */
export function readUserCursor(cursor: string | undefined): string | undefined {
  if (cursor === undefined) return undefined
  const email = Buffer.from(cursor, 'base64url').toString()
  if (!/^\P{Cc}+@\P{Cc}+$/u.test(email)) throw problem.badCursor()
  return email
}
