import { spawnSync } from 'node:child_process'
import { chownSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { SMTPServerOptions } from 'smtp-server'
import { eventually } from '../support/shop.ts'
import { mailSink } from '../support/smtp.ts'
import { messageId, person, usePost } from './post.ts'

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
  const { shop, sink, sql, tell, mailOf, metric, deadLetters } = usePost(test, {
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
    shop: { ownPostgres: true },
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

  /** Another server in the place of the first one, for one mail: its url, and what it took. */
  const elsewhere = async (t: ExecutionContext, options: SMTPServerOptions) => {
    const server = mailSink(options)
    await server.up()
    t.teardown(() => server.down())
    return server
  }
  const login = (url: string) => url.replace('//', '//user:secret@')

  test.serial('smtps:// and a login → mails go by TLS from the first byte, signed in', async (t) => {
    const logins: string[] = []
    const server = await elsewhere(t, {
      ...made,
      secure: true,
      authOptional: false,
      onAuth({ username, password }, _session, done) {
        logins.push(`${username} ${password}`)
        done(null, { user: username })
      },
    })
    await restartWith({ SMTP_URL: login(server.url) })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually('it is taken', async () => server.taken.some((mail) => mail.messageId === messageId(id)))
    t.deepEqual([...new Set(logins)], ['user secret'])
    await restartWith({ SMTP_URL: url('p:/s') })
  })

  test.serial('SMTP_CA, and a server that offers no TLS → nothing is sent, and the mail is held', async (t) => {
    const server = await elsewhere(t, {})
    await restartWith({ SMTP_URL: server.url })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually('it is held', async () => (await held()) > 0)
    await restartWith({ SMTP_URL: url('p:/s') })
    await mailOf(id)
    t.deepEqual(server.taken, [])
  })

  test.serial('a login, and a server that takes it in the open only → the password is not sent', async (t) => {
    let asked = 0
    const server = await elsewhere(t, {
      allowInsecureAuth: true,
      onAuth({ username }, _session, done) {
        asked++
        done(null, { user: username })
      },
    })
    await restartWith({ SMTP_URL: login(server.url), SMTP_CA: '' })
    const id = await tell('msg.user.password_changed', person('en'))
    await eventually('it is held', async () => (await held()) > 0)
    await restartWith({ SMTP_URL: url('p:/s'), SMTP_CA: made.cert })
    await mailOf(id)
    t.is(asked, 0)
    t.deepEqual(server.taken, [])
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

  test.serial(
    'the database shows a certificate of another authority → mails are held, and none counts it against itself',
    async (t) => {
      const data = join(shop.dir, 'postgres', 'data')
      const { uid, gid } = statSync(data)
      const show = async (shown: { key: string; cert: string }) => {
        for (const [file, text] of [
          ['server.key', shown.key],
          ['server.crt', shown.cert],
        ] as const) {
          writeFileSync(join(data, file), text, { mode: 0o600 })
          chownSync(join(data, file), uid, gid)
        }
        await sql('select pg_reload_conf()')
        await sql(
          `select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'notifications'`,
        )
      }
      await sql('alter system set ssl = on')
      await show(made)
      await restartWith({ DATABASE_CA: made.cert })
      const reachable = () => metric('dependency_reachable', { dependency: 'database' })
      await show(other)
      const id = await tell('msg.user.password_changed', person('en'))
      await eventually('it is held', async () => (await reachable()) === 0)
      await show(made)
      await mailOf(id)
      t.is(await metric('bus_messages_total', { consumer: 'mailer', result: 'nak' }), 0)
    },
  )
}
