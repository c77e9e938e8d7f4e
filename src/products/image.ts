import type { Picture } from '../events.ts'
import type { Db } from '../platform/db.ts'
import { append, type Relay } from '../platform/outbox.ts'
import type { Pictures } from '../platform/pictures.ts'
import type { Sizes } from '../platform/resize-worker.ts'
import { deleteProduct, type Found, setImage } from './store.ts'

/** Of the files of a product's image, in pixels. */
export const imageSizes: Sizes = { large: 1024, small: 256, square: false }

export interface Deps {
  db: Db
  relay: Relay
  images: Pictures
}

/**
 * Sets the image of a live product in one of `versions` to files that are stored already, or clears it, and tells so.
 * Undefined where there is no such product.
 */
export async function changeImage(
  { db, relay, images }: Deps,
  productId: string,
  versions: number[] | '*',
  image: Picture | null,
): Promise<Found | undefined> {
  const product = await db.knex.transaction(async (trx) => {
    const done = await setImage(trx, productId, versions, image)
    if (!done) return undefined
    const { replaced } = done
    if (replaced) await images.release(trx, replaced)
    const at = new Date().toISOString()
    if (replaced || image)
      await append(trx, 'products', 'msg.product.image_changed', { productId, image, replaced, at })
    return done
  })
  relay.wake()
  return product
}

/** Deletes a live product in one of `versions`, and tells that its image is no longer in use; whether there was one. */
export async function removeProduct({ db, relay, images }: Deps, productId: string, versions: number[] | '*') {
  const done = await db.knex.transaction(async (trx) => {
    const gone = await deleteProduct(trx, productId, versions)
    if (gone?.image) {
      await images.release(trx, gone.image)
      const at = new Date().toISOString()
      await append(trx, 'products', 'msg.product.image_changed', { productId, image: null, replaced: gone.image, at })
    }
    return gone !== undefined
  })
  relay.wake()
  return done
}
