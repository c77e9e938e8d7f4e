import { connect, type NatsConnection } from 'nats'

/** Does `work` on a connection by migrate's login, which may read and write everything; `address` is its NATS_BROKER_URL. */
export async function onBusAt<T>(address: string, work: (nc: NatsConnection) => Promise<T>): Promise<T> {
  const { host, username, password } = new URL(address)
  const nc = await connect({ servers: host, user: username, pass: password, inboxPrefix: '_INBOX.migrate' })
  try {
    return await work(nc)
  } finally {
    await nc.close()
  }
}
