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
