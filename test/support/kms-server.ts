/** A key service of the tests on loopback: records every request, and fails as it is told. What it answers is each service's own file. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'

/**
 * - `deny`, `throttle`, `notFound`, `outage`: the service's own answers of these kinds
 * - `hang`: no answer · `cut`: the connection is cut · `garbage`: 200 with what is no answer
 * - `otherKey`: the answer is another key's
 */
export type Fault = 'deny' | 'throttle' | 'notFound' | 'outage' | 'hang' | 'cut' | 'garbage' | 'otherKey'

export interface ServedRequest {
  readonly method: string
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

export interface Answer {
  readonly status: number
  readonly body: unknown
  readonly headers?: Record<string, string>
}

export interface KeyServer {
  readonly url: string
  readonly port: number
  /** Every request, from the first. */
  readonly requests: ServedRequest[]
  /** What was wrong with requests. A test expects that there is nothing. */
  readonly problems: string[]
  fault: Fault | null
  /** Requests that hang now. */
  hanging(): number
  close(): Promise<void>
}

/** @param answer is not called for `hang`, `cut` and `garbage` */
export async function startKeyServer(
  answer: (request: ServedRequest, fault: Fault | null, problems: string[]) => Answer,
): Promise<KeyServer> {
  const requests: ServedRequest[] = []
  const problems: string[] = []
  const sockets = new Set<Socket>()
  let hanging = 0
  const server = createServer((incoming, outgoing) => {
    let body = ''
    incoming.setEncoding('utf8')
    incoming.on('data', (chunk) => {
      body += chunk
    })
    incoming.on('end', () => {
      const { method = '', url = '', headers } = incoming
      const request = { method, path: url, headers, body }
      requests.push(request)
      if (keyServer.fault === 'cut') return void incoming.socket.destroy()
      if (keyServer.fault === 'hang') {
        hanging += 1
        outgoing.on('close', () => {
          hanging -= 1
        })
        return
      }
      if (keyServer.fault === 'garbage')
        return void outgoing.writeHead(200).end('<html>not what you want</html>')
      const { status, body: answered, headers: more } = answer(request, keyServer.fault, problems)
      outgoing
        .writeHead(status, { 'content-type': 'application/json', ...more })
        .end(JSON.stringify(answered))
    })
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const keyServer: KeyServer = {
    url: `http://127.0.0.1:${port}`,
    port,
    requests,
    problems,
    fault: null,
    hanging: () => hanging,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
  return keyServer
}

/** AES-256-GCM. @returns `nonce[12] ‖ ciphertext ‖ tag[16]` */
export function seal(key: Uint8Array, plaintext: Uint8Array, aad: Uint8Array): Buffer {
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad)
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
}

/** @returns null if it does not open */
export function unseal(key: Uint8Array, sealed: Uint8Array, aad: Uint8Array): Buffer | null {
  if (sealed.length < 28) return null
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12), { authTagLength: 16 })
  decipher.setAAD(aad).setAuthTag(sealed.subarray(sealed.length - 16))
  try {
    return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()])
  } catch {
    return null
  }
}
