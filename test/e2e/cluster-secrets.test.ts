import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import anyTest from 'ava'
import { madeClone, readTemplate } from '../secrets/clone.ts'
import { kubeconfig as KUBECONFIG, lackingCluster } from './cluster.ts'

const missing = await lackingCluster()
if (missing) process.stderr.write(`skipped, all of test/e2e/cluster-secrets.test.ts: ${missing}\n`)
const test = missing ? anyTest.skip : anyTest

const deployment = (role: string) => `
apiVersion: apps/v1
kind: Deployment
metadata: { name: ${role}, labels: { app.kubernetes.io/part-of: bodega, app.kubernetes.io/component: ${role} } }
spec:
  selector: { matchLabels: { app: ${role} } }
  template:
    metadata: { labels: { app: ${role} } }
    spec:
      securityContext: { runAsNonRoot: true, runAsUser: 10001, seccompProfile: { type: RuntimeDefault } }
      containers:
        - name: pause
          image: registry.k8s.io/pause:3.10.1
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
---`

/** Three servers of the bus, which mount the password that they let each other in by. */
const bus = `
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: bus, labels: { app.kubernetes.io/part-of: bodega, app.kubernetes.io/component: nats } }
spec:
  replicas: 3
  podManagementPolicy: Parallel
  selector: { matchLabels: { app: bus } }
  template:
    metadata: { labels: { app: bus, app.kubernetes.io/part-of: bodega, app.kubernetes.io/component: nats } }
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: { runAsNonRoot: true, runAsUser: 10001, seccompProfile: { type: RuntimeDefault } }
      containers:
        - name: pause
          image: registry.k8s.io/pause:3.10.1
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
      volumes:
        - { name: secrets, secret: { secretName: bodega, items: [{ key: NATS_PEER_PASSWORD, path: NATS_PEER_PASSWORD }] } }
---`

