/** Token formats: the self-describing ciphertext strings that applications store. */
import {
  GCM_NONCE_BYTES,
  GCM_TAG_BYTES,
  gcmOpen,
  gcmSeal,
  importKey,
  type KeyObject,
  sha256,
} from './aead.js'
import { decodeBase64, decodeUtf8, encodeBase64UrlPadded } from './encoding.js'
import { invalidArgument, KeystoreError } from './errors.js'
import { assertBytes, assertPlaintext, kindOf } from './validate.js'

/** The formats of tokens and wrapped keys. `v2` is the Python reference's. */
export type Format = 'v2' | 'v3'

/** A token taken apart; nothing of it is authenticated yet. */
export interface ParsedToken {
  readonly format: 'v2'
  /** The version of the user's key that it was encrypted under. A v2 token belongs to version 1, always. */
  readonly version: number
  /** `nonce[12] ‖ ciphertext ‖ tag[16]` */
  readonly sealed: Buffer
}

const V2_PREFIX = 'v2:'
const V3_PREFIX = 'v3:'

/**
 * Whether a value begins like a token: the reference's prefix test, for both prefixes. It says nothing about whether the
 * rest is one, or opens.
 *
 * @example
 * isEncrypted('v2:')     // true
 * isEncrypted('V2:abc')  // false
 */
export function isEncrypted(value: unknown): boolean {
  return typeof value === 'string' && (value.startsWith(V2_PREFIX) || value.startsWith(V3_PREFIX))
}

/** Whether a value is well formed as a whole token, of a format that this version reads or not. */
export function isWholeToken(value: string): boolean {
  return isEncrypted(value) && decodeV2(value.slice(V2_PREFIX.length)) !== null
}

/**
 * Takes a token apart, before any store is asked.
 *
 * @throws ERR_INVALID_ARGUMENT (no string) · ERR_NOT_ENCRYPTED (no token's prefix) · ERR_FORMAT_NOT_ACCEPTED ·
 *   ERR_MALFORMED_TOKEN (not base64, or shorter than nonce and tag)
 */
export function parseToken(token: unknown): ParsedToken {
  if (typeof token !== 'string') throw invalidArgument(`token must be a string, got ${kindOf(token)}`)
  if (token.startsWith(V3_PREFIX)) {
    throw new KeystoreError(
      'ERR_FORMAT_NOT_ACCEPTED',
      'This is a v3 token; this keystore accepts v2 tokens only',
    )
  }
  if (!token.startsWith(V2_PREFIX)) {
    throw new KeystoreError('ERR_NOT_ENCRYPTED', 'The value is not a token: it does not begin with v2:')
  }
  return { format: 'v2', version: 1, sealed: requireV2(token.slice(V2_PREFIX.length)) }
}

/** Encrypts under a data key, format v2: `"v2:" + base64url_padded(nonce[12] ‖ ciphertext ‖ tag[16])`, no AAD. */
export function sealV2(key: KeyObject, plaintext: Uint8Array | string): string {
  return V2_PREFIX + encodeBase64UrlPadded(gcmSeal(key, plaintext))
}

/** @throws ERR_DECRYPTION_FAILED: wrong key or tampered with */
export function openV2(key: KeyObject, sealed: Buffer): Buffer {
  const plaintext = gcmOpen(key, sealed)
  if (plaintext === null) throw decryptionFailed()
  return plaintext
}

/** @throws ERR_DECRYPTION_FAILED if the authenticated bytes are not UTF-8; `decryptBytes` opens those */
export function textOf(plaintext: Buffer): string {
  const text = decodeUtf8(plaintext)
  if (text === null) throw decryptionFailed()
  return text
}

/** One message for every reason, so that it tells an attacker nothing. */
export function decryptionFailed(): KeystoreError {
  return new KeystoreError(
    'ERR_DECRYPTION_FAILED',
    'Decryption failed: wrong key, user or context, or a changed token',
  )
}

/**
 * The reference's `encrypt` with a raw key: format v2.
 *
 * @param key 32 bytes
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const token = encryptWithKey('sk-…', await envelope.getOrCreateUserKey('alice'))
 */
export function encryptWithKey(plaintext: string, key: Uint8Array): string {
  assertPlaintext(plaintext)
  assertBytes('key', key, 32)
  return sealV2(importKey(key), plaintext)
}

/**
 * The reference's `decrypt` with a raw key: format v2, with or without its prefix.
 *
 * @param key 32 bytes
 * @throws ERR_INVALID_ARGUMENT · ERR_MALFORMED_TOKEN · ERR_DECRYPTION_FAILED
 */
export function decryptWithKey(token: string, key: Uint8Array): string {
  assertBytes('key', key, 32)
  if (typeof token !== 'string') throw invalidArgument(`token must be a string, got ${kindOf(token)}`)
  const body = token.startsWith(V2_PREFIX) ? token.slice(V2_PREFIX.length) : token
  return textOf(openV2(importKey(key), requireV2(body)))
}

/** The reference's `api_key_hash`: lower-case hexadecimal SHA-256 of the UTF-8 key. Not keyed: see fingerprints. */
export function apiKeyHash(apiKey: string): string {
  assertPlaintext(apiKey)
  return sha256([apiKey]).toString('hex')
}

function decodeV2(body: string): Buffer | null {
  const sealed = decodeBase64(body)
  return sealed !== null && sealed.length >= GCM_NONCE_BYTES + GCM_TAG_BYTES ? sealed : null
}

function requireV2(body: string): Buffer {
  const sealed = decodeV2(body)
  if (sealed === null) {
    throw new KeystoreError(
      'ERR_MALFORMED_TOKEN',
      'Malformed v2 token: not base64 of a nonce, a ciphertext and a tag',
    )
  }
  return sealed
}
