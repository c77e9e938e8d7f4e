import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { promisify } from 'node:util'
import { parseAllDocuments } from 'yaml'

export const root = join(import.meta.dirname, '../..')

export const targets = ['compose', 'kustomize', 'helm'] as const
export type Target = (typeof targets)[number]
export const clusters = ['kustomize', 'helm'] as const
/** A shop that customers use, with a PostgreSQL of its own; and one to try. */
export const forms = ['prod', 'dev'] as const
export type Form = (typeof forms)[number]

interface Check {
  test: string[]
  interval?: string
  timeout?: string
  retries?: number
  start_period?: string
  start_interval?: string
}
/** A service as `docker compose config` prints it, as far as it is looked at here. */
export interface Service {
  image: string
  build?: { target: string }
  entrypoint?: string[] | null
  command?: string[] | null
  environment?: Record<string, string>
  secrets?: { source: string; target: string }[]
  expose?: string[]
  ports?: { target: number }[]
  healthcheck?: Check
  user?: string
  read_only?: boolean
  cap_drop?: string[]
  cap_add?: string[]
  security_opt?: string[]
  deploy?: { resources?: { limits?: { cpus?: number; memory?: string } } }
  logging?: { options?: Record<string, string> }
  stop_grace_period?: string
}
export interface ComposeFile {
  services: Record<string, Service>
  secrets: Record<string, { file: string }>
}

interface Probe {
  httpGet?: { path: string; port: string | number }
  tcpSocket?: { port: string | number }
  exec?: { command: string[] }
  periodSeconds?: number
  timeoutSeconds?: number
  failureThreshold?: number
}
interface SecurityContext {
  runAsUser?: number
  runAsGroup?: number
  runAsNonRoot?: boolean
  readOnlyRootFilesystem?: boolean
  allowPrivilegeEscalation?: boolean
  capabilities?: { add?: string[]; drop?: string[] }
  seccompProfile?: { type: string }
  privileged?: boolean
}
export interface Container {
  name: string
  image: string
  imagePullPolicy?: string
  command?: string[]
  args?: string[]
  env?: {
    name: string
    value?: string
    valueFrom?: { configMapKeyRef?: { name: string; key: string }; fieldRef?: { fieldPath: string } }
  }[]
  ports?: { name: string; containerPort: number; protocol?: string; hostPort?: number }[]
  startupProbe?: Probe
  readinessProbe?: Probe
  livenessProbe?: Probe
  securityContext?: SecurityContext
  resources?: { limits?: Record<string, string>; requests?: Record<string, string> }
  volumeMounts?: { name: string; mountPath: string }[]
}
interface Items {
  items?: { key: string; path: string }[]
  optional?: boolean
}
export interface PodSpec {
  initContainers?: Container[]
  containers: Container[]
  volumes?: {
    name: string
    secret?: Items & { secretName: string }
    projected?: { sources: { secret?: Items & { name: string } }[] }
    [other: string]: unknown
  }[]
  securityContext?: SecurityContext
  terminationGracePeriodSeconds?: number
  serviceAccountName?: string
  automountServiceAccountToken?: boolean
  hostNetwork?: boolean
  hostPID?: boolean
  hostIPC?: boolean
}
export interface PodTemplate {
  metadata?: { labels?: Record<string, string>; annotations?: Record<string, string> }
  spec: PodSpec
}
/** An object of a cluster, as far as it is looked at here. */
export interface Manifest {
  apiVersion: string
  kind: string
  metadata: { name: string; labels?: Record<string, string>; annotations?: Record<string, string> }
  spec?: { template?: PodTemplate; [other: string]: unknown }
  data?: Record<string, string>
  items?: Manifest[]
}
export interface Rendered {
  compose: ComposeFile
  kustomize: Manifest[]
  helm: Manifest[]
}

const exec = promisify(execFile)
/** What a tool prints, from the project's root, in an environment of nothing but `env`. Throws with its words. */
export async function output(tool: string, args: string[], env: Record<string, string> = {}): Promise<string> {
  const { PATH = '', HOME = '', DOCKER_CONFIG } = process.env
  const { stdout } = await exec(tool, args, {
    cwd: root,
    env: { PATH, HOME, ...(DOCKER_CONFIG ? { DOCKER_CONFIG } : {}), ...env },
    maxBuffer: 64 << 20,
    timeout: 60_000,
  })
  return stdout
}

