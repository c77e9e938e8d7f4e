import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, type Part, startChild } from './child.ts'
import { answers, freePorts } from './ports.ts'

export interface Seaweedfs extends Child {
  readonly url: string
  readonly accessKey: string
  readonly secretKey: string
}

/** Starts SeaweedFS with its S3 door on 127.0.0.1, data in `dir`. With `tls`, the door speaks TLS only. */
export async function startSeaweedfs(
  options: Part & { program: string; dir: string; tls?: { certFile: string; keyFile: string } },
): Promise<Seaweedfs> {
  const { program, dir, log, signal, onEnd, tls } = options
  const data = join(dir, 'data')
  mkdirSync(data, { recursive: true, mode: 0o700 })
  const [master, masterRpc, volume, volumeRpc, filer, filerRpc, s3, s3Rpc] = await freePorts(8)
  const credentials = { accessKey: 'bodega', secretKey: 'a-secret-of-the-tests' }
  const identities = join(dir, 's3.json')
  const actions = ['Admin', 'Read', 'Write', 'List']
  writeFileSync(identities, JSON.stringify({ identities: [{ name: 'bodega', credentials: [credentials], actions }] }), {
    mode: 0o600,
  })
  const flags = {
    dir: data,
    ip: '127.0.0.1',
    'ip.bind': '127.0.0.1',
    'master.port': master,
    'master.port.grpc': masterRpc,
    'master.telemetry': false,
    'master.volumeSizeLimitMB': 64,
    'volume.port': volume,
    'volume.port.grpc': volumeRpc,
    'volume.preStopSeconds': 0,
    'volume.max': 20,
    filer: true,
    'filer.port': filer,
    'filer.port.grpc': filerRpc,
    'filer.localSocket': join(dir, 'filer.sock'),
    s3: true,
    's3.port': s3,
    's3.port.grpc': s3Rpc,
    's3.port.iceberg': 0,
    's3.port.lance': 0,
    's3.localSocket': join(dir, 's3.sock'),
    's3.config': identities,
    's3.autoCreateBucket': false,
    ...(tls && { 's3.cert.file': tls.certFile, 's3.key.file': tls.keyFile }),
  }
  const url = `${tls ? 'https' : 'http'}://127.0.0.1:${s3}`
  const child = await startChild({
    name: 'SeaweedFS',
    command: program,
    args: ['server', ...Object.entries(flags).map(([flag, value]) => `-${flag}=${value}`)],
    cwd: data,
    log,
    signal,
    onEnd,
    deadline: 60_000,
    // Its own orderly stop takes 15 s.
    grace: 500,
    ready: async () => (tls ? answers(s3 as number) : (await fetch(`${url}/healthz`)).ok),
  })
  return Object.assign(child, { url, ...credentials })
}
