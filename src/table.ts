import { type Role, roleNames } from './platform/config.ts'
import type { Route, Table } from './platform/routes.ts'

/** Each room's routes. Their handlers touch what they are given only when they run, so the table needs none of it. */
const rooms: Record<Role, () => Promise<{ routes(deps: never): Route[] }>> = {
  auth: () => import('./auth/routes.ts'),
  products: () => import('./products/routes.ts'),
  orders: () => import('./orders/routes.ts'),
  notifications: () => import('./notifications/routes.ts'),
}

/** The one route table: what the four roles serve, who may call it, and in which shapes. */
export async function table(): Promise<Table> {
  const parts = await Promise.all(
    roleNames.map(async (role) => {
      const { routes } = await rooms[role]()
      return routes({} as never).map(({ handle: _, ...row }) => ({ ...row, role }))
    }),
  )
  return parts.flat()
}