test('secrets-apply in a cluster → namespace, Secret, and exactly what mounts a changed key is restarted', async (t) => {
  t.timeout(300_000)
  const clone = await madeClone()
  const space = `secrets-test-${randomBytes(4).toString('hex')}`
  const env = { ...clone.env, KUBECONFIG }
  const kubectl = (args: string[], input = '') =>
    execFileSync('kubectl', ['--namespace', space, ...args], { env, encoding: 'utf8', input })
  const apply = async () => {
    const result = await clone.run(['make', '-s', 'secrets-apply', `NAMESPACE=${space}`], { KUBECONFIG })
    t.is(result.code, 0, result.out)
    for (const key of ['REFRESH_KEY', 'AUTH_NATS_PASSWORD']) t.false(result.out.includes(clone.plain(key)))
    return result.out
  }
  const secret = () =>
    JSON.parse(kubectl(['get', 'secret', 'bodega', '-o', 'json', '--show-managed-fields'])) as {
      data: Record<string, string>
      metadata: { annotations: Record<string, string>; managedFields: { manager: string; operation: string }[] }
    }
  const restarts = () =>
    Object.fromEntries(
      (
        JSON.parse(kubectl(['get', 'deployments', '-o', 'json'])) as {
          items: { metadata: { name: string }; spec: { template: { metadata: { annotations?: object } } } }[]
        }
      ).items.map((d) => [d.metadata.name, JSON.stringify(d.spec.template.metadata.annotations)]),
    )
  const restartedBy = async () => {
    const before = restarts()
    const out = await apply()
    const after = restarts()
    return { out, names: Object.keys(after).filter((name) => after[name] !== before[name]) }
  }
  try {
    const first = await apply()
    t.regex(first, /namespace .* made, with Pod Security restricted[\s\S]*nothing to restart/)
    t.regex(kubectl(['get', 'namespace', space, '-o', 'jsonpath={.metadata.labels}']), /enforce":"restricted/)
    const { data, metadata } = secret()
    t.deepEqual(Object.keys(data).sort(), Object.keys(readTemplate()).sort())
    for (const [key, value] of Object.entries(data))
      t.is(Buffer.from(value, 'base64').toString(), clone.plain(key), key)
    t.deepEqual(Object.keys(metadata.annotations).sort(), ['bodega.environment', 'bodega.sealed'])
    t.deepEqual(
      metadata.managedFields.map((m) => `${m.manager} ${m.operation}`),
      ['bodega Apply'],
    )

    kubectl(['apply', '-f', '-'], ['auth', 'orders', 'nats', 'edge'].map(deployment).join(''))
    const same = await restartedBy()
    t.deepEqual(same.names, [])
    t.regex(same.out, /no value changed: nothing to restart/)

    kubectl(['annotate', '--overwrite', 'secret', 'bodega', 'bodega.environment=prod'])
    const another = await clone.run(['make', '-s', 'secrets-apply', `NAMESPACE=${space}`], { KUBECONFIG })
    t.not(another.code, 0)
    t.regex(another.out, /is that of prod, and not of dev[\s\S]*next: make secrets-apply ENV=prod/)
    kubectl(['annotate', '--overwrite', 'secret', 'bodega', 'bodega.environment=dev'])

    await clone.sh('rotate', ['dev', 'jwt'])
    const jwt = await restartedBy()
    t.deepEqual(jwt.names, ['auth'])
    t.regex(jwt.out, /changed: JWT_KEYS\s+restarted: Deployment\/auth\s/)

    await clone.sh('rotate', ['dev', 'nats', 'database'])
    const both = await restartedBy()
    t.deepEqual(both.names, ['auth', 'nats', 'orders'])
    t.regex(both.out, /restarted: Deployment\/nats .*Deployment\/orders[\s\S]*next: run the migrate Job again/)
    t.is(Buffer.from(secret().data.ORDERS_DATABASE_USER as string, 'base64').toString(), 'orders_b')

    // One server, which does not mount it; then three, none of which may be left with the old one.
    await clone.sh('rotate', ['dev', 'NATS_PEER_PASSWORD'])
    const alone = await restartedBy()
    t.deepEqual(alone.names, [])
    t.regex(alone.out, /nothing of what is in .* mounts them: nothing to restart/)
    kubectl(['delete', 'deployment', 'nats'])
    kubectl(['apply', '-f', '-'], bus)
    kubectl(['rollout', 'status', 'statefulset/bus', '--timeout=60s'])
    const servers = () =>
      kubectl(['get', 'pods', '-l', 'app=bus', '-o', 'jsonpath={.items[*].metadata.uid}']).split(' ')
    const old = servers()
    await clone.sh('rotate', ['dev', 'NATS_PEER_PASSWORD', 'nats', 'jwt'])
    const peers = await restartedBy()
    t.regex(peers.out, /all at once[\s\S]*restarted: StatefulSet\/bus Deployment\/auth Deployment\/orders\s*$/m)
    t.is(servers().length, 3)
    t.deepEqual(
      servers().filter((uid) => old.includes(uid)),
      [],
    )
    t.is(kubectl(['get', 'statefulset', 'bus', '-o', 'jsonpath={.metadata.generation}']), '1')

    // Somebody else's Secret is not taken over.
    kubectl(['delete', 'secret', 'bodega'])
    kubectl(
      ['apply', '--server-side', '--field-manager=flux', '-f', '-'],
      'apiVersion: v1\nkind: Secret\nmetadata: { name: bodega }\ndata: { REFRESH_KEY: dGhlaXJz }\n',
    )
    const conflict = await clone.run(['bash', 'secrets/apply.sh', 'dev', space], { KUBECONFIG })
    t.not(conflict.code, 0)
    t.regex(conflict.out, /another manager owns it/)
  } finally {
    execFileSync('kubectl', ['delete', 'namespace', space, '--wait=false'], { env })
  }
})
