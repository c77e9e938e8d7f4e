import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import { request as requestByTls } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

export interface Call {
  /** Access token for the Authorization header. */
  token?: string
  /** An object goes as JSON; a string or bytes go as they are, with the Content-Type of `headers`. */
  body?: unknown
  headers?: Record<string, string | string[]>
  /** On a connection of its own, instead of one that earlier requests left open. */
  fresh?: boolean
}
export interface Answer {
  status: number
  headers: IncomingHttpHeaders
  /** Parsed where the answer is JSON, else text. */
  // biome-ignore lint/suspicious/noExplicitAny: an answer is whatever the server said; the caller checks it
  body: any
  text: string
}

const agent = new Agent({ keepAlive: true })

/** One HTTP request; the path goes out as it is written, dots, double slashes and all. Any status is an answer. */
export const call = (base: string, method: string, path: string, { token, body, headers, fresh = false }: Call = {}) =>
  new Promise<Answer>((resolve, reject) => {
    const { protocol, hostname, port } = new URL(base)
    const isTls = protocol === 'https:'
    const isJson = body !== undefined && typeof body !== 'string' && !(body instanceof Uint8Array)
    const bytes = body === undefined ? undefined : isJson ? JSON.stringify(body) : (body as string | Uint8Array)
    const outgoing = (isTls ? requestByTls : request)({
      ...(fresh ? { agent: false } : isTls ? {} : { agent }),
      hostname,
      port,
      method,
      path,
      timeout: 30_000,
      headers: {
        ...(bytes === undefined ? {} : { 'Content-Length': Buffer.byteLength(bytes) }),
        ...(isJson ? { 'Content-Type': 'application/json' } : {}),
        ...(token ? { Authorization: `Bearer ${token}` } : {}),
        ...headers,
      },
    })
    outgoing.once('error', (error) => reject(Object.assign(error, { reusedSocket: outgoing.reusedSocket })))
    outgoing.once('timeout', () => outgoing.destroy(new Error(`${method} ${path}: no answer in 30 s`)))
    outgoing.once('response', (response) => {
      const chunks: Buffer[] = []
      response.once('error', reject)
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString()
        const json = /[/+]json/.test(response.headers['content-type'] ?? '')
        try {
          const parsed = json && text ? JSON.parse(text) : text
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: parsed, text })
        } catch {
          reject(
            new Error(`${method} ${path}: ${response.statusCode} with a body that is not JSON: ${text.slice(0, 200)}`),
          )
        }
      })
    })
    outgoing.end(bytes)
  })

export interface MailMessage {
  id: string
  subject: string
  text: string
  html: string
  time: string
  messageId: string
  headers: Record<string, string>
  to: { address: string; name: string }[]
}

/** All mails to an address, oldest first. */
export async function mailsTo(inboxUrl: string, address: string): Promise<MailMessage[]> {
  const answer = await fetch(`${inboxUrl}/api/email?to.address=${encodeURIComponent(address)}`)
  if (!answer.ok) throw new Error(`the inbox ${inboxUrl} answered ${answer.status}`)
  return (await answer.json()) as MailMessage[]
}

/** Waits for a mail to an address, the newest that fits, and returns it. Throws after `deadline` milliseconds. */
export async function mailTo(
  inboxUrl: string,
  address: string,
  {
    subject,
    fits = () => true,
    deadline = 15_000,
  }: { subject?: RegExp; fits?: (mail: MailMessage) => boolean; deadline?: number } = {},
): Promise<MailMessage> {
  const end = Date.now() + deadline
  while (true) {
    const mails = await mailsTo(inboxUrl, address)
    const found = mails.findLast((mail) => (!subject || subject.test(mail.subject)) && fits(mail))
    if (found) return found
    if (Date.now() > end) {
      const there = mails.map((mail) => mail.subject).join(', ') || 'none'
      throw new Error(
        `no mail to ${address}${subject ? ` with a subject like ${subject}` : ''} in ${deadline} ms; there: ${there}`,
      )
    }
    await sleep(50)
  }
}

/** The six digits in a mail's text. */
export function codeIn(mail: MailMessage): string {
  const [code] = /\b\d{6}\b/.exec(mail.text) ?? []
  if (!code) throw new Error(`no code in the mail “${mail.subject}”: ${mail.text}`)
  return code
}
