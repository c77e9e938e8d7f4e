import { execFileSync } from 'node:child_process'
import { closeSync, copyFileSync, globSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { roleNames } from '../../src/platform/config.ts'
import { eventually } from '../support/shop.ts'
import type { PartName } from './stage.ts'

const cache = join(import.meta.dirname, '../../.cache/libfaketime')

/** libfaketime of this machine's Debian, unpacked into .cache; undefined where it cannot be had. */
function findLibrary(say: (text: string) => void): string | undefined {
  const look = () => globSync(join(cache, 'usr/lib/*/faketime/libfaketimeMT.so.1'))[0]
  const found = look()
  if (found) return found
  say(`libfaketime is missing: unpacking Debian's package into ${cache}`)
  mkdirSync(cache, { recursive: true })
  try {
    execFileSync('sh', ['-c', 'apt-get download -qq libfaketime && dpkg-deb -x libfaketime_*.deb .'], {
      cwd: cache,
      stdio: 'pipe',
    })
  } catch {
    return undefined
  }
  return look()
}

export type Clocks = NonNullable<ReturnType<typeof openClocks>>

/**
 * A clock for each part whose program takes the time from the C library: Go asks the kernel, so NATS and the object
 * store are none. `dir` gets a file for each and the library; undefined where that cannot be had.
 */
export function openClocks(dir: string, say: (text: string) => void) {
  const found = findLibrary(say)
  if (!found) return undefined
  mkdirSync(dir)
  const library = join(dir, 'library.so')
  copyFileSync(found, library)
  const fileOf = (part: PartName) => join(dir, part)
  const parts: PartName[] = [...roleNames, 'edge', 'postgres']
  // Always five characters, written over in place: a file is never seen empty, and a container keeps seeing it.
  for (const part of parts) writeFileSync(fileOf(part), '+0000\n', { mode: 0o644 })
  return {
    library,
    fileOf,
    has: (part: PartName) => parts.includes(part),
    /** Beside LD_PRELOAD: files are read once a second, and what measures durations stays as it is. */
    env: { FAKETIME_CACHE_DURATION: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1' },
    /** Sets a part's clock an hour off, and resolves with what sets it right; `read` tells the part's own time (ms). */
    async strike(part: PartName, fault: 'ahead' | 'behind', read: () => Promise<number>) {
      const set = async (shift: number) => {
        const file = openSync(fileOf(part), 'r+')
        writeSync(file, `${shift < 0 ? '-' : '+'}${String(Math.abs(shift)).padStart(4, '0')}\n`)
        closeSync(file)
        await eventually(
          `the clock of ${part} is ${shift} s off`,
          async () => {
            const off = ((await read()) - Date.now()) / 1000
            await sleep(200)
            return Math.abs(off - shift) < 60
          },
          30_000,
        )
      }
      try {
        await set(fault === 'ahead' ? 3600 : -3600)
      } catch (error) {
        await set(0)
        throw error
      }
      return () => set(0)
    },
  }
}

/** What `node -e` runs beside a role to read its clock. */
export const readRole =
  "fetch('http://127.0.0.1:' + (process.env.LISTEN_PORT || 3000) + '/healthz').then((r) => console.log(Date.parse(r.headers.get('date'))))"

/** The time that a server says in its answers (ms). */
export const readHttp = async (url: string) => Date.parse((await fetch(`${url}/healthz`)).headers.get('date') ?? '')

/** The time of the database (ms). */
export const readDatabase = async (sql: (statement: string) => Promise<string[]>) =>
  Number((await sql('select extract(epoch from now()) * 1000'))[0])
