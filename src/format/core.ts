/**
 * What keys and tokens are to the rest of the code, whichever implementation works on them: JavaScript, the reference, or the C++ of
 * `@drizzle-keystore/native`. Both make the same bytes, and refuse the same.
 */
import {
  GCM_NONCE_BYTES,
  GCM_TAG_BYTES,
  KEY_BYTES,
  type KeyObject,
  XAES_COMMITMENT_BYTES,
  XAES_NONCE_BYTES,
} from './aead.js'
import type { Format } from './formats.js'

declare const tokenBrand: unique symbol

/**
 * A string that `encrypt` made, or that {@link isToken} has looked at: what a column of tokens takes, and a plaintext by mistake is not.
 */
export type Token = `v${string & { readonly [tokenBrand]: true }}`

/** A well-formed token; nothing of it is authenticated yet. */
export interface ParsedToken {
  readonly format: Format
  /** The version of the user's key that it was encrypted under. A v2 token belongs to version 1, always. */
  readonly version: number
  /** The token itself. */
  readonly text: string
  /** v2: `nonce[12] ‖ ciphertext ‖ tag[16]` · v3: `nonce[24] ‖ ciphertext ‖ tag[16] ‖ commitment[32]` */
  readonly sealed: Buffer
}

/**
 * The plaintext of a token that should be a text. `null`: the token is of another key, user, version or context, or was changed.
 * `undefined`: it is authentic, and its bytes are not UTF-8.
 */
export type OpenedText = string | null | undefined

/** A key that was derived for the tokens of a version, or for the wraps of a master key: format v3. */
export interface V3Key {
  /** `"v3:" + base64url(key_version[4] ‖ nonce[24] ‖ ciphertext ‖ tag[16] ‖ commitment[32])`. @param plaintext well formed */
  sealToken(version: number, plaintext: Uint8Array | string, aad?: Uint8Array): Token
  /** @returns null if it is not authentic */
  openToken(token: ParsedToken, aad?: Uint8Array): Buffer | null
  openTokenText(token: ParsedToken, aad?: Uint8Array): OpenedText
  /** {@link openToken} of a text that was not parsed. @returns null also for one that is malformed */
  openUnparsed(text: string, aad?: Uint8Array): Buffer | null
  openUnparsedText(text: string, aad?: Uint8Array): OpenedText
  /** @returns 105 bytes of a key of 32 */
  wrap(key: Uint8Array, aad: Uint8Array): Buffer
  /** @returns 32 bytes, the caller's to wipe; null if the wrap is of another key or AAD, or was changed */
  unwrap(wrapped: Uint8Array, aad: Uint8Array): Buffer | null
}

/** A key of format v2, used as it is. */
export interface V2Key {
  /** `"v2:" + base64url_padded(nonce[12] ‖ ciphertext ‖ tag[16])`, no AAD. @param plaintext well formed */
  sealToken(plaintext: Uint8Array | string): Token
  /** @returns null if it is not authentic */
  openToken(token: ParsedToken): Buffer | null
  openTokenText(token: ParsedToken): OpenedText
  /** @returns 60 bytes of a key of 32 */
  wrap(key: Uint8Array): Buffer
  /** @returns 32 bytes, the caller's to wipe; null if the wrap is of another key, or was changed */
  unwrap(wrapped: Uint8Array): Buffer | null
}

export interface Core {
  readonly name: 'javascript' | 'native'
  /**
   * @param derive gives the 32 bytes of the key, which are wiped; it may be called again later
   * @param aad what tokens are bound to that are sealed or opened without one; not to be changed
   */
  v3Key(derive: () => Buffer, aad?: Uint8Array): V3Key
  v2Key(key: KeyObject): V2Key
  /** @returns null unless it is well formed as a whole token */
  parse(value: string): ParsedToken | null
  /**
   * The version that a v3 token names, read off its first characters and nothing else. A key in memory then opens the token unparsed, which
   * mostly is all there is to do.
   *
   * @returns 0 for what is to be parsed: no v3 token, some malformed ones, and all where this would save nothing. Any number for other
   *   malformed ones
   */
  versionAtStart(value: string): number
}

export const V2_PREFIX = 'v2:'
export const V3_PREFIX = 'v3:'
export const VERSION_BYTES = 4
export const V2_LEAST_BYTES = GCM_NONCE_BYTES + GCM_TAG_BYTES
export const V3_LEAST_BYTES = VERSION_BYTES + XAES_NONCE_BYTES + GCM_TAG_BYTES + XAES_COMMITMENT_BYTES

/** Bytes of a wrapped key of the reference: `nonce[12] ‖ ciphertext[32] ‖ tag[16]`. */
const V2_WRAP_BYTES = GCM_NONCE_BYTES + KEY_BYTES + GCM_TAG_BYTES
export const V3_WRAP_HEADER = 0x03
/** `0x03 ‖ nonce[24] ‖ ciphertext[32] ‖ tag[16] ‖ commitment[32]` */
const V3_WRAP_BYTES = 1 + XAES_NONCE_BYTES + KEY_BYTES + GCM_TAG_BYTES + XAES_COMMITMENT_BYTES

export function isV2Wrap(wrapped: Uint8Array): boolean {
  return wrapped.length === V2_WRAP_BYTES
}

export function isV3Wrap(wrapped: Uint8Array): boolean {
  return wrapped.length === V3_WRAP_BYTES && wrapped[0] === V3_WRAP_HEADER
}
