import type { Difference } from './model.ts'

const roles = ['auth', 'products', 'orders', 'notifications']
const servers = ['edge', 'postgres', 'nats', 'objectstore']

/** Where the three targets differ, and why. Nothing else may, and these only as they are written here. */
export const differences: readonly Difference[] = [
  {
    field: /^env (DATABASE_URL|NATS_BROKER_URL|S3_URL)$/,
    cluster: (compose) => compose.replace('://', '://bodega-'),
    reason: 'A namespace may hold more than one shop, so its Services carry the name.',
  },
  ...Object.entries({ auth: '3001', products: '3002', orders: '3003', notifications: '3004' }).flatMap(([role, port]) =>
    [
      {
        parts: ['edge'],
        field: `env ${role.toUpperCase()}_UPSTREAM`,
        compose: `${role}:${port}`,
        cluster: `bodega-${role}:3000`,
      },
      { parts: [role], field: 'env LISTEN_PORT', compose: port, cluster: null },
      { parts: [role], field: `port ${port}`, compose: 'tcp', cluster: null },
      { parts: [role], field: 'port 3000', compose: null, cluster: 'tcp' },
      { parts: [role], field: 'probe ready', compose: `http :${port}/readyz`, cluster: 'http :3000/readyz' },
    ].map((difference) => ({
      ...difference,
      reason:
        'Docker gives the address of a container that went to the next one, maybe of another role; ports tell them apart.',
    })),
  ),
  {
    field: /^probe (start|start timeout|live|ready every|ready timeout|ready failures)$/,
    compose: null,
    reason: 'Docker has one check: what readiness asks in a cluster, as often as liveness does.',
  },
  {
    parts: servers,
    field: 'probe start every',
    compose: '0.5 s',
    cluster: '1 s',
    reason: 'Kubernetes counts whole seconds.',
  },
  ...Object.entries({ postgres: ['60 s', '600 s'], nats: ['30 s', '300 s'], objectstore: ['30 s', '120 s'] }).map(
    ([part, [compose = '', cluster]]) => ({
      parts: [part],
      field: 'probe start for',
      compose,
      cluster,
      reason: 'Kubernetes ends what has not started by then, in the middle of a recovery; Docker only says so.',
    }),
  ),
  {
    field: 'limit ephemeral-storage',
    compose: null,
    reason: 'Docker limits no disk space of a container; its logs rotate.',
  },
  {
    parts: roles,
    field: 'env DRAIN_DELAY',
    compose: '3',
    cluster: '10',
    reason:
      "Longer than a name server may keep an address: CoreDNS 5 s, Docker's own not at all, and the edge 2 s more.",
  },
  {
    parts: roles,
    form: 'prod',
    field: 'env DATABASE_POOL',
    compose: null,
    cluster: '4',
    reason: 'An autoscaler may make ten of each role, whose connections one PostgreSQL must still take.',
  },
  {
    parts: ['edge'],
    field: 'env EDGE_RESOLVER',
    compose: '127.0.0.11',
    cluster: 'system',
    reason: "Docker's own name server has a fixed address; a pod's is in its resolv.conf.",
  },
  ...Object.entries({
    'env EDGE_TLS_LISTEN': '8443',
    'env PUBLIC_URL': 'https://shop.example.org',
    'secret /secrets/TLS_CERT': 'bodega/TLS_CERT',
    'secret /secrets/TLS_KEY': 'bodega/TLS_KEY',
    'port 8443': 'tcp',
  }).map(([field, compose]) => ({
    parts: ['edge'],
    form: 'prod' as const,
    field,
    compose,
    cluster: null,
    reason: 'On one host the edge speaks TLS; in a cluster, the Ingress or Gateway before it does.',
  })),
  {
    parts: ['nats'],
    form: 'prod',
    field: 'port 6222',
    compose: null,
    cluster: 'tcp',
    reason: 'Where the three servers find each other.',
  },
  {
    parts: ['nats'],
    form: 'prod',
    field: 'grace',
    compose: '30 s',
    cluster: '60 s',
    reason: 'One of three first sends its clients to the others, which takes 32 s.',
  },
  {
    parts: ['nats'],
    field: 'probe ready',
    compose: 'http :8222/healthz',
    cluster: 'http :8222/healthz?js-server-only=true',
    reason: 'In a cluster it is ready when its clients can come; Compose asks what liveness asks of a single server.',
  },
  {
    parts: ['nats'],
    field: 'command arguments',
    compose: '["nats-server","-c","/etc/bodega/nats.conf","-sd","/data","-m","8222","-n","nats"]',
    cluster: '["nats-server","-c","/etc/bodega/nats.conf","-sd","/data","-m","8222","-n","$(POD_NAME)"]',
    reason: 'Servers of one bus have names of their own.',
  },
  {
    parts: ['nats'],
    field: 'env POD_NAME',
    compose: null,
    cluster: '{"fieldRef":{"fieldPath":"metadata.name"}}',
    reason: 'Where that name comes from.',
  },
  {
    parts: ['nats'],
    field: 'user',
    compose: '0:0',
    cluster: '1000:1000',
    reason:
      "A new volume of Docker's belongs to root, and root without a capability may write to it and nothing else; Kubernetes gives it to fsGroup.",
  },
  ...Object.entries({ nats: 'nats.vars', objectstore: 's3.json' }).map(([part, file]) => ({
    parts: [part],
    field: `secret /etc/bodega/${file}`,
    compose: `bodega/${file}`,
    cluster: null,
    reason: 'Made from the secrets by `make secrets` on a host, by a container before the server in a cluster.',
  })),
  {
    parts: ['nats/vars', 'objectstore/identities'],
    compose: null,
    cluster: 'there',
    reason: 'That container.',
  },
  {
    parts: ['seed/wait'],
    form: 'dev',
    compose: null,
    cluster: 'there',
    reason: 'Compose has depends_on.',
  },
  {
    parts: ['database'],
    compose: 'there',
    cluster: null,
    reason: 'The client programs for backup and restore; in a cluster they are run in the pod of the server.',
  },
]
