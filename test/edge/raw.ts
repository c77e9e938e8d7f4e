import { connect } from 'node:net'

/** Writes a request as it stands, and reads the status and text of its answer. */
const raw = (url: string, text: string): Promise<{ status: number; text: string }> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url)
    const socket = connect(Number(port), hostname)
    let answer = ''
    socket.setTimeout(10_000, () => socket.destroy(new Error('no answer')))
    socket.on('data', (chunk) => {
      answer += chunk
    })
    socket.on('error', reject)
    socket.on('close', () => resolve({ status: Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 0), text: answer }))
    socket.write(text)
  })

/** A request with a target as it stands: dots, slashes and percent signs are not read by anyone on the way. */
export const rawRequest = (url: string, method: string, target: string, headers: string[] = []) =>
  raw(url, [`${method} ${target} HTTP/1.1`, 'Host: shop', 'Connection: close', ...headers, '', ''].join('\r\n'))

/** How many requests a role has answered, by its metrics; probes and questions to /authz are not counted. */
export async function seenBy({ metricsUrl }: { metricsUrl: string }) {
  const text = await (await fetch(metricsUrl)).text()
  let sum = 0
  for (const line of text.split('\n')) {
    const match = /^http_request_duration_seconds_count\{(.*)\} (\d+)$/.exec(line)
    if (match && !/route="\/(healthz|readyz|authz|authn)"/.test(match[1] ?? '')) sum += Number(match[2])
  }
  return sum
}

/**
 * Writes bytes as they stand and reads all that comes, however the connection ends. Where nothing more comes for
 * `patience` milliseconds, this side says that it is done; `late`: the other did not let go within 20 s after.
 */
export const exchange = (url: string, bytes: Buffer, patience = 100): Promise<{ text: string; late: boolean }> =>
  new Promise((resolve) => {
    const { hostname, port } = new URL(url)
    const socket = connect(Number(port), hostname)
    let text = ''
    let late = false
    const quiet = setTimeout(() => socket.end(), patience)
    const end = setTimeout(() => {
      late = true
      socket.destroy()
    }, 20_000)
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      quiet.refresh()
    })
    // A connection that is reset, or closed while this side still writes, has ended.
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(quiet)
      clearTimeout(end)
      resolve({ text, late })
    })
    socket.write(bytes)
  })
