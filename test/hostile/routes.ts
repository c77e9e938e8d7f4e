import { randomUUID } from 'node:crypto'
import type { Call } from '../../src/embedded/client.ts'
import { openapi } from '../../src/openapi.ts'
import type { TableRow } from '../../src/platform/routes.ts'
import { table } from '../../src/table.ts'

/** All routes that the edge serves: what is tried on each route goes by these, so that a new one is tried too. */
export const rows = (await table()).filter((row) => !row.internal)
export const nameOf = ({ method, path }: TableRow) => `${method} ${path}`
/** Whether the edge asks /authz first. */
export const isGuarded = ({ access }: TableRow) => access !== 'public' && access !== 'PRODUCT_READ'
export const isWrite = ({ method }: TableRow) => method !== 'GET'

// biome-ignore lint/suspicious/noExplicitAny: a document is read here as whoever reads it would
const { paths } = openapi(rows, '1.0.0') as any
/** The schema and the example of the JSON body, as the OpenAPI document has them; undefined where a route takes none. */
export const bodyOf = (row: TableRow) =>
  paths[row.path][row.method.toLowerCase()].requestBody?.content['application/json'] as
    // biome-ignore lint/suspicious/noExplicitAny: as above
    { schema: any; example: any } | undefined

/** The path with a value in place of each parameter. */
export const filled = (row: TableRow, value: string) => row.path.replace(/\{\w+\}/g, encodeURIComponent(value))

/** What a good request of a route carries, except its token. */
export function goodCall(row: TableRow): Call {
  if (row.upload) return { body: Buffer.from('no picture'), headers: { 'Content-Type': 'image/jpeg', 'If-Match': '*' } }
  const example = bodyOf(row)?.example
  return {
    ...(example === undefined ? {} : { body: structuredClone(example) }),
    headers: { 'Idempotency-Key': randomUUID(), 'If-Match': '*' },
  }
}
