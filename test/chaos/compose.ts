import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { roleNames } from '../../src/platform/config.ts'
import { freePort, lacking, openHost, removeImages, run } from '../e2e/host.ts'
import { eventually, noLimits } from '../support/shop.ts'
import { openClocks, readDatabase, readHttp, readRole } from './clock.ts'
import { keepFull, mountDisks, noDisk } from './faults.ts'
import { type PartName, parts, type Stage } from './stage.ts'
import { buildToxiproxy, doorPorts, spoil, toxics } from './toxiproxy.ts'

const serviceOf = (part: PartName) => (part === 'smtp' ? 'mail' : part)

/** What Docker says of a container. */
interface Facts {
  Id: string
  RestartCount: number
  State: { Pid: number; Health?: { Status: string } }
  Config: { Labels: Record<string, string> }
}

interface Service {
  environment?: Record<string, string>
  volumes?: string[]
  [key: string]: unknown
}

/**
 * The shop as it ships for a laptop: one of each, by Docker Compose. A prepared one has toxiproxy between the parts,
 * small disks and clocks that can be set; the other is as it ships, but for an inbox that outlives its server and an edge that lets one address do
 * what a thousand customers do.
 */
export async function openCompose({
  dir,
  prepared,
  say,
}: {
  dir: string
  prepared: boolean
  say: (text: string) => void
}) {
  const reason = await lacking()
  if (reason) throw new Error(reason)
  await using opening = new AsyncDisposableStack()
  const version = `chaos-${randomBytes(3).toString('hex')}`
  const toxiproxy = `bodega-toxiproxy:${version}`
  opening.defer(async () => {
    await removeImages(version)
    await run('docker', ['image', 'rm', '--force', toxiproxy], { any: true })
  })
  const through = (part: PartName) => `toxiproxy:${doorPorts[part]}`
  const host = await openHost({
    version,
    env: prepared
      ? {
          DATABASE_URL: `postgres://${through('postgres')}/bodega`,
          NATS_BROKER_URL: `nats://${through('nats')}`,
          S3_URL: `http://${through('objectstore')}`,
        }
      : {},
  })
  const disks = prepared ? mountDisks(opening, join(dir, 'disks'), say, '0777') : {}
  opening.use(host)
  const mails = join(host.dir, 'mails')
  mkdirSync(mails)
  chmodSync(mails, 0o777)
  const clocks = prepared ? openClocks(join(host.dir, 'clocks'), say) : undefined
  const [apiPort, doorPort] = [await freePort(), await freePort()]
  const edge = {
    ...noLimits,
    ...(prepared ? Object.fromEntries(roleNames.map((role) => [`${role.toUpperCase()}_UPSTREAM`, through(role)])) : {}),
  }
  const services: Record<string, Service> = {
    mail: {
      environment: { MAILDEV_MAIL_DIRECTORY: '/mails' },
      volumes: [`${mails}:/mails`],
      // It keeps 4 MB of each fault's mails, emptied or not: a whole matrix takes more than its 256.
      deploy: { resources: { limits: { memory: '1G' } } },
    },
    edge: { environment: edge, volumes: disks.edge ? [`${disks.edge}:/tmp`] : [] },
  }
  for (const part of parts)
    if (clocks?.has(part)) {
      const { environment, volumes = [] } = services[part] ?? {}
      // The file's place is not told by a variable: nginx takes those away from its workers.
      const files = [`${clocks.library}:/clock/library.so:ro`, `${clocks.fileOf(part)}:/etc/faketimerc:ro`]
      services[part] = {
        environment: { ...environment, ...clocks.env, LD_PRELOAD: '/clock/library.so' },
        volumes: [...volumes, ...files],
      }
    }
  if (prepared) {
    services.toxiproxy = {
      image: toxiproxy,
      networks: ['front', 'back', 'objects'],
      ports: [`127.0.0.1:${apiPort}:${doorPorts.api}`, `127.0.0.1:${doorPort}:${doorPorts.edge}`],
    }
    services.migrate = { depends_on: { toxiproxy: { condition: 'service_started' } } }
    await buildToxiproxy(
      toxiproxy,
      join(host.dir, 'toxiproxy'),
      Object.fromEntries(parts.map((part) => [part, `${serviceOf(part)}:${doorPorts[part]}`])) as Record<
        PartName,
        string
      >,
    )
  }
  const volumes = Object.fromEntries(
    Object.entries({ postgres: disks.postgres, nats: disks.nats, objects: disks.objectstore })
      .filter(([, device]) => device)
      .map(([name, device]) => [name, { driver_opts: { type: 'none', o: 'bind', device } }]),
  )
  // YAML takes JSON, but for the tag that says which list replaces the one it is merged with.
  const override = JSON.stringify({ services, volumes }, undefined, 2)
  host.write(
    'compose.override.yaml',
    disks.edge ? override.replace('"edge": {', '"edge": {\n"tmpfs": !override [],') : override,
  )
  await host.make(['secrets'])
  if (prepared) writeFileSync(join(host.clone, 'secrets/.plain/dev/SMTP_URL'), `smtp://${through('smtp')}`)
  await host.compose(['build'], { seconds: 500 })
  await host.compose(['up', '--detach', '--wait'], { seconds: 300 })

  const restarted: string[] = []
  const known = new Map<string, number>()
  /** Those of a part, or of all, with the process that the kernel knows them by. */
  async function look(part?: PartName) {
    const ids = await host.containers(part && serviceOf(part), true)
    const facts = JSON.parse((await run('docker', ['inspect', ...ids])).out)
    return (facts as Facts[]).map(({ Id, RestartCount, State, Config }) => ({
      service: Config.Labels['com.docker.compose.service'] as string,
      id: Id,
      pid: State.Pid,
      health: State.Health?.Status,
      restarts: RestartCount,
    }))
  }
  /** Until other processes than these are there, and well. */
  const back = (part: PartName, old: number[]) =>
    eventually(
      `${part} is back`,
      async () => {
        const now = await look(part)
        if (now.every(({ pid, health }) => pid > 0 && !old.includes(pid) && health === 'healthy')) return true
        await sleep(200)
        return false
      },
      120_000,
    )
  for (const { id, restarts } of await look()) known.set(id, restarts)
  const url = `http://127.0.0.1:${prepared ? doorPort : host.port}`
  const open = opening.move()
  return {
    url,
    inboxUrl: host.inboxUrl,
    rolls: false,
    asksTheReady: false,
    restarted,
    makeAdmin: (email) => host.compose(['exec', '-T', 'auth', 'node', 'src/commands.ts', 'admin', email]),
    sql: host.sql,
    async deadLetters() {
      return (await host.make(['dlq', 'TARGET=compose'])).out
    },
    cannot(part, fault) {
      if (fault === 'away') return 'Docker starts it again'
      if ((fault === 'ahead' || fault === 'behind') && !clocks?.has(part)) return 'no clock of its own'
      return fault === 'full' && !disks[part] ? noDisk(part) : undefined
    },
    async strike(part, fault) {
      const there = await look(part)
      const ids = there.map(({ id }) => id)
      const pids = there.map(({ pid }) => pid)
      switch (fault) {
        case 'kill':
          // Not `docker kill`, which counts as a stop by hand that no restart policy takes back.
          for (const pid of pids) process.kill(pid, 'SIGKILL')
          return async () => void (await back(part, pids))
        case 'freeze':
          await run('docker', ['pause', ...ids])
          return async () => void (await run('docker', ['unpause', ...ids]))
        case 'restart':
          await run('docker', ['restart', ...ids])
          for (const { id } of there) known.set(id, 0)
          return async () => void (await back(part, pids))
        case 'slow':
        case 'reset':
          return spoil(`http://127.0.0.1:${apiPort}`, part, toxics[fault])
        case 'ahead':
        case 'behind':
          if (!clocks) break
          return clocks.strike(part, fault, async () => {
            if (part === 'postgres') return readDatabase(host.sql)
            if (part === 'edge') return readHttp(url)
            return Number((await host.compose(['exec', '-T', part, 'node', '-e', readRole])).out)
          })
        case 'full': {
          const disk = disks[part]
          if (disk) {
            const empty = keepFull(disk)
            return async () => empty()
          }
        }
      }
      throw new Error(`${part} cannot have ${fault} here`)
    },
    async supervised() {
      for (const { service, id, restarts } of await look()) {
        if (restarts > (known.get(id) ?? 0)) restarted.push(service)
        known.set(id, restarts)
      }
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  } satisfies Stage
}
