import { Readable } from 'node:stream'
import SMTPConnection from 'nodemailer/lib/smtp-connection'
import { limiter } from '../platform/limiter.ts'
import type { Logger } from '../platform/log.ts'

export interface SmtpError extends Error {
  code?: string
  command?: string
  response?: string
  responseCode?: number
  /** The server has all of the mail, and never said whether it takes it. */
  unanswered?: true
}

export interface SmtpPool extends AsyncDisposable {
  /** Sends a message over a connection of the pool; rejects with SmtpError. Waits while all connections are busy. */
  send(envelope: { from: string; to: string[] }, message: Buffer): Promise<void>
  /** Connects, signs in and leaves; rejects with SmtpError. */
  probe(): Promise<void>
}

interface PoolOptions {
  /** `smtp://user:password@host:port`, or `smtps:` for TLS from the first byte. */
  url: string
  /** Makes TLS required, with a certificate of this authority. */
  ca?: string
  /** How we greet the server. */
  hostname: string
  /** Most connections at once. */
  connections: number
  /** Milliseconds to connect. */
  connectTimeout: number
  /** Milliseconds of silence after which the server is given up; the greeting must come within them. */
  socketTimeout: number
  /** Milliseconds that the reply to the data of a mail may take. */
  dataTimeout: number
  /** Once aborted, that reply gets no longer than any other. */
  stopping: AbortSignal
  log: Logger
}

/**
 * Keeps connections of nodemailer's SMTP client, opened when first used. Its own pool and message streams cost twice the
 * processor time a mail, and hide a fault behind retries; here every fault reaches the mail that met it, at once.
 */
export function openSmtp(o: PoolOptions): SmtpPool {
  const { url, ca, hostname, connections, connectTimeout, socketTimeout, dataTimeout, stopping, log } = o
  const server = new URL(url)
  const auth = server.username
    ? { user: decodeURIComponent(server.username), pass: decodeURIComponent(server.password) }
    : undefined
  const secure = server.protocol === 'smtps:'
  const options: SMTPConnection.Options = {
    host: server.hostname.replace(/^\[|\]$/g, ''),
    port: Number(server.port) || (secure ? 465 : 587),
    secure,
    // Without an authority STARTTLS is used where the server offers it.
    requireTLS: ca !== undefined && !secure,
    tls: ca ? { ca } : undefined,
    name: hostname,
    // Of all up to the greeting, before which some servers pause to see who talks too early.
    connectionTimeout: socketTimeout,
    greetingTimeout: socketTimeout,
    dnsTimeout: connectTimeout,
    socketTimeout,
  }
  const idle: SMTPConnection[] = []
  const sending = limiter(connections)

  const open = () =>
    new Promise<SMTPConnection>((resolve, reject) => {
      const connection = new SMTPConnection(options)
      const fail = (error: Error) => {
        reject(error)
        connection.close()
      }
      const late = () =>
        connection.stage === 'init' && fail(Object.assign(new Error('Connection timeout'), { code: 'ETIMEDOUT' }))
      setTimeout(late, connectTimeout).unref()
      // A fault while a mail is under way reaches its sender too; one of an idle connection is nobody's.
      connection.on('error', (err) => {
        log.debug({ err }, 'mail connection fault')
        fail(err)
      })
      connection.once('end', () => {
        const at = idle.indexOf(connection)
        if (at >= 0) idle.splice(at, 1)
        reject(closed())
      })
      connection.connect((error) => {
        if (error) return fail(error)
        if (!auth || !connection.allowsAuth) return resolve(connection)
        // Also where someone on the way took the offer of TLS out.
        if (!connection.secure)
          return fail(
            new Error('the mail server offers no TLS, and a password never goes in the open; smtps:// begins with it'),
          )
        connection.login({ credentials: auth }, (refused) => (refused ? fail(refused) : resolve(connection)))
      })
    })

  /**
   * Asks something of a connection, and rejects once it has ended: the client forgets what is not answered by then, and
   * tells nobody but the sender of a mail (nodemailer 10.6).
   */
  const ask = (connection: SMTPConnection, question: (done: (error?: Error | null) => void) => void) =>
    new Promise<void>((resolve, reject) => {
      // The client tells a sender why only after the end.
      const ended = () => setImmediate(reject, closed())
      connection.once('end', ended)
      question((error) => {
        connection.off('end', ended)
        if (error) reject(error)
        else resolve()
      })
    })
  const transmit = async (connection: SMTPConnection, envelope: { from: string; to: string[] }, message: Buffer) => {
    let dataSentAt = Number.POSITIVE_INFINITY
    // The client has one timeout for all replies.
    const allowSilence = (ms: number) => {
      if (connection._socket) connection._socket.setTimeout(ms)
    }
    const hurry = () => allowSilence(socketTimeout)
    const data = new Readable({
      // Called once the server wants the data.
      read() {
        dataSentAt = performance.now()
        if (!stopping.aborted) allowSilence(dataTimeout)
        this.push(message)
        this.push(null)
      },
    })
    stopping.addEventListener('abort', hurry)
    try {
      await ask(connection, (done) => connection.send({ ...envelope, size: message.length }, data, done))
    } catch (error) {
      const { code, responseCode } = error as SmtpError
      const waited = performance.now() - dataSentAt
      // Or cut off late, by something on the way that allows less silence: a server that ends does so at once.
      if (waited >= 0 && (code === 'ETIMEDOUT' || (waited > socketTimeout && !responseCode)))
        (error as SmtpError).unanswered = true
      throw error
    } finally {
      stopping.removeEventListener('abort', hurry)
      allowSilence(socketTimeout)
    }
  }
  const reset = (connection: SMTPConnection) =>
    ask(connection, (done) => connection.reset(done)).then(
      () => true,
      () => false,
    )

  return {
    send: (envelope, message) =>
      sending(async () => {
        let connection: SMTPConnection | undefined
        let usable = false
        try {
          connection = idle.pop() ?? (await open())
          try {
            await transmit(connection, envelope, message)
            usable = true
          } catch (error) {
            const { code = '', responseCode } = error as SmtpError
            // The server refused this message and goes on listening.
            if (['EENVELOPE', 'EMESSAGE'].includes(code) && responseCode !== 421) usable = await reset(connection)
            throw error
          }
        } finally {
          if (connection && usable && !connection.destroyed) idle.push(connection)
          else connection?.close()
        }
      }),
    async probe() {
      ;(await open()).quit()
    },
    async [Symbol.asyncDispose]() {
      for (const connection of idle.splice(0)) connection.quit()
    },
  }
}

const closed = () => Object.assign(new Error('the mail server closed the connection'), { code: 'ECONNECTION' })
