/** Master keys in Google Cloud KMS: `drizzle-keystore/kms/gcp`. */
import { invalidArgument } from '../../errors.js'
import { sha256 } from '../../format/aead.js'
import { kindOf, knownOptions } from '../../validate.js'
import type { MasterKey } from '../master-key.js'
import { crc32c } from './crc32c.js'
import { gcpKeyName } from './key-names.js'
import { KeyService, REQUEST_LIMIT_MS } from './key-service.js'
import { once } from './once.js'
import { type Failure, notLoaded, propertyOf, reasonOfStatus } from './service-error.js'

interface Checksum {
  readonly value?: unknown
}

interface CallOptions {
  timeout: number
  /** No repetition by the SDK: the core decides when a call is repeated. */
  retry: null
}

/** What is used of a `KeyManagementServiceClient` of @google-cloud/kms, over gRPC or HTTP. */
export interface GcpKmsClient {
  initialize?(): Promise<unknown>
  encrypt(
    request: {
      name: string
      plaintext: Uint8Array
      plaintextCrc32c: { value: number }
      additionalAuthenticatedData: Uint8Array
      additionalAuthenticatedDataCrc32c: { value: number }
    },
    options: CallOptions,
  ): Promise<
    readonly [
      {
        readonly name?: string | null
        readonly ciphertext?: Uint8Array | string | null
        readonly ciphertextCrc32c?: Checksum | null
        readonly verifiedPlaintextCrc32c?: boolean | null
        readonly verifiedAdditionalAuthenticatedDataCrc32c?: boolean | null
      },
      ...unknown[],
    ]
  >
  decrypt(
    request: {
      name: string
      ciphertext: Uint8Array
      ciphertextCrc32c: { value: number }
      additionalAuthenticatedData: Uint8Array
      additionalAuthenticatedDataCrc32c: { value: number }
    },
    options: CallOptions,
  ): Promise<
    readonly [
      { readonly plaintext?: Uint8Array | string | null; readonly plaintextCrc32c?: Checksum | null },
      ...unknown[],
    ]
  >
}

/** The options of {@link gcpMasterKey}. */
export interface GcpMasterKeyOptions {
  /** The resource name of a symmetric key, without a version: `projects/…/locations/…/keyRings/…/cryptoKeys/…`. */
  readonly keyName: string
  /** Default: `new KeyManagementServiceClient()` of @google-cloud/kms, with the application's default credentials. */
  readonly client?: GcpKmsClient | undefined
  /** The longest time in milliseconds that one call may take. Default 5000. */
  readonly timeLimitMs?: number | undefined
}

const OPTIONS = { keyName: true, client: true, timeLimitMs: true } as const
const SDK = '@google-cloud/kms'

/**
 * A master key in Google Cloud KMS. Needs `cloudkms.cryptoKeyVersions.useToEncrypt` and `useToDecrypt`. The additional authenticated data is
 * SHA-256(AAD), so that KMS learns no user. Plaintext, ciphertext and AAD travel with their CRC-32C, and the answer's are verified.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const masterKeys = gcpMasterKey({ keyName: 'projects/example/locations/europe-west3/keyRings/apps/cryptoKeys/keystore' })
 */
