import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { madeClone, testWith } from './clone.ts'

testWith(
  'sops',
  'age-keygen',
  'kubectl',
)('secrets-apply, no cluster answers → says which and what to do', async (t) => {
  const clone = await madeClone()
  const result = await clone.sh('apply', ['dev'], { KUBECONFIG: '/nowhere' })
  t.not(result.code, 0)
  t.regex(result.out, /the cluster of context .* does not answer[\s\S]*next: /)
})

testWith('sops', 'age-keygen')(
  'secrets-apply, openssl encodes nothing → no empty value reaches the cluster',
  async (t) => {
    const clone = await madeClone()
    const bin = mkdtempSync(join(tmpdir(), 'bin-'))
    const openssl = execFileSync('which', ['openssl'], { encoding: 'utf8' }).trim()
    const programs = {
      openssl: `[ "$1" != base64 ] || exit 1\nexec ${openssl} "$@"`,
      kubectl: 'case "$*" in *apply*) cat >"$0.applied" ;; esac',
    }
    for (const [name, text] of Object.entries(programs))
      writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
    const { code, out } = await clone.sh('apply', ['dev'], { PATH: `${bin}:${process.env.PATH}` })
    t.not(code, 0, out)
    t.regex(out, /openssl cannot encode POSTGRES_PASSWORD[\s\S]*Nothing was applied/)
    t.false(existsSync(join(bin, 'kubectl.applied')))
  },
)
