import { problem } from './problem.ts'

/** Lets `atOnce` pieces of work run at a time; who comes when `most` wait already gets a 503 that says `tooMany`. */
export function turns(atOnce: number, most: number, tooMany: string) {
  const waiting: (() => void)[] = []
  let working = 0
  return async <T>(work: () => Promise<T>): Promise<T> => {
    if (waiting.length >= most) throw problem.unavailable(tooMany)
    if (working >= atOnce) await new Promise<void>((resolve) => waiting.push(resolve))
    else working++
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else working--
    }
  }
}

/**
 * Gives whoever asks with one key its turn after all who came before with the same key; it ends with the block that uses it.
 * Who has waited for more than `patience` milliseconds by then gets a 503 that says `late`.
 */
export function queues(patience: number, late: string) {
  const last = new Map<string, Promise<void>>()
  return async (key: string): Promise<Disposable> => {
    const before = last.get(key)
    const { promise: ended, resolve: end } = Promise.withResolvers<void>()
    last.set(key, ended)
    const turn = {
      [Symbol.dispose]() {
        if (last.get(key) === ended) last.delete(key)
        end()
      },
    }
    const began = performance.now()
    await before
    if (performance.now() - began < patience) return turn
    turn[Symbol.dispose]()
    throw problem.unavailable(late)
  }
}
