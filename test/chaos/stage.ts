import { roleNames } from '../../src/platform/config.ts'

export const parts = [...roleNames, 'edge', 'postgres', 'nats', 'objectstore', 'smtp'] as const
export type PartName = (typeof parts)[number]

export const faults = ['kill', 'away', 'freeze', 'restart', 'slow', 'reset', 'full', 'ahead', 'behind'] as const
export type Fault = (typeof faults)[number]

/** Seconds that each lasts before it is taken away; a restart and a kill last until the part is up again, and at least one. */
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
  /** A role that is not ready, as without its database, is asked nothing, not even what it could answer. */
  readonly asksTheReady: boolean
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

/** What is asked for, and the parts that each needs; what needs auth needs its decision, which the edge keeps on its disk. */
const needs = {
  /** Of products and their list. */
  reads: ['edge', 'products', 'postgres'],
  orders: ['edge', 'auth', 'orders', 'postgres'],
  /** Pictures that are there. */
  pictures: ['edge', 'products', 'objectstore'],
  /** Of pictures, by staff. */
  uploads: ['edge', 'auth', 'products', 'postgres', 'objectstore'],
  /** Of mails. */
  preferences: ['edge', 'auth', 'notifications', 'postgres'],
} satisfies Record<string, PartName[]>
export type Kind = keyof typeof needs
export const kinds = Object.keys(needs) as Kind[]
/** For each kind, what `of` says of it. */
export const byKind = <T>(of: (kind: Kind) => T) =>
  Object.fromEntries(kinds.map((kind) => [kind, of(kind)])) as Record<Kind, T>

/** The best that the design allows while a part that is there once has a fault. */
export function best(
  { rolls, asksTheReady }: Pick<Stage, 'rolls' | 'asksTheReady'>,
  part: PartName,
  fault: Fault,
): Record<Kind, Best> {
  const isRole = roleNames.some((role) => role === part)
  const rollsOn = fault === 'restart' && rolls && (isRole || part === 'edge')
  return byKind((kind) => {
    const needed: PartName[] = needs[kind]
    const isDecided = needed.includes('auth')
    if (asksTheReady && part === 'postgres' && fault === 'freeze' && kind === 'pictures') return 'at once'
    if (!needed.includes(part) || fault === 'slow' || rollsOn) return 'all'
    // What auth signs is good for a minute, and what a role signs for the object store for 15, by the clock of who reads it.
    if (fault === 'ahead' || fault === 'behind') return isRole && kind !== 'reads' ? 'at once' : 'all'
    // What only reads goes on, but for want of the edge's decision, and while SeaweedFS is started anew, which a full disk ends.
    if (fault === 'full')
      return part === 'objectstore' || (isDecided && (part === 'edge' || kind !== 'preferences')) ? 'at once' : 'all'
    return fault === 'freeze' ? 'none' : 'at once'
  })
}
