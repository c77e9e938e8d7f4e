import {
  AckPolicy,
  type ConsumerConfig,
  type DiscardPolicy,
  type JetStreamManager,
  type NatsConnection,
  nanos,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from 'nats'
import { type Consumer, consumers, stream } from '../events.ts'
import { type Config, ConfigError } from './config.ts'

const mebibyte = 1024 ** 2
const day = nanos(24 * 3600 * 1000)

/** Makes or updates the streams and consumers; only `migrate` calls it. Throws ConfigError where NATS has no room. */
export async function makeStreams(
  nc: NatsConnection,
  { NATS_REPLICAS: replicas, NATS_STREAM_SIZE: size }: Pick<Config<'migrate'>, 'NATS_REPLICAS' | 'NATS_STREAM_SIZE'>,
) {
  const jsm = await nc.jetstreamManager()
  const common = { storage: StorageType.File, retention: RetentionPolicy.Limits, num_replicas: Number(replicas) }
  const streams: StreamSettings[] = [
    {
      ...common,
      name: stream,
      subjects: ['msg.>'],
      max_age: 7 * day,
      // What was handled long ago makes room: a server whose store is full takes no event until some are a week old.
      max_bytes: size * mebibyte,
      duplicate_window: nanos(120_000),
    },
    // What a consumer gave up: the server's advisories, with the reason, each naming its message by number.
    {
      ...common,
      name: 'dlq',
      subjects: [
        `$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.${stream}.*`,
        `$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.${stream}.*`,
      ],
      max_age: 30 * day,
      max_bytes: 256 * mebibyte,
    },
  ]
  for (const config of streams)
    await makeStream(jsm, config).catch((error) => {
      if (!/storage|resource|max bytes/.test(error.message)) throw error
      throw new ConfigError('migrate', [
        `NATS_STREAM_SIZE is ${size}, and NATS has no room to reserve that many MiB and 256 more (${error.message}): set it lower, or give NATS a larger store (max_file_store)`,
      ])
    })
  for (const name of Object.keys(consumers)) await makeConsumer(jsm, name as Consumer)
}

type StreamSettings = Partial<StreamConfig> & Pick<StreamConfig, 'name'>

async function makeStream(jsm: JetStreamManager, config: StreamSettings) {
  if (await exists(jsm.streams.info(config.name))) await jsm.streams.update(config.name, config)
  else await jsm.streams.add({ ...config, discard: 'old' as DiscardPolicy })
}

async function makeConsumer(jsm: JetStreamManager, name: Consumer) {
  const { filter, ackWaitSeconds, maxDeliver, maxAckPending } = consumers[name]
  const changeable: Partial<ConsumerConfig> = {
    filter_subject: filter,
    ack_wait: nanos(ackWaitSeconds * 1000),
    max_deliver: maxDeliver,
    max_ack_pending: maxAckPending,
  }
  if (await exists(jsm.consumers.info(stream, name))) await jsm.consumers.update(stream, name, changeable)
  else await jsm.consumers.add(stream, { durable_name: name, ack_policy: AckPolicy.Explicit, ...changeable })
}

const exists = (info: Promise<unknown>) =>
  info.then(
    () => true,
    () => false,
  )
