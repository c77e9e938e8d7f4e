import { STATUS_CODES } from 'node:http'
import { z } from 'zod'
import { refreshCookie, type Table, type TableRow } from './platform/routes.ts'
import { uploadTypes } from './platform/upload.ts'

const Problem = {
  type: 'object',
  required: ['type', 'title', 'status', 'code', 'detail'],
  properties: {
    type: { type: 'string' },
    title: { type: 'string' },
    status: { type: 'integer' },
    code: { type: 'string', description: 'Stable; programs decide by it.' },
    detail: { type: 'string', description: 'For people; may change.' },
  },
} as const

/** The OpenAPI 3.1 document of all roles, from the same table and schemas that the code runs on. */
export function openapi(table: Table, version: string) {
  const paths: Record<string, Record<string, object>> = {}
  const refusals = new Map<string, object>()
  for (const row of table) {
    if (row.internal) continue
    paths[row.path] = { ...paths[row.path], [row.method.toLowerCase()]: operation(row, refusals) }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Bodega',
      version,
      description: 'A shop backend that installs anywhere. Errors are RFC 9457 problem documents with a stable `code`.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(table.map((row) => row.role))].map((name) => ({ name })),
    paths,
    components: {
      schemas: { Problem },
      responses: Object.fromEntries(refusals),
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'The access token of a login.' },
        refreshCookie: {
          type: 'apiKey',
          in: 'cookie',
          name: refreshCookie,
          description: 'The refresh token of a login with {cookie: true}; needs the Origin of the shop.',
        },
      },
    },
  }
}

function operation(row: TableRow, refusals: Map<string, object>) {
  const body = row.body && schemaOf(row.body, 'input')
  const where = `${row.method} ${row.path}`
  return {
    operationId: operationId(row),
    tags: [row.role],
    summary: row.summary,
    description: `Who may call it: ${who(row)}.`,
    security: security(row),
    parameters: [
      ...[...row.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
        name,
        in: 'path',
        required: true,
        schema: propertyOf(row.params, name as string) ?? { type: 'string' },
      })),
      ...queryOf(row),
      ...(row.headers ?? []).map((header) => ({
        name: header.replace(/!$/, ''),
        in: 'header',
        required: header.endsWith('!'),
        schema: headerSchemas[header.replace(/!$/, '')] ?? { type: 'string' },
      })),
    ],
    ...(body && {
      requestBody: {
        required: !row.body?.safeParse(undefined).success,
        content: { 'application/json': { schema: body, example: exampleOf(body, `the body of ${where}`) } },
      },
    }),
    ...(row.upload && { requestBody: { required: true, content: uploadContent } }),
    responses: responses(row, refusals),
  }
}

const security = ({ access, cookie }: TableRow) => {
  if (cookie) return [{}, { refreshCookie: [] }]
  if (access === 'PRODUCT_READ') return [{}, { bearer: [] }]
  return access === 'public' ? [] : [{ bearer: [] }]
}

const headerSchemas: Record<string, object> = {
  'Accept-Language': { type: 'string', examples: ['hi, en;q=0.5'] },
  'Idempotency-Key': {
    type: 'string',
    minLength: 1,
    maxLength: 255,
    pattern: '^[ -~]+$',
    examples: ['order-2026-11-0001'],
  },
  'If-Match': { type: 'string', examples: ['"v1"', '*'] },
  'If-None-Match': { type: 'string', examples: ['"v1"'] },
  Range: { type: 'string', examples: ['bytes=0-1023'] },
}

const file = { type: 'string', format: 'binary' }
const uploadContent = {
  ...Object.fromEntries(uploadTypes.map((type) => [type, { schema: file }])),
  'multipart/form-data': { schema: { type: 'object', properties: { file }, required: ['file'] } },
}

const bodyProblems = ['400 bad_body', '413 body_too_large', '415 json_only', '415 unsupported_encoding']
const uploadProblems = [
  '400 body_missing',
  '400 bad_body',
  '400 bad_form',
  '400 one_file',
  '413 body_too_large',
  '415 unsupported_image',
  '415 unsupported_encoding',
  '422 bad_image',
  '422 image_too_large',
]
// Of a path that can be read in two ways, or not at all.
const pathProblems = ['404 not_found', '403 forbidden', '403 bad_path', '400 bad_request']

