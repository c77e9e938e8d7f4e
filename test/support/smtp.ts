import { once } from 'node:events'
import type { AddressInfo, Server } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { type ParsedMail, simpleParser } from 'mailparser'
import { SMTPServer, type SMTPServerOptions, type SMTPServerSession } from 'smtp-server'

/**
 * What happens to a mail instead of being taken: a reply to its recipient, after which the connection may end instead of an
 * answer to RSET, or a connection that ends before the reply to its data.
 */
export type Fault = { code: number; text: string; cutsOnReset?: true } | 'reset'

export interface Received extends ParsedMail {
  /** Of the envelope. */
  recipients: string[]
  messageId: string
}

export interface MailSink {
  readonly url: string
  readonly port: number
  /** Mails taken (250 sent), oldest first. */
  readonly taken: Received[]
  /** Decides about each recipient, and again about the data of its mail; undefined takes it. */
  judge: (recipient: string) => Fault | undefined
  /** Awaited between the data of a mail and the reply. */
  pause: (mail: Received) => Promise<void>
  /** Refuses every connection from now on, and ends those that stand. */
  down(): Promise<void>
  up(): Promise<void>
}

/** A mail server on 127.0.0.1 that keeps what it takes and fails on demand; it listens from the first `up` on. */
export function mailSink(options: SMTPServerOptions = {}): MailSink {
  let port = 0
  let server: SMTPServer
  const sink: MailSink = {
    get url() {
      return `${options.secure ? 'smtps' : 'smtp'}://127.0.0.1:${port}`
    },
    get port() {
      return port
    },
    taken: [],
    judge: () => undefined,
    pause: async () => {},
    async down() {
      for (const connection of server.connections) cut(connection)
      await new Promise<void>((resolve) => server.close(resolve))
    },
    async up() {
      server = new SMTPServer({
        authOptional: true,
        disabledCommands: options.key ? [] : ['STARTTLS'],
        closeTimeout: 100,
        ...options,
        onRcptTo({ address }, session, done) {
          const fault = sink.judge(address)
          if (!fault || fault === 'reset') return done()
          if (fault.cutsOnReset)
            for (const connection of connectionsOf(session))
              Object.assign(connection, { handler_RSET: () => cut(connection) })
          done(Object.assign(new Error(fault.text), { responseCode: fault.code }))
        },
        onData(stream, session, done) {
          void take(stream, session).then(
            () => done(),
            (error) => done(error),
          )
        },
      })
      server.on('error', () => {})
      const listening = server.listen(port, '127.0.0.1') as Server
      await once(listening, 'listening')
      port = (listening.address() as AddressInfo).port
    },
  }
  const connectionsOf = (session: SMTPServerSession) =>
    [...server.connections].filter((connection) => connection.session === session)
  async function take(stream: NodeJS.ReadableStream, session: SMTPServerSession) {
    const raw = await buffer(stream)
    const recipients = session.envelope.rcptTo.map((to) => to.address)
    const parsed = await simpleParser(raw)
    const mail: Received = Object.assign(parsed, { recipients, messageId: parsed.messageId ?? '' })
    await sink.pause(mail)
    if (recipients.some((recipient) => sink.judge(recipient) === 'reset')) {
      for (const connection of connectionsOf(session)) cut(connection)
      throw new Error('reset')
    }
    sink.taken.push(mail)
  }
  return sink
}

const cut = (connection: SMTPServer['connections'] extends Set<infer C> ? C : never) =>
  (connection as unknown as { _socket: { destroy(): void } })._socket.destroy()
