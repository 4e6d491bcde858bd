/** Master keys in AWS KMS: `drizzle-keystore/kms/aws`. */
import { invalidArgument } from '../../errors.js'
import { sha256 } from '../../format/aead.js'
import { kindOf, knownOptions } from '../../validate.js'
import type { MasterKey } from '../master-key.js'
import { awsKeyName } from './key-names.js'
import { KeyService, REQUEST_LIMIT_MS } from './key-service.js'
import { once } from './once.js'
import { type Failure, notLoaded, propertyOf, reasonOfStatus } from './service-error.js'

/** What is used of a `KMS` of @aws-sdk/client-kms. */
export interface AwsKmsClient {
  encrypt(
    input: { KeyId: string; Plaintext: Uint8Array; EncryptionContext: Record<string, string> },
    options?: { abortSignal?: AbortSignal },
  ): Promise<{ readonly KeyId?: string | undefined; readonly CiphertextBlob?: Uint8Array | undefined }>
  decrypt(
    input: { KeyId: string; CiphertextBlob: Uint8Array; EncryptionContext: Record<string, string> },
    options?: { abortSignal?: AbortSignal },
  ): Promise<{ readonly KeyId?: string | undefined; readonly Plaintext?: Uint8Array | undefined }>
}

/** What is used of a `KMSClient` of @aws-sdk/client-kms. */
export interface AwsKmsSender {
  // The SDK's own type has a parameter for each command, so only its shape can be named.
  send(command: never, options?: { abortSignal?: AbortSignal }): Promise<unknown>
}

/** The options of {@link awsMasterKey}. */
export interface AwsMasterKeyOptions {
  /** The ARN of a symmetric key. For a multi-region key the one of the region to ask. An alias is refused. */
  readonly keyId: string
  /** A `KMS` or a `KMSClient`. Default: `new KMS({ region, maxAttempts: 1 })` of @aws-sdk/client-kms, with the region of the ARN and the SDK's own credentials. */
  readonly client?: AwsKmsClient | AwsKmsSender | undefined
  /** The longest time in milliseconds that one call may take. Default 5000. */
  readonly timeLimitMs?: number | undefined
}

const OPTIONS = { keyId: true, client: true, timeLimitMs: true } as const
const SDK = '@aws-sdk/client-kms'

/**
 * A master key in AWS KMS. Needs `kms:Encrypt` and `kms:Decrypt`. KMS sees of a row only a hash of what binds the key to it: the encryption
 * context is exactly `{ "drizzle-keystore": base64url(SHA-256(AAD)) }`, so that its log names no user.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const masterKeys = awsMasterKey({ keyId: 'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab' })
 */
export function awsMasterKey(options: AwsMasterKeyOptions): MasterKey {
  const { keyId, client, timeLimitMs = REQUEST_LIMIT_MS } = knownOptions(options, OPTIONS, 'awsMasterKey')
  const { id, arn, region } = awsKeyName(keyId)
  if (client !== undefined && !isKms(client) && !isSender(client))
    throw invalidArgument(
      `client must be a KMS or KMSClient of ${SDK}, such as new KMS({ … }), got ${kindOf(client)}`,
    )
  const connected = once(async () => {
    if (client === undefined) return connect(id, region)
    return isKms(client) ? client : withCommands(id, client)
  })
  const service = new KeyService(id, 'AWS KMS')
  const abortSignal = () => ({ abortSignal: AbortSignal.timeout(timeLimitMs) })
  const checked = (bytes: Uint8Array | undefined, answeredFor: string | undefined): Uint8Array => {
    if (answeredFor === arn && bytes instanceof Uint8Array && bytes.length > 0) return bytes
    throw service.error({ reason: 'wrongKey' })
  }
  return {
    id,
    timeLimitMs,
    async wrap(dataKey, aad) {
      const kms = await connected()
      const input = { KeyId: arn, Plaintext: dataKey, EncryptionContext: contextOf(aad) }
      const answer = await service.ask(failureOf, () => kms.encrypt(input, abortSignal()))
      return checked(answer?.CiphertextBlob, answer?.KeyId)
    },
    async unwrap(wrapped, aad) {
      if (wrapped.length === 0) throw service.error({ reason: 'notOpened' })
      const kms = await connected()
      const input = { KeyId: arn, CiphertextBlob: wrapped, EncryptionContext: contextOf(aad) }
      const answer = await service.ask(failureOf, () => kms.decrypt(input, abortSignal()))
      return service.dataKey(checked(answer?.Plaintext, answer?.KeyId))
    },
  }
}

