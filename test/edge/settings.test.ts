import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'

test('the edge with settings that cannot be used → every fault in one list, and exit code 78', (t) => {
  const out = mkdtempSync(join(tmpdir(), 'edge-'))
  const script = join(import.meta.dirname, '../../src/edge/render.sh')
  const upstreams = { AUTH_UPSTREAM: 'auth:3000', PRODUCTS_UPSTREAM: 'products:3000', ORDERS_UPSTREAM: 'orders:3000' }
  const render = (env: NodeJS.ProcessEnv) =>
    spawnSync('sh', [script, out], { encoding: 'utf8', env: { PATH: process.env.PATH, ...upstreams, ...env } })

  const { status, stderr } = render({ PRODUCT_READ: 'all', TRUSTED_PROXIES: '*,10.0.0.0/8;172.16.0.0/12,traefik' })
  t.is(status, 78)
  t.deepEqual(
    stderr.split('\n').map((line) => line.replace(/, and must .*|: host.*/, '')),
    [
      'edge: PRODUCT_READ is all',
      'edge: NOTIFICATIONS_UPSTREAM is missing',
      'edge: TRUSTED_PROXIES has *',
      'edge: TRUSTED_PROXIES has 10.0.0.0/8;172.16.0.0/12',
      'edge: TRUSTED_PROXIES has traefik',
      '',
    ],
  )
  const networks = ' 10.0.0.0/8, 2001:DB8::/32,::1 '
  const good = render({ NOTIFICATIONS_UPSTREAM: 'notifications:3000', TRUSTED_PROXIES: networks })
  t.deepEqual([good.status, good.stderr], [0, ''])
  t.is(readFileSync(join(out, 'real-ip.conf'), 'utf8').match(/^set_real_ip_from /gm)?.length, 3)
})
