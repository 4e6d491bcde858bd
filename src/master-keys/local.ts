/** Master keys whose bytes this process holds. */
import { invalidArgument, MasterKeyError } from '../errors.js'
import {
  generateKey,
  hmacSha256,
  importKey,
  KEY_BYTES,
  type KeyObject,
  pbkdf2Sha256,
  pbkdf2Sha256Sync,
} from '../format/aead.js'
import { currentCore } from '../format/chosen-core.js'
import { isV2Wrap, type V2Key, type V3Key } from '../format/core.js'
import { decodeBase64 } from '../format/encoding.js'
import { deriveWrapKey } from '../format/wrapped-key.js'
import { assertBytes } from '../validate.js'
import { LOCAL_V2_PREFIX } from './kek-id.js'
import type { MasterKey } from './master-key.js'

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
  readonly #wrapKey: V3Key
  /** Made at the first wrap of format v2. */
  #v2WrapKey: V2Key | undefined

  constructor(key: Uint8Array) {
    const fingerprint = hmacSha256(key, KEK_ID_LABEL).toString('base64url', 0, 12)
    this.id = `local:${fingerprint}`
    this.v2Id = LOCAL_V2_PREFIX + fingerprint
    this.#key = importKey(key)
    this.#wrapKey = deriveWrapKey(this.#key)
  }

  wrap(dataKey: Uint8Array, aad: Uint8Array): Uint8Array {
    return this.#wrapKey.wrap(dataKey, aad)
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array): Uint8Array {
    return this.#checked(this.#wrapKey.unwrap(wrapped, aad), this.id)
  }

  /** The reference's wrap: AES-256-GCM under the KEK itself, bound to no user. @returns 60 bytes */
  wrapV2(dataKey: Uint8Array): Uint8Array {
    return this.#v2().wrap(dataKey)
  }

  /** @throws MasterKeyError `ERR_UNWRAP_FAILED` */
  unwrapV2(wrapped: Uint8Array): Uint8Array {
    return this.#checked(this.#v2().unwrap(wrapped), this.v2Id)
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

  #v2(): V2Key {
    this.#v2WrapKey ??= currentCore().v2Key(this.#key)
    return this.#v2WrapKey
  }

  #checked(dataKey: Uint8Array | null, id: string): Uint8Array {
    if (dataKey?.length !== KEY_BYTES) throw unwrapFailed(id)
    return dataKey
  }
}

function unwrapFailed(id: string): MasterKeyError {
  return new MasterKeyError('ERR_UNWRAP_FAILED', `The wrapped key does not open under master key ${id}`)
}

export { isV2Wrap }

/** By shape, not by class: an application may hold two copies of this package. */
export function isLocal(key: MasterKey): key is LocalMasterKey {
  return 'v2Id' in key && 'unwrapV2' in key
}

/**
 * A master key from its 32 bytes, which the caller may wipe afterwards, or from their base64 text.
 *
 * @throws ERR_INVALID_ARGUMENT, also for one byte repeated 32 times, such as a buffer that was never filled or was wiped
 * @example
 * localMasterKey(generateMasterKey())
 */
export function localMasterKey(key: Uint8Array | string): LocalMasterKey {
  const decoded = typeof key === 'string' ? decodeKey(key.trim()) : null
  const bytes = decoded ?? key
  try {
    if (typeof bytes === 'string') {
      const problem = isHexadecimal(bytes.trim()) ? HEXADECIMAL : 'must be base64 of exactly 32 bytes'
      throw invalidArgument(`master key ${problem}`)
    }
    assertBytes('master key', bytes, KEY_BYTES)
    if (isOneByteRepeated(bytes))
      throw invalidArgument('master key must be 32 random bytes, got one byte repeated 32 times')
    return new LocalMasterKey(bytes)
  } finally {
    decoded?.fill(0)
  }
}

/** What is said of 32 bytes in hexadecimal digits: nothing is guessed about a key. */
export const HEXADECIMAL =
  'is hexadecimal, and base64 is wanted: convert it with `… | xxd -r -p | base64`, where … prints the digits'

export function isHexadecimal(text: string): boolean {
  return /^(0x)?[0-9a-f]{64}$/i.test(text)
}

/**
 * Whether a text that should be a path is most likely a master key: base64 or hexadecimal, also in quotes, with a prefix, or cut off. A path is not
 * if it has a dot, or reads like words.
 */
export function isKeyLike(text: string): boolean {
  const bare = text
    .trim()
    .replace(/^(["'`])(.*)\1$/s, '$2')
    .trim()
  const key = decodeKey(bare)
  key?.fill(0)
  if (key !== null || /^(base64|base64url|hex)[:,=]/i.test(bare) || /^(0x)?[0-9a-f]{32,}$/i.test(bare))
    return true
  return /^[\w+/=-]{24,}$/.test(bare) && isMixed(bare)
}

/** From one letter or digit to the next, random base64 changes between small letters, capitals and digits six times of ten, and names fewer than two. */
function isMixed(text: string): boolean {
  const kinds = [...text].map((letter) => KINDS.findIndex((kind) => kind.test(letter)))
  const pairs = kinds.flatMap((kind, i) => {
    const next = kinds[i + 1] ?? -1
    return kind < 0 || next < 0 ? [] : [kind !== next]
  })
  return pairs.filter((isChange) => isChange).length > 0.3 * pairs.length
}

const KINDS = [/[a-z]/, /[A-Z]/, /[0-9]/]

/** Whether anybody could guess the key. */
export function isOneByteRepeated(key: Uint8Array): boolean {
  return key.every((byte) => byte === key[0])
}

/** A new random master key as the text that the environment variable or the file takes: padded base64url of 32 bytes. */
export function generateMasterKey(): string {
  return `${generateKey().toString('base64url')}=`
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

/**
 * A master key from its text.
 *
 * @returns bytes for the caller to wipe; null unless the text is base64 or base64url of exactly 32 bytes
 */
export function decodeKey(text: string): Buffer | null {
  const key = decodeBase64(text)
  if (key?.length === KEY_BYTES) return key
  key?.fill(0)
  return null
}