function isKms(client: unknown): client is AwsKmsClient {
  return hasMethod(client, 'encrypt') && hasMethod(client, 'decrypt')
}

function isSender(client: unknown): client is AwsKmsSender {
  return hasMethod(client, 'send')
}

function hasMethod(client: unknown, name: string): boolean {
  return typeof client === 'object' && client !== null && typeof Reflect.get(client, name) === 'function'
}

/** The core decides when a call is repeated, so the SDK must not: its three attempts would each count against the time limit. */
async function connect(id: string, region: string): Promise<AwsKmsClient> {
  const { KMS } = await loadSdk(id)
  return new KMS({ region, maxAttempts: 1 })
}

/** A `KMSClient` has no methods for single commands. */
async function withCommands(id: string, client: AwsKmsSender): Promise<AwsKmsClient> {
  const { EncryptCommand, DecryptCommand } = await loadSdk(id)
  const send = (command: object, options?: { abortSignal?: AbortSignal }): Promise<object> =>
    client.send(command as never, options) as Promise<object>
  return {
    encrypt: (input, options) => send(new EncryptCommand(input), options),
    decrypt: (input, options) => send(new DecryptCommand(input), options),
  }
}

function loadSdk(id: string) {
  return import(/* webpackIgnore: true */ /* @vite-ignore */ '@aws-sdk/client-kms').catch(notLoaded(id, SDK))
}

function contextOf(aad: Uint8Array): Record<string, string> {
  return { 'drizzle-keystore': sha256([aad]).toString('base64url') }
}

/** Codes of docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html, CommonErrors.html, and the SDK's own. The rest goes by HTTP status. */
const REASONS: Readonly<Record<string, Failure['reason']>> = {
  IncorrectKeyException: 'notOpened',
  InvalidCiphertextException: 'notOpened',
  AccessDeniedException: 'denied',
  DisabledException: 'denied',
  KMSInvalidStateException: 'denied',
  InvalidGrantTokenException: 'denied',
  CredentialsProviderError: 'denied',
  TokenProviderError: 'denied',
  NotFoundException: 'notFound',
  InvalidKeyUsageException: 'wrongKey',
  // Although their HTTP status is 400.
  ThrottlingException: 'throttled',
  LimitExceededException: 'throttled',
  RequestLimitExceeded: 'throttled',
  TooManyRequestsException: 'throttled',
  // KMSInternalException and the like, too, are outages by their status of 5xx.
  KeyUnavailableException: 'unavailable',
  DependencyTimeoutException: 'unavailable',
}

/** Of the SDK itself, which then asks nobody: there are no credentials, or they have expired. */
const NO_CREDENTIALS = /^(Credentials|Token)ProviderError$/

function failureOf(error: unknown): Failure {
  const name = String(propertyOf(error, 'name'))
  const metadata = propertyOf(error, '$metadata')
  const status = propertyOf(metadata, 'httpStatusCode')
  const requestId = propertyOf(metadata, 'requestId')
  return {
    reason:
      (Object.hasOwn(REASONS, name) && REASONS[name]) ||
      reasonOfStatus(typeof status === 'number' ? status : undefined),
    providerCode: name,
    requestId: typeof requestId === 'string' ? requestId : undefined,
    ...(NO_CREDENTIALS.test(name) && {
      advice:
        'the SDK found no credentials that it can use, so KMS was not asked: give the machine a role, or set AWS_ACCESS_KEY_ID and ' +
        'AWS_SECRET_ACCESS_KEY, or AWS_PROFILE',
    }),
  }
}
