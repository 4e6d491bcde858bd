/** Classifies a stored value, and decrypts it if it is to be re-encrypted. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import type { UserHandle } from '../envelope/user-handle.js'
import { invalidArgument, isKeystoreError, KeystoreError, printable } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import { decodeUtf8 } from '../format/encoding.js'
import {
  isDamagedToken,
  isEncrypted,
  isToken,
  type ParsedToken,
  parsedIfToken,
  parseToken,
} from '../format/token.js'
import { assertPlaintext, kindOf } from '../validate.js'
import { type CiphertextForm, ciphertextForm } from './legacy/ciphertext-form.js'
import type { LegacyReader, LegacyValue } from './legacy/reader.js'
import { isOwnerError, type OwnerKeys } from './owner-keys.js'
import type { WrittenValues } from './written-values.js'

/**
 * - `current`: a v3 token under the newest version of its owner's key and the wanted context
 * - `oldVersion`, `oldContext`, `v2`, `plaintext`, `legacy:NAME`: the sweep re-encrypts it
 * - `unopenable`: a token that does not decrypt or was damaged, its owner's master key fails, or it is not text
 * - `shredded`: its owner's keys were erased on purpose, so nobody can decrypt it
 * - `staleFingerprint`: a stored fingerprint that is not the one which is made of its value now: the sweep makes it anew
 * - `empty`: null
 */
export type ValueState =
  | 'current'
  | 'oldVersion'
  | 'oldContext'
  | 'v2'
  | 'plaintext'
  | `legacy:${string}`
  | 'unopenable'
  | 'shredded'
  | 'staleFingerprint'
  | 'empty'

export interface OpenResult {
  readonly state: ValueState
  /** The plaintext of a value that is to be re-encrypted. The receiver wipes it. */
  readonly plaintext?: Uint8Array
  /** Why a value that is not current cannot be re-encrypted. */
  readonly error?: KeystoreError
  /** What a value looks like that no reader claims. */
  readonly form?: CiphertextForm
  /** The keys under whose newest version a current value was found. */
  readonly openedBy?: UserHandle
}

/** A value as the sweep reads it. */
export interface SweptValue<Row> extends LegacyValue<Row> {
  readonly value: unknown
  /** The wanted context, then earlier ones; or the error why there are none: making them threw, or nobody owns the value. */
  readonly contexts: readonly [EncryptionContext, ...EncryptionContext[]] | KeystoreError
  /** The column that it is a part of, if that is not its own. */
  readonly container?: string | undefined
  /** Whether its plaintext must be JSON. */
  readonly isJson: boolean
}

export interface OpenOptions<Row> {
  readonly envelope: EnvelopeCrypto
  readonly legacy: readonly LegacyReader<Row>[]
  /** Whether plaintext is to be encrypted. */
  readonly plaintext: boolean
  /** Whether what looks like ciphertext of another library is plaintext too. */
  readonly ciphertextAsPlaintext: boolean
  /** What this sweep has written. */
  readonly written?: WrittenValues
}

const CURRENT: OpenResult = { state: 'current' }
const EMPTY: OpenResult = { state: 'empty' }

/**
 * Returns no promise for a token whose key is in hand: a million promises take longer than many of the tokens.
 *
 * @throws errors that concern more than this value: an outage
 */
export function openValue<Row>(
  value: SweptValue<Row>,
  keys: OwnerKeys,
  options: OpenOptions<Row>,
): OpenResult | Promise<OpenResult> {
  const stored = value.value
  if (stored === null || stored === undefined) return EMPTY
  if (typeof stored !== 'string') return { state: 'unopenable', error: notText(stored) }
  if (isWritten(value, stored, keys, options)) return CURRENT
  // What is too long to be decoded may be a token.
  const isTooLong = isEncrypted(stored) && stored.length > options.envelope.maxTokenBytes
  const parsed = isTooLong ? null : parsedIfToken(stored)
  if (!isTooLong && parsed === null) return openOther(stored, value, null, options)
  const token = openStoredToken(stored, parsed, value, keys, options.envelope)
  const isOurs = (token: OpenResult) => isTooLong || !mayBeForeign(stored, token)
  if (token instanceof Promise)
    return token.then((token) => (isOurs(token) ? token : openOther(stored, value, token, options)))
  return isOurs(token) ? token : openOther(stored, value, token, options)
}

function isWritten<Row>(
  value: SweptValue<Row>,
  stored: string,
  keys: OwnerKeys,
  { written }: OpenOptions<Row>,
): boolean {
  if (written === undefined || value.contexts instanceof Error) return false
  const handle = keys.usable(value.owner)
  return handle !== null && written.has(value, stored, handle)
}

