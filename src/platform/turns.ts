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
