import type { Route } from '../platform/routes.ts'

/** The room has no routes of its own: it consumes events and runs the schedules. */
export const routes = (_: object): Route[] => []
