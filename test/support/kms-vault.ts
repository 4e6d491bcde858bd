/** The Transit engine of Vault as far as encrypt and decrypt go: developer.hashicorp.com/vault/api-docs/secret/transit. */
import { randomBytes, randomUUID } from 'node:crypto'
import { type Answer, type Fault, type KeyServer, seal, startKeyServer, unseal } from './kms-server.js'

export const VAULT_TOKEN = 'hvs.a-token-that-nobody-may-see'

/**
 * @param options.namespace what each request must name
 * @param options.ignoresAad as servers before 1.13 do
 */
export function startVault({
  namespace,
  ignoresAad = false,
}: {
  namespace?: string
  ignoresAad?: boolean
} = {}): Promise<KeyServer> {
  const keys = new Map(['first', 'other'].map((name) => [name, randomBytes(32)]))
  return startKeyServer((request, fault, problems) => {
    const [, mount, operation, name = ''] =
      /^\/v1\/(.+)\/(encrypt|decrypt)\/([^/]+)$/.exec(request.path) ?? []
    if (request.method !== 'POST' || operation === undefined) return error(404, 'no handler for route')
    if (request.headers['x-vault-request'] !== 'true') problems.push('no x-vault-request')
    if (request.headers['x-vault-namespace'] !== namespace) problems.push('another namespace')
    if (request.headers['x-vault-token'] !== VAULT_TOKEN) return error(403, 'permission denied')
    if (mount !== 'transit') return error(404, `no handler for route "${mount}"`)
    const refused = refusal(fault)
    if (refused !== null) return refused
    const key = keys.get(fault === 'otherKey' ? 'other' : name)
    if (key === undefined) return error(400, 'encryption key not found')
    const input = JSON.parse(request.body)
    if (Buffer.from(input.associated_data, 'base64').length !== 32)
      problems.push('associated_data is no hash')
    const aad = ignoresAad ? Buffer.alloc(0) : Buffer.from(input.associated_data, 'base64')
    if (operation === 'encrypt') {
      const sealed = seal(key, Buffer.from(input.plaintext, 'base64'), aad)
      return answer({ ciphertext: `vault:v1:${sealed.toString('base64')}`, key_version: 1 })
    }
    const [, version, base64 = ''] = /^vault:v(\d+):(.*)$/.exec(input.ciphertext) ?? []
    if (version !== '1') return error(400, 'invalid ciphertext: version is too new')
    // The answer names no key: of another one it is no key at all.
    if (fault === 'otherKey') return answer({ plaintext: randomBytes(16).toString('base64') })
    const plaintext = unseal(key, Buffer.from(base64, 'base64'), aad)
    if (plaintext === null) return error(400, 'cipher: message authentication failed')
    return answer({ plaintext: plaintext.toString('base64') })
  })
}

function refusal(fault: Fault | null): Answer | null {
  if (fault === 'deny') return error(403, 'permission denied')
  if (fault === 'throttle') return error(429, 'rate limit quota exceeded')
  if (fault === 'notFound') return error(404, 'no handler for route')
  if (fault === 'outage') return error(503, 'Vault is sealed')
  return null
}

function answer(data: object): Answer {
  return {
    status: 200,
    body: { request_id: randomUUID(), lease_id: '', renewable: false, lease_duration: 0, data },
  }
}

function error(status: number, message: string): Answer {
  return { status, body: { errors: [`${message} (${VAULT_TOKEN})`] } }
}
