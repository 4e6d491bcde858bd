/** Token formats: the self-describing ciphertext strings that applications store. docs/FORMAT.md is their specification. */

import { invalidArgument, KeystoreError } from '../errors.js'
import type { KeyRef } from '../table.js'
import { assertBytes, assertPlaintext, kindOf } from '../validate.js'
import { hmacSha256, importKey, type KeyObject, sha256 } from './aead.js'
import { currentCore } from './chosen-core.js'
import {
  type OpenedText,
  type ParsedToken,
  type Token,
  V2_LEAST_BYTES,
  V2_PREFIX,
  V3_LEAST_BYTES,
  V3_PREFIX,
  type V3Key,
} from './core.js'
import { decodeUtf8, preAuthEncode } from './encoding.js'
import type { Format } from './formats.js'

export type { ParsedToken, Token }

const TOKEN_LABEL = 'drizzle-keystore/token/v3'
const TOKEN_KEY_LABEL = 'drizzle-keystore/token-key/v3'

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

/**
 * Whether a value is well formed as a whole token of either format. It says nothing about whether it opens.
 *
 * @example
 * isToken('v3:')                                // false, though isEncrypted('v3:') is true
 * isToken(await envelope.encrypt('alice', 'x')) // true
 */
export function isToken(value: unknown): value is Token {
  return typeof value === 'string' && currentCore().parse(value) !== null
}

/** A whole token taken apart; null for what {@link isToken} says is none. */
export function parsedIfToken(value: string): ParsedToken | null {
  return currentCore().parse(value)
}

/**
 * Whether a value that is no whole token can only have been one, or have one in it: a token that was cut or changed, in brackets, encoded for
 * a URL, two of them one after the other. Other texts that merely begin like a token are none of ours: applications have plaintexts such as
 * `v2:my-key`, and ciphertexts such as `v3:<iv>:<ciphertext>`.
 *
 * - Every v3 token goes on with a key version below 256 as four bytes, of which the first three are zero: `v3:AAAA`.
 * - What is as long as the shortest token and in base64 to its end: `v2:` and 38 characters, `v3:` and 102.
 * - Anywhere: `v3:` with three of those four `A`, or `v2:`, and 38 characters of base64 in one piece, before which one character of the token may
 *   have been changed into another; after `v2:` not into `:` or `.`, which other libraries' values and JSON web tokens have there. Those of `v2:`
 *   have letters of both cases, as all but one token in 10⁸ do, and no hexadecimal digits or names-with-hyphens.
 *
 * A v2 token that was cut shorter than that cannot be told from a text.
 */
export function isDamagedToken(value: string): boolean {
  if (isToken(value)) return false
  return BEGINS_LIKE_V3.test(value) || TOKEN_LIKE.test(value) || hasPieceOfToken(withoutEscapes(value))
}