/** All problems of a route, those that its shape brings and its own, each as `409 out_of_stock`. */
const problemsOf = ({ access, path, query, body, upload, limit, problems = [] }: TableRow) =>
  [
    (query || body) && '400 invalid_input',
    body && !body.safeParse(undefined).success && '400 body_missing',
    body && bodyProblems,
    upload && uploadProblems,
    access !== 'public' && ['401 unauthenticated', '403 forbidden'],
    path.includes('{') && pathProblems,
    limit && '429 slow_down',
    '406 not_acceptable',
    '503 unavailable',
    problems,
  ]
    .flat()
    .filter((problem) => typeof problem === 'string')

const who = ({ access }: TableRow) =>
  access === 'public'
    ? 'anyone'
    : access === 'user'
      ? 'a signed-in user'
      : access === 'PRODUCT_READ'
        ? 'anyone, or a signed-in user where PRODUCT_READ=user'
        : `the permission \`${access}\``

const operationId = ({ method, path }: TableRow) =>
  `${method.toLowerCase()}${path.replace(/[{}]/g, '').replace(/[/.-]+(\w)/g, (_, letter) => letter.toUpperCase())}`

type Schema = z.core.JSONSchema.JSONSchema
const schemaOf = (schema: z.ZodType, io: 'input' | 'output'): Schema => {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, {
    io,
    unrepresentable: 'any',
    override({ jsonSchema }) {
      // The format says it already, at less length.
      if (jsonSchema.format) delete jsonSchema.pattern
    },
  })
  return rest as Schema
}

const formats: Record<string, string> = {
  uuid: '01935f2e-7c1a-7b3e-9d52-6f0a4c8b1e07',
  'date-time': '2026-11-25T09:30:00.000Z',
}

/** A value that fits the schema: its own first example, or made of those of its parts. Throws where there is none. */
function exampleOf(schema: Schema, what: string): unknown {
  const { examples, enum: choices, anyOf, type, format, properties = {}, required = [], items } = schema
  if (Array.isArray(examples)) return examples[0]
  if (schema.const !== undefined) return schema.const
  if (choices) return choices[0]
  if (anyOf) return exampleOf(anyOf[0] as Schema, what)
  if (type === 'object')
    return Object.fromEntries(
      required.map((name) => [name, exampleOf(properties[name] as Schema, `${name} in ${what}`)]),
    )
  if (type === 'array') return [exampleOf(items as Schema, what)]
  if (type === 'boolean') return schema.default ?? true
  if (type === 'integer' || type === 'number') return schema.default ?? Math.max(1, schema.minimum ?? 1)
  if (format && formats[format]) return formats[format]
  throw new Error(`the OpenAPI document needs an example of ${what}: give its schema .meta({ examples: […] })`)
}

const propertyOf = (schema: z.ZodType | undefined, name: string) =>
  schema && (schemaOf(schema, 'input').properties?.[name] as object | undefined)

function queryOf({ query }: TableRow) {
  if (!query) return []
  const { properties = {}, required = [] } = schemaOf(query, 'input')
  return Object.entries(properties).map(([name, schema]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    schema,
  }))
}

const int = (description: string) => ({ type: 'integer', description })
const listOf = (properties: object, required: string[], description: string) => ({
  type: 'array',
  items: { type: 'object', required, properties },
  description,
})
/** What the problem of a code says beyond those of every problem. */
const members: Record<string, object> = {
  invalid_input: {
    errors: listOf(
      { field: { type: 'string' }, rule: { type: 'string' } },
      ['field', 'rule'],
      'Each field that is refused, and the rule it breaks.',
    ),
  },
  out_of_stock: {
    lines: listOf(
      {
        productId: { type: 'string', format: 'uuid' },
        requested: int('What the order asks for.'),
        available: int('What there is.'),
        missing: { type: 'boolean', description: 'There is no such product.' },
      },
      ['productId', 'requested', 'available'],
      'Each line that cannot be had.',
    ),
  },
  price_changed: { total: int('What the order comes to now, in minor units.') },
  stock_out_of_range: { available: int('The stock as it is.') },
  wrong_state: { current: { type: 'string', description: 'The status that the order has.' } },
  slow_down: { retryAfter: int('Seconds; not in an answer of the edge, which has the header alone.') },
}

