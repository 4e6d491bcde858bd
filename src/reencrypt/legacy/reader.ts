/** What the sweep asks of a reader of values that another library encrypted, and what the shipped readers share. */
import { invalidArgument, KeystoreError } from '../../errors.js'
import { decodeUtf8 } from '../../format/encoding.js'
import type { ValueKey } from '../../sources/value-source.js'
import { kindOf } from '../../validate.js'

/**
 * Decrypts values that another library encrypted. Used by the sweep only: `decrypt` never asks a reader.
 *
 * Shipped are `betterAuthReader`, `cloakReader`, `n8nReader`, `payloadReader` and `aesPartsReader`.
 */
export interface LegacyReader<Row = unknown> {
  /** Reports count its values as `legacy:NAME`. */
  readonly name: string
  /**
   * Whether the other library encrypted the value. Asked about every text that is no whole token of this library, also if it begins with
   * `v2:` or `v3:`. Do not claim more than the other library's form: a value that is claimed and does not decrypt is never taken for
   * plaintext.
   */
  test(value: string): boolean
  /** Returns the plaintext. Returns null or throws if the value does not decrypt: it is then reported and left as it is. */
  decrypt(value: string, of: LegacyValue<Row>): string | null | Promise<string | null>
}

/** Where a value is and whose it is. */
export interface LegacyValue<Row = unknown> {
  readonly key: ValueKey
  readonly column: string
  /** The user's id; null for the shared pool. */
  readonly owner: string | null
  /** The row, if the source reads rows. */
  readonly row: Row | undefined
}

/** `ERR_DECRYPTION_FAILED` of a reader. @param problem never quotes the value */
export function legacyFailure(reader: string, problem: string): KeystoreError {
  return new KeystoreError('ERR_DECRYPTION_FAILED', `A value of ${reader} did not decrypt: ${problem}`)
}

/** One message for a wrong key and for a changed value, as for our own tokens. */
export const WRONG_KEY = 'the key is wrong, or the value was changed'

/** @param bytes null if they did not decrypt @throws ERR_DECRYPTION_FAILED */
export function legacyText(reader: string, bytes: Buffer | null): string {
  if (bytes === null) throw legacyFailure(reader, WRONG_KEY)
  const text = decodeUtf8(bytes)
  if (text === null) throw legacyFailure(reader, `what came out is not UTF-8: ${WRONG_KEY}`)
  return text
}

/** @throws ERR_INVALID_ARGUMENT unless a non-empty string; the message does not show it */
export function assertSecret(name: string, value: unknown): asserts value is string {
  if (typeof value === 'string' && value !== '') return
  throw invalidArgument(
    `${name} must be a non-empty string, got ${value === '' ? 'an empty one' : kindOf(value)}`,
  )
}

/** Whole bytes in hexadecimal. Node's own reader stops at the first character that is none. */
export function isHex(text: string): boolean {
  return text.length % 2 === 0 && /^[0-9a-f]*$/i.test(text)
}
