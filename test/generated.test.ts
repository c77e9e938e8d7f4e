import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { generated } from '../src/commands.ts'
import { memoryEnv } from '../src/embedded/shop.ts'
import { openapi } from '../src/openapi.ts'
import { table } from '../src/table.ts'

test('the route table and the settings as they are now → the files made from them are not stale', async (t) => {
  for (const [file, text] of Object.entries(await generated()))
    t.is(readFileSync(join(import.meta.dirname, '..', file), 'utf8'), text, `${file} is stale; run: make routes`)
})

test('the edge → has a location for each way that a route goes, with the limit that the route has', (t) => {
  const of = (file: string) => readFileSync(join(import.meta.dirname, '../src/edge', file), 'utf8')
  const map = (text: string, name: string) => {
    const [, body = ''] = new RegExp(`^ *map .* \\$${name} \\{\n([^]*?)^ *\\}`, 'm').exec(text) ?? []
    return new Map(
      [...body.matchAll(/^ *("[^"]*") (\S+);$/gm)].map(([, key, value]) => [key as string, value as string]),
    )
  }
  const [conf, routes] = [of('nginx.conf'), of('routes.conf')]
  const [route, limit, again] = [map(routes, 'route'), map(routes, 'limit'), map(conf, 'again')]
  t.true(route.size > 50 && limit.size > 5 && again.size > 3)
  for (const key of again.keys()) t.true(route.has(key), `$again in src/edge/nginx.conf has ${key}, which no route has`)
  for (const [key, target] of route) {
    const at = `location = /-/${target}${again.get(key) ?? ''} {`
    const [, location] = conf.split(at)
    if (!location) {
      t.fail(
        `${key} goes to ${at.slice(0, -2)}, which src/edge/nginx.conf lacks: write it like those of the other roles`,
      )
      continue
    }
    const zone = limit.get(key)?.replace('-', '_')
    const isLimited = !zone || (location.split('\n    }\n')[0] as string).includes(`limit_req zone=${zone} `)
    t.true(isLimited, `${key} has a limit, and ${at.slice(0, -2)} of src/edge/nginx.conf no limit_req zone=${zone}`)
  }
})

test('the OpenAPI document, the example of each body and answer → fits the schema that the route goes by', async (t) => {
  const rows = (await table()).filter((row) => !row.internal)
  // biome-ignore lint/suspicious/noExplicitAny: a document is read here as whoever reads it would
  const { paths } = openapi(rows, '1.0.0') as any
  for (const row of rows) {
    const { requestBody, responses } = paths[row.path][row.method.toLowerCase()]
    const where = `${row.method} ${row.path}`
    const example = (from: { content: Record<string, { example: unknown }> }) =>
      from.content['application/json']?.example
    if (row.body) t.notThrows(() => row.body?.parse(example(requestBody)), where)
    for (const [status, schema] of Object.entries(row.answers))
      if (schema) t.notThrows(() => schema.parse(example(responses[status])), `${where} ${status}`)
  }
})

test('the roles on a bare machine → run with the environment of the image', (t) => {
  const dockerfile = readFileSync(join(import.meta.dirname, '../Dockerfile'), 'utf8')
  for (const [name, value] of Object.entries(memoryEnv))
    t.true(dockerfile.includes(`${name}=${/ /.test(value) ? `"${value}"` : value}`), name)
})
