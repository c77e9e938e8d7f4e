import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Child } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import { query } from '../../src/embedded/postgres.ts'
import { findSeaweedfs } from '../../src/embedded/programs.ts'
import { startSeaweedfs } from '../../src/embedded/seaweedfs.ts'
import { startShop } from '../../src/embedded/shop.ts'
import { type Role, roleNames } from '../../src/platform/config.ts'
import { noLimits } from '../support/shop.ts'
import { openClocks, readHttp } from './clock.ts'
import { family, freeze, keepFull, mountDisks, noDisk } from './faults.ts'
import { type PartName, parts, type Stage } from './stage.ts'
import { findToxiproxy, startToxiproxy, toxics } from './toxiproxy.ts'

/** The shop as processes in `dir`; with `network` every connection between two parts goes through toxiproxy. */
export async function openEmbedded(
  dir: string,
  { network = true, disks = true, clocks = true, say = (_: string) => {} } = {},
) {
  await using opening = new AsyncDisposableStack()
  const mounted = disks ? mountDisks(opening, dir, say) : {}
  const time = clocks ? openClocks(join(dir, 'clocks'), say) : undefined
  const restarted: string[] = []
  const starting: Promise<void>[] = []
  let closed = false
  opening.defer(() => {
    closed = true
  })
  async function startAgain(child: Child) {
    const end = Date.now() + 120_000
    while (!closed)
      try {
        return await child.restart()
      } catch (error) {
        if (Date.now() > end) throw error
        // What it needs is still away, such as room on its disk: again, as a supervisor does it.
        await sleep(500)
      }
  }
  const onEnd = (how: string, child: Child) => {
    restarted.push(`${child.name} (${how})`)
    const again = startAgain(child)
    // Seen where it is awaited.
    again.catch(() => {})
    starting.push(again)
  }
  const part = (name: string) => ({ log: join(dir, 'log', `${name}.log`), onEnd })
  const store = opening.use(
    await startSeaweedfs({ program: findSeaweedfs(say), dir: join(dir, 'objectstore'), ...part('objectstore') }),
  )
  const names = [...roleNames, 'edge', 'postgres', 'nats', 'smtp'] as const
  const free = await freePorts(names.length)
  const real = Object.fromEntries(names.map((name, i) => [name, free[i]])) as Record<(typeof names)[number], number>
  const program = network ? findToxiproxy(say) : undefined
  const listen = await freePorts(parts.length)
  const doors = Object.fromEntries(
    parts.map((name, i) => {
      const port = name === 'objectstore' ? Number(new URL(store.url).port) : real[name]
      return [name, { listen: program ? (listen[i] as number) : port, port }]
    }),
  ) as Record<PartName, { listen: number; port: number }>
  const proxy = program ? opening.use(await startToxiproxy({ program, doors, ...part('toxiproxy') })) : undefined

  const shop = opening.use(
    await startShop({
      dir,
      ports: real,
      onEnd,
      env: {
        ...Object.fromEntries(
          roleNames.map((role) => [`${role.toUpperCase()}_UPSTREAM`, `127.0.0.1:${doors[role].listen}`]),
        ),
        SMTP_URL: `smtp://127.0.0.1:${doors.smtp.listen}`,
        S3_URL: `http://127.0.0.1:${doors.objectstore.listen}`,
        S3_ACCESS_KEY: store.accessKey,
        S3_SECRET_KEY: store.secretKey,
        ...noLimits,
      },
    }),
  )
  const clockOf = (part: PartName) =>
    time ? { ...time.env, LD_PRELOAD: time.library, FAKETIME_TIMESTAMP_FILE: time.fileOf(part) } : {}
  if (proxy || time)
    for (const role of roleNames) {
      const through = (name: string, door: 'postgres' | 'nats') => {
        const url = new URL(readFileSync(join(shop.secretsDir(role), name), 'utf8'))
        return { [name]: Object.assign(url, { port: doors[door].listen }).href }
      }
      shop.configure(role, { ...through('DATABASE_URL', 'postgres'), ...through('NATS_BROKER_URL', 'nats') })
      await shop.roles[role].restart(clockOf(role))
    }
  const processes: Record<PartName, Child> = {
    ...shop.roles,
    edge: shop.edge,
    postgres: shop.postgres as Child,
    nats: shop.nats,
    objectstore: store,
    smtp: shop.mail,
  }
  const sql = async (statement: string) =>
    (await query(shop.databaseUrl, statement)).rows.map((row) => Object.values(row).join('|'))
  const open = opening.move()
  return {
    url: `http://127.0.0.1:${doors.edge.listen}`,
    inboxUrl: shop.inboxUrl,
    rolls: false,
    asksTheReady: false,
    restarted,
    makeAdmin: (email) => shop.run('auth', 'commands.ts', 'admin', email),
    sql,
    async deadLetters() {
      return (await shop.run('migrate', 'commands.ts', 'dlq')).stdout
    },
    cannot(part, fault) {
      if ((fault === 'slow' || fault === 'reset') && !proxy) return 'no toxiproxy'
      if (fault === 'away' && !['notifications', 'nats', 'objectstore', 'smtp'].includes(part))
        return 'customers cannot do without'
      // nginx keeps no variable for its workers, and what root prepares for the library PostgreSQL's user may not open.
      if ((fault === 'ahead' || fault === 'behind') && !(time && part in shop.roles)) return 'no clock of its own'
      return fault === 'full' && !mounted[part] ? noDisk(part) : undefined
    },
    async strike(part, fault) {
      const child = processes[part]
      switch (fault) {
        case 'kill':
        case 'away':
          await child.kill('SIGKILL')
          return () => startAgain(child)
        case 'restart':
          await startAgain(child)
          return async () => {}
        case 'freeze': {
          const thaw = freeze(family(child.pid as number))
          return async () => thaw()
        }
        case 'slow':
        case 'reset':
          if (!proxy) break
          return proxy.spoil(part, toxics[fault])
        case 'ahead':
        case 'behind':
          if (!time) break
          return time.strike(part, fault, () => readHttp(shop.roles[part as Role].url))
        case 'full': {
          const disk = mounted[part]
          if (!disk) break
          const empty = keepFull(disk)
          return async () => {
            empty()
            // A stream of NATS that met a full disk takes nothing more until the server starts anew, as its liveness probe has
            // it. Nor does SeaweedFS, which says nothing of it to those who ask from here.
            const isWell =
              part !== 'objectstore' && (part !== 'nats' || (await fetch(`${shop.nats.monitorUrl}/healthz`)).ok)
            if (!isWell) await child.restart()
          }
        }
      }
      throw new Error(`${part} cannot have ${fault} here`)
    },
    async supervised() {
      await Promise.all(starting.splice(0))
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  } satisfies Stage
}
