import { createHmac, createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import jwt from 'jsonwebtoken'
import type { Shop } from '../../src/embedded/shop.ts'
import { assert, type User } from '../../src/platform/identity.ts'

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const now = () => Math.floor(Date.now() / 1000)
const secret = (shop: Shop, name: string) => readFileSync(join(shop.secretsDir('auth'), name), 'utf8').trim()
const strangers = generateKeyPairSync('rsa', { modulusLength: 2048 })

/** An access token of `user` that holds, and by name tokens that differ from it in one thing and must not. */
export function accessTokens(shop: Shop, user: User) {
  const [{ kid, pem }] = JSON.parse(secret(shop, 'JWT_KEYS')) as [{ kid: string; pem: string }]
  const privateKey = createPrivateKey(pem)
  const publicKey = createPublicKey(pem)
  const publicPem = publicKey.export({ type: 'spki', format: 'pem' }) as string
  const head = { alg: 'RS256', typ: 'at+jwt', kid }
  const claims = {
    sub: user.id,
    sid: user.sid,
    email: user.email,
    roles: user.roles,
    iss: shop.url,
    aud: 'bodega',
    jti: 'x',
    iat: now(),
    exp: now() + 600,
  }
  const sign = (header: object, payload: object, key = privateKey, alg = 'RS256') =>
    jwt.sign(payload, key, { algorithm: alg as 'RS256', header: { ...head, alg, ...header }, noTimestamp: true })
  const without = (name: keyof typeof claims) => sign({}, (({ [name]: _, ...rest }) => rest)(claims))
  const hmac = (hash: string, key: string | Buffer) => {
    const text = `${part({ ...head, alg: hash.replace('sha', 'HS') })}.${part(claims)}`
    return `${text}.${createHmac(hash, key).update(text).digest('base64url')}`
  }
  const good = sign({}, claims)
  const [first, second, third] = good.split('.') as [string, string, string]
  const unsigned = (alg: string) => `${part({ ...head, alg })}.${second}.`
  const forged = (header: object) => sign(header, claims, strangers.privateKey)
  const jwk = strangers.publicKey.export({ format: 'jwk' })
  const bad: Record<string, string> = {
    'alg none': unsigned('none'),
    'alg None': unsigned('None'),
    'alg NONE with the signature': `${unsigned('NONE')}${third}`,
    'alg empty': unsigned(''),
    'no alg': `${part({ typ: 'at+jwt', kid })}.${second}.${third}`,
    'HS256 with the public key as text': hmac('sha256', publicPem),
    'HS256 with the public key as text without its end': hmac('sha256', publicPem.trim()),
    'HS256 with the public key as bytes': hmac('sha256', publicKey.export({ type: 'spki', format: 'der' })),
    'HS384 with the public key': hmac('sha384', publicPem),
    'HS512 with the public key': hmac('sha512', publicPem),
    'HS256 with nothing': hmac('sha256', ''),
    'HS256 with the kid': hmac('sha256', kid),
    RS384: sign({}, claims, privateKey, 'RS384'),
    RS512: sign({}, claims, privateKey, 'RS512'),
    PS256: sign({}, claims, privateKey, 'PS256'),
    "a stranger's key": forged({}),
    "a stranger's key in jwk": forged({ jwk }),
    "a stranger's key in jwk, of no kid": forged({ jwk, kid: undefined }),
    'jku elsewhere': forged({ jku: 'http://127.0.0.1:1/jwks.json' }),
    'x5u elsewhere': forged({ x5u: 'http://127.0.0.1:1/x' }),
    'x5c of a stranger': forged({ x5c: [jwk.n] }),
    'kid unknown': sign({ kid: 'other' }, claims),
    'kid missing': sign({ kid: undefined }, claims),
    'kid a path': sign({ kid: '../../../../dev/null' }, claims),
    'kid SQL': sign({ kid: "' union select 'x' --" }, claims),
    'kid __proto__': sign({ kid: '__proto__' }, claims),
    'kid constructor': sign({ kid: 'constructor' }, claims),
    'kid a number': `${part({ ...head, kid: 0 })}.${second}.${third}`,
    'kid a list': `${part({ ...head, kid: [kid] })}.${second}.${third}`,
    'typ JWT': sign({ typ: 'JWT' }, claims),
    'typ missing': sign({ typ: undefined }, claims),
    'over for longer than the skew': sign({}, { ...claims, exp: now() - 31 }),
    'not before in a minute': sign({}, { ...claims, nbf: now() + 60 }),
    'no exp': without('exp'),
    'audience internal': sign({}, { ...claims, aud: 'internal' }),
    'audience another': sign({}, { ...claims, aud: ['bodega2'] }),
    'no audience': without('aud'),
    'issuer another': sign({}, { ...claims, iss: 'https://shop.example' }),
    'issuer with a slash more': sign({}, { ...claims, iss: `${shop.url}/` }),
    'no issuer': without('iss'),
    'no subject': without('sub'),
    'no session': without('sid'),
    'no roles': without('roles'),
    'roles a text': sign({}, { ...claims, roles: 'admin' }),
    'claims changed': `${first}.${part({ ...claims, roles: ['admin', 'staff'] })}.${third}`,
    'header changed': `${part({ ...head, x: 1 })}.${second}.${third}`,
    'no signature': `${first}.${second}.`,
    'signature cut': `${first}.${second}.${third.slice(0, -8)}`,
    'signature turned': `${first}.${second}.${[...third].reverse().join('')}`,
    'signature of zeros': `${first}.${second}.${'A'.repeat(third.length)}`,
    'four parts': `${good}.${third}`,
    'five parts': `${first}.${second}.${third}.${third}.${third}`,
    'two parts': `${first}.${second}`,
    'one part': first,
    'header no JSON': `${Buffer.from('{').toString('base64url')}.${second}.${third}`,
    'header null': `${part(null)}.${second}.${third}`,
    'claims null': `${first}.${part(null)}.${third}`,
    'an assertion of the edge': assert(user, secret(shop, 'ASSERTION_KEY')),
    '7,000 letters': 'a'.repeat(7000),
    '2,000 parts': 'a.'.repeat(2000),
    'a dot': '.',
    'the shape of a refresh token': 'q0wq3bUQ8mIT0mFqJYB3uVZ7n1x2Kc5d-9_eHsRtLpA',
  }
  return { good, bad }
}

/** An assertion of `user` that holds, and by name some that must not. */
export function assertions(shop: Shop, user: User) {
  const key = secret(shop, 'ASSERTION_KEY')
  const good = assert(user, key)
  const [first, second, third] = good.split('.') as [string, string, string]
  const claims = { sub: user.id, email: user.email, roles: user.roles, sid: user.sid, aud: 'internal', exp: now() + 60 }
  const sign = (payload: object, by = key, algorithm: jwt.Algorithm = 'HS256') => jwt.sign(payload, by, { algorithm })
  const bad: Record<string, string> = {
    'another key': assert(user, 'a key that nobody of the shop has, 43 bytes'),
    'an empty key': `${first}.${second}.${createHmac('sha256', '').update(`${first}.${second}`).digest('base64url')}`,
    'the audience of access tokens': sign({ ...claims, aud: 'bodega' }),
    'no audience': sign((({ aud: _, ...rest }) => rest)(claims)),
    'over for longer than the skew': sign({ ...claims, exp: now() - 6 }),
    'not before in a minute': sign({ ...claims, nbf: now() + 60 }),
    HS384: sign(claims, key, 'HS384'),
    HS512: sign(claims, key, 'HS512'),
    'alg none': `${part({ alg: 'none', typ: 'JWT' })}.${second}.`,
    'claims changed': `${first}.${part({ ...claims, roles: ['admin'] })}.${third}`,
    'no signature': `${first}.${second}.`,
    'signature cut': `${first}.${second}.${third.slice(0, -4)}`,
    'an access token': accessTokens(shop, user).good,
    garbage: 'x.y.z',
    'a letter': 'x',
    '7,000 letters': 'a'.repeat(7000),
  }
  return { good, bad }
}
