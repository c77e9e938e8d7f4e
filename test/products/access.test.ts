import test from 'ava'
import { useProducts } from './role.ts'

const { ask, add } = useProducts(test, { PRODUCT_READ: 'user' })

test('PRODUCT_READ=user → one product only with a session, the list for anyone', async (t) => {
  const { id } = await add()
  t.is((await ask('GET', `/product/${id}`)).status, 401)
  t.is((await ask('GET', `/product/${id}`, { as: 'customer' })).status, 200)
  t.is((await ask('GET', '/product')).status, 200)
})
