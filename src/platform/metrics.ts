import { once } from 'node:events'
import { createServer } from 'node:http'
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Config } from './config.ts'
import type { Db } from './db.ts'
import { withTimeout } from './health.ts'
import type { Logger } from './log.ts'

/** Every metric of this process. */
export const registry = new Registry()

/**
 * Reads a metric from a server; undefined where that fails or takes more than 2 s, since a scrape serves all metrics or
 * none. Scrapes that come meanwhile share the read, so that a frozen server holds one connection.
 */
export function sharedRead<T>(read: () => Promise<T>): () => Promise<T | undefined> {
  let reading: Promise<T> | undefined
  return () => {
    reading ??= read().finally(() => {
      reading = undefined
    })
    return withTimeout(2000, reading).catch(() => undefined)
  }
}

/** Observed once for each request. */
export const httpDuration = new Histogram({
  name: 'http_request_duration_seconds',
  help: 'Time from request to answer, by route template',
  labelNames: ['method', 'route', 'status'],
  buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
  registers: [registry],
})

/** Connections in use and waited for, read when asked. */
export function measurePool(db: Db) {
  new Gauge({
    name: 'db_pool_connections',
    help: 'Connections for transactions, by state',
    labelNames: ['state'],
    registers: [registry],
    collect() {
      const { pool } = db.knex.client
      this.set({ state: 'used' }, pool.numUsed())
      this.set({ state: 'free' }, pool.numFree())
      this.set({ state: 'waited_for' }, pool.numPendingAcquires())
    },
  })
}

/** Serves GET /metrics on a port of its own, which the edge never exposes. */
export async function openMetrics({ c, log }: { c: Pick<Config, 'LISTEN_HOST' | 'METRICS_PORT'>; log: Logger }) {
  collectDefaultMetrics({ register: registry })
  const server = createServer(async (request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') return response.writeHead(404).end()
    try {
      const text = await registry.metrics()
      response.writeHead(200, { 'Content-Type': registry.contentType }).end(text)
    } catch (err) {
      log.error({ err }, 'metrics failed')
      response.writeHead(500).end()
    }
  })
  await once(server.listen(c.METRICS_PORT, c.LISTEN_HOST), 'listening')
  // Such as a lack of file descriptors: one connection is lost, and the next may come.
  server.on('error', (err) => log.error({ err }, 'a connection was not accepted'))
  return {
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
