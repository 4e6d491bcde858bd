/** Fingerprints: equal for equal values of one user and name, so that a value can be found or kept unique without decrypting. */

import { invalidArgument, isKeystoreError } from '../errors.js'
import { type KeyRef, MAX_KEY_VERSION } from '../table.js'
import { assertPlaintext, kindOf, knownOptions } from '../validate.js'
import { hmacSha256, type KeyObject } from './aead.js'
import { decodeBase64UrlStrict, preAuthEncode } from './encoding.js'

/** Version 1 keeps its own label and prefix, since there were fingerprints before a version 1 could be pruned. */
const FIRST_LABEL = 'drizzle-keystore/fingerprint/v1'
const LABEL = 'drizzle-keystore/fingerprint/v2'
/** Bits of an HMAC-SHA256. */
const ALL_BITS = 256

/**
 * - `'trim'`: without white space at both ends, as of `String.prototype.trim`
 * - `'lowercase'`: in lower case, the same in every locale, as of `String.prototype.toLowerCase`
 * - `'nfc'`: in Unicode's composed form (NFC), so that `é` typed as one character equals `e` with an accent
 */
export type NormalizeStep = 'trim' | 'lowercase' | 'nfc'

/** Applied in this order, however they are listed: docs/FORMAT.md. */
const STEPS: Readonly<Record<NormalizeStep, (value: string) => string>> = {
  trim: (value) => value.trim(),
  lowercase: (value) => value.toLowerCase(),
  nfc: (value) => value.normalize('NFC'),
}

/** The options of {@link EnvelopeCrypto.fingerprint}. */
export interface FingerprintOptions {
  /** What is fingerprinted, such as `'credentials.api_key'`: the same value has another fingerprint under another name. */
  readonly name: string
  /**
   * What is done to a value first: values that are then equal have equal fingerprints. Bound to the fingerprint, so that no two
   * normalizations of one name are mixed up. Of a function only that it is one is bound: give it a new name when what it does changes.
   */
  readonly normalize?: NormalizeStep | readonly NormalizeStep[] | ((value: string) => string)
  /**
   * How many bits of the fingerprint are kept, 1 to 256. Default 256. With fewer, different values share a fingerprint, each pair with a
   * probability of 2^-bits: for values that can be guessed. Decrypt what a look-up finds, and compare. Bound to the fingerprint too.
   */
  readonly bits?: number
}

/** How the values of one name are fingerprinted: checked options. */
export interface FingerprintKind {
  readonly name: string
  /** What the fingerprint key is derived with, besides whose it is. */
  readonly pieces: readonly string[]
  readonly bits: number
  normalized(value: string): string
}

/**
 * `"f1:" + base64url(HMAC-SHA256(fingerprint key, value))` under version 1 of the user's data key, else `f2:`, the version, `:` and the
 * same (docs/FORMAT.md, "Fingerprint").
 *
 * @param dataKey that version of the user's data key
 */
export function fingerprintOf(
  dataKey: KeyObject,
  { userId, version }: KeyRef,
  kind: FingerprintKind,
  value: string,
): string {
  const text = kind.normalized(value)
  const isFirst = version === 1
  const whose = isFirst ? [FIRST_LABEL, userId] : [LABEL, userId, String(version)]
  const key = hmacSha256(dataKey, preAuthEncode([...whose, ...kind.pieces]))
  const mac = hmacSha256(key, text).subarray(0, bytesOf(kind.bits))
  key.fill(0)
  const last = mac.length - 1
  mac[last] = (mac[last] as number) & spareMask(kind.bits)
  return `${isFirst ? 'f1:' : `f2:${version}:`}${mac.toString('base64url')}`
}

/**
 * The version of the key that a stored fingerprint was made under.
 *
 * @returns null unless it has the form of a fingerprint of this kind
 */
export function fingerprintVersion(stored: string, { bits }: Pick<FingerprintKind, 'bits'>): number | null {
  const [, first, digits, later] = FORM.exec(stored) ?? []
  const mac = decodeBase64UrlStrict(first ?? later ?? '')
  const version = digits === undefined ? 1 : Number(digits)
  if (mac?.length !== bytesOf(bits) || version > MAX_KEY_VERSION) return null
  return ((mac.at(-1) as number) & ~spareMask(bits) & 0xff) === 0 ? version : null
}

/** Without `f2:1:`, which nobody writes. */
const FORM = /^(?:f1:([\w-]{2,43})|f2:([2-9]|[1-9]\d{1,9}):([\w-]{2,43}))$/

function bytesOf(bits: number): number {
  return Math.ceil(bits / 8)
}

/** The bits of the last byte that are kept. */
function spareMask(bits: number): number {
  return (0xff << (bytesOf(bits) * 8 - bits)) & 0xff
}

/** @throws ERR_INVALID_ARGUMENT unless value and name are well-formed strings, and the options are as documented */
export function assertFingerprintArguments(value: unknown, options: FingerprintOptions): FingerprintKind {
  assertPlaintext(value)
  return fingerprintKind(options)
}

/** @throws ERR_INVALID_ARGUMENT. What it returns throws it too, if a function of the caller's does not give a well-formed string */
export function fingerprintKind(options: FingerprintOptions): FingerprintKind {
  // An unknown option is refused: a mistyped one would mean other fingerprints, which match nothing.
  const known: Partial<FingerprintOptions> = knownOptions(options, OPTIONS, 'a fingerprint')
  const { name, normalize, bits = ALL_BITS } = known
  if (typeof name !== 'string')
    throw invalidArgument(`name must be a string, as in { name: 'credentials.api_key' }, got ${kindOf(name)}`)
  if (!name.isWellFormed()) throw invalidArgument('name must be well-formed Unicode, it has a lone surrogate')
  if (!Number.isInteger(bits) || bits < 1 || bits > ALL_BITS)
    throw invalidArgument(`bits must be a whole number from 1 to 256, got ${describeBits(bits)}`)
  if (typeof normalize === 'function')
    return {
      name,
      bits,
      pieces: [name, 'function', String(bits)],
      normalized: (value) => normalizedBy(normalize, value),
    }
  const steps = stepsOf(normalize ?? [])
  const isPlain = steps.length === 0 && bits === ALL_BITS
  return {
    name,
    bits,
    pieces: isPlain ? [name] : [name, steps.join('+'), String(bits)],
    normalized: (value) => steps.reduce((text, step) => STEPS[step](text), value),
  }
}

const OPTIONS = { name: true, normalize: true, bits: true } as const

function describeBits(bits: unknown): string {
  return typeof bits === 'number' ? String(bits) : kindOf(bits)
}

/** In the order in which they are applied, each once. */
function stepsOf(normalize: NormalizeStep | readonly NormalizeStep[]): NormalizeStep[] {
  const known = Object.keys(STEPS) as NormalizeStep[]
  const given: readonly unknown[] = Array.isArray(normalize) ? normalize : [normalize]
  if (!given.every((step) => known.includes(step as NormalizeStep)))
    throw invalidArgument("normalize must be 'trim', 'lowercase', 'nfc', an array of these, or a function")
  return known.filter((step) => given.includes(step))
}

/** @throws ERR_INVALID_ARGUMENT. The function's own error is left out: it may quote the value */
function normalizedBy(normalize: (value: string) => string, value: string): string {
  try {
    const normalized: unknown = normalize(value)
    assertPlaintext(normalized)
    return normalized as string
  } catch (error) {
    throw isKeystoreError(error)
      ? invalidArgument('the function normalize must return a well-formed string')
      : invalidArgument('the function normalize threw')
  }
}