export function gcpMasterKey(options: GcpMasterKeyOptions): MasterKey {
  const { keyName, client, timeLimitMs = REQUEST_LIMIT_MS } = knownOptions(options, OPTIONS, 'gcpMasterKey')
  const { id, name } = gcpKeyName(keyName)
  if (
    client !== undefined &&
    !(typeof client?.encrypt === 'function' && typeof client.decrypt === 'function')
  )
    throw invalidArgument(`client must be a KeyManagementServiceClient of ${SDK}, got ${kindOf(client)}`)
  const service = new KeyService(id, 'Google Cloud KMS')
  const connected = once(async () => {
    const kms = client ?? (await connect(id))
    // Its methods begin with this too, and leave a failure, such as missing credentials, as an unhandled rejection that ends the process.
    await service.ask(
      (error) => failureOf(error, 'denied'),
      async () => kms.initialize?.(),
    )
    return kms
  })
  const callOptions = { timeout: timeLimitMs, retry: null }
  const failed = (reason: Failure['reason'], providerCode?: string) => service.error({ reason, providerCode })
  const checked = (
    answered: Uint8Array | string | null | undefined,
    checksum: Checksum | null | undefined,
  ): Uint8Array => {
    const bytes = typeof answered === 'string' ? Buffer.from(answered, 'base64') : answered
    if (!(bytes instanceof Uint8Array) || bytes.length === 0) throw failed('wrongKey')
    if (Number(String(checksum?.value)) === crc32c(bytes)) return bytes
    bytes.fill(0)
    throw failed('unavailable', BROKEN)
  }
  return {
    id,
    timeLimitMs,
    async wrap(dataKey, aad) {
      const kms = await connected()
      const request = {
        name,
        plaintext: asBuffer(dataKey),
        plaintextCrc32c: { value: crc32c(dataKey) },
        ...bindingOf(aad),
      }
      const [answer] = await service.ask(
        (error) => failureOf(error, 'denied'),
        () => kms.encrypt(request, callOptions),
      )
      if (!answer?.name?.startsWith(`${name}/cryptoKeyVersions/`)) throw failed('wrongKey')
      if (
        answer.verifiedPlaintextCrc32c !== true ||
        answer.verifiedAdditionalAuthenticatedDataCrc32c !== true
      )
        throw failed('unavailable', BROKEN)
      return checked(answer.ciphertext, answer.ciphertextCrc32c)
    },
    async unwrap(wrapped, aad) {
      if (wrapped.length === 0) throw failed('notOpened')
      const kms = await connected()
      const request = {
        name,
        ciphertext: asBuffer(wrapped),
        ciphertextCrc32c: { value: crc32c(wrapped) },
        ...bindingOf(aad),
      }
      const [answer] = await service.ask(
        (error) => failureOf(error, 'notOpened'),
        () => kms.decrypt(request, callOptions),
      )
      return service.dataKey(checked(answer?.plaintext, answer?.plaintextCrc32c))
    },
  }
}

/**
 * The same memory. Of another Uint8Array the client would send over HTTP what stands at the beginning of the memory that it is a part of
 * (proto3-json-serializer 3.0.3, bytesToProto3JSON).
 */
function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength)
}

/** The code of an answer that broke in transit: it may be asked for again. */
const BROKEN = 'CRC_MISMATCH'

function bindingOf(aad: Uint8Array) {
  const hash = sha256([aad])
  return { additionalAuthenticatedData: hash, additionalAuthenticatedDataCrc32c: { value: crc32c(hash) } }
}

async function connect(id: string): Promise<GcpKmsClient> {
  const { KeyManagementServiceClient } = await import(
    /* webpackIgnore: true */ /* @vite-ignore */ '@google-cloud/kms'
  ).catch(notLoaded(id, SDK))
  return new KeyManagementServiceClient()
}

/** google.rpc.Code by number, as gRPC has it. */
const CODES: Readonly<Record<number, string>> = {
  3: 'INVALID_ARGUMENT',
  4: 'DEADLINE_EXCEEDED',
  5: 'NOT_FOUND',
  7: 'PERMISSION_DENIED',
  8: 'RESOURCE_EXHAUSTED',
  9: 'FAILED_PRECONDITION',
  13: 'INTERNAL',
  14: 'UNAVAILABLE',
  16: 'UNAUTHENTICATED',
}
/** The rest says nothing about the key. */
const REASONS: Readonly<Record<string, Failure['reason']>> = {
  NOT_FOUND: 'notFound',
  PERMISSION_DENIED: 'denied',
  RESOURCE_EXHAUSTED: 'throttled',
  // A key version that is disabled or destroyed.
  FAILED_PRECONDITION: 'denied',
  UNAUTHENTICATED: 'denied',
  NO_CREDENTIALS: 'denied',
}

/** @param invalid what INVALID_ARGUMENT means: KMS answers it where a ciphertext does not open */
function failureOf(error: unknown, invalid: 'denied' | 'notOpened'): Failure {
  const code = propertyOf(error, 'code')
  const name = codeOf(code, String(propertyOf(error, 'message')))
  if (name === 'INVALID_ARGUMENT') return { reason: invalid, providerCode: name }
  const status = typeof code === 'number' && code >= 100 ? reasonOfStatus(code) : 'unavailable'
  return { reason: (Object.hasOwn(REASONS, name) && REASONS[name]) || status, providerCode: name }
}

function codeOf(code: unknown, message: string): string {
  // What google-auth-library throws, without a code, where there are no credentials at all.
  if (message.startsWith('Could not load the default credentials')) return 'NO_CREDENTIALS'
  if (typeof code !== 'number') return String(code)
  // Over HTTP the code is the HTTP status, and the message the whole answer (gaxios 7).
  return CODES[code] ?? /"status":\s*"([A-Z_]+)"/.exec(message)?.[1] ?? `HTTP ${code}`
}
