import { execFileSync } from 'node:child_process'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { PartName, Stage } from './stage.ts'

export const faults = ['kill', 'away', 'freeze', 'restart', 'slow', 'reset', 'full'] as const
export type Fault = (typeof faults)[number]

/** Seconds that each lasts before it is taken away; a restart and a kill last until the part is up again. */
export const lasts: Record<Fault, number> = { kill: 3, away: 150, freeze: 20, restart: 0, slow: 10, reset: 5, full: 5 }

/** Why a part cannot have a fault here; undefined where it can. */
export function cannot({ network, disks }: Stage, part: PartName, fault: Fault): string | undefined {
  if ((fault === 'slow' || fault === 'reset') && !network) return 'no toxiproxy'
  if (fault === 'away' && !['notifications', 'nats', 'objectstore', 'smtp'].includes(part))
    return 'customers cannot do without'
  if (fault !== 'full' || disks[part]) return undefined
  return ['postgres', 'nats', 'objectstore', 'edge'].includes(part) ? 'no small disk' : 'writes nothing'
}

/** Brings a fault upon a part, and resolves with what takes it away and waits until the part is up. */
export async function strike(stage: Stage, part: PartName, fault: Fault): Promise<() => Promise<void>> {
  const { network, disks } = stage
  const child = stage.processes[part]
  switch (fault) {
    case 'kill':
    case 'away':
      await child.kill('SIGKILL')
      return () => child.restart()
    case 'restart':
      await child.restart()
      return async () => {}
    case 'freeze': {
      const pids = family(child.pid as number)
      for (const pid of pids) signal(pid, 'SIGSTOP')
      return async () => {
        for (const pid of pids.reverse()) signal(pid, 'SIGCONT')
      }
    }
    case 'slow':
      if (!network) break
      return network.spoil(part, { type: 'latency', attributes: { latency: 150, jitter: 100 } })
    case 'reset':
      if (!network) break
      return network.spoil(part, { type: 'reset_peer' })
    case 'full': {
      const disk = disks[part]
      if (!disk) break
      const file = join(disk, 'filler')
      fill(file)
      const topUp = setInterval(() => fill(file), 500)
      return async () => {
        clearInterval(topUp)
        rmSync(file)
        // NATS switches JetStream off and stays so; its liveness probe has it started again.
        if (part === 'nats' && child.pid) await child.restart()
      }
    }
  }
  throw new Error(`${part} cannot have ${fault} here`)
}

/** Writes until nothing more fits. */
function fill(path: string) {
  const file = openSync(path, 'a')
  try {
    for (let size = 1 << 20; size >= 4096; )
      try {
        writeSync(file, Buffer.alloc(size))
      } catch {
        // So much does not fit any more.
        size /= 2
      }
  } finally {
    closeSync(file)
  }
}

/** A process and all that come from it: PostgreSQL's have a session each, so no group holds them. */
function family(pid: number): number[] {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((row) => row.trim().split(/\s+/).map(Number))
  const found = [pid]
  for (const one of found) for (const [child, parent] of rows) if (parent === one) found.push(child as number)
  return found
}

function signal(pid: number, name: NodeJS.Signals) {
  try {
    process.kill(pid, name)
  } catch {
    // It has just ended.
  }
}
