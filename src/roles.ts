import type { Role } from './platform/config.ts'
import type { Process } from './platform/process.ts'

/** Each role's door, loaded only by the process that is that role. */
export const roles: Record<Role, () => Promise<{ start(p: Process): Promise<void> }>> = {
  auth: () => import('./auth/index.ts'),
  products: () => import('./products/index.ts'),
  orders: () => import('./orders/index.ts'),
  notifications: () => import('./notifications/index.ts'),
}