/** Opens what is no token, or may be none. @param token what became of it as a token */
async function openOther<Row>(
  stored: string,
  value: SweptValue<Row>,
  token: OpenResult | null,
  options: OpenOptions<Row>,
): Promise<OpenResult> {
  const result =
    (await openByReader(stored, value, options.legacy)) ?? token ?? openPlaintext(stored, value, options)
  if (!(value.contexts instanceof Error) || result === token) return result
  // It cannot be encrypted without a context, or without an owner.
  result.plaintext?.fill(0)
  const { plaintext: _, ...found } = result
  return { ...found, error: value.contexts }
}

/** Opens a whole token. @param token taken apart; null if it is too long for that */
function openStoredToken<Row>(
  text: string,
  token: ParsedToken | null,
  { owner, contexts, isJson }: SweptValue<Row>,
  keys: OwnerKeys,
  envelope: EnvelopeCrypto,
): OpenResult | Promise<OpenResult> {
  const failed = (error: unknown) => failedToken(token, error)
  try {
    const parsed = token ?? parseToken(text, ['v2', 'v3'], envelope.maxTokenBytes)
    if (contexts instanceof Error) throw contexts
    if (parsed.format === 'v2' && owner === null) {
      const found = (plaintext: string): OpenResult => {
        return { state: 'v2', plaintext: checked(Buffer.from(plaintext), isJson) }
      }
      return decryptV2PoolToken(envelope, text).then(found).catch(failed)
    }
    const open = (handle: UserHandle): OpenResult => {
      const { plaintext, context } = handle.decryptUnderAny(parsed, contexts)
      checked(plaintext, isJson)
      if (parsed.format === 'v2') return { state: 'v2', plaintext }
      if (context > 0) return { state: 'oldContext', plaintext }
      if (parsed.version !== handle.version) return { state: 'oldVersion', plaintext }
      plaintext.fill(0)
      return { state: 'current', openedBy: handle }
    }
    const opened = keys.open(owner, open)
    return opened instanceof Promise ? opened.catch(failed) : opened
  } catch (error) {
    return failed(error)
  }
}

/** @throws the error if it concerns more than one value */
function failedToken(token: ParsedToken | null, error: unknown): OpenResult {
  if (!isValueError(error)) throw error
  if (error.code === 'ERR_KEY_SHREDDED') return { state: 'shredded', error }
  // The token may decrypt once format v2 is accepted, so it is not reported as unopenable.
  const isRefused = error.code === 'ERR_FORMAT_NOT_ACCEPTED' && token?.format === 'v2'
  return { state: isRefused ? 'v2' : 'unopenable', error }
}

/**
 * Whether a whole token by its form need not be ours: after `v2:` any base64 of 28 bytes or more has the form, and so have ciphertexts of others and
 * hexadecimal keys. One that opens, or whose owner was shredded, is ours.
 */
function mayBeForeign(token: string, { error }: OpenResult): boolean {
  return token.startsWith('v2:') && error !== undefined && NOT_OPENED.has(error.code)
}

const NOT_OPENED: ReadonlySet<string> = new Set([
  'ERR_FORMAT_NOT_ACCEPTED',
  'ERR_KEY_NOT_FOUND',
  'ERR_DECRYPTION_FAILED',
])

/** @returns null if no reader claims it */
async function openByReader<Row>(
  stored: string,
  value: SweptValue<Row>,
  legacy: readonly LegacyReader<Row>[],
): Promise<OpenResult | null> {
  for (const reader of legacy) {
    const state = `legacy:${reader.name}` as const
    try {
      const isTheirs: unknown = reader.test(stored)
      // A promise is truthy, so an async test() would claim every value.
      if (typeof isTheirs !== 'boolean')
        throw invalidArgument(
          `test() of the legacy reader ${printable(reader.name)} must return true or false`,
        )
      if (isTheirs)
        return { state, plaintext: checked(await decryptLegacy(reader, stored, value), value.isJson) }
    } catch (error) {
      return { state, error: isKeystoreError(error) ? error : legacyReaderFailed(reader) }
    }
  }
  return null
}

/** What is no whole token, and no reader's: a damaged token, or plaintext. */
function openPlaintext<Row>(
  stored: string,
  { isJson }: SweptValue<Row>,
  { plaintext, ciphertextAsPlaintext }: OpenOptions<Row>,
): OpenResult {
  if (isToken(withoutQuotes(stored))) return { state: 'unopenable', error: quotedToken() }
  // Encrypting it would bury what is left of it under a good token.
  if (isDamagedToken(stored)) return { state: 'unopenable', error: damagedToken() }
  const form = ciphertextForm(stored)
  const found = { state: 'plaintext', ...(form === null ? {} : { form }) } as const
  try {
    if (form !== null && !ciphertextAsPlaintext) throw looksEncrypted(form)
    if (!plaintext) throw notEncrypted()
    assertPlaintext(stored)
    return { ...found, plaintext: checked(Buffer.from(stored), isJson) }
  } catch (error) {
    return { ...found, error: error as KeystoreError }
  }
}

