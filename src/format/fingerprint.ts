/** Fingerprints: equal for equal values of one user and name, so that a value can be found or kept unique without decrypting. */

import { invalidArgument } from '../errors.js'
import { assertPlaintext, kindOf } from '../validate.js'
import { hmacSha256, type KeyObject } from './aead.js'
import { preAuthEncode } from './encoding.js'

const FINGERPRINT_LABEL = 'drizzle-keystore/fingerprint/v1'
const PREFIX = 'f1:'

export interface FingerprintOptions {
  /** What is fingerprinted, such as `'credentials.api_key'`: the same value has another fingerprint under another name. */
  readonly name: string
}

/**
 * `"f1:" + base64url(HMAC-SHA256(fingerprint key, value))`, 46 characters; the fingerprint key is derived from version 1 of the user's
 * data key, so that no rotation changes it (docs/FORMAT.md, "Fingerprints").
 *
 * @param firstKey version 1 of the user's data key
 */
export function fingerprintOf(firstKey: KeyObject, userId: string, name: string, value: string): string {
  const key = hmacSha256(firstKey, preAuthEncode([FINGERPRINT_LABEL, userId, name]))
  const fingerprint = PREFIX + hmacSha256(key, value).toString('base64url')
  key.fill(0)
  return fingerprint
}

/** @returns the name @throws ERR_INVALID_ARGUMENT unless value and name are well-formed strings */
export function assertFingerprintArguments(value: unknown, options: FingerprintOptions): string {
  assertPlaintext(value)
  const isNamed = typeof options === 'object' && options !== null && Object.hasOwn(options, 'name')
  const name: unknown = isNamed ? options.name : undefined
  if (typeof name !== 'string')
    throw invalidArgument(`name must be a string, as in { name: 'credentials.api_key' }, got ${kindOf(name)}`)
  if (!name.isWellFormed()) throw invalidArgument('name must be well-formed Unicode, it has a lone surrogate')
  return name
}
