import { argon2, createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { v7 as newId } from 'uuid'

// The bare servers that the shop is measured against, one process each: `baseline.ts KIND PORT`. Each is what a good
// programmer writes by hand for this one purpose: node:http, a pool of connections, one prepared statement, and none of
// the shop's checks, errors, logs, metrics or identities.

function http(): RequestListener {
  return (_request, response) => response.end('ok')
}

function openPool() {
  pg.types.setTypeParser(pg.types.builtins.INT8, Number)
  return new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 })
}

const columns = `p.id, p.sku, p.name, p.description, p.category, p.price, p.currency, s.on_hand as stock, p.version,
  p.created_at as "createdAt", p.updated_at as "updatedAt"`
const list = {
  name: 'list',
  text: `select ${columns} from products.product p join products.stock s on s.product_id = p.id
         where p.deleted_at is null order by p.created_at desc, p.id desc limit 20`,
}
const byId = {
  name: 'by id',
  text: `select ${columns} from products.product p join products.stock s on s.product_id = p.id
         where p.deleted_at is null and p.id = $1`,
}

/** GET /product and GET /product/{id}, the latter with an ETag that If-None-Match is compared with. */
function products(): RequestListener {
  const pool = openPool()
  return (request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost')
    const answer = async () => {
      if (pathname === '/product') return json(response, 200, { items: (await pool.query(list)).rows })
      const { rows } = await pool.query({ ...byId, values: [pathname.slice('/product/'.length)] })
      const tag = `"v${rows[0].version}"`
      response.setHeader('ETag', tag)
      if (request.headers['if-none-match'] === tag) return void response.writeHead(304).end()
      json(response, 200, rows[0])
    }
    answer().catch((error) => json(response, 500, { error: String(error) }))
  }
}

/** The very statement of the shop, so that the database has the same to do. */
const placing = 'select order_id as id, body, replayed from orders.place($1, $2, $3, $4, $5, $6::uuid[], $7::int[], $8)'

/** POST /order for a caller who says who he is. */
function orders(): RequestListener {
  const store = readFileSync(join(import.meta.dirname, '../src/orders/store.ts'), 'utf8')
  if (!store.includes(placing)) throw new Error('the shop places orders by another statement than this baseline')
  const pool = openPool()
  return (request, response) => {
    const answer = async () => {
      const text = await read(request)
      const items: { productId: string; quantity: number }[] = JSON.parse(text).items
      const { rows } = await pool.query({
        name: 'place',
        text: placing,
        values: [
          ...[request.headers['x-user-id'], 'buyer@example.org', request.headers['idempotency-key']],
          createHash('sha256').update(text).digest(),
          newId(),
          items.map((item) => item.productId),
          items.map((item) => item.quantity),
          null,
        ],
      })
      response.writeHead(201, { 'Content-Type': 'application/json' }).end(rows[0].body)
    }
    answer().catch((error) => json(response, 500, { error: String(error) }))
  }
}

function json(response: ServerResponse, status: number, body: unknown) {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body))
}

const read = (request: IncomingMessage) =>
  new Promise<string>((resolve, reject) => {
    let text = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => {
      text += chunk
    })
    request.once('end', () => resolve(text))
    request.once('error', reject)
  })

/** A password hash for each request, with the parameters of src/auth/passwords.ts, and nothing else. */
function passwords(): RequestListener {
  const derive = promisify(argon2)
  const parameters = { memory: 19_456, passes: 2, parallelism: 1, tagLength: 32 }
  return (request, response) => {
    const answer = async () => {
      const { password } = JSON.parse(await read(request))
      await derive('argon2id', { message: password, nonce: randomBytes(16), ...parameters })
      response.end('ok')
    }
    // The first look of whoever starts it has no body.
    answer().catch((error) => json(response, 400, { error: String(error) }))
  }
}

/**
 * A mail server that takes every mail and keeps none; it says `MILLISECONDS ORDER` of each that names one. Written by hand:
 * smtp-server takes as much of the machine for a mail as the shop does.
 */
function takeMail() {
  createTcpServer((socket) => {
    let got = ''
    let isMail = false
    socket.setEncoding('latin1').on('error', () => undefined)
    socket.write('220 bench\r\n')
    socket.on('data', (text: string) => {
      got += text
      for (;;) {
        const end = isMail ? '\r\n.\r\n' : '\r\n'
        const at = got.indexOf(end)
        if (at < 0) return
        const taken = got.slice(0, at)
        got = got.slice(at + end.length)
        const order = isMail && /[0-9a-f]{8}-[0-9a-f-]{27}/.exec(textOf(taken))?.[0]
        if (order) process.stdout.write(`${Date.now()} ${order}\n`)
        isMail = /^data$/i.test(taken)
        socket.write(isMail ? '354 go on\r\n' : /^quit/i.test(taken) ? '221 bye\r\n' : '250 ok\r\n')
      }
    })
  }).listen(Number(port), '127.0.0.1')
}

/** What the first part of a mail says, which is in base64. */
const textOf = (mail: string) => Buffer.from(mail.split(/base64\r\n\r\n|--=_/)[2] ?? '', 'base64').toString()

const kinds: Record<string, () => RequestListener> = { http, products, orders, passwords }

const [kind = '', port = '0'] = process.argv.slice(2)
if (kind === 'mail') takeMail()
else {
  const answer = kinds[kind]?.()
  if (!answer) throw new Error(`${kind} is none of ${Object.keys(kinds).join(', ')}, mail`)
  createServer({ keepAliveTimeout: 75_000 }, answer).listen(Number(port), '127.0.0.1')
}
