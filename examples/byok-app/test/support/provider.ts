/** A provider of an API, on loopback: it knows some keys, and records what it is asked. */
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface TestProvider {
  readonly url: string
  /** Keys that it takes. */
  readonly known: Set<string>
  readonly requests: { readonly path: string; readonly key: string; readonly headers: IncomingHttpHeaders }[]
  /** Answers wait for it. */
  held: Promise<void>
  /** The status that it answers instead, until it is null again. */
  answers: number | null
  remove(): Promise<void>
}

export async function startProvider(): Promise<TestProvider> {
  const provider: { -readonly [Name in keyof TestProvider]: TestProvider[Name] } = {
    url: '',
    known: new Set(),
    requests: [],
    held: Promise.resolve(),
    answers: null,
    remove: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
  const server = createServer(async (request, response) => {
    const { headers, url: path = '' } = request
    const key = String(headers['x-api-key'] ?? headers['x-goog-api-key'] ?? headers.authorization).replace(
      'Bearer ',
      '',
    )
    provider.requests.push({ path, key, headers })
    await provider.held
    response.statusCode = provider.answers ?? (provider.known.has(key) ? 200 : 401)
    if (response.statusCode === 302) response.setHeader('location', '/elsewhere')
    response.end(JSON.stringify({ data: [], echo: key }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  provider.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return provider
}