/**
 * @returns the plaintext
 * @throws ERR_INVALID_ARGUMENT if it must be JSON and is none; it is wiped then
 */
function checked<Plaintext extends Uint8Array>(plaintext: Plaintext, isJson: boolean): Plaintext {
  if (!isJson || parsesAsJson(plaintext)) return plaintext
  plaintext.fill(0)
  throw invalidArgument(
    'It is no JSON, and its column (encryptedJson) holds JSON: every read of it fails. Store JSON in its place, or null',
  )
}

function parsesAsJson(plaintext: Uint8Array): boolean {
  const text = decodeUtf8(Buffer.from(plaintext.buffer, plaintext.byteOffset, plaintext.byteLength))
  try {
    if (text !== null) JSON.parse(text)
    return text !== null
  } catch {
    // The parser's message may quote the text.
    return false
  }
}

async function decryptLegacy<Row>(
  reader: LegacyReader<Row>,
  stored: string,
  { key, column, owner, row }: SweptValue<Row>,
): Promise<Uint8Array> {
  const plaintext = await reader.decrypt(stored, { key, column, owner, row })
  if (typeof plaintext !== 'string') throw legacyReaderFailed(reader)
  assertPlaintext(plaintext)
  // Encrypting a token would encrypt the value twice. A reader that gives the value back says that it is none, but looks like one.
  if (isToken(plaintext) && plaintext !== stored)
    throw invalidArgument(`what the legacy reader ${printable(reader.name)} gave is a token already`)
  return Buffer.from(plaintext)
}

/** Leaves out the reader's own error, which may quote the value. */
function legacyReaderFailed({ name }: { readonly name: string }): KeystoreError {
  return new KeystoreError(
    'ERR_DECRYPTION_FAILED',
    `The legacy reader ${printable(name)} could not decrypt the value`,
  )
}

function notEncrypted(): KeystoreError {
  return new KeystoreError(
    'ERR_NOT_ENCRYPTED',
    'It is no token of ours and of no legacy reader: plaintext is encrypted only with plaintext: true',
  )
}

function notText(stored: unknown): KeystoreError {
  return invalidArgument(
    `a value must be text, got ${kindOf(stored)}: store it as text. If it is no secret, take its column out of the sweep, or its path out of encryptedFields`,
  )
}

function looksEncrypted({ what, reader }: CiphertextForm): KeystoreError {
  return new KeystoreError(
    'ERR_NOT_ENCRYPTED',
    `It looks like ciphertext of ${what}, which would be encrypted a second time: give ${reader} in legacy. If it is plaintext, say ciphertextAsPlaintext: true (--ciphertext-as-plaintext)`,
  )
}

/** Removes the quotes and white space that JSON, a file or a form may have put around a token, or into it at the end of a line. */
function withoutQuotes(stored: string): string {
  return stored.replace(/[\s"']+/g, '')
}

function damagedToken(): KeystoreError {
  return new KeystoreError(
    'ERR_MALFORMED_TOKEN',
    'It is a token that was cut or changed, or has one in it: restore it from a copy. If it is none, give a legacy reader that claims it',
  )
}

function quotedToken(): KeystoreError {
  return new KeystoreError(
    'ERR_MALFORMED_TOKEN',
    'It is a token with white space or quotes in it: store the token alone, and it can be decrypted',
  )
}

/**
 * Decrypts a pool token of format v2, whose key is derived from a local master key. If no local one was given, the error is about
 * these tokens alone: it must not end the sweep as an outage would.
 */
async function decryptV2PoolToken(envelope: EnvelopeCrypto, token: string): Promise<string> {
  try {
    return await envelope.pool.decrypt(token)
  } catch (error) {
    if (isKeystoreError(error) && error.code === 'ERR_MASTER_KEY')
      throw new KeystoreError('ERR_UNKNOWN_MASTER_KEY', error.message)
    throw error
  }
}

/** Whether an error is about one value, or about the keys of its owner. */
export function isValueError(error: unknown): error is KeystoreError {
  return isOwnerError(error) || (isKeystoreError(error) && VALUE_CODES.has(error.code))
}

const VALUE_CODES: ReadonlySet<string> = new Set(['ERR_DECRYPTION_FAILED', 'ERR_MALFORMED_TOKEN'])
