import { z } from 'zod'
import { uploadTypes } from './platform/images.ts'
import type { Table, TableRow } from './platform/routes.ts'

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
  for (const row of table) {
    if (row.internal) continue
    paths[row.path] = { ...paths[row.path], [row.method.toLowerCase()]: operation(row) }
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
      securitySchemes: { bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } },
    },
  }
}

function operation(row: TableRow) {
  const body = row.body && schemaOf(row.body, 'input')
  return {
    operationId: operationId(row),
    tags: [row.role],
    summary: row.summary,
    description: `Who may call it: ${who(row)}.`,
    security: row.access === 'public' ? [] : [{ bearer: [] }],
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
        schema: { type: 'string' },
      })),
    ],
    ...(body && {
      requestBody: {
        required: !row.body?.safeParse(undefined).success,
        content: { 'application/json': { schema: body } },
      },
    }),
    ...(row.upload && { requestBody: { required: true, content: uploadContent } }),
    responses: responses(row),
  }
}

const file = { type: 'string', format: 'binary' }
const uploadContent = {
  ...Object.fromEntries(uploadTypes.map((type) => [type, { schema: file }])),
  'multipart/form-data': { schema: { type: 'object', properties: { file }, required: ['file'] } },
}

const uploadProblems: [string, string][] = [
  ['400', 'body_missing'],
  ['400', 'bad_body'],
  ['400', 'bad_form'],
  ['400', 'one_file'],
  ['413', 'body_too_large'],
  ['415', 'unsupported_image'],
  ['415', 'unsupported_encoding'],
  ['422', 'bad_image'],
  ['422', 'image_too_large'],
]

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

const schemaOf = (schema: z.ZodType, io: 'input' | 'output') => {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'any' })
  return rest
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

function responses(row: TableRow) {
  const good = Object.entries(row.answers).map(([status, schema]) => [
    status,
    schema
      ? { description: 'As asked.', content: { 'application/json': { schema: schemaOf(schema, 'output') } } }
      : { description: 'As asked.', ...(row.media && { content: { [row.media]: { schema: file } } }) },
  ])
  const codes = new Map<string, string[]>()
  const add = (status: string, code: string) => codes.set(status, [...(codes.get(status) ?? []), code])
  if (row.body || row.query) add('400', 'invalid_input')
  if (row.body) {
    add('413', 'body_too_large')
    add('415', 'json_only')
  }
  if (row.upload) for (const problem of uploadProblems) add(...problem)
  if (row.access !== 'public') {
    add('401', 'unauthenticated')
    add('403', 'forbidden')
  }
  if (row.path.includes('{')) add('404', 'not_found')
  if (row.limit) add('429', 'slow_down')
  add('406', 'not_acceptable')
  add('503', 'unavailable')
  for (const problem of row.problems ?? []) add(...(problem.split(' ') as [string, string]))
  const bad = [...codes].map(([status, names]) => [
    status,
    {
      description: [...new Set(names)].map((name) => `\`${name}\``).join(', '),
      content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
    },
  ])
  return Object.fromEntries([...good, ...bad].sort(([a], [b]) => Number(a) - Number(b)))
}