const BEGINS_LIKE_V3 = /^[\s"'`\\[({<]*v3:AAAA[^:]*$/
const TOKEN_LIKE = /^(?:v2:[\w+/-]{38,}={0,2}|v3:[\w+/-]{102,}={0,2})$/
/** A v2 token has nothing else to know it by: its prefix must at least not be the end of a word. */
const PREFIX = /v3:|(?<![\w/-])v2:/gi
const PIECE_OF_V3 = /^[\w+/-]{0,37}[^\w+/-]?[\w+/-]{38}/
const PIECE_OF_V2 = /^[\w+/-]{0,37}[^\w+/.:-]?(?<piece>[\w+/-]{38})/
/** What a piece is looked for in: whole, or after one changed character. */
const PIECE_CHARACTERS = 2 * 38

function hasPieceOfToken(value: string): boolean {
  for (const { 0: prefix, index } of value.matchAll(PREFIX)) {
    const start = index + prefix.length
    const text = value.slice(start, start + PIECE_CHARACTERS)
    const isOfV3 = prefix.endsWith('3:')
    if (
      isOfV3 ? hasZeros(text) && PIECE_OF_V3.test(text) : hasBothCases(PIECE_OF_V2.exec(text)?.groups?.piece)
    )
      return true
  }
  return false
}

function hasZeros(text: string): boolean {
  return text.slice(0, 4).replaceAll(/[^A]/g, '').length >= 3
}

function hasBothCases(text = ''): boolean {
  return /[a-z]/.test(text) && /[A-Z]/.test(text)
}

/** Decodes what URLs and HTML encode of a token: `:`, `+`, `/` and `=`. */
function withoutEscapes(value: string): string {
  return /[%&]/.test(value)
    ? value.replaceAll(/(?:%|&#x)(3a|2b|2f|3d);?|&#(58|43|47|61);/gi, (_, hex, decimal) =>
        String.fromCharCode(hex === undefined ? Number(decimal) : Number.parseInt(hex, 16)),
      )
    : value
}

/** The longest token that is decoded unless the caller sets a limit: 64 MiB. Tokens are ASCII, a byte a character. */
export const DEFAULT_MAX_TOKEN_BYTES = 64 * 1024 * 1024

/** The longest plaintext, in bytes, whose token is no longer than `maxTokenBytes`. */
export function maxPlaintextBytes(format: Format, maxTokenBytes: number): number {
  const characters = maxTokenBytes - V3_PREFIX.length
  return format === 'v2'
    ? Math.floor(characters / 4) * 3 - V2_LEAST_BYTES
    : Math.floor((characters * 3) / 4) - V3_LEAST_BYTES
}

/** What the token of a plaintext of so many bytes looks like: as long, and of no key. For a dry run. */
export function tokenLikeFor(plaintextBytes: number): Token {
  const bytes = Buffer.alloc(V3_LEAST_BYTES + plaintextBytes)
  bytes.writeUInt32BE(1, 0)
  return (V3_PREFIX + bytes.toString('base64url')) as Token
}

/**
 * Takes a token apart, before any store is asked. One longer than `maxTokenBytes` is not decoded.
 *
 * @throws ERR_INVALID_ARGUMENT (no string) · ERR_NOT_ENCRYPTED (no token's prefix) · ERR_MALFORMED_TOKEN ·
 *   ERR_FORMAT_NOT_ACCEPTED
 */
export function parseToken(
  token: unknown,
  accept: readonly Format[],
  maxTokenBytes = DEFAULT_MAX_TOKEN_BYTES,
): ParsedToken {
  if (typeof token !== 'string') throw invalidArgument(`token must be a string, got ${kindOf(token)}`)
  if (!isEncrypted(token)) {
    throw new KeystoreError(
      'ERR_NOT_ENCRYPTED',
      'The value is not a token: it begins with neither v3: nor v2:',
    )
  }
  if (token.length > maxTokenBytes) {
    throw new KeystoreError(
      'ERR_MALFORMED_TOKEN',
      `The value begins like a token and has ${token.length} characters: it is not decoded, since maxTokenBytes is ${maxTokenBytes}`,
    )
  }
  const parsed = currentCore().parse(token)
  if (parsed === null) throw malformed(token.startsWith(V2_PREFIX) ? 'v2' : 'v3')
  assertAccepted(parsed, accept)
  return parsed
}

/** The core's `versionAtStart`: to open a token without parsing it. */
export function versionAtStart(token: string): number {
  return currentCore().versionAtStart(token)
}

/** @throws ERR_FORMAT_NOT_ACCEPTED */
export function assertAccepted({ format }: ParsedToken, accept: readonly Format[]): void {
  if (!accept.includes(format)) throw notAccepted(format)
}

/** Derives the key of a version's v3 tokens, with their {@link tokenAad}. Only format v2 uses a data key itself as an AES-GCM key. */
export function deriveTokenKey(dataKey: KeyObject, { userId, version }: KeyRef, aad: Uint8Array): V3Key {
  const label = () => preAuthEncode([TOKEN_KEY_LABEL, userId, String(version)])
  return currentCore().v3Key(() => hmacSha256(dataKey, label()), aad)
}

/**
 * What a v3 token without a context is bound to. Others: {@link preAuthExtend} with what {@link contextPieces} gives.
 *
 * @returns bytes to keep
 */
export function tokenAad({ userId, version }: KeyRef): Buffer {
  const encoded = preAuthEncode([TOKEN_LABEL, userId, String(version)])
  const kept = Buffer.alloc(encoded.length)
  encoded.copy(kept)
  return kept
}

/** @throws ERR_DECRYPTION_FAILED if the authenticated bytes are not UTF-8; `decryptBytes` opens those */
export function textOf(plaintext: Buffer): string {
  return authenticText(decodeUtf8(plaintext) ?? undefined)
}

/** @throws ERR_DECRYPTION_FAILED like {@link textOf} */
export function authenticText(text: string | undefined): string {
  if (text === undefined) throw decryptionFailed()
  return text
}

/** @throws ERR_DECRYPTION_FAILED for null: wrong key, user, version or context, or tampered with */
export function authentic<Opened extends Buffer | OpenedText>(opened: Opened): Exclude<Opened, null> {
  if (opened === null) throw decryptionFailed()
  return opened as Exclude<Opened, null>
}

/** One message for every reason: it must not help an attacker. */
export function decryptionFailed(): KeystoreError {
  return new KeystoreError(
    'ERR_DECRYPTION_FAILED',
    'Decryption failed: wrong key, user or context, or a changed token',
  )
}

/** Does not advise to accept v2: whoever put the token there may be waiting for just that. */
function notAccepted(format: Format): KeystoreError {
  const advice =
    format === 'v3'
      ? "name 'v3' in accept.tokens to open it"
      : 'it is bound to no user. If you brought it from an earlier implementation, re-encrypt it (docs/REENCRYPT.md); if not, somebody has put it there'
  return new KeystoreError(
    'ERR_FORMAT_NOT_ACCEPTED',
    `This is a ${format} token, and tokens of this format are not accepted: ${advice}`,
  )
}

function malformed(format: Format): KeystoreError {
  return new KeystoreError(
    'ERR_MALFORMED_TOKEN',
    `The value begins like a ${format} token, but the rest cannot be one: it was cut, changed, or never a token`,
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
export function encryptWithKey(plaintext: string, key: Uint8Array): Token {
  assertPlaintext(plaintext)
  assertBytes('key', key, 32)
  return currentCore().v2Key(importKey(key)).sealToken(plaintext)
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
  if (token.length > DEFAULT_MAX_TOKEN_BYTES) throw malformed('v2')
  const parsed = currentCore().parse(token.startsWith(V2_PREFIX) ? token : V2_PREFIX + token)
  if (parsed === null) throw malformed('v2')
  return authenticText(authentic(currentCore().v2Key(importKey(key)).openTokenText(parsed)))
}

/** The reference's `api_key_hash`: lower-case hexadecimal SHA-256 of the UTF-8 key. Not keyed: see fingerprints. */
export function apiKeyHash(apiKey: string): string {
  assertPlaintext(apiKey)
  return sha256([apiKey]).toString('hex')
}
