/** Master keys in Azure Key Vault and Managed HSM: `drizzle-keystore/kms/azure`. */
import { invalidArgument, MasterKeyError } from '../../errors.js'
import { generateKey, hmacSha256, KEY_BYTES, XaesKey } from '../../format/aead.js'
import { kindOf, knownOptions } from '../../validate.js'
import type { MasterKey } from '../master-key.js'
import { azureKeyName } from './key-names.js'
import { KeyService, REQUEST_LIMIT_MS } from './key-service.js'
import { once } from './once.js'
import { type Failure, notLoaded, propertyOf, reasonOfStatus } from './service-error.js'

const ALGORITHM = 'RSA-OAEP-256'

/** What is used of a `CryptographyClient` of @azure/keyvault-keys. */
export interface AzureCryptographyClient {
  readonly keyID?: string | undefined
  wrapKey(
    algorithm: typeof ALGORITHM,
    key: Uint8Array,
    options?: { abortSignal?: AbortSignal },
  ): Promise<{ readonly result: Uint8Array }>
  unwrapKey(
    algorithm: typeof ALGORITHM,
    encryptedKey: Uint8Array,
    options?: { abortSignal?: AbortSignal },
  ): Promise<{ readonly result: Uint8Array }>
}

/** What is used of a credential of @azure/identity. */
export interface AzureCredential {
  getToken(
    scopes: string | string[],
    options?: { abortSignal?: unknown },
  ): Promise<{ token: string; expiresOnTimestamp: number } | null>
}

/** The options of {@link azureMasterKey}. */
export interface AzureMasterKeyOptions {
  /** The identifier of one version of an RSA key: `https://<vault>.vault.azure.net/keys/<name>/<version>`. */
  readonly keyId: string
  /** Default: `new CryptographyClient(keyId, credential, { retryOptions: { maxRetries: 0 } })` of @azure/keyvault-keys. */
  readonly client?: AzureCryptographyClient | undefined
  /** For the default client. Default: `new DefaultAzureCredential()` of @azure/identity. */
  readonly credential?: AzureCredential | undefined
  /** The longest time in milliseconds that one call may take. Default 5000. */
  readonly timeLimitMs?: number | undefined
}

const OPTIONS = { keyId: true, client: true, credential: true, timeLimitMs: true } as const
const SDK = '@azure/keyvault-keys'
/** The first byte of a wrapped key: docs/FORMAT.md, “Azure Key Vault”. */
const HEADER = 0x05
const LABEL = 'drizzle-keystore/azure-wrap-key/v1'
/** The header and the length of what the service wrapped. */
const FRONT_BYTES = 3

/**
 * A master key in Azure Key Vault or Managed HSM. Needs the operations wrapKey and unwrapKey.
 *
 * The service's wrapKey binds nothing, so it wraps a random key, under which the data key is sealed together with its row. What is under an
 * RSA key can be made by whoever knows its public half: see SECURITY.md.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const masterKeys = azureMasterKey({ keyId: 'https://example.vault.azure.net/keys/keystore/0123456789abcdef0123456789abcdef' })
 */
