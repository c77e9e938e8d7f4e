import anyTest, { type TestFn } from 'ava'
import { eventually } from '../support/shop.ts'
import { useOrders } from './orders.ts'

const test = anyTest as TestFn
const { shop, order, product, customer, eventsOf } = useOrders(test)

test.serial('NATS away → orders go on and the role stays ready; NATS back → every event once', async (t) => {
  const user = customer()
  const productId = await product({ stock: 20 })
  const body = { items: [{ productId, quantity: 1 }] }
  await order(user, body)
  await shop.nats.kill('SIGKILL')
  const answers = await Promise.all(Array.from({ length: 10 }, () => order(user, body)))
  t.deepEqual([...new Set(answers.map((answer) => answer.status))], [201])
  t.is((await fetch(`${shop.roles.orders.url}/readyz`)).status, 200)

  await shop.nats.restart()
  const found = await eventually('every event', async () => {
    const events = await eventsOf(user)
    return events.length >= 11 && events
  })
  t.is(found.length, 11)
  t.is(new Set(found.map((event) => event.data.orderId)).size, 11)
})

test.serial('role started while NATS is away → ready, takes orders, tells them later', async (t) => {
  const user = customer()
  const productId = await product()
  await shop.nats.kill('SIGKILL')
  await shop.roles.orders.restart()
  t.is((await order(user, { items: [{ productId, quantity: 1 }] })).status, 201)
  await shop.nats.restart()
  await eventually('the event', async () => (await eventsOf(user)).length === 1)
})
