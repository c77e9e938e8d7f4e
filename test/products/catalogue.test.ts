import { randomUUID } from 'node:crypto'
import test from 'ava'
import { example, useProducts } from './role.ts'

const { ask, add } = useProducts(test)
const staff = 'staff'
const json = { 'Content-Type': 'application/json' }

test('POST /product by staff → 201 with the product, its ETag and where it is', async (t) => {
  const body = { ...example('POST-1'), stock: 7 }
  const made = await ask('POST', '/product', { as: staff, body })
  t.is(made.status, 201)
  const { id, createdAt, updatedAt, ...facts } = made.body
  t.deepEqual(facts, { ...body, image: null, version: 1 })
  t.is(made.headers.etag, '"v1"')
  t.is(made.headers.location, `/product/${id}`)
  t.true(Math.abs(Date.parse(createdAt) - Date.now()) < 60_000)
  t.is(updatedAt, createdAt)

  const read = await ask('GET', `/product/${id}`)
  t.is(read.status, 200)
  t.deepEqual(read.body, made.body)
  t.is(read.headers.etag, '"v1"')
  t.is(read.headers['product-stock'], '7')
})

test('POST /product without a session, or as a customer → 401 and 403', async (t) => {
  const body = example('POST-2')
  t.is((await ask('POST', '/product', { body })).status, 401)
  const forged = await ask('POST', '/product', {
    body,
    headers: { 'X-Auth-Assertion': 'a.b.c', 'X-User-Roles': 'admin' },
  })
  t.is(forged.status, 401)
  const customer = await ask('POST', '/product', { as: 'customer', body })
  t.is(customer.status, 403)
  t.is(customer.body.code, 'forbidden')
})

test('POST /product with faulty fields → 400 that names each field and its rule', async (t) => {
  const cases: [string, unknown][] = [
    ['price', 12.5],
    ['price', -1],
    ['price', '1250'],
    ['price', 2 ** 53],
    ['currency', 'eur'],
    ['currency', 'XQZ'],
    ['sku', ' '],
    ['sku', 'x'.repeat(65)],
    ['name', 'two\nlines'],
    ['name', 'nul\u0000'],
    ['name', 'half \ud800 pair'],
    ['description', 'x'.repeat(10_001)],
    ['category', 7],
    ['stock', -1],
    ['stock', 1.5],
    ['colour', 'red'],
    ['id', randomUUID()],
  ]
  for (const [field, value] of cases) {
    const answer = await ask('POST', '/product', { as: staff, body: { ...example('BAD'), [field]: value } })
    t.is(answer.status, 400, `${field} ${JSON.stringify(value)}`)
    t.is(answer.body.code, 'invalid_input')
    t.deepEqual(
      answer.body.errors.map((e: { field: string }) => e.field),
      [field],
    )
  }
  const empty = await ask('POST', '/product', { as: staff, body: {} })
  t.deepEqual(
    empty.body.errors.map((e: { field: string }) => e.field),
    ['sku', 'name', 'category', 'price', 'currency'],
  )
})

test('POST /product, greatest price → kept to the unit', async (t) => {
  const made = await add({ price: Number.MAX_SAFE_INTEGER })
  t.is((await ask('GET', `/product/${made.id}`)).body.price, 9007199254740991)
})

test('POST and PUT /product, the longest facts as a client sends them that escapes to ASCII → taken', async (t) => {
  const longest = { ...example('x'), sku: '😀'.repeat(64), name: '😀'.repeat(200), category: '😀'.repeat(64) }
  const facts = { ...longest, description: '😀'.repeat(10_000) }
  const body = JSON.stringify(facts).replace(/[\ud800-\udfff]/g, (half) => `\\u${half.charCodeAt(0).toString(16)}`)
  const made = await ask('POST', '/product', { as: staff, body, headers: json })
  t.is(made.status, 201, made.text.slice(0, 200))
  const put = await ask('PUT', `/product/${made.body.id}`, { as: staff, body, headers: { ...json, 'If-Match': '*' } })
  t.is(put.status, 200)
  t.like(put.body, facts)
})

test('POST /product, sku of a live product → 409 sku_taken, also for two at the same moment', async (t) => {
  const { sku } = await add()
  const again = await ask('POST', '/product', { as: staff, body: example(sku) })
  t.is(again.status, 409)
  t.is(again.body.code, 'sku_taken')
  const body = example('SAME-MOMENT')
  const both = await Promise.all([1, 2].map(() => ask('POST', '/product', { as: staff, body })))
  t.deepEqual(both.map((a) => a.status).sort(), [201, 409])
})

test('GET /product/{id}, unknown, deleted or not a UUID → 404', async (t) => {
  t.is((await ask('GET', `/product/${randomUUID()}`)).status, 404)
  t.is((await ask('GET', '/product/7')).status, 404)
  const gone = await add()
  await ask('DELETE', `/product/${gone.id}`, { as: staff, headers: { 'If-Match': '*' } })
  const answer = await ask('GET', `/product/${gone.id}`)
  t.is(answer.status, 404)
  t.is(answer.body.code, 'not_found')
  t.is(answer.headers['content-type'], 'application/problem+json')
})

