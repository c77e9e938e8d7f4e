import { roleNames } from '../../src/platform/config.ts'

export const parts = [...roleNames, 'edge', 'postgres', 'nats', 'objectstore', 'smtp'] as const
export type PartName = (typeof parts)[number]

export const faults = ['kill', 'away', 'freeze', 'restart', 'slow', 'reset', 'full', 'ahead', 'behind'] as const
export type Fault = (typeof faults)[number]

/** Seconds that each lasts before it is taken away; a restart and a kill last until the part is up again. */
export const lasts: Record<Fault, number> = {
  ...{ kill: 3, away: 150, freeze: 20, restart: 0, slow: 10, reset: 5, full: 5 },
  ...{ ahead: 10, behind: 10 },
}

/** A whole shop, each part of which can be struck: as processes, by Docker Compose, or on Kubernetes. */
export interface Stage extends AsyncDisposable {
  /** The public door, by way of the proxy that spoils connections where there is one. */
  readonly url: string
  readonly inboxUrl: string
  /** A restart of a role or of the edge starts the new one before the old one ends. */
  readonly rolls: boolean
  /** Parts that ended or were ended without our asking, and were started again by whoever watches over them here. */
  readonly restarted: string[]
  /** The operator's command. */
  makeAdmin(email: string): Promise<unknown>
  /** A line a row, fields parted by |. */
  sql(statement: string): Promise<string[]>
  /** What the operator's command says of them. */
  deadLetters(): Promise<string>
  /** Why a part cannot have a fault here; undefined where it can. */
  cannot(part: PartName, fault: Fault): string | undefined
  /** Brings a fault upon a part, and resolves with what takes it away and waits until the part is up. */
  strike(part: PartName, fault: Fault): Promise<() => Promise<void>>
  /** Waits until the supervisor has nothing to start. Throws where a part does not start. */
  supervised(): Promise<void>
}

/** All is answered; what cannot be is refused within 3 s; or nothing, as a frozen part cannot be told from a slow one. */
export type Best = 'all' | 'at once' | 'none'

/** The best that the design allows while a part that is there once has a fault. */
export function best({ rolls }: Pick<Stage, 'rolls'>, part: PartName, fault: Fault): { reads: Best; orders: Best } {
  const isOurs = part === 'edge' || roleNames.some((role) => role === part)
  if (fault === 'slow' || (fault === 'restart' && rolls && isOurs)) return { reads: 'all', orders: 'all' }
  // What auth signs is good for a minute, by the clock of who reads it.
  if (fault === 'ahead' || fault === 'behind')
    return { reads: 'all', orders: part === 'auth' || part === 'orders' ? 'at once' : 'all' }
  const without: Best = fault === 'freeze' ? 'none' : 'at once'
  const readsNeed = fault === 'full' ? [] : ['products', 'edge', 'postgres']
  return {
    reads: readsNeed.includes(part) ? without : 'all',
    orders: ['auth', 'orders', 'edge', 'postgres'].includes(part) ? without : 'all',
  }
}
