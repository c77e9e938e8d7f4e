import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { run } from '../e2e/host.ts'

const cache = join(import.meta.dirname, '../../.cache')

/** Packages of PyPI in a folder of their own in .cache, with what `finish` makes of them; nothing is installed. */
export async function packages(name: string, requirements: string[], finish: (dir: string) => void = () => {}) {
  const hash = createHash('sha256').update(requirements.join(' ')).digest('hex').slice(0, 8)
  const place = join(cache, `${name}-${hash}`)
  if (existsSync(place)) return place
  mkdirSync(cache, { recursive: true })
  const dir = mkdtempSync(`${place}.making-`)
  try {
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-compile', '--target', dir]
    await run('python3', [...pip, ...requirements], { seconds: 300 })
    finish(dir)
    renameSync(dir, place)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  return place
}

/** Versions of Kubernetes from `least` on, as v1.30.0, and the place of their schemas as kubeconform wants it named. */
export async function kubernetesSchemas(least: string) {
  const dir = await packages(`kubernetes-schemas-${least}`, ['--no-deps', 'kubernetes-validate>=1.37'], (made) => {
    const schemas = join(made, 'kubernetes_validate/kubernetes-json-schema')
    for (const version of readdirSync(schemas)) {
      if (!version.endsWith('-strict') || !isAtLeast(version, least)) continue
      const name = version.replace('-local-strict', '')
      mkdirSync(join(made, name))
      // Each refers to its definitions by an address on the web, which nobody answers: by the file beside it, then.
      for (const file of readdirSync(join(schemas, version))) {
        const { $id, ...schema } = JSON.parse(readFileSync(join(schemas, version, file), 'utf8'))
        const text = JSON.stringify(schema).replaceAll('"/api/_definitions.json#', '"_definitions.json#')
        writeFileSync(join(made, name, file), text)
      }
    }
    rmSync(join(made, 'kubernetes_validate'), { recursive: true })
  })
  return {
    versions: readdirSync(dir).filter((entry) => /^v\d/.test(entry)),
    location: join(dir, '{{.NormalizedKubernetesVersion}}/{{.ResourceKind}}{{.KindSuffix}}.json'),
  }
}

function isAtLeast(version: string, least: string) {
  const [major = 0, minor = 0] = /(\d+)\.(\d+)/.exec(version)?.slice(1).map(Number) ?? []
  const [leastMajor = 0, leastMinor = 0] = least.split('.').map(Number)
  return major > leastMajor || (major === leastMajor && minor >= leastMinor)
}

/** Runs checkov over Kubernetes manifests and returns what it found. */
export async function checkov(file: string): Promise<{ check: string; name: string; object: string }[]> {
  const dir = await packages('checkov', ['checkov>=3.3,<4'])
  const args = ['-m', 'checkov.main', '--file', file, '--framework', 'kubernetes', '--quiet', '--compact']
  const { out } = await run('python3', [...args, '--skip-download', '--output', 'json'], {
    env: { PYTHONPATH: dir },
    any: true,
  })
  const { results } = JSON.parse(out) as {
    results: { failed_checks: { check_id: string; check_name: string; resource: string }[] }
  }
  return results.failed_checks.map(({ check_id, check_name, resource }) => ({
    check: check_id,
    name: check_name,
    object: resource,
  }))
}
