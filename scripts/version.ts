import { globSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const plain = String.raw`\d+\.\d+\.\d+(?:-rc\.\d+)?`
const dashed = String.raw`\d+-\d+-\d+(?:-rc-\d+)?`
/**
 * Where the version of package.json stands again, since `docker compose`, `kubectl`, `helm` and `docker buildx bake` read
 * nothing but their own files: a glob, and what stands before the version there.
 */
const places: [files: string, before: string[]][] = [
  ['package.json', ['^  "version": "']],
  // Its own entry, and that of the package at the root.
  ['package-lock.json', ['^  "version": "', String.raw`"packages": \{\s+"": \{\s+"name": "bodega",\s+"version": "`]],
  ['src/edge/openapi.json', ['^    "version": "']],
  ['docker-bake.hcl', ['variable "VERSION" \\{ default = "']],
  ['compose/*.yaml', ['BODEGA_VERSION:-']],
  ['kustomize/**/kustomization.yaml', ['name: bodega-(?:app|edge),.* newTag: ', '^nameSuffix: -']],
  ['helm/bodega/Chart.yaml', ['^version: ', '^appVersion: ', '\\{ name: \\w+, version: ']],
  ['helm/bodega/charts/*/Chart.yaml', ['^version: ']],
  ['README.md', ['bodega-(?:app|edge):']],
  ['docs/*.md', ['bodega-(?:app|edge):', ' newTag: ', '\\bbodega-', ' VERSION=', ' --version ', 'refs/tags/v']],
]

/** Each file that names the version, with its text as it would be with another one. */
export function* withVersion(root: string, version: string): Generator<{ file: string; now: string; then: string }> {
  for (const [files, before] of places)
    for (const file of globSync(files, { cwd: root }).sort()) {
      const now = readFileSync(join(root, file), 'utf8')
      const place = new RegExp(`(${before.join('|')})(?:${plain}|${dashed})(?![\\d.])`, 'gm')
      const then = now.replace(place, (_, start: string) =>
        start === 'nameSuffix: -' ? `${start}${version.replaceAll('.', '-')}` : `${start}${version}`,
      )
      yield { file, now, then }
    }
}

/** Writes the version wherever it stands; returns the files that had another one. */
export function writeVersion(root: string, version: string): string[] {
  const stale = [...withVersion(root, version)].filter(({ now, then }) => now !== then)
  for (const { file, then } of stale) writeFileSync(join(root, file), then)
  return stale.map(({ file }) => file)
}

if (import.meta.main) {
  const version = process.argv[2] ?? ''
  if (!/^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-rc\.(0|[1-9]\d*))?$/.test(version)) {
    console.error(`V is ${JSON.stringify(version)}, and must be three numbers, such as 1.4.0, or 1.4.0-rc.1 before that.
Nothing was changed.
next: make version V=1.4.0`)
    process.exit(64)
  }
  const written = writeVersion(join(import.meta.dirname, '..'), version)
  for (const file of written) console.log(`  ${file}`)
  console.log(
    written.length > 0
      ? `${version} in ${written.length} files\nnext: name it in CHANGELOG.md, commit, and git tag v${version}`
      : `${version} is there already; nothing was changed`,
  )
}
