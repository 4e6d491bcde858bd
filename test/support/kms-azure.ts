/** Azure Key Vault as far as one RSA key and wrapkey, unwrapkey go: learn.microsoft.com/rest/api/keyvault/keys. */
import {
  constants,
  generateKeyPairSync,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
  randomUUID,
} from 'node:crypto'
import { CryptographyClient } from '@azure/keyvault-keys'
import type { AzureCredential } from '../../src/master-keys/kms/azure.js'
import { type Answer, type Fault, type KeyServer, startKeyServer } from './kms-server.js'

export const AZURE_TOKEN = 'an-access-token-of-entra-id'
export const AZURE_NAMES = ['first', 'other'].map((name) => `/keys/${name}/0123456789abcdef0123456789abcdef`)

const PADDING = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' } as const

/** Made once for all tests of a process: it takes a while. */
const pairs = new Map(AZURE_NAMES.map((name) => [name, generateKeyPairSync('rsa', { modulusLength: 2048 })]))

/** @param mayGet whether the identity may read the key besides using it */
export function startAzureVault({ mayGet = true } = {}): Promise<KeyServer> {
  return startKeyServer((request, fault, problems) => {
    const host = `http://${request.headers.host}`
    const url = new URL(request.path, host)
    if (request.headers.authorization === undefined) {
      if (request.body !== '') problems.push('a body before the challenge')
      const challenge =
        'Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"'
      return { status: 401, body: {}, headers: { 'www-authenticate': challenge } }
    }
    if (request.headers.authorization !== `Bearer ${AZURE_TOKEN}`) problems.push('another token')
    const refused = refusal(fault)
    if (refused !== null) return refused
    const operation = /\/(wrapkey|unwrapkey)$/.exec(url.pathname)?.[1]
    const name = operation === undefined ? url.pathname : url.pathname.slice(0, -operation.length - 1)
    const pair = pairs.get(fault === 'otherKey' ? (AZURE_NAMES[1] ?? '') : name)
    if (pair === undefined) return error(404, 'KeyNotFound')
    const kid = host + name
    if (operation === undefined) {
      if (!mayGet) return error(403, 'Forbidden')
      return answer({
        key: { ...pair.publicKey.export({ format: 'jwk' }), kid, key_ops: ['wrapKey', 'unwrapKey'] },
      })
    }
    const input = JSON.parse(request.body)
    if (input.alg !== 'RSA-OAEP-256') problems.push(`algorithm ${input.alg}`)
    if (Object.keys(input).sort().join() !== 'alg,value') problems.push(`fields ${Object.keys(input)}`)
    const value = Buffer.from(input.value, 'base64url')
    if (operation === 'wrapkey') {
      if (value.length !== 32) problems.push(`wrapped ${value.length} bytes`)
      const wrapped = publicEncrypt({ key: pair.publicKey, ...PADDING }, value)
      return answer({ kid, value: wrapped.toString('base64url') })
    }
    if (fault === 'otherKey') return answer({ kid, value: randomBytes(32).toString('base64url') })
    try {
      const opened = privateDecrypt({ key: pair.privateKey, ...PADDING }, value)
      return answer({ kid, value: opened.toString('base64url') })
    } catch {
      return error(400, 'BadParameter')
    }
  })
}

/** The real client, which the server's plain HTTP needs two options for. */
export function azureClient(keyId: string, credential: AzureCredential = CREDENTIAL): CryptographyClient {
  return new CryptographyClient(keyId, credential, {
    allowInsecureConnection: true,
    disableChallengeResourceVerification: true,
    retryOptions: { maxRetries: 0 },
  })
}

const CREDENTIAL: AzureCredential = {
  getToken: async () => ({ token: AZURE_TOKEN, expiresOnTimestamp: Date.now() + 3_600_000 }),
}

function refusal(fault: Fault | null): Answer | null {
  if (fault === 'deny') return error(403, 'Forbidden')
  if (fault === 'throttle') return error(429, 'Throttled')
  if (fault === 'notFound') return error(404, 'KeyNotFound')
  if (fault === 'outage') return error(503, 'ServiceUnavailable')
  return null
}

function answer(body: object): Answer {
  return { status: 200, body, headers: { 'x-ms-request-id': randomUUID() } }
}

function error(status: number, code: string): Answer {
  return {
    ...answer({
      error: { code, message: `Caller with appid secret-application is refused: ${AZURE_TOKEN}` },
    }),
    status,
  }
}
