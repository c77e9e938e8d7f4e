import { randomUUID } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { run } from '../e2e/host.ts'
import { jpeg } from '../objects/corpus.ts'
import { packages } from '../packaging/python.ts'
import { times, trial } from '../support/cases.ts'
import { useShop } from '../support/shop.ts'

const document = JSON.parse(readFileSync(join(import.meta.dirname, '../../src/edge/openapi.json'), 'utf8'))
let place = ''
// Exactly these: another version asks other things, and would fail a change that is not at fault.
try {
  place = await packages('schemathesis', [
    'schemathesis==4.32.5',
    'hypothesis==6.170.17',
    'openapi-spec-validator==0.9.0',
  ])
} catch (error) {
  process.stderr.write(
    `skipped in test/edge/schemathesis.test.ts, not to be had from PyPI: ${(error as Error).message}\n`,
  )
}
const withPython = place ? test : test.skip

const shop = useShop(test)
const python = (args: string[], seconds: number) =>
  run('python3', args, { env: { PYTHONPATH: place }, any: true, seconds, cwd: shop.dir })

withPython('the OpenAPI document → valid by the specification of 3.1', async (t) => {
  const file = join(shop.dir, 'openapi.json')
  writeFileSync(file, (await shop.call('GET', '/openapi.json')).text)
  const { code, all } = await python(['-m', 'openapi_spec_validator', '--schema', '3.1', file], 60)
  t.is(code, 0, all)
})

const checks = [
  'not_a_server_error',
  'status_code_conformance',
  'content_type_conformance',
  'response_headers_conformance',
  'response_schema_conformance',
  'negative_data_rejection',
  'missing_required_header',
  'unsupported_method',
  'allow_header_conformance',
  'ignored_auth',
]
/** A condition that fails, or is missing, is answered before anything else of the request is looked at. */
const settings = `[checks.missing_required_header]
expected-statuses = [400, 401, 403, 406, 415, 422, 428]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 415, 422, 428, 429]
`

withPython(
  'every route, by a fuzzer that reads the document → no 5xx, and no answer that the document has not',
  async (t) => {
    t.timeout(600_000 * times)
    const { count, also, done } = trial('the OpenAPI document, by schemathesis')
    const { token } = await shop.admin()
    const must = async (method: string, path: string, body: unknown, headers = {}) => {
      const answer = await shop.call(method, path, { token, body, headers })
      if (answer.status > 299) throw new Error(`${method} ${path}: ${answer.text}`)
      return answer.body
    }
    const several = (make: (n: number) => Promise<string>) => Promise.all([1, 2, 3, 4].map(make))
    const [doomed, ...products] = await several(async (n) => {
      const facts = { sku: `FUZZ-${n}`, name: 'Thing', category: 'things', price: 100, currency: 'EUR', stock: 1000 }
      return (await must('POST', '/product', facts)).id
    })
    const orders = await several(async () => {
      const items = [{ productId: products[0], quantity: 1 }]
      return (await must('POST', '/order', { items }, { 'Idempotency-Key': randomUUID() })).id
    })
    const { avatar } = await must('PUT', '/profile/avatar', await jpeg(600, 600), { 'Content-Type': 'image/jpeg' })
    const { image } = await must('PUT', `/product/${products[2]}/image`, await jpeg(600, 600), {
      'Content-Type': 'image/jpeg',
      'If-Match': '*',
    })

    // Ids that there are; and of sessions none, so that the one that asks lives on.
    const known: [RegExp, string[]][] = [
      [/^\/(product|cart)/, products],
      [/^\/order/, orders],
      [/^\/avatar/, [avatar.large.split('/').at(-1)]],
      [/^\/image/, [image.large.split('/').at(-1)]],
      [/^\/auth\/sessions/, [randomUUID()]],
      [/^\/user\//, [(await shop.user()).id]],
    ]
    type Operation = { operationId: string; parameters: { in: string; name: string; schema: object }[] }
    for (const [path, operations] of Object.entries(document.paths as Record<string, Record<string, Operation>>))
      for (const { operationId, parameters } of Object.values(operations)) {
        const ids = operationId === 'deleteProductId' ? [doomed] : known.find(([pattern]) => pattern.test(path))?.[1]
        for (const parameter of parameters)
          if (ids && parameter.in === 'path') parameter.schema = { type: 'string', enum: ids }
      }
    // Here a problem has no members but those that the document tells.
    type Refusal = { content: Record<string, { schema: object }> }
    for (const { content } of Object.values(document.components.responses as Record<string, Refusal>))
      for (const { schema } of Object.values(content)) Object.assign(schema, { unevaluatedProperties: false })
    const file = join(shop.dir, 'fuzzed.json')
    writeFileSync(file, JSON.stringify(document))
    writeFileSync(join(shop.dir, 'schemathesis.toml'), settings)
    const args = [
      `--url=${shop.url}`,
      `--header=Authorization: Bearer ${token}`,
      // It ends the session that asks.
      '--exclude-path=/auth/logout',
      `--checks=${checks.join()}`,
      '--phases=examples,coverage,fuzzing',
      `--max-examples=${10 * times}`,
      '--seed=7',
      '--generation-database=none',
      '--request-timeout=20',
      '--no-color',
    ]
    const { code, all } = await python(['-m', 'schemathesis.cli', 'run', file, ...args], 540 * times)
    count(Number(/Test cases:\n +(\d+)/.exec(all)?.[1] ?? 0))
    also(code === 0, () => all.slice(all.indexOf('= FAILURES =')))
    done(t)
    t.is((await shop.call('GET', '/profile', { token })).status, 200, 'the session lived to the end')
  },
)