test('GET /product/{id} with If-None-Match → 304 for its version in any form, 200 for others', async (t) => {
  const { id } = await add({ stock: 3 })
  for (const tag of ['"v1"', 'W/"v1"', '"x", "v1"', '"v2" ,W/"v1"', '*']) {
    const same = await ask('GET', `/product/${id}`, { headers: { 'If-None-Match': tag } })
    t.is(same.status, 304, tag)
    t.is(same.text, '')
    t.is(same.headers.etag, '"v1"')
    t.is(same.headers['product-stock'], '3')
  }
  for (const tag of ['"v2"', 'v1', '"av1"', '"v11"', ''])
    t.is((await ask('GET', `/product/${id}`, { headers: { 'If-None-Match': tag } })).status, 200, tag)
})

test('PUT /product/{id} → needs If-Match of the present version, and makes the next one', async (t) => {
  const { id, sku, createdAt } = await add({ stock: 4 })
  const body = { ...example(sku), name: 'Another name', price: 99 }
  const put = (match?: string) =>
    ask('PUT', `/product/${id}`, { as: staff, body, headers: match === undefined ? {} : { 'If-Match': match } })

  const missing = await put()
  t.is(missing.status, 428)
  t.is(missing.body.code, 'precondition_required')
  for (const tag of ['"v2"', '"other"', 'v1']) {
    const stale = await put(tag)
    t.is(stale.status, 412, tag)
    t.is(stale.body.code, 'stale')
  }
  const done = await put('"v1"')
  t.is(done.status, 200)
  t.is(done.headers.etag, '"v2"')
  t.like(done.body, { ...body, id, version: 2, stock: 4, createdAt })
  t.is((await put('"v1"')).status, 412)
  t.is((await put('"v1", W/"v2"')).status, 200)
  t.is((await put('*')).body.version, 4)
  t.deepEqual((await ask('GET', `/product/${id}`)).body.name, 'Another name')
})

test('PUT /product/{id} by two at the same version → one 200 and one 412', async (t) => {
  const { id, sku } = await add()
  const put = () => ask('PUT', `/product/${id}`, { as: staff, body: example(sku), headers: { 'If-Match': '"v1"' } })
  t.deepEqual((await Promise.all([put(), put()])).map((a) => a.status).sort(), [200, 412])
})

test('PUT /product/{id}, other faults → 400, 401, 403, 404, 409', async (t) => {
  const [one, two] = [await add(), await add()]
  const headers = { 'If-Match': '"v1"' }
  const body = example(one.sku)
  const put = (id: string, changes = {}, as: 'staff' | 'customer' | undefined = staff) =>
    ask('PUT', `/product/${id}`, { as, body: { ...body, ...changes }, headers })
  t.is((await put(one.id, { stock: 3 })).status, 400)
  t.is((await put(one.id, { price: undefined })).status, 400)
  t.is((await ask('PUT', `/product/${one.id}`, { body, headers })).status, 401)
  t.is((await put(one.id, {}, 'customer')).status, 403)
  t.is((await put(randomUUID())).status, 404)
  const taken = await put(two.id)
  t.is(taken.status, 409)
  t.is(taken.body.code, 'sku_taken')
})

test('DELETE /product/{id} → needs If-Match, answers 204, and the sku is free again', async (t) => {
  const { id, sku } = await add()
  const remove = (match?: string) =>
    ask('DELETE', `/product/${id}`, { as: staff, headers: match ? { 'If-Match': match } : {} })
  t.is((await remove()).status, 428)
  t.is((await remove('"v9"')).status, 412)
  t.is((await ask('DELETE', `/product/${id}`, { headers: { 'If-Match': '*' } })).status, 401)
  t.is((await ask('DELETE', `/product/${id}`, { as: 'customer', headers: { 'If-Match': '*' } })).status, 403)
  const done = await remove('"v1"')
  t.is(done.status, 204)
  t.is(done.text, '')
  t.is((await remove('*')).status, 404)
  const headers = { 'If-Match': '*' }
  t.is((await ask('PUT', `/product/${id}`, { as: staff, body: example(sku), headers })).status, 404)
  t.is((await ask('PUT', `/product/${id}/stock`, { as: staff, body: { stock: 1 } })).status, 404)

  const next = await ask('POST', '/product', { as: staff, body: example(sku) })
  t.is(next.status, 201)
  t.not(next.body.id, id)
  t.deepEqual((await ask('GET', `/product?q=${sku}`)).body.items, [next.body])
})

test('a method, path, type or size that no route takes → 404, 405, 406, 413, 415', async (t) => {
  t.is((await ask('GET', '/products')).body.code, 'no_route')
  const method = await ask('PATCH', '/product', { as: staff, body: {} })
  t.is(method.status, 405)
  t.is(method.body.code, 'method_not_allowed')
  t.deepEqual(method.headers.allow?.split(', ').sort(), ['GET', 'HEAD', 'POST'])
  t.is((await ask('GET', '/product', { headers: { Accept: 'application/xml' } })).status, 406)

  const send = (body: string, headers = {}) => ask('POST', '/product', { as: staff, body, headers })
  t.is((await send('sku=1', { 'Content-Type': 'text/plain' })).status, 415)
  t.is((await send('{"sku":', json)).body.code, 'bad_body')
  t.is((await send('', json)).body.code, 'body_missing')
  const large = await send(JSON.stringify({ ...example('LARGE'), description: 'x'.repeat(140_000) }), json)
  t.is(large.status, 413)
  t.is(large.body.code, 'body_too_large')
  t.is((await send('[]', json)).status, 400)
})

test('HEAD /product → the headers of the list and no body', async (t) => {
  const answer = await ask('HEAD', '/product')
  t.is(answer.status, 200)
  t.is(answer.text, '')
})