const ofText = (description: string, example: string) => ({ description, schema: { type: 'string' }, example })
const sent = (path: string): Record<string, object> => ({
  ETag: ofText('The version, for If-Match and If-None-Match.', '"v1"'),
  Location: ofText('Where it is now.', `${path}/${formats.uuid}`),
  'Product-Stock': ofText('What is left of it; no part of the version.', '12'),
  'Idempotent-Replayed': ofText('`true` where the key had its answer already.', 'true'),
  'Set-Cookie': ofText(
    'The refresh token, where it was asked for as a cookie.',
    `${refreshCookie}=…; HttpOnly; Secure`,
  ),
  'Content-Range': ofText('Which bytes these are.', 'bytes 0-1023/20480'),
})
const goodAnswers: Record<string, string> = {
  200: 'As asked.',
  201: 'Made.',
  202: 'Accepted; what follows comes by mail.',
  204: 'Done.',
  206: 'The range that was asked for.',
  304: 'Not changed since.',
}

/** The answers of a route; each refusal is added once to `refusals`, under its status and codes. */
function responses(row: TableRow, refusals: Map<string, object>) {
  const good = Object.keys(row.answers).map((status) => [status, goodResponse(row, status)])
  const codes = new Map<string, Set<string>>()
  for (const problem of problemsOf(row)) {
    const [status, code] = problem.split(' ') as [string, string]
    codes.set(status, (codes.get(status) ?? new Set()).add(code))
  }
  const bad = [...codes].map(([status, names]) => {
    const name = [status, ...[...names].sort()].join('.')
    refusals.set(name, refusal(status, [...names].sort()))
    return [status, { $ref: `#/components/responses/${name}` }]
  })
  return Object.fromEntries([...good, ...bad].sort(([a], [b]) => Number(a) - Number(b)))
}

function goodResponse(row: TableRow, status: string) {
  const schema = row.answers[Number(status)]
  const json = schema && schemaOf(schema, 'output')
  const media = row.media ?? 'text/html'
  const example = () => exampleOf(json as Schema, `the answer ${status} of ${row.method} ${row.path}`)
  const content = json
    ? { 'application/json': { schema: json, example: example() } }
    : ['200', '206'].includes(status) && { [media]: { schema: media === 'text/html' ? { type: 'string' } : file } }
  const names = (row.sends ?? []).filter((name) => name !== 'Content-Range' || status === '206')
  const headers = Object.fromEntries(names.map((name) => [name, sent(row.path)[name]]))
  return { description: goodAnswers[status], ...(row.sends && { headers }), ...(content && { content }) }
}

function headersOf(status: string, codes: string[]) {
  if (status === '401') return { headers: { 'WWW-Authenticate': { schema: { type: 'string' } } } }
  if (['429', '503'].includes(status) || codes.includes('in_flight'))
    return { headers: { 'Retry-After': { description: 'Seconds.', schema: { type: 'string' } } } }
  return {}
}

const refusal = (status: string, codes: string[]) => ({
  description: codes.map((code) => `\`${code}\``).join(', '),
  ...headersOf(status, codes),
  content: {
    'application/problem+json': {
      schema: {
        allOf: [
          { $ref: '#/components/schemas/Problem' },
          { properties: Object.assign({ code: { enum: codes } }, ...codes.map((code) => members[code])) },
        ],
      },
      example: {
        type: 'about:blank',
        title: STATUS_CODES[status],
        status: Number(status),
        code: codes[0],
        detail: 'What is wrong, by which rule, and what to do next.',
      },
    },
  },
})
