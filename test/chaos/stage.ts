import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Child } from '../../src/embedded/child.ts'
import { freePorts } from '../../src/embedded/ports.ts'
import { findSeaweedfs } from '../../src/embedded/programs.ts'
import { startSeaweedfs } from '../../src/embedded/seaweedfs.ts'
import { type Shop, startShop } from '../../src/embedded/shop.ts'
import { roleNames } from '../../src/platform/config.ts'
import { findToxiproxy, startToxiproxy } from './toxiproxy.ts'

export const parts = [...roleNames, 'edge', 'postgres', 'nats', 'objectstore', 'smtp'] as const
export type PartName = (typeof parts)[number]

/** The shop as embedded processes, each of which can be struck, and whose connections can be spoiled. */
export interface Stage extends AsyncDisposable {
  readonly shop: Shop
  /** The public door, by way of the proxy that spoils connections where there is one. */
  readonly url: string
  readonly processes: Record<PartName, Child>
  /** Undefined where toxiproxy cannot be had. */
  readonly network: Awaited<ReturnType<typeof startToxiproxy<PartName>>> | undefined
  /** Where a part writes, on a disk of its own of so many megabytes; none without the right to mount. */
  readonly disks: Partial<Record<PartName, string>>
  /** Parts that ended by themselves and were started again, as a supervisor does it. */
  readonly restarted: string[]
  /** Waits until the supervisor has nothing to start. */
  supervised(): Promise<void>
}

const megabytes = { postgres: 640, nats: 256, objectstore: 512, edge: 64 }

/** Starts it in `dir`; with `network` every connection between two parts goes through toxiproxy. */
export async function openStage(dir: string, { network = true, disks = true, say = (_: string) => {} } = {}) {
  await using opening = new AsyncDisposableStack()
  const mounted: Stage['disks'] = {}
  const folders = { postgres: 'postgres', nats: 'nats', objectstore: 'objectstore', edge: 'edge' }
  for (const [part, folder] of Object.entries(disks ? folders : {}) as [keyof typeof megabytes, string][]) {
    const place = join(dir, folder)
    mkdirSync(place, { recursive: true, mode: 0o700 })
    const size = `size=${megabytes[part]}m,mode=0755`
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', size, 'tmpfs', place]).status !== 0) {
      say('no right to mount a small disk here: nothing is filled')
      break
    }
    mounted[part] = place
    opening.defer(() => void spawnSync('umount', ['--lazy', place]))
  }

  const restarted: string[] = []
  let starting: Promise<void>[] = []
  let closed = false
  opening.defer(() => {
    closed = true
  })
  async function startAgain(child: Child) {
    while (!closed)
      try {
        return await child.restart()
      } catch {
        // What it needs is still away, such as room on its disk: again, as a supervisor does it.
        await sleep(500)
      }
  }
  const onEnd = (how: string, child: Child) => {
    restarted.push(`${child.name} (${how})`)
    starting.push(startAgain(child))
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
        // All customers come from one address.
        ...{ EDGE_SIGN_IN_RATE: '1000r/s', EDGE_SIGN_IN_BURST: '1000' },
        ...{ EDGE_MAIL_RATE: '1000r/s', EDGE_MAIL_BURST: '1000' },
      },
    }),
  )
  if (proxy)
    for (const role of roleNames) {
      const through = (name: string, door: 'postgres' | 'nats') => {
        const url = new URL(readFileSync(join(shop.secretsDir(role), name), 'utf8'))
        return { [name]: Object.assign(url, { port: doors[door].listen }).href }
      }
      shop.configure(role, { ...through('DATABASE_URL', 'postgres'), ...through('NATS_BROKER_URL', 'nats') })
      await shop.roles[role].restart()
    }
  const open = opening.move()
  return {
    shop,
    url: `http://127.0.0.1:${doors.edge.listen}`,
    processes: {
      ...shop.roles,
      edge: shop.edge,
      postgres: shop.postgres as Child,
      nats: shop.nats,
      objectstore: store,
      smtp: shop.mail,
    },
    network: proxy,
    disks: mounted,
    restarted,
    async supervised() {
      await Promise.all(starting)
      starting = []
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  } satisfies Stage
}
