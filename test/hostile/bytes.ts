import fc from 'fast-check'

/** Requests as bytes: some nearly right, some right with bytes changed, and some that two readers could end at different places. */
const odd = fc.string({ unit: fc.nat(255).map((code) => String.fromCharCode(code)), maxLength: 30 })
const one = (...texts: string[]) => fc.constantFrom(...texts)
const mostly = (good: fc.Arbitrary<string>, bad: fc.Arbitrary<string>) =>
  fc.oneof({ weight: 5, arbitrary: good }, { weight: 2, arbitrary: bad }, { weight: 1, arbitrary: odd })

const method = mostly(
  one('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'HEAD'),
  one(
    'get',
    '',
    'TRACE',
    'OPTIONS',
    'CONNECT',
    'PRI',
    'M-SEARCH',
    'GET GET',
    '\tGET',
    'GE\0T',
    'G'.repeat(9000),
    'GÉT',
  ),
)
const id = '01935f2e-7c1a-7b3e-9d52-6f0a4c8b1e07'
const target = mostly(
  one(
    ...[
      '/product',
      `/product/${id}`,
      '/cart',
      '/order',
      '/auth/refresh',
      '/auth/verify?token=x',
      '/healthz',
      '/profile',
    ],
    ...[
      `/unsubscribe/${id}`,
      '/notification/preferences',
      `/image/${'0'.repeat(64)}`,
      '/readyz',
      `/order/${id}/cancel`,
      '/docs',
      '/openapi.json',
      '/docs/swagger-ui.css',
    ],
  ),
  one(
    ...['', '*', '//', '/../..', '/%', '/%zz', '/%c0%af', '/%u002f', '/\0', '/a b', '/#x', '/;x=y', '/product?', '?'],
    ...['http://shop/product', 'http://127.0.0.1:1/', 'shop:443', 'HTTP://@/', '/product\r', '/\x7f', '/é', '/%ff%fe'],
    ...[`/${'a'.repeat(9000)}`, `/product?q=${'%41'.repeat(2600)}`, `/${'/'.repeat(3000)}`, `/${'../'.repeat(2000)}`],
    ...[
      '/authz',
      '/product//x.html',
      '/product/x.css',
      '/-/auth/public',
      '/metrics',
      '/product?limit=1&limit=2',
      '/product?__proto__[x]=1',
      '/product?q[]=1',
    ],
  ),
)
const version = mostly(
  one('HTTP/1.1', 'HTTP/1.0'),
  one('HTTP/0.9', 'HTTP/2.0', 'HTTP/1.2', 'HTTP/9.9', 'HTTP/11', 'HTTP/1.1 x', 'http/1.1', 'HTTP/', '', 'HTTP/1.1\0'),
)
const lineEnd = fc.oneof({ weight: 20, arbitrary: fc.constant('\r\n') }, one('\n', '\r', '\r\r\n', '\n\r\n', '', '\0'))

const value = fc.oneof(odd, one('1', '', ' ', '\0', 'a\0b', '\x7f', '\x0b', 'é', 'a\r\n b', 'a\n\tb', 'x'.repeat(9000)))
const name = one(
  ...['X-A', 'Accept', 'Accept-Language', 'Accept-Encoding', 'Content-Type', 'Content-Encoding', 'Cookie', 'Range'],
  ...[
    'If-Match',
    'If-None-Match',
    'If-Range',
    'Idempotency-Key',
    'Authorization',
    'Origin',
    'Referer',
    'Expect',
    'Via',
  ],
  ...['Upgrade', 'Connection', 'Keep-Alive', 'TE', 'Trailer', 'X-Request-Id', 'X-Real-IP', 'X-Forwarded-For', 'Date'],
  ...[
    'X-Auth-Assertion',
    'X-Original-URI',
    '__proto__',
    'constructor',
    'Host',
    '',
    ' ',
    'X A',
    'X\0',
    '(',
    'é',
    'x'.repeat(9000),
  ],
)
const known = one(
  ...['Expect: 100-continue', 'Expect: 200-maybe', 'Connection: close', 'Connection: Upgrade', 'Upgrade: h2c'],
  ...[
    'Upgrade: websocket',
    'Accept: text/plain',
    'Accept: */*;q=2',
    'Content-Type: application/json',
    'Range: bytes=-1',
    'Range: bytes=99999999-',
    'If-Match: "x"',
    'If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT',
  ],
  ...['Content-Encoding: gzip', 'Content-Encoding: deflate, gzip', 'Content-Type: multipart/form-data; boundary='],
  ...['Accept-Language: *', 'If-None-Match: *', 'Host: shop', 'Host: a, b', 'Host:', 'Host: [::1', 'Host: a@b:99999'],
)
const line = fc.oneof(
  known,
  fc.tuple(name, one(':', ': ', ' : ', ':\t', '', ' '), value).map((parts) => parts.join('')),
)

const lengths = [
  '0',
  '2',
  '5',
  '60',
  '-1',
  '+2',
  '2, 2',
  '2, 3',
  '0x2',
  '2 ',
  ' 2',
  '02',
  '2.0',
  '1e1',
  '2\x0b',
  '',
  'x',
]
const framing = fc.array(
  fc.oneof(
    one(...lengths, '99999999999', '18446744073709551617').map((n) => `Content-Length: ${n}`),
    one(
      ...[
        'chunked',
        'Chunked',
        'xchunked',
        'chunked, chunked',
        'identity',
        'identity, chunked',
        'chunked, identity',
        '',
      ],
      ...['gzip', 'gzip, chunked', 'chunked;q=1', '"chunked"', '\tchunked', '\x0bchunked', 'chunked\0', 'chu\r\n nked'],
    ).map((coding) => `Transfer-Encoding: ${coding}`),
  ),
  { maxLength: 3 },
)
const body = fc.oneof(
  odd,
  one(
    ...['', '{}', '{"refreshToken":"x"}', '[', 'null', '2\r\n{}\r\n0\r\n\r\n', '2;x=y\r\n{}\r\n0\r\n\r\n', '0\r\n\r\n'],
    ...[
      '2\n{}\n0\n\n',
      '0x2\r\n{}\r\n0\r\n\r\n',
      '-2\r\n{}\r\n',
      'ffffffffffffffff\r\n{}',
      '10000000000000000\r\n',
      '2\r\n{}',
    ],
    ...[
      '2\r\n{}0\r\n\r\n',
      '1\r\n{\r\n1\r\n}\r\n0\r\nHost: x\r\n\r\n',
      ' 2\r\n{}\r\n0\r\n\r\n',
      `0\r\n${'t: x\r\n'.repeat(2000)}\r\n`,
    ],
    ...[`2;${'e'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`, 'x'.repeat(70_000), '\x1f\x8b\x08\0\0', '{"a":'.repeat(5000)],
  ),
)

const built = fc
  .record({
    method,
    target,
    version,
    lines: fc.array(line, { maxLength: 6 }),
    framing,
    body,
    end: lineEnd,
    host: fc.boolean(),
  })
  .map(({ method, target, version, lines, framing, body, end, host }) => {
    const head = [`${method} ${target} ${version}`, ...(host ? ['Host: shop'] : []), ...lines, ...framing]
    return Buffer.from(`${head.join(end)}${end}${end}${body}`, 'latin1')
  })

const good = [
  'GET /product?limit=1 HTTP/1.1\r\nHost: shop\r\nAccept: application/json\r\nConnection: close\r\n\r\n',
  'POST /auth/refresh HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"refreshToken":"x"}',
  'POST /auth/refresh HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{"refreshToken":"x"}\r\n0\r\n\r\n',
  `PUT /notification/preferences HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer a.b.c\r\nContent-Length: 2\r\n\r\n{}`,
  `GET /order/${id} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer a.b.c\r\nCookie: a=b\r\n\r\n`,
].map((text) => Buffer.from(text, 'latin1'))
const change = fc.record({
  at: fc.nat(250),
  how: fc.constantFrom('set', 'insert', 'delete', 'double', 'cut') as fc.Arbitrary<
    'set' | 'insert' | 'delete' | 'double' | 'cut'
  >,
  bytes: fc.uint8Array({ minLength: 1, maxLength: 4 }),
})
const changed = fc
  .tuple(fc.constantFrom(...good), fc.array(change, { minLength: 1, maxLength: 4 }))
  .map(([request, changes]) =>
    changes.reduce((now, { at, how, bytes }) => {
      const [before, after] = [now.subarray(0, at), now.subarray(at)]
      if (how === 'cut') return before
      if (how === 'insert') return Buffer.concat([before, bytes, after])
      if (how === 'delete') return Buffer.concat([before, after.subarray(bytes.length)])
      if (how === 'double') return Buffer.concat([before, after.subarray(0, 20), after])
      return Buffer.concat([before, bytes, after.subarray(bytes.length)])
    }, request),
  )
/** A request that is broken in some way, or in none. */
export const anyRequest: fc.Arbitrary<Buffer> = fc.oneof(
  { weight: 2, arbitrary: built },
  { weight: 1, arbitrary: changed },
)

/** The path of the request that hides in the body of another. */
export const hidden = '/.well-known/jwks.json'
const inner = `GET ${hidden} HTTP/1.1\r\nHost: shop\r\nX: y\r\n\r\n`
const hexOf = (text: string) => text.length.toString(16)
/** A request with another in its body, framed so that two readers may not agree on where the first one ends. */
export const anySmuggler: fc.Arbitrary<Buffer> = fc
  .record({
    coding: one(
      ...['', 'Transfer-Encoding: chunked', 'Transfer-Encoding : chunked', 'Transfer-Encoding:\tchunked'],
      ...[
        'Transfer-Encoding: xchunked',
        'Transfer-Encoding: chunked, identity',
        'Transfer-Encoding: identity, chunked',
      ],
      ...['Transfer-Encoding: chunked\r\nTransfer-Encoding: identity', 'Transfer-Encoding:\r\n chunked'],
      ...['Transfer-Encoding:\n chunked', 'Transfer-Encoding: "chunked"', 'Transfer-Encoding: chunked;q=1'],
      ...['Transfer_Encoding: chunked', 'X: y\r\n Transfer-Encoding: chunked', 'X: y\nTransfer-Encoding: chunked'],
      ...['X: y\rTransfer-Encoding: chunked', 'Transfer-Encoding: CHUNKED', 'Transfer-Encoding: \x0bchunked'],
      ...['Transfer-Encoding: chunked\0', 'Transfer-Encoding: chunked\x01', 'Transfer-Encoding: gzip, chunked'],
      ...[
        'Transfer-Encoding:',
        ' Transfer-Encoding: chunked',
        '\0Transfer-Encoding: chunked',
        'Transfer-Encoding\0: chunked',
      ],
      ...['Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked', 'Connection: Content-Length', 'TE: chunked'],
      ...[
        'Upgrade: websocket\r\nConnection: Upgrade',
        'Expect: 100-continue',
        'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings',
      ],
    ),
    length: one(
      '',
      '0',
      'all',
      'all, all',
      '+0',
      '0\r\nContent-Length: all',
      'all\r\nContent-Length: 0',
      '0\0',
      '-0',
      '0 0',
      '00',
      '\x0b0',
      '0;all',
      '0x0',
      '1e0',
    ),
    body: one(
      inner,
      `0\r\n\r\n${inner}`,
      `2\r\n{}\r\n0\r\n\r\n${inner}`,
      `0\n\n${inner}`,
      `0;x\n\r\n${inner}`,
      `${hexOf(inner)}\r\n${inner}\r\n0\r\n\r\n`,
      `0\r\nContent-Length: 0\r\nX: ${inner}`,
      `00000000000000000\r\n\r\n${inner}`,
      `2\r\n{}\r0\r\n\r\n${inner}`,
      `10000000000000002\r\n{}\r\n0\r\n\r\n${inner}`,
    ),
    first: one('POST /auth/refresh', 'GET /product', 'POST /auth/logout', 'HEAD /product', 'GET /healthz', 'PUT /cart'),
    version: one('1.1', '1.1', '1.0'),
  })
  .map(({ coding, length, body, first, version }) => {
    const counted = length.replaceAll('all', String(body.length))
    const head = [
      `${first} HTTP/${version}`,
      'Host: shop',
      'Content-Type: application/json',
      ...(length ? [`Content-Length: ${counted}`] : []),
      ...(coding ? [coding] : []),
    ]
    return Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`, 'latin1')
  })
