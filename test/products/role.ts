import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { TestFn } from 'ava'
import pg from 'pg'
import { type Answer, type Call, call } from '../../src/embedded/client.ts'
import { assert } from '../../src/platform/identity.ts'
import type { Product } from '../../src/products/schema.ts'
import { useShop } from '../support/shop.ts'

interface Ask extends Call {
  /** Who the assertion says it is; nobody when absent. */
  as?: 'staff' | 'customer'
}

/** The products role alone, past the edge, with assertions signed as the edge would bring them. */
export function useProducts(test: TestFn, env?: Record<string, string>) {
  const shop = useShop(test, { roles: ['products'], env })
  const secret = (role: 'products' | 'orders', key: string) => readFileSync(join(shop.secretsDir(role), key), 'utf8')
  const ask = (method: string, path: string, { as, headers, ...options }: Ask = {}): Promise<Answer> => {
    const user = { id: randomUUID(), email: 'a@example.org', roles: as ? [as] : [], sid: randomUUID() }
    const proof = as && { 'X-Auth-Assertion': assert(user, secret('products', 'ASSERTION_KEY')) }
    return call(shop.roles.products.url, method, path, { ...options, headers: { ...proof, ...headers } })
  }
  let count = 0
  return {
    shop,
    ask,
    /** Runs `src/commands.ts` with the settings of the role and `env`, to its end. */
    async command(env: Record<string, string>, ...args: string[]) {
      const child = spawn(process.execPath, [join(import.meta.dirname, '../../src/commands.ts'), ...args], {
        env: { ...env, SECRETS_DIR: shop.secretsDir('products') },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
      return { code: child.exitCode, stdout, stderr }
    },
    /** A product of its own, made by staff. */
    async add(facts: Partial<Product> = {}): Promise<Product> {
      const body = { ...example(`SKU-${++count}-${randomUUID().slice(0, 8)}`), ...facts }
      const answer = await ask('POST', '/product', { as: 'staff', body })
      if (answer.status !== 201) throw new Error(answer.text)
      return answer.body
    },
    /** A connection with the login of a role, or of the superuser. */
    async connect(as: 'products' | 'orders' | 'admin') {
      const connectionString = as === 'admin' ? shop.databaseUrl : secret(as, 'DATABASE_URL')
      const client = new pg.Client({ connectionString })
      await client.connect()
      return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() })
    },
  }
}

export const example = (sku: string) => ({
  sku,
  name: `Thing ${sku}`,
  description: 'A thing to have.',
  category: 'Things',
  price: 1250,
  currency: 'EUR',
})
