import { Permanent } from '../platform/bus.ts'
import type { Config } from '../platform/config.ts'
import type { Logger } from '../platform/log.ts'
import { type Gate, openGate } from './gate.ts'
import { type Mail, writeMail } from './mime.ts'
import { openSmtp, type SmtpError } from './smtp.ts'

/** The mail server, and not this mail, is at fault: out of reach, closing, full, or refusing us. */
export class ServerFault extends Error {
  override name = 'ServerFault'
}

export interface Mailer extends AsyncDisposable {
  /** Shut while the mail server is down. */
  gate: Gate
  /** Makes sure that the server is there and lets us in; waits while it does not. Rejects when the process stops. */
  ready(): Promise<void>
  /** How many mails the server has taken since the start. */
  accepted(): number
  /**
   * Sends one mail, and returns once the server has taken it. Throws ServerFault, which also shuts the gate; Permanent
   * where the server refuses this mail for good; any other error where it may take it later.
   */
  send(mail: Mail): Promise<void>
}

interface MailerOptions {
  c: Pick<Config<'notifications'>, 'SMTP_URL' | 'SMTP_CA' | 'MAIL_FROM' | 'PUBLIC_URL' | 'CONN_TIMEOUT'>
  stopping: AbortSignal
  log: Logger
}

/** Milliseconds of silence after which the server is given up. */
const socketTimeout = 20_000
/**
 * As many, once the server has all of a mail: content filters take their time, and a client that hangs up meanwhile sends
 * again what the server has already. RFC 5321 (4.5.3.2.6) asks for 10 minutes; each mail holds one of our connections.
 */
const dataTimeout = 5 * 60_000
/** Connections at most, and so mails at once: 10 send as much as 20 (measured), and public servers allow about as many. */
const connections = 10

/** Opens nothing yet: up to 10 connections are made when first used, and kept. */
export function openMailer({ c, stopping, log }: MailerOptions): Mailer {
  const smtp = openSmtp({
    url: c.SMTP_URL,
    ca: c.SMTP_CA,
    // How we greet the server.
    hostname: new URL(c.PUBLIC_URL).hostname,
    connections,
    connectTimeout: c.CONN_TIMEOUT,
    socketTimeout,
    dataTimeout,
    stopping,
    log,
  })
  const gate = openGate('mail server', { probe: () => smtp.probe(), stopping, log })
  let accepted = 0
  return {
    gate,
    async ready() {
      await gate.pass()
      await smtp.probe().catch((error) => gate.shut(error))
      await gate.pass()
    },
    accepted: () => accepted,
    async send(mail) {
      const { envelope, raw } = writeMail(c.MAIL_FROM, mail)
      try {
        await smtp.send(envelope, raw)
      } catch (error) {
        const fault = classify(error as SmtpError)
        if (fault instanceof ServerFault) gate.shut(error)
        throw fault
      }
      accepted++
      gate.works()
    },
    [Symbol.asyncDispose]: () => smtp[Symbol.asyncDispose](),
  }
}

/**
 * Whose fault an error of SMTP is: the server's (or its operator's), this mail's for good, or this mail's for now.
 * 421 closes the connection, 4.3.z (RFC 3463) speaks of the mail system, 530 535 538 of our credentials, and so does 454, by
 * which Amazon SES says too that a day's quota is used up.
 */
function classify(error: SmtpError): Error {
  const { code = '', command, responseCode = 0, response = '' } = error
  const aboutMail = code === 'EENVELOPE' || code === 'EMESSAGE'
  const reason = `the mail server said: ${response || error.message}`.replace(/\s+/g, ' ').slice(0, 300)
  // A reply to MAIL FROM judges the sender, the same for every mail; only 552 there means the size of this one.
  const aboutSender = command === 'MAIL FROM' && responseCode !== 552
  const aboutServer = [421, 454, 530, 535, 538].includes(responseCode) || /^4\d\d[ -]4\.3\./.test(response)
  // It may have it: sent again without end, it would come without end.
  if (error.unanswered)
    return new Error('the mail server has the mail, and did not say that it takes it', { cause: error })
  if (aboutMail && responseCode === 0) return new Permanent(error.message)
  if (!aboutMail || aboutSender || aboutServer) return new ServerFault(reason, { cause: error })
  if (responseCode >= 500 && responseCode !== 503) return new Permanent(reason)
  return new Error(reason, { cause: error })
}
