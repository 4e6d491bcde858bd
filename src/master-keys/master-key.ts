/** Master keys (KEKs): they wrap data keys and encrypt nothing else. Local ones come from the environment or a file. */
import { readFileSync } from 'node:fs'
import { invalidArgument, MasterKeyError } from '../errors.js'
import {
  GCM_NONCE_BYTES,
  GCM_TAG_BYTES,
  gcmOpen,
  gcmSeal,
  generateKey,
  hmacSha256,
  importKey,
  KEY_BYTES,
  type KeyObject,
  pbkdf2Sha256,
  pbkdf2Sha256Sync,
  XAES_COMMITMENT_BYTES,
  XAES_NONCE_BYTES,
  XaesKey,
} from '../format/aead.js'
import { decodeBase64 } from '../format/encoding.js'
import { assertBytes, kindOf } from '../validate.js'

/** A holder of one KEK: this process, or a key management service. Never returns null. */
export interface MasterKey {
  /** Permanent, and recorded as `kek_id` in each row it wrapped. */
  readonly id: string
  /**
   * @param dataKey 32 bytes
   * @param aad binds the result to its row; unwrap needs the same bytes
   * @throws MasterKeyError
   */
  wrap(dataKey: Uint8Array, aad: Uint8Array): Promise<Uint8Array> | Uint8Array
  /**
   * @returns a new array each time: the caller wipes it
   * @throws MasterKeyError `ERR_UNWRAP_FAILED` if key, wrapped bytes or aad are others
   */
  unwrap(wrapped: Uint8Array, aad: Uint8Array): Promise<Uint8Array> | Uint8Array
}

/** Bytes of a wrapped key of the reference: `nonce[12] ‖ ciphertext[32] ‖ tag[16]`. */
export const V2_WRAP_BYTES = GCM_NONCE_BYTES + KEY_BYTES + GCM_TAG_BYTES
/** Bytes of a wrapped key of format v3: `0x03 ‖ nonce[24] ‖ ciphertext[32] ‖ tag[16] ‖ commitment[32]`. */
export const V3_WRAP_BYTES = 1 + XAES_NONCE_BYTES + KEY_BYTES + GCM_TAG_BYTES + XAES_COMMITMENT_BYTES

const V3_WRAP_HEADER = Uint8Array.of(0x03)
const WRAP_KEY_LABEL = 'drizzle-keystore/wrap-key/v3'
const KEK_ID_LABEL = 'drizzle-keystore/kek-id/v1'
const POOL_KEY_SALT = 'stargazer:api_key_pool'
const POOL_KEY_ROUNDS = 100_000

/** A master key whose bytes this process holds. */
export class LocalMasterKey implements MasterKey {
  /** `local:fp`, recorded in rows of format v3. fp is a fingerprint: it does not reveal the key. */
  readonly id: string
  /** `local-v2:fp`, recorded in rows that we wrote in the reference's format. */
  readonly v2Id: string
  readonly #key: KeyObject
  readonly #wrapKey: XaesKey

  constructor(key: Uint8Array) {
    const fingerprint = hmacSha256(key, KEK_ID_LABEL).toString('base64url', 0, 12)
    this.id = `local:${fingerprint}`
    this.v2Id = `local-v2:${fingerprint}`
    this.#key = importKey(key)
    const wrapKey = hmacSha256(key, WRAP_KEY_LABEL)
    this.#wrapKey = new XaesKey(wrapKey)
    wrapKey.fill(0)
  }

