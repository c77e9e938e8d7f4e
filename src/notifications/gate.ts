import { setTimeout as pause } from 'node:timers/promises'
import { Gauge } from 'prom-client'
import type { Logger } from '../platform/log.ts'
import { registry } from '../platform/metrics.ts'

export interface Gate {
  /** Resolves when the dependency is not known to be down; rejects when the process stops while it is. */
  pass(): Promise<void>
  /** Reports it down: everyone who passes from now on waits until a probe succeeds. */
  shut(fault: unknown): void
  /** Reports that it did its work, so that the next outage is probed quickly again. */
  works(): void
}

const reachable = new Gauge({
  name: 'dependency_reachable',
  help: 'Whether what mails need was there when last used: 1 or 0',
  labelNames: ['dependency'],
  registers: [registry],
})

/**
 * A circuit breaker whose callers wait instead of failing. One wait for all who need a dependency that is down: it is
 * probed after 0.1, 0.2 … 5 s, logged once a pause. Pauses go on growing from one outage to the next unless work was done
 * in between, since some faults a probe does not see.
 */
export function openGate(
  dependency: string,
  { probe, stopping, log }: { probe(): Promise<unknown>; stopping: AbortSignal; log: Logger },
): Gate {
  let outage: Promise<void> | undefined
  let wait = 100
  reachable.set({ dependency }, 1)

  async function recover(fault: unknown) {
    reachable.set({ dependency }, 0)
    const began = Date.now()
    for (let err = fault; ; ) {
      log.warn({ err, dependency, retryMs: wait }, 'a dependency is down; what needs it waits')
      await pause(wait, undefined, { signal: stopping })
      wait = Math.min(wait * 2, 5000)
      try {
        await probe()
        break
      } catch (next) {
        err = next
      }
    }
    outage = undefined
    reachable.set({ dependency }, 1)
    log.info({ dependency, ms: Date.now() - began }, 'a dependency answers again')
  }
  return {
    async pass() {
      await outage
    },
    shut(fault) {
      if (outage) return
      outage = recover(fault)
      // Those who wait see the rejection; without any it is nobody's fault.
      outage.catch(() => undefined)
    },
    works() {
      wait = 100
    },
  }
}
