/** Plaintexts of ciphers that do not authenticate: what a wrong key makes must not be taken for one. */

import { invalidArgument } from '../../errors.js'
import { decodeUtf8 } from '../../format/encoding.js'
import { kindOf } from '../../validate.js'
import { legacyFailure, WRONG_KEY } from './reader.js'

/** An option of readers whose cipher does not authenticate. */
export interface CheckOption {
  /**
   * Whether a plaintext is as the application's are, such as `(text) => text.startsWith('sk-')`. The value's cipher cannot tell a wrong key
   * or a changed value, and this can. Without it a plaintext must be UTF-8 without control characters.
   */
  readonly check?: (plaintext: string) => boolean
}

/** A byte of random ones is rarely of a text, so of 16 of them three or four in a million are. Of four, one in thirty. */
const LEAST_BYTES_UNCHECKED = 16
/** The controls but for tabulator, line feed and carriage return. */
const CONTROLS = /[^\P{Cc}\t\n\r]/u

/** @throws ERR_INVALID_ARGUMENT */
export function assertCheck(check: unknown): void {
  if (check !== undefined && typeof check !== 'function')
    throw invalidArgument(`check must be a function, got ${kindOf(check)}`)
}

/**
 * @param bytes null if they did not decrypt
 * @param isPadded whether the cipher's padding was checked. It leaves at least 15 random bytes of a wrong key's
 * @throws ERR_DECRYPTION_FAILED
 */
export function unauthenticatedText(
  reader: string,
  bytes: Buffer | null,
  check: CheckOption['check'],
  isPadded: boolean,
): string {
  if (bytes === null) throw legacyFailure(reader, WRONG_KEY)
  const text = decodeUtf8(bytes)
  if (text === null) throw legacyFailure(reader, `what came out is not UTF-8: ${WRONG_KEY}`)
  if (check !== undefined) {
    if (check(text) === true) return text
    throw legacyFailure(reader, `what came out does not pass the reader's check: ${WRONG_KEY}`)
  }
  if (CONTROLS.test(text))
    throw legacyFailure(reader, `what came out is no text, or needs a check of the reader's: ${WRONG_KEY}`)
  if (!isPadded && bytes.length < LEAST_BYTES_UNCHECKED)
    throw legacyFailure(
      reader,
      `its cipher cannot tell a wrong key, and what came out has less than ${LEAST_BYTES_UNCHECKED} bytes: give the reader a check`,
    )
  return text
}
