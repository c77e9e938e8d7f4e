import { connect } from 'node:net'

/** Writes a request as it stands, and reads the status and text of its answer. */
export const raw = (url: string, text: string): Promise<{ status: number; text: string }> =>
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
