import { randomUUID } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import test from 'ava'
import fc from 'fast-check'
import { connect as connectBus } from 'nats'
import sharp from 'sharp'
import { call } from '../../src/embedded/client.ts'
import { query } from '../../src/embedded/postgres.ts'
import { stream } from '../../src/events.ts'
import { some, times, trial } from '../support/cases.ts'
import { eventually, type TestUser, useShop } from '../support/shop.ts'
import * as corpus from './corpus.ts'

const shop = useShop(test, { env: { LOG_LEVEL: 'debug', TRUSTED_PROXIES: '127.0.0.1/32' } })
let user: TestUser
let staff: TestUser
test.serial.before(async () => {
  ;[user, staff] = await Promise.all([shop.user(), shop.staff()])
})

interface Upload {
  token?: string
  headers?: Record<string, string>
}
const put = async (path: string, body: Buffer | FormData, { token = user.token, headers }: Upload = {}) => {
  const answer = await fetch(shop.url + path, {
    method: 'PUT',
    body: body instanceof FormData ? body : new Uint8Array(body),
    headers: { Authorization: `Bearer ${token}`, ...headers },
  })
  // biome-ignore lint/suspicious/noExplicitAny: an answer is whatever the server said; the test checks it
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as any }
}
const putAvatar = (body: Buffer | FormData, options?: Upload) => put('/profile/avatar', body, options)
const formOf = (...files: Buffer[]) => {
  const form = new FormData()
  form.append('note', 'a text field beside it')
  for (const [i, file] of files.entries()) form.append(`file${i}`, new Blob([new Uint8Array(file)]), `p${i}.svg`)
  return form
}
const bytesAt = async (path: string) => {
  const answer = await fetch(shop.url + path)
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status}`)
  return Buffer.from(await answer.arrayBuffer())
}
const newProduct = async () => {
  const sku = `P-${Math.random().toString(36).slice(2)}`
  const body = { sku, name: 'Thing', category: 'Things', price: 100, currency: 'EUR' }
  return (await shop.call('POST', '/product', { token: staff.token, body })).body
}

test('PUT /profile/avatar, a JPEG → 512 and 128 pixel squares as WebP, in the profile', async (t) => {
  const { token } = await shop.user()
  t.is((await shop.call('GET', '/profile', { token })).body.avatar, null)
  const { status, body } = await putAvatar(await corpus.jpeg(900, 600), { token })
  t.is(status, 200)
  t.regex(body.avatar.large, /^\/avatar\/[0-9a-f]{64}$/)
  t.deepEqual((await shop.call('GET', '/profile', { token })).body.avatar, body.avatar)
  for (const [path, side] of [
    [body.avatar.large, 512],
    [body.avatar.small, 128],
  ]) {
    const head = await sharp(await bytesAt(path)).metadata()
    t.deepEqual([head.format, head.width, head.height], ['webp', side, side])
  }
})

test('PUT /profile/avatar, raw or in a form, with any Content-Type that is no other kind → taken', async (t) => {
  const bytes = await corpus.png(40, 40)
  for (const type of ['image/png', 'image/svg+xml', 'image/jpeg', 'IMAGE/PNG; charset=x', 'application/octet-stream'])
    t.is((await putAvatar(bytes, { headers: { 'Content-Type': type } })).status, 200, type)
  t.is((await putAvatar(formOf(bytes))).status, 200)
})

test('PUT /profile/avatar, a body of another kind → 415', async (t) => {
  const bytes = await corpus.png(40, 40)
  for (const type of [
    'application/json',
    'text/html',
    'application/x-www-form-urlencoded',
    'multipart/mixed; boundary=x',
  ])
    t.like(await putAvatar(bytes, { headers: { 'Content-Type': type } }), {
      status: 415,
      body: { code: 'unsupported_image' },
    })
  t.like(await putAvatar(bytes, { headers: { 'Content-Type': 'image/png', 'Content-Encoding': 'gzip' } }), {
    status: 415,
    body: { code: 'unsupported_encoding' },
  })
})

test('PUT /profile/avatar, nothing, or a form that is not one file → 400', async (t) => {
  const bytes = await corpus.png(40, 40)
  t.like(await putAvatar(Buffer.alloc(0)), { status: 400, body: { code: 'body_missing' } })
  t.like(await putAvatar(formOf()), { status: 400, body: { code: 'one_file' } })
  t.like(await putAvatar(formOf(bytes, bytes)), { status: 400, body: { code: 'one_file' } })
  t.like(await putAvatar(formOf(Buffer.alloc(0))), { status: 400, body: { code: 'body_missing' } })
  const form = { 'Content-Type': 'multipart/form-data; boundary=x' }
  t.like(await putAvatar(bytes, { headers: form }), { status: 400 })
  t.like(await putAvatar(bytes, { headers: { 'Content-Type': 'multipart/form-data' } }), {
    status: 400,
    body: { code: 'bad_form' },
  })
  const cut = Buffer.from('--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n')
  t.like(await putAvatar(Buffer.concat([cut, bytes]), { headers: form }), { status: 400, body: { code: 'bad_form' } })
  const many = Buffer.from('--x\r\nContent-Disposition: form-data; name="f"\r\n\r\nv\r\n'.repeat(5000))
  t.like(await putAvatar(many, { headers: form }), { status: 400 })
})

test('PUT /profile/avatar, 5 MiB and more → exactly 5 MiB are read, one byte more is a 413', async (t) => {
  const small = await corpus.jpeg(40, 40)
  const padded = (size: number) => Buffer.concat([small, Buffer.alloc(size - small.length)])
  const limit = 5 * 1024 * 1024
  t.is((await putAvatar(padded(limit))).status, 200)
  t.is((await putAvatar(formOf(padded(limit)))).status, 200)
  for (const body of [
    padded(limit + 1),
    formOf(padded(limit + 1)),
    padded(6 * 1024 * 1024),
    formOf(padded(6 * 1024 * 1024)),
  ])
    t.like(await putAvatar(body), { status: 413, body: { code: 'body_too_large' } })
})

/** Sends `size` bytes in chunks without a length, and resolves with the answer and what was sent when it came. */
const pour = (url: string, headers: string[], size: number) =>
  new Promise<{ status: number; sent: number }>((resolve, reject) => {
    const { hostname, port } = new URL(url)
    const socket = connect(Number(port), hostname)
    let sent = 0
    let done = false
    const block = Buffer.alloc(64 * 1024, 0xff)
    socket.once('data', (chunk) => {
      done = true
      socket.destroy()
      resolve({ status: Number(/^HTTP\/1\.1 (\d+)/.exec(String(chunk))?.[1] ?? 0), sent })
    })
    socket.on('error', (error) => !done && reject(error))
    socket.write(['PUT /profile/avatar HTTP/1.1', 'Host: shop', ...headers, '', ''].join('\r\n'))
    const more = () => {
      if (done) return
      if (sent >= size) return void socket.write('0\r\n\r\n')
      sent += block.length
      socket.write(Buffer.concat([Buffer.from('10000\r\n'), block, Buffer.from('\r\n')]), more)
    }
    more()
  })

test('PUT /profile/avatar, 1 GB in chunks without a length → 413 before they are sent', async (t) => {
  const headers = [`Authorization: Bearer ${user.token}`, 'Content-Type: image/png', 'Transfer-Encoding: chunked']
  const { status, sent } = await pour(shop.url, headers, 1e9)
  t.is(status, 413)
  // How many depends on when the client comes to read: 60 MB on a quiet machine, 252 MB on a busy one.
  t.true(sent < 1e9, `${sent} bytes were sent`)
})

test('PUT /profile/avatar past the edge, an endless body → 413 after 5 MiB, then the connection ends', async (t) => {
  const token = await assertionFor(user)
  const headers = [`X-Auth-Assertion: ${token}`, 'Content-Type: image/png', 'Transfer-Encoding: chunked']
  const { status, sent } = await pour(shop.roles.auth.url, headers, 1e9)
  t.is(status, 413)
  t.true(sent < 20e6, `${sent} bytes were sent`)
})

async function assertionFor({ id, email }: TestUser) {
  const { assert } = await import('../../src/platform/identity.ts')
  const key = readFileSync(`${shop.secretsDir('auth')}/ASSERTION_KEY`, 'utf8').trim()
  return assert({ id, email, roles: ['customer'], sid: 'x' }, key)
}

test('PUT /profile/avatar, without a session → 401 before the body is taken', async (t) => {
  const { status } = await pour(shop.url, ['Content-Type: image/png', 'Transfer-Encoding: chunked'], 1e9)
  t.is(status, 401)
})

test('what /authz says → holds for 10 minutes where a slow line may bring a picture, and for one elsewhere', async (t) => {
  const heldFor = async (method: string, path: string, { token }: TestUser) => {
    const headers = { 'X-Original-Method': method, 'X-Original-URI': path }
    const { headers: said } = await call(shop.roles.auth.url, 'POST', '/authz', { token, headers })
    const [, claims = ''] = String(said['x-auth-assertion']).split('.')
    const { iat, exp } = JSON.parse(Buffer.from(claims, 'base64url').toString())
    return exp - iat
  }
  t.is(await heldFor('PUT', '/profile/avatar', user), 600)
  t.is(await heldFor('PUT', `/product/${randomUUID()}/image`, staff), 600)
  t.is(await heldFor('DELETE', '/profile/avatar', user), 60)
})

test('a body of 200 KiB to any other route → 413 as before', async (t) => {
  const { status } = await shop.call('POST', '/order', {
    token: user.token,
    body: Buffer.alloc(200 * 1024, 32),
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': 'x' },
  })
  t.is(status, 413)
})

test.serial('hostile files, each → a clear refusal, and all at once no spike of memory', async (t) => {
  t.timeout(120_000 * times)
  const files = await corpus.refusedFiles()
  const taken = await corpus.takenFiles()
  await putAvatar(await corpus.png(40, 40))
  const pid = shop.roles.auth.pid as number
  const before = memory(pid)
  forgetPeak(pid)
  const { check, done } = trial('files that are no pictures, too much of one, or changed by chance')
  const one = async (name: string, { bytes, status, code }: (typeof files)[string], mayWait = false, address = '') => {
    const answer = await putAvatar(bytes, { headers: { 'Content-Type': 'image/png', 'X-Forwarded-For': address } })
    const isLate = mayWait && answer.status === 503 && answer.headers.get('retry-after') === '2'
    const isRight = answer.status === status && (!code || answer.body.code === code)
    check(isLate || isRight, () => `${name}: ${answer.status} ${answer.body?.code}`)
  }
  for (const [name, file] of Object.entries(files)) await one(name, file)
  const all = {
    ...files,
    ...Object.fromEntries(Object.entries(taken).map(([name, bytes]) => [name, { bytes, status: 200, code: '' }])),
  }
  await Promise.all(
    Array.from({ length: 4 }, () => Object.entries(all))
      .flat()
      // Each from an address of its own, since the edge takes eight at once of one.
      .map(([name, file], i) => one(name, file, true, `192.0.2.${i}`)),
  )
  for (const { which, changes } of some(changedFiles(Object.keys(taken)), 20)) {
    const bytes = Buffer.from(taken[which] as Buffer)
    for (const { at, to } of changes) bytes[at % bytes.length] = to
    const { status } = await putAvatar(bytes, { headers: { 'Content-Type': 'image/png' } })
    check([200, 415, 422].includes(status), () => `${which} with ${JSON.stringify(changes)}: ${status}`)
  }
  const after = memory(pid)
  t.log(`before ${before.told}; after ${after.told}`)
  t.true(after.peak - before.now < 260)
  done(t)
})
const changedFiles = (names: string[]) =>
  fc.record({
    which: fc.constantFrom(...names),
    changes: fc.array(fc.record({ at: fc.nat(100_000), to: fc.nat(255) }), { minLength: 1, maxLength: 8 }),
  })

/** Megabytes of a role, and of what it started to resize pictures. */
function memory(pid: number) {
  const all = family(pid).map((id) => {
    const status = readFileSync(`/proc/${id}/status`, 'utf8')
    const of = (name: string) => Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) / 1024)
    return { now: of('VmRSS'), peak: of('VmHWM') }
  })
  const sum = (of: 'now' | 'peak') => all.reduce((total, one) => total + one[of], 0)
  const told = all.map(({ now, peak }) => `${now} MB (at most ${peak})`).join(' and ')
  return { now: sum('now'), peak: sum('peak'), told }
}
const forgetPeak = (pid: number) => {
  for (const id of family(pid)) writeFileSync(`/proc/${id}/clear_refs`, '5')
}
const family = (pid: number) =>
  process.platform === 'linux'
    ? [pid, ...readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)]
    : []

test.serial(
  'the resize worker killed, idle and at work → another one takes over, and no picture is lost; killed again → 422',
  async (t) => {
    if (process.platform !== 'linux') return t.pass('there is no /proc to find it in')
    const pid = shop.roles.auth.pid as number
    const bytes = await corpus.jpeg(50, 50)
    t.is((await putAvatar(bytes)).status, 200)
    const [, idle = 0] = family(pid)
    process.kill(idle, 'SIGKILL')
    await eventually('it is gone', async () => !family(pid).includes(idle))
    t.is((await putAvatar(bytes)).status, 200)

    /** Sends a picture, and kills as many processes as take it. */
    const sendAndKill = async (times: number) => {
      process.kill(family(pid)[1] as number, 'SIGSTOP')
      const answer = putAvatar(bytes)
      for (let last = 0, done = 0; done < times; done++) {
        last = await eventually('a process has the picture', async () => {
          const metrics = await (await fetch(shop.roles.auth.metricsUrl)).text()
          const [, working] = family(pid)
          return /pictures_in_hand 1/.test(metrics) && working !== last && working
        })
        process.kill(last, 'SIGKILL')
      }
      return answer
    }
    t.is((await sendAndKill(1)).status, 200)
    t.like(await sendAndKill(2), { status: 422, body: { code: 'bad_image' } })
    t.is((await putAvatar(bytes)).status, 200)
  },
)

test('odd files, each → a plain picture: one frame, sRGB, the colours kept', async (t) => {
  const { token } = await shop.user()
  for (const [name, file] of Object.entries(await corpus.takenFiles())) {
    const { status, body } = await putAvatar(file, { token })
    t.is(status, 200, name)
    const bytes = await bytesAt(body.avatar.large)
    const head = await sharp(bytes).metadata()
    t.deepEqual(
      [head.format, head.width, head.height, head.pages ?? 1, head.space],
      ['webp', 512, 512, 1, 'srgb'],
      name,
    )
    t.false(bytes.includes('<script'), name)
    if (/JPEG|16 bits|24/.test(name) && !/animated/.test(name)) {
      const { data, info } = await sharp(bytes)
        .flatten({ background: '#fff' })
        .raw()
        .toBuffer({ resolveWithObject: true })
      const at = (x: number) => data[(256 * info.width + x) * info.channels] as number
      t.true(at(100) > 180 && at(400) < 160, `${name}: ${at(100)} and ${at(400)}`)
    }
  }
})

test('a photo on its side, with its place → upright, and nothing of the camera is left', async (t) => {
  const { token } = await shop.user()
  const source = await corpus.jpegWithExif(400, 200, 6)
  const told = await sharp(source).metadata()
  t.is(told.orientation, 6)
  t.true(source.includes('Ada Example'))
  const product = await newProduct()
  const { body } = await put(`/product/${product.id}/image`, source, {
    token: staff.token,
    headers: { 'If-Match': '*' },
  })
  const bytes = await bytesAt(body.image.large)
  const head = await sharp(bytes).metadata()
  t.deepEqual(
    [head.width, head.height, head.orientation, head.exif, head.icc, head.xmp],
    [200, 400, undefined, undefined, undefined, undefined],
  )
  t.false(bytes.includes('Ada Example'))
  // Turned by 90° to the right, the light left half is on top.
  const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true })
  const at = (y: number) => data[(y * info.width + 100) * info.channels] as number
  t.true(at(50) > 200 && at(350) < 80)
  t.is((await putAvatar(source, { token })).status, 200)
})

test('GET /avatar/{hash} → may be cached for ever, is nothing but a picture, and needs no session', async (t) => {
  const { body } = await putAvatar(await corpus.jpeg(300, 300))
  const path = body.avatar.large
  const answer = await fetch(shop.url + path)
  const bytes = Buffer.from(await answer.arrayBuffer())
  const header = (name: string) => answer.headers.get(name)
  t.is(header('content-type'), 'image/webp')
  t.is(header('content-length'), String(bytes.length))
  t.is(header('cache-control'), 'public, max-age=31536000, immutable')
  t.is(header('x-content-type-options'), 'nosniff')
  t.is(header('content-security-policy'), "default-src 'none'")
  t.regex(header('content-disposition') ?? '', /^inline; filename="avatar-[0-9a-f]{12}\.webp"$/)
  t.is(header('accept-ranges'), 'bytes')
  t.is(header('etag'), `"${path.split('/').at(-1)}"`)
  const head = await fetch(shop.url + path, { method: 'HEAD' })
  t.deepEqual([head.status, head.headers.get('content-length')], [200, String(bytes.length)])
})

test('GET /avatar/{hash}, If-None-Match → 304 without a body for its tag, 200 for another', async (t) => {
  const { body } = await putAvatar(await corpus.jpeg(310, 300))
  const path = body.avatar.small
  const tag = `"${path.split('/').at(-1)}"`
  for (const known of [tag, `W/${tag}`, `"x", ${tag}`, '*']) {
    const answer = await shop.call('GET', path, { headers: { 'If-None-Match': known } })
    t.deepEqual([answer.status, answer.text, answer.headers.etag], [304, '', tag], known)
    t.regex(answer.headers['cache-control'] ?? '', /immutable/)
  }
  t.is((await shop.call('GET', path, { headers: { 'If-None-Match': '"x"' } })).status, 200)
  const nothing = `/avatar/${'0'.repeat(64)}`
  t.is((await shop.call('GET', nothing, { headers: { 'If-None-Match': '*' } })).status, 404)
})

test('GET /avatar/{hash}, Range → those bytes; outside 416; several, or an old tag, the whole', async (t) => {
  const { body } = await putAvatar(await corpus.jpeg(320, 300))
  const path = body.avatar.large
  const whole = await bytesAt(path)
  const size = whole.length
  const ask = async (range: string, headers = {}) => {
    const answer = await fetch(shop.url + path, { headers: { Range: range, ...headers } })
    return {
      status: answer.status,
      range: answer.headers.get('content-range'),
      bytes: Buffer.from(await answer.arrayBuffer()),
    }
  }
  for (const [range, start, end] of [
    ['bytes=0-9', 0, 9],
    ['bytes=10-', 10, size - 1],
    ['bytes=-5', size - 5, size - 1],
    [`bytes=${size - 1}-${size + 500}`, size - 1, size - 1],
    [`bytes=-${size * 2}`, 0, size - 1],
  ] as [string, number, number][]) {
    const part = await ask(range)
    t.is(part.status, 206, range)
    t.is(part.range, `bytes ${start}-${end}/${size}`)
    t.true(part.bytes.equals(whole.subarray(start, end + 1)), range)
  }
  for (const range of [`bytes=${size}-`, 'bytes=99999999-', 'bytes=-0']) {
    const refused = await ask(range)
    t.deepEqual([refused.status, refused.range], [416, `bytes */${size}`], range)
  }
  for (const range of ['bytes=0-1,3-4', 'bytes=5-2', 'bytes=a-b', 'items=0-5', 'bytes=-']) {
    const all = await ask(range)
    t.is(all.status, 200, range)
    t.true(all.bytes.equals(whole), range)
  }
  t.is((await ask('bytes=0-1', { 'If-Range': '"old"' })).status, 200)
  t.is((await ask('bytes=0-1', { 'If-Range': `"${path.split('/').at(-1)}"` })).status, 206)
})

test('GET /avatar/{hash}, what is no hash, or not known → 404, and no path leads out', async (t) => {
  const hash = 'a'.repeat(64)
  for (const part of [
    hash,
    hash.toUpperCase(),
    'a'.repeat(63),
    `${hash}0`,
    '..',
    '...',
    `${hash}.webp`,
    '%61'.repeat(64),
  ])
    for (const name of ['avatar', 'image']) {
      const { status } = await shop.call('GET', `/${name}/${part}`)
      t.true([403, 404].includes(status), `${name}/${part}: ${status}`)
    }
  for (const part of ['..%2f..%2fetc%2fpasswd', '../../etc/passwd', '%2e%2e/secrets', `${hash}%00`])
    t.true([400, 403].includes((await shop.call('GET', `/avatar/${part}`)).status), part)
})

test('DELETE /profile/avatar → 204 and null in the profile; again, the same', async (t) => {
  const { token } = await shop.user()
  await putAvatar(await corpus.jpeg(330, 300), { token })
  for (let i = 0; i < 2; i++) {
    t.is((await shop.call('DELETE', '/profile/avatar', { token })).status, 204)
    t.is((await shop.call('GET', '/profile', { token })).body.avatar, null)
  }
})

test('PUT /product/{id}/image → needs staff and If-Match, counts as a change, shows in the list', async (t) => {
  const product = await newProduct()
  t.is(product.image, null)
  const path = `/product/${product.id}/image`
  const bytes = await corpus.png(2000, 500)
  t.is((await put(path, bytes)).status, 403)
  t.is((await put(path, bytes, { token: staff.token })).status, 428)
  t.is((await put(path, bytes, { token: staff.token, headers: { 'If-Match': '"v9"' } })).status, 412)
  const gone = '/product/00000000-0000-4000-8000-000000000000/image'
  t.is((await put(gone, bytes, { token: staff.token, headers: { 'If-Match': '*' } })).status, 404)

  const done = await put(path, bytes, { token: staff.token, headers: { 'If-Match': '"v1"' } })
  t.is(done.status, 200)
  t.is(done.headers.get('etag'), '"v2"')
  t.regex(done.body.image.small, /^\/image\/[0-9a-f]{64}$/)
  const [large, small] = await Promise.all([done.body.image.large, done.body.image.small].map(bytesAt))
  t.like(await sharp(large).metadata(), { width: 1024, height: 256 })
  t.like(await sharp(small).metadata(), { width: 256, height: 64 })
  const read = await shop.call('GET', `/product/${product.id}`)
  t.deepEqual(read.body, done.body)
  const list = await shop.call('GET', `/product?q=${product.sku}`)
  t.deepEqual(list.body.items[0].image, done.body.image)
  t.is((await put(path, bytes, { token: staff.token, headers: { 'If-Match': '"v1"' } })).status, 412)

  const removal = { token: staff.token, headers: { 'If-Match': '"v2"' } }
  t.is((await shop.call('DELETE', path, { token: staff.token })).status, 428)
  t.like(await shop.call('DELETE', path, removal), { status: 204, headers: { etag: '"v3"' } })
  t.is((await shop.call('DELETE', path, removal)).status, 412)
  t.is((await shop.call('GET', `/product/${product.id}`)).body.image, null)
})

test('PUT /product/{id}/image by two at once on one version → one is taken, the other is stale', async (t) => {
  const product = await newProduct()
  const answers = await Promise.all(
    [200, 210].map(async (side) =>
      put(`/product/${product.id}/image`, await corpus.png(side, side), {
        token: staff.token,
        headers: { 'If-Match': '"v1"' },
      }),
    ),
  )
  t.deepEqual(answers.map((answer) => answer.status).sort(), [200, 412])
})

test('a small picture of a product → is not enlarged', async (t) => {
  const product = await newProduct()
  const { body } = await put(`/product/${product.id}/image`, await corpus.png(100, 50), {
    token: staff.token,
    headers: { 'If-Match': '*' },
  })
  t.like(await sharp(await bytesAt(body.image.large)).metadata(), { width: 100, height: 50 })
})

const sql = (text: string, ...values: unknown[]) => query(shop.databaseUrl, text, values)
/** Lets all that nothing uses look two days older, and has it told as each night. */
const aDayLater = async (schema: 'auth' | 'products') => {
  await sql(`update ${schema}.object set used_at = used_at - interval '2 days'`)
  await sql(`select ${schema}.tell_unused('', 1000)`)
}
const isGone = async (path: string) => (await fetch(shop.url + path)).status === 404

test.serial(
  'an avatar that was replaced → stays for a day, then goes; the new one and a shared one stay',
  async (t) => {
    const [one, other] = await Promise.all([shop.user(), shop.user()])
    const picture = await corpus.jpeg(411, 400)
    const first = (await putAvatar(picture, { token: one.token })).body.avatar
    t.deepEqual((await putAvatar(picture, { token: other.token })).body.avatar, first)
    const second = (await putAvatar(await corpus.png(412, 400), { token: one.token })).body.avatar
    const third = (await putAvatar(await corpus.png(100, 413), { token: one.token })).body.avatar
    t.false(await isGone(second.large))

    await aDayLater('auth')
    await eventually('the replaced avatar goes', () => isGone(second.large))
    await eventually('its small file goes', () => isGone(second.small))
    for (const path of [first.large, first.small, third.large, third.small]) t.false(await isGone(path), path)

    await shop.call('DELETE', '/profile/avatar', { token: other.token })
    await aDayLater('auth')
    await eventually('the avatar that nobody has any more goes', () => isGone(first.large))
    t.false(await isGone(third.large))
  },
)

test.serial('a product that is deleted → its picture goes too, a day later', async (t) => {
  const product = await newProduct()
  const { body } = await put(`/product/${product.id}/image`, await corpus.png(421, 400), {
    token: staff.token,
    headers: { 'If-Match': '*' },
  })
  const { status } = await shop.call('DELETE', `/product/${product.id}`, {
    token: staff.token,
    headers: { 'If-Match': '*' },
  })
  t.is(status, 204)
  t.false(await isGone(body.image.large))
  await aDayLater('products')
  await eventually('the picture goes', () => isGone(body.image.large))
})

test.serial(
  'a picture that nothing uses, removed and brought again at the same moment → whoever has it sees it',
  async (t) => {
    t.timeout(60_000)
    const users = await Promise.all(Array.from({ length: 6 }, () => shop.user()))
    const picture = await corpus.jpeg(431, 400)
    for (let round = 0; round < 8; round++) {
      await aDayLater('auth')
      const answers = await Promise.all(users.map(({ token }) => putAvatar(picture, { token })))
      await eventually(
        'the change is published',
        async () => (await sql('select 1 from auth.outbox')).rows.length === 0,
      )
      for (const { status, body } of answers) {
        t.is(status, 200)
        t.false(await isGone(body.avatar.large))
        t.false(await isGone(body.avatar.small))
      }
      await Promise.all(users.map(({ token }) => shop.call('DELETE', '/profile/avatar', { token })))
    }
  },
)

test('a change of a picture → one event in the same transaction, which says what was replaced', async (t) => {
  const { id, token } = await shop.user()
  const first = (await putAvatar(await corpus.png(441, 400), { token })).body.avatar
  const second = (await putAvatar(await corpus.png(400, 442), { token })).body.avatar
  await shop.call('DELETE', '/profile/avatar', { token })
  await shop.call('DELETE', '/profile/avatar', { token })
  const read = (value: { large: string; small: string } | null) => value && `/avatar/${value.large}`
  const events = await eventually('three events are in the stream', async () => {
    const found = (await eventsAbout(id)).filter(({ subject }) => subject === 'msg.user.avatar_changed')
    return found.length >= 3 && found
  })
  t.deepEqual(
    events.map(({ data }) => [read(data.replaced), read(data.avatar)]),
    [
      [null, first.large],
      [first.large, second.large],
      [second.large, null],
    ],
  )
})

async function eventsAbout(userId: string) {
  const { host, username, password } = new URL(
    readFileSync(`${shop.secretsDir('migrate')}/NATS_BROKER_URL`, 'utf8').trim(),
  )
  const nc = await connectBus({ servers: host, user: username, pass: password, inboxPrefix: '_INBOX.migrate' })
  try {
    const jsm = await nc.jetstreamManager()
    const { state } = await jsm.streams.info(stream)
    // biome-ignore lint/suspicious/noExplicitAny: a message is whatever was published; the test checks it
    const found: { subject: string; data: any }[] = []
    for (let seq = Math.max(state.first_seq, 1); seq <= state.last_seq; seq++) {
      const message = await jsm.streams.getMessage(stream, { seq })
      // biome-ignore lint/suspicious/noExplicitAny: as above
      const data = message.json<any>()
      if (data.userId === userId) found.push({ subject: message.subject, data })
    }
    return found
  } finally {
    await nc.close()
  }
}