export function azureMasterKey(options: AzureMasterKeyOptions): MasterKey {
  const {
    keyId,
    client,
    credential,
    timeLimitMs = REQUEST_LIMIT_MS,
  } = knownOptions(options, OPTIONS, 'azureMasterKey')
  const { id, url } = azureKeyName(keyId)
  if (client !== undefined) assertClient(client, url)
  const connected = once(async () => client ?? (await connect(id, url, credential)))
  const service = new KeyService(id, 'Azure Key Vault')
  const abortSignal = () => ({ abortSignal: AbortSignal.timeout(timeLimitMs) })
  const wrongKey = () => service.error({ reason: 'wrongKey' })
  return {
    id,
    timeLimitMs,
    async wrap(dataKey, aad) {
      const vault = await connected()
      const random = generateKey()
      try {
        const call = () => vault.wrapKey(ALGORITHM, random, abortSignal())
        const { result } = await service.ask((error) => failureOf(error, 'denied'), call)
        if (!(result instanceof Uint8Array) || result.length === 0 || result.length > 0xffff) throw wrongKey()
        const front = Uint8Array.of(HEADER, result.length >>> 8, result.length & 0xff)
        return Buffer.concat([front, result, ...sealingKey(random).encrypt(dataKey, aad)])
      } finally {
        random.fill(0)
      }
    },
    async unwrap(wrapped, aad) {
      const length = ((wrapped[1] ?? 0) << 8) | (wrapped[2] ?? 0)
      const sealedAt = FRONT_BYTES + length
      if (wrapped[0] !== HEADER || length === 0 || wrapped.length <= sealedAt) throw notOpened(id)
      const vault = await connected()
      const call = () => vault.unwrapKey(ALGORITHM, wrapped.subarray(FRONT_BYTES, sealedAt), abortSignal())
      const { result } = await service.ask((error) => failureOf(error, 'notOpened'), call)
      if (!(result instanceof Uint8Array) || result.length !== KEY_BYTES) throw wrongKey()
      try {
        const dataKey = sealingKey(result).open(wrapped.subarray(sealedAt), aad)
        if (dataKey === null) throw notOpened(id)
        return dataKey
      } finally {
        result.fill(0)
      }
    },
  }
}

function sealingKey(random: Uint8Array): XaesKey {
  const key = hmacSha256(random, LABEL)
  try {
    return new XaesKey(key)
  } finally {
    key.fill(0)
  }
}

function assertClient(client: AzureCryptographyClient, url: string): void {
  if (typeof client?.wrapKey !== 'function' || typeof client.unwrapKey !== 'function')
    throw invalidArgument(`client must be a CryptographyClient of ${SDK}, got ${kindOf(client)}`)
  if (client.keyID !== undefined && client.keyID !== url)
    throw invalidArgument('client must be a CryptographyClient of the same key and version as keyId')
}

async function connect(
  id: string,
  url: string,
  credential: AzureCredential | undefined,
): Promise<AzureCryptographyClient> {
  const keys = await import(/* webpackIgnore: true */ /* @vite-ignore */ '@azure/keyvault-keys').catch(
    notLoaded(id, SDK),
  )
  // The core decides when a call is repeated.
  return new keys.CryptographyClient(url, credential ?? (await defaultCredential(id)), {
    retryOptions: { maxRetries: 0 },
  })
}

async function defaultCredential(id: string) {
  const identity = await import(/* webpackIgnore: true */ /* @vite-ignore */ '@azure/identity').catch(
    notLoaded(id, '@azure/identity'),
  )
  return new identity.DefaultAzureCredential()
}

function notOpened(id: string): MasterKeyError {
  return new MasterKeyError('ERR_UNWRAP_FAILED', `The wrapped key does not open under master key ${id}`)
}

/** What the SDKs throw before they ask the vault: no credentials; a key that is not valid now or lacks the operation. */
const REFUSED_HERE =
  /^(CredentialUnavailableError|AggregateAuthenticationError|AuthenticationRequiredError|AuthenticationError)$/
const NOT_VALID = /^(Key .* (can't be used before|expired at)|Operation .* is not supported on key) /

/** @param badRequest what 400 means: the vault answers it where wrapped bytes do not open */
function failureOf(error: unknown, badRequest: 'denied' | 'notOpened'): Failure {
  const name = String(propertyOf(error, 'name'))
  const status = propertyOf(error, 'statusCode')
  if (typeof status !== 'number') {
    const isRefused = REFUSED_HERE.test(name) || NOT_VALID.test(String(propertyOf(error, 'message')))
    return { reason: isRefused ? 'denied' : 'unavailable', providerCode: name }
  }
  const code = propertyOf(error, 'code')
  const headers = propertyOf(propertyOf(error, 'response'), 'headers')
  const get = propertyOf(headers, 'get')
  const requestId = typeof get === 'function' ? get.call(headers, 'x-ms-request-id') : undefined
  return {
    reason: status === 400 ? badRequest : reasonOfStatus(status),
    providerCode: typeof code === 'string' ? code : `HTTP ${status}`,
    requestId: typeof requestId === 'string' ? requestId : undefined,
  }
}
