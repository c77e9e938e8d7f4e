import { STATUS_CODES } from 'node:http'

/** An answer that is not a success: an RFC 9457 problem document with a stable `code`. */
export class Problem extends Error {
  override name = 'Problem'
  readonly status: number
  readonly code: string
  readonly extra: Record<string, unknown>
  readonly headers: Record<string, string>
  constructor(
    status: number,
    code: string,
    detail: string,
    extra: Record<string, unknown> = {},
    headers: Record<string, string> = {},
  ) {
    super(detail)
    this.status = status
    this.code = code
    this.extra = extra
    this.headers = headers
  }

  /** The document: {type, title, status, code, detail, …extra}. */
  document() {
    return {
      type: 'about:blank',
      title: STATUS_CODES[this.status] ?? 'Error',
      status: this.status,
      code: this.code,
      detail: this.message,
      ...this.extra,
    }
  }
}

export interface FieldFault {
  field: string
  rule: string
}

/** Makers of the problems that several routes have. */
export const problem = {
  badRequest: (code: string, detail: string, extra?: Record<string, unknown>) => new Problem(400, code, detail, extra),
  invalid: (errors: FieldFault[]) =>
    new Problem(400, 'invalid_input', errors.map((e) => `${e.field}: ${e.rule}`).join('; '), { errors }),
  badCursor: () => problem.badRequest('bad_cursor', 'The cursor is not one that this list gave.'),
  unauthenticated: (code: string, detail: string) =>
    new Problem(401, code, detail, {}, { 'WWW-Authenticate': 'Bearer realm="bodega"' }),
  forbidden: (code: string, detail: string) => new Problem(403, code, detail),
  notFound: (what: string, id: string) => new Problem(404, 'not_found', `There is no ${what} ${id}.`),
  conflict: (code: string, detail: string, extra?: Record<string, unknown>, headers?: Record<string, string>) =>
    new Problem(409, code, detail, extra, headers),
  stale: (detail: string) => new Problem(412, 'stale', detail),
  unprocessable: (code: string, detail: string, extra?: Record<string, unknown>) =>
    new Problem(422, code, detail, extra),
  preconditionRequired: (detail: string) => new Problem(428, 'precondition_required', detail),
  slowDown: (seconds: number) =>
    new Problem(
      429,
      'slow_down',
      `Too many tries; try again in ${seconds} s.`,
      { retryAfter: seconds },
      {
        'Retry-After': String(seconds),
      },
    ),
  unavailable: (detail: string) => new Problem(503, 'unavailable', detail, {}, { 'Retry-After': '2' }),
}