const asked = {
  docker: ['compose', 'version'],
  kubectl: ['version', '--client'],
  helm: ['version'],
  kubeconform: ['-v'],
  'kube-score': ['version'],
  // With pip, which brings the schemas of Kubernetes.
  python3: ['-m', 'pip', '--version'],
}
export type Tool = keyof typeof asked
/** Those of the tools that do not answer on this machine. */
export async function lacking(...tools: Tool[]): Promise<Tool[]> {
  const works = await Promise.all(
    tools.map((tool) =>
      output(tool, asked[tool]).then(
        () => true,
        () => false,
      ),
    ),
  )
  return tools.filter((_, i) => !works[i])
}

/** Manifests, read as Kubernetes reads them; a List is what it holds. */
export const manifests = (text: string): Manifest[] =>
  parseAllDocuments(text, { version: '1.1' })
    .map((document) => {
      if (document.errors[0]) throw document.errors[0]
      return document.toJS() as Manifest | null
    })
    .flatMap((manifest) => (manifest?.kind === 'List' ? (manifest.items ?? []) : (manifest ?? [])))

export const kustomize = async (folder: string) => manifests(await output('kubectl', ['kustomize', folder]))

export interface Choice {
  /** What they are put on, in kustomize/; the base. */
  on?: string
  components: string[]
  /** Lines of its ConfigMaps, for a part that runs elsewhere. */
  parts?: string[]
  settings?: string[]
  /** Further fields of the overlay. */
  more?: object
}
/** What kubectl makes of these components, in an overlay of its own. */
export async function overlay({
  on = 'base',
  components,
  parts = [],
  settings = [],
  more = {},
}: Choice): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'bodega-overlay-'))
  const merge = (name: string, literals: string[]) => (literals.length ? [{ name, behavior: 'merge', literals }] : [])
  // A budget names a server of the bus that is there.
  const whole = components.includes('nats-cluster') ? [...components, 'pdb'] : components
  const kustomization = {
    apiVersion: 'kustomize.config.k8s.io/v1beta1',
    kind: 'Kustomization',
    resources: [relative(dir, join(root, 'kustomize', on))],
    components: whole.map((name) => relative(dir, join(root, 'kustomize/components', name))),
    configMapGenerator: [...merge('bodega-parts', parts), ...merge('bodega-settings', settings)],
    images: [{ name: 'minio', newName: 'registry.example.org/minio', newTag: '1' }],
    ...more,
  }
  writeFileSync(join(dir, 'kustomization.yaml'), JSON.stringify(kustomization))
  try {
    return await output('kubectl', ['kustomize', dir])
  } finally {
    rmSync(dir, { recursive: true })
  }
}

export const helm = async (...args: string[]) =>
  manifests(await output('helm', ['template', 'bodega', 'helm/bodega', '--namespace', 'bodega', ...args]))

const compose = async (env: Record<string, string>) =>
  JSON.parse(
    await output('docker', ['compose', '--env-file', '/dev/null', '--profile', '*', 'config', '--format', 'json'], {
      BODEGA_SECRETS: '/run/bodega',
      ...env,
    }),
  ) as ComposeFile

/** The three targets as their own tools render them, with the same values. */
export async function render(form: Form): Promise<Rendered> {
  const [one, two, three] = await Promise.all(
    form === 'prod'
      ? [
          // Parts elsewhere, and all of them here: so the authorities of such parts are mounted too.
          compose({
            BODEGA_ENV: 'prod',
            BODEGA_PARTS: 'external',
            PUBLIC_URL: 'https://shop.example.org',
            MAIL_FROM: 'Bodega <shop@example.org>',
            NATS_REPLICAS: '3',
          }),
          kustomize('kustomize/overlays/prod-standalone'),
          helm('--values', 'helm/bodega/values-prod.yaml', '--set', 'postgres.enabled=true,pgo.enabled=false'),
        ]
      : [
          compose({ BODEGA_ENV: 'dev', BODEGA_PARTS: 'external' }),
          kustomize('kustomize/overlays/dev'),
          helm('--values', 'helm/bodega/values-dev.yaml'),
        ],
  )
  return { compose: one, kustomize: two, helm: three }
}
