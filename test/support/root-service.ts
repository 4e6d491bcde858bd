/** A key service that holds a root for each tenant, over HTTP so that several processes share it. It can deny, hang and come back. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'

export type RootState = 'works' | 'denies' | 'hangs'

export interface RootService {
  /** What test/children/tenant-roots.mjs asks. */
  readonly url: string
  /** The number of calls that each tenant's root was asked for. */
  readonly calls: ReadonlyMap<string, number>
  /** What a tenant's root does from now on. Calls that hang are never answered. */
  set(tenantId: string, state: RootState): void
  close(): Promise<void>
}

const NONCE_BYTES = 12
const TAG_BYTES = 16

export async function startRootService(): Promise<RootService> {
  const keys = new Map<string, Buffer>()
  const states = new Map<string, RootState>()
  const calls = new Map<string, number>()
  const server = createServer(async (request, response) => {
    const { tenantId, operation } = asked(request)
    calls.set(tenantId, (calls.get(tenantId) ?? 0) + 1)
    const { bytes, aad } = JSON.parse(String(await buffer(request)))
    const state = states.get(tenantId) ?? 'works'
    if (state === 'hangs') return
    if (state === 'denies') {
      response.writeHead(403).end()
      return
    }
    const key = keys.get(tenantId) ?? randomBytes(32)
    keys.set(tenantId, key)
    const answer = operation === 'wrap' ? sealed(key, bytes, aad) : opened(key, bytes, aad)
    response.writeHead(answer === null ? 400 : 200).end(answer?.toString('base64'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    set: (tenantId, state) => states.set(tenantId, state),
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** `/TENANT/wrap` or `/TENANT/unwrap`. */
function asked({ url = '' }: IncomingMessage) {
  const [tenantId = '', operation = ''] = url.slice(1).split('/').map(decodeURIComponent)
  return { tenantId, operation }
}

function sealed(key: Buffer, bytes: string, aad: string): Buffer {
  const nonce = randomBytes(NONCE_BYTES)
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(aad, 'base64'))
  return Buffer.concat([nonce, cipher.update(bytes, 'base64'), cipher.final(), cipher.getAuthTag()])
}

function opened(key: Buffer, bytes: string, aad: string): Buffer | null {
  const wrapped = Buffer.from(bytes, 'base64')
  const end = wrapped.length - TAG_BYTES
  try {
    const cipher = createDecipheriv('aes-256-gcm', key, wrapped.subarray(0, NONCE_BYTES))
    cipher.setAAD(Buffer.from(aad, 'base64')).setAuthTag(wrapped.subarray(end))
    return Buffer.concat([cipher.update(wrapped.subarray(NONCE_BYTES, end)), cipher.final()])
  } catch {
    return null
  }
}
