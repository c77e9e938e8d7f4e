import test from 'ava'
import { run } from '../e2e/host.ts'

for (const command of ['status', 'backup', 'restore'])
  test(`make ${command} TARGET=cluster without ENV → refused before the cluster is asked, with the next command`, async (t) => {
    const env = { ENV: '', KUBECONFIG: '/nowhere' }
    const { code, all } = await run('make', ['-s', command, 'TARGET=cluster', 'FILE=a.tar'], { any: true, env })
    t.not(code, 0)
    t.regex(all, /which environment is the shop of the cluster\?[\s\S]*next: the same with ENV=prod/)
  })

test('make tour, an EMAIL in the environment → not taken for the customer; one that is given is', async (t) => {
  const env = { EMAIL: 'me@example.org' }
  t.notRegex((await run('make', ['-n', 'tour'], { env })).out, /--email/)
  t.regex((await run('make', ['-n', 'tour', 'EMAIL=you@example.org'], { env })).out, /--email "you@example\.org"/)
})