  wrap(dataKey: Uint8Array, aad: Uint8Array): Uint8Array {
    return Buffer.concat([V3_WRAP_HEADER, ...this.#wrapKey.encrypt(dataKey, aad)])
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array): Uint8Array {
    if (!isV3Wrap(wrapped)) throw unwrapFailed(this.id)
    return this.#checked(this.#wrapKey.open(wrapped.subarray(1), aad), this.id)
  }

  /** The reference's wrap: AES-256-GCM under the KEK itself, bound to no user. @returns 60 bytes */
  wrapV2(dataKey: Uint8Array): Uint8Array {
    return gcmSeal(this.#key, dataKey)
  }

  /** @throws MasterKeyError `ERR_UNWRAP_FAILED` */
  unwrapV2(wrapped: Uint8Array): Uint8Array {
    return this.#checked(wrapped.length === V2_WRAP_BYTES ? gcmOpen(this.#key, wrapped) : null, this.v2Id)
  }

  /** {@link derivePoolKey} without blocking the event loop. */
  async derivePoolKey(): Promise<Uint8Array> {
    const key = this.#key.export()
    try {
      return await pbkdf2Sha256(key, POOL_KEY_SALT, POOL_KEY_ROUNDS)
    } finally {
      key.fill(0)
    }
  }

  #checked(dataKey: Uint8Array | null, id: string): Uint8Array {
    if (dataKey?.length !== KEY_BYTES) throw unwrapFailed(id)
    return dataKey
  }
}

export function isV2Wrap(wrapped: Uint8Array): boolean {
  return wrapped.length === V2_WRAP_BYTES
}

export function isV3Wrap(wrapped: Uint8Array): boolean {
  return wrapped.length === V3_WRAP_BYTES && wrapped[0] === V3_WRAP_HEADER[0]
}

function unwrapFailed(id: string): MasterKeyError {
  return new MasterKeyError('ERR_UNWRAP_FAILED', `The wrapped key does not open under master key ${id}`)
}

/** One primary master key, which wraps, and previous ones, which only unwrap. */
export class MasterKeyring {
  readonly primary: MasterKey
  readonly previous: readonly MasterKey[]

  constructor(primary: MasterKey, previous: readonly MasterKey[]) {
    this.primary = primary
    const seen = new Set([primary.id])
    this.previous = previous.filter(({ id }) => !seen.has(id) && seen.add(id))
  }

  /** Primary first. */
  get all(): readonly MasterKey[] {
    return [this.primary, ...this.previous]
  }

  /** The local ones, primary first: those that can have written the reference's rows and pool tokens. */
  get local(): readonly LocalMasterKey[] {
    return this.all.filter(isLocal)
  }

  /** The key that a row's KEK id names, in either wrap format, or null. */
  find(kekId: string): MasterKey | null {
    return this.all.find((key) => key.id === kekId || (isLocal(key) && key.v2Id === kekId)) ?? null
  }
}

/** By shape, not by class: an application may hold two copies of this package. */
export function isLocal(key: MasterKey): key is LocalMasterKey {
  return 'v2Id' in key && 'unwrapV2' in key
}

/**
 * A master key from its 32 bytes, which the caller may wipe afterwards, or from their base64 text.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * localMasterKey(generateMasterKey())
 */
export function localMasterKey(key: Uint8Array | string): LocalMasterKey {
  const bytes = typeof key === 'string' ? decodeKey(key.trim()) : key
  if (bytes === null) throw invalidArgument('master key must be base64 of exactly 32 bytes')
  assertBytes('master key', bytes, KEY_BYTES)
  return new LocalMasterKey(bytes)
}

/** A new random master key as the text that the environment variable or the file takes: padded base64url of 32 bytes. */
export function generateMasterKey(): string {
  return `${generateKey().toString('base64url')}=`
}

/**
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * masterKeyring({ primary: localMasterKey(newBytes), previous: [localMasterKey(oldBytes)] })
 */
export function masterKeyring(keys: {
  readonly primary: MasterKey
  readonly previous?: readonly MasterKey[]
}): MasterKeyring {
  const { primary, previous = [] } = keys
  if (!Array.isArray(previous)) throw invalidArgument(`previous must be an array, got ${kindOf(previous)}`)
  for (const key of [primary, ...previous]) assertMasterKey(key)
  return new MasterKeyring(primary, previous)
}

/** What `EnvelopeCrypto.open` takes, as a keyring. @throws ERR_INVALID_ARGUMENT */
export function keyringOf(keys: MasterKeyring | MasterKey): MasterKeyring {
  // `in` on a string throws an error that quotes the string, and a string here is likely a master key's text.
  const isObject = typeof keys === 'object' && keys !== null
  if (!isObject || !('primary' in keys)) return masterKeyring({ primary: keys as MasterKey })
  return 'find' in keys ? keys : masterKeyring(keys)
}

function assertMasterKey(key: unknown): asserts key is MasterKey {
  const isObject = typeof key === 'object' && key !== null
  if (isObject && 'id' in key && typeof key.id === 'string' && 'wrap' in key && 'unwrap' in key) return
  throw invalidArgument(`A master key must be made with localMasterKey(), got ${kindOf(key)}`)
}

/** The shape of `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>

const HOW_TO_MAKE_ONE = 'make one with `npx keystore init`, or with `openssl rand -base64 32`'

/**
 * The keyring of `API_KEY_MASTER_KEY` (base64 or base64url of exactly 32 bytes) or `API_KEY_MASTER_KEY_FILE` (the path of
 * a file with it), and of `API_KEY_MASTER_KEY_PREVIOUS` (earlier ones, separated by white space; they only unwrap).
 *
 * @throws MasterKeyError `ERR_MASTER_KEY` if unset, unusable, 32 equal bytes, or given in both ways; warns of 32
 *   printable characters, which are a passphrase and no key
 */
export function masterKeysFromEnv(env: Environment = process.env): MasterKeyring {
  const {
    API_KEY_MASTER_KEY: text,
    API_KEY_MASTER_KEY_FILE: path,
    API_KEY_MASTER_KEY_PREVIOUS: previous = '',
  } = env
  const isSet = (value: string | undefined): value is string => value !== undefined && value.trim() !== ''
  if (isSet(text) && isSet(path)) {
    throw unusable('API_KEY_MASTER_KEY and API_KEY_MASTER_KEY_FILE are both set: unset one of them')
  }
  let primary: LocalMasterKey
  if (isSet(text)) primary = keyFromText(text, 'API_KEY_MASTER_KEY')
  else if (isSet(path)) primary = keyFromFile(path)
  else throw unusable(`Neither API_KEY_MASTER_KEY nor API_KEY_MASTER_KEY_FILE is set: ${HOW_TO_MAKE_ONE}`)
  const earlier = previous.split(/\s+/).filter((word) => word !== '')
  return masterKeyring({
    primary,
    previous: earlier.map((word, index) =>
      keyFromText(word, `API_KEY_MASTER_KEY_PREVIOUS, key ${index + 1},`),
    ),
  })
}

/**
 * The keyring of one file, which holds base64 or base64url of exactly 32 bytes.
 *
 * @throws MasterKeyError `ERR_MASTER_KEY`
 */
export function masterKeysFromFile(path: string): MasterKeyring {
  return masterKeyring({ primary: keyFromFile(path) })
}

/**
 * The reference's `resolve_master_key`: the 32 bytes of `API_KEY_MASTER_KEY`, or null and one warning when it is unset or
 * unusable. Unlike the reference it takes base64 without padding, and refuses characters that Python skips.
 */
export function resolveMasterKey(env: Environment = process.env): Uint8Array | null {
  const text = env.API_KEY_MASTER_KEY?.trim() ?? ''
  const key = decodeKey(text)
  if (key === null) {
    const problem = text === '' ? 'is not set' : 'is not base64 of exactly 32 bytes'
    warn(`API_KEY_MASTER_KEY ${problem}: ${HOW_TO_MAKE_ONE}`)
  }
  return key
}

/**
 * The reference's key of the shared pool: PBKDF2-HMAC-SHA256 of a master key, 100,000 rounds. Blocks the event loop for
 * tens of milliseconds.
 *
 * @param masterKey 32 bytes
 * @returns 32 bytes
 * @throws ERR_INVALID_ARGUMENT
 */
export function derivePoolKey(masterKey: Uint8Array): Uint8Array {
  assertBytes('masterKey', masterKey, KEY_BYTES)
  return pbkdf2Sha256Sync(masterKey, POOL_KEY_SALT, POOL_KEY_ROUNDS)
}

function decodeKey(text: string): Buffer | null {
  const key = decodeBase64(text)
  return key?.length === KEY_BYTES ? key : null
}

function keyFromFile(path: string): LocalMasterKey {
  if (typeof path !== 'string') throw invalidArgument(`path must be a string, got ${kindOf(path)}`)
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if (decodeKey(path.trim()) !== null) {
      throw unusable('The path of the master key file is a master key itself: set API_KEY_MASTER_KEY to it')
    }
    const reason = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable'
    throw unusable(`The master key file ${path} cannot be read (${reason}): ${HOW_TO_MAKE_ONE}`)
  }
  return keyFromText(text, `The master key file ${path}`)
}

function keyFromText(text: string, source: string): LocalMasterKey {
  const key = decodeKey(text.trim())
  if (key === null) throw unusable(`${source} is not base64 of exactly 32 bytes: ${HOW_TO_MAKE_ONE}`)
  if (key.every((byte) => byte === key[0])) {
    throw unusable(`${source} is one byte repeated 32 times, which anybody can guess: ${HOW_TO_MAKE_ONE}`)
  }
  if (key.every((byte) => byte >= 0x20 && byte < 0x7f)) {
    warn(`${source} is 32 printable characters, so a passphrase and no random key: ${HOW_TO_MAKE_ONE}`)
  }
  const masterKey = localMasterKey(key)
  key.fill(0)
  return masterKey
}

function unusable(message: string): MasterKeyError {
  return new MasterKeyError('ERR_MASTER_KEY', message)
}

function warn(message: string): void {
  process.emitWarning(message, { type: 'KeystoreWarning', code: 'KEYSTORE_MASTER_KEY' })
}
