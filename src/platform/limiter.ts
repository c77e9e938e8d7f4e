import { problem } from './problem.ts'

/**
 * Runs `atOnce` pieces of work at a time; the others wait in order. Who comes when `most` already wait gets a 503 with the
 * text `tooMany`.
 */
export function limiter(atOnce: number, most = Number.POSITIVE_INFINITY, tooMany = '') {
  const waiting: (() => void)[] = []
  let running = 0
  return async <T>(work: () => Promise<T>): Promise<T> => {
    if (waiting.length >= most) throw problem.unavailable(tooMany)
    if (running >= atOnce) await new Promise<void>((resolve) => waiting.push(resolve))
    else running++
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else running--
    }
  }
}

/**
 * A lock for each key, given in the order in which it was asked for, and held until the block that uses it ends. Who has
 * waited for `patience` milliseconds by then gets a 503 with the text `late`.
 */
export function keyedLock(patience: number, late: string) {
  const last = new Map<string, Promise<void>>()
  return async (key: string): Promise<Disposable> => {
    const before = last.get(key)
    const { promise: released, resolve: release } = Promise.withResolvers<void>()
    last.set(key, released)
    const lock = {
      [Symbol.dispose]() {
        if (last.get(key) === released) last.delete(key)
        release()
      },
    }
    const began = performance.now()
    await before
    if (performance.now() - began < patience) return lock
    lock[Symbol.dispose]()
    throw problem.unavailable(late)
  }
}
