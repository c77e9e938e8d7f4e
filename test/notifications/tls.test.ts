import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { eventually } from '../support/shop.ts'
import { person, usePost } from './post.ts'

/** A certificate for 127.0.0.1 that vouches for itself; undefined where there is no openssl to make it. */
function certificate() {
  const dir = mkdtempSync(join(tmpdir(), 'certificate-'))
  const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')]
  const subject = ['-subj', '/CN=mail', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2']
  const { status } = spawnSync('openssl', [
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    key,
    '-out',
    cert,
    ...subject,
  ])
  const made = status === 0 ? { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') } : undefined
  rmSync(dir, { recursive: true })
  return made
}
const made = certificate()
const other = certificate()

if (!made || !other) test.skip('the mail server over TLS (there is no openssl to make a certificate)', () => {})
else {
  const seen = new Set<string>()
  const { shop, sink, tell, mailOf, metric, deadLetters } = usePost(test, {
    smtp: {
      ...made,
      authOptional: false,
      onAuth({ username, password }, session, done) {
        seen.add(`${username} ${session.secure ? 'encrypted' : 'plain'}`)
        if (username === 'us@er' && password === 'p:/s') done(null, { user: username })
        else done(new Error('wrong'))
      },
    },
    env: { SMTP_CA: made.cert },
  })
  const restartWith = async (change: Record<string, string>) => {
    shop.configure('notifications', change)
    await shop.roles.notifications.restart()
  }
  const url = (password: string) => sink.url.replace('//', `//us%40er:${encodeURIComponent(password)}@`)
  const held = () => metric('mails_total', { result: 'held' })

  test.serial('SMTP_CA and a login → mails go by STARTTLS, signed in', async (t) => {
    await restartWith({ SMTP_URL: url('p:/s') })
    await mailOf(await tell('msg.user.password_changed', person('en')))
    t.deepEqual([...seen], ['us@er encrypted'])
  })

  test.serial('a login that is refused → the operator’s fault: the mail is held until it is right', async (t) => {
    await restartWith({ SMTP_URL: url('wrong') })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually('it is held', async () => (await held()) > 0)
    await restartWith({ SMTP_URL: url('p:/s') })
    await mailOf(id)
    t.deepEqual(await deadLetters(), [])
  })

  test.serial('a certificate of another authority → nothing is sent, and the mail is held', async (t) => {
    const taken = sink.taken.length
    await restartWith({ SMTP_CA: other.cert })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually('it is held', async () => (await held()) > 0)
    t.is(sink.taken.length, taken)
    await restartWith({ SMTP_CA: made.cert })
    await mailOf(id)
  })
}
