import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { PartName } from './stage.ts'

// The object store keeps files of 256 MB, and counts three on a disk of this size: one is the health check's.
const megabytes = { postgres: 640, nats: 256, objectstore: 1024, edge: 64 }
/** Where a part writes, on a disk of its own of so many megabytes. */
export type Disks = Partial<Record<PartName, string>>

/** Small disks in memory for all that write, under `dir`, until the stack is disposed; none without the right to mount. */
export function mountDisks(stack: AsyncDisposableStack, dir: string, say: (text: string) => void, mode = '0755') {
  const mounted: Disks = {}
  for (const [part, size] of Object.entries(megabytes) as [PartName, number][]) {
    const place = join(dir, part)
    mkdirSync(place, { recursive: true, mode: 0o700 })
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}m,mode=${mode}`, 'tmpfs', place]).status !== 0) {
      say('no right to mount a small disk here: nothing is filled')
      break
    }
    mounted[part] = place
    stack.defer(() => void spawnSync('umount', ['--lazy', place]))
  }
  return mounted
}

/** Why a part has no disk that could be filled. */
export const noDisk = (part: PartName) => (part in megabytes ? 'no small disk' : 'writes nothing')

/** Keeps a disk full until what it returns is called. */
export function keepFull(disk: string) {
  const file = join(disk, 'filler')
  fill(file)
  const topUp = setInterval(() => fill(file), 500)
  return () => {
    clearInterval(topUp)
    rmSync(file)
  }
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

/** Stops processes where they are, until what it returns is called. */
export function freeze(pids: number[]) {
  for (const pid of pids) signal(pid, 'SIGSTOP')
  return () => {
    for (const pid of pids.toReversed()) signal(pid, 'SIGCONT')
  }
}

/** A process and all that come from it: PostgreSQL's have a session each, so no group holds them. */
export function family(pid: number): number[] {
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
