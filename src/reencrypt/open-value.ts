/** What a stored value is, and what it holds if it is to be encrypted anew. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { invalidArgument, isKeystoreError, KeystoreError } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import { isEncrypted, isToken, type ParsedToken, parseToken } from '../format/token.js'
import type { ValueKey } from '../sources/value-source.js'
import { assertPlaintext, kindOf } from '../validate.js'
import { isOfOneOwner, type OwnerKeys } from './owner-keys.js'

/** Values that another library encrypted. */
export interface LegacyReader<Row = unknown> {
  /** In reports: `legacy:NAME`. */
  readonly name: string
  /** Whether a value is of this library. It is never shown one that begins like a token of ours. */
  test(value: string): boolean
  /** What the value holds; null, or an error, if it cannot be opened: it is then left as it is. */
  decrypt(value: string, of: LegacyValue<Row>): string | null | Promise<string | null>
}

export interface LegacyValue<Row = unknown> {
  readonly key: ValueKey
  readonly column: string
  readonly owner: string | null
  readonly row: Row | undefined
}

/**
 * - `current`: v3, under the newest version of its owner's key and the wanted context
 * - `oldVersion`, `oldContext`, `v2`, `plaintext`, `legacy:NAME`: what the sweep brings up to date
 * - `unopenable`: it looks like a token, or is no text at all, and does not open
 * - `shredded`: its owner's keys were erased on purpose, and it opens for nobody any more
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
  | 'empty'

export interface Found {
  readonly state: ValueState
  /** What it holds, if it is to be encrypted anew; the receiver's to wipe. */
  readonly plaintext?: Uint8Array
  /** Why it stays as it is, though it should not. */
  readonly error?: KeystoreError
}

/** A value on its way through the sweep. */
export interface SweptValue<Row> extends LegacyValue<Row> {
  readonly value: unknown
  /** The wanted one first, then earlier ones; or why they cannot be told. */
  readonly contexts: readonly [EncryptionContext, ...EncryptionContext[]] | KeystoreError
}

export interface OpenOptions<Row> {
  readonly envelope: EnvelopeCrypto
  readonly legacy: readonly LegacyReader<Row>[]
  readonly plaintext: boolean
}

/** @throws only what is about more than this value: an outage */
export async function openValue<Row>(
  value: SweptValue<Row>,
  keys: OwnerKeys,
  options: OpenOptions<Row>,
): Promise<Found> {
  const stored = value.value
  if (stored === null || stored === undefined) return { state: 'empty' }
  if (typeof stored !== 'string')
    return { state: 'unopenable', error: invalidArgument(`a value must be text, got ${kindOf(stored)}`) }
  if (isEncrypted(stored)) return openOurs(stored, value, keys, options.envelope)
  const found = await openForeign(stored, value, options)
  // Without a context it cannot be encrypted.
  return value.contexts instanceof Error ? { state: found.state, error: value.contexts } : found
}

/** A value that begins like a token is one of ours or damaged, never a plaintext. */
async function openOurs<Row>(
  token: string,
  { owner, contexts }: SweptValue<Row>,
  keys: OwnerKeys,
  envelope: EnvelopeCrypto,
): Promise<Found> {
  let parsed: ParsedToken | undefined
  try {
    parsed = parseToken(token, ['v2', 'v3'])
    if (contexts instanceof Error) throw contexts
    if (parsed.format === 'v2' && owner === null)
      return { state: 'v2', plaintext: Buffer.from(await openV2OfPool(envelope, token)) }
    const { plaintext, context, newest } = await keys.open(owner, (handle) => ({
      ...handle.decryptUnderAny(token, contexts),
      newest: handle.version,
    }))
    if (parsed.format === 'v2') return { state: 'v2', plaintext }
    if (context > 0) return { state: 'oldContext', plaintext }
    if (parsed.version !== newest) return { state: 'oldVersion', plaintext }
    plaintext.fill(0)
    return { state: 'current' }
  } catch (error) {
    if (!isOfOneValue(error)) throw error
    if (error.code === 'ERR_KEY_SHREDDED') return { state: 'shredded', error }
    // It may well open once the format is accepted.
    const isRefused = error.code === 'ERR_FORMAT_NOT_ACCEPTED' && parsed?.format === 'v2'
    return { state: isRefused ? 'v2' : 'unopenable', error }
  }
}

/** Another library's value, or a plaintext. */
async function openForeign<Row>(
  stored: string,
  value: SweptValue<Row>,
  { legacy, plaintext }: OpenOptions<Row>,
): Promise<Found> {
  for (const reader of legacy) {
    const state = `legacy:${reader.name}` as const
    try {
      const isTheirs: unknown = reader.test(stored)
      // A promise would be true of every value.
      if (typeof isTheirs !== 'boolean')
        throw invalidArgument(`test() of the legacy reader ${reader.name} must return true or false`)
      if (isTheirs) return { state, plaintext: await readLegacy(reader, stored, value) }
    } catch (error) {
      return { state, error: isKeystoreError(error) ? error : legacyFailed(reader) }
    }
  }
  if (isToken(withoutWrapping(stored))) return { state: 'unopenable', error: wrappedToken() }
  try {
    if (!plaintext) throw notEncrypted()
    assertPlaintext(stored)
    return { state: 'plaintext', plaintext: Buffer.from(stored) }
  } catch (error) {
    return { state: 'plaintext', error: error as KeystoreError }
  }
}

async function readLegacy<Row>(
  reader: LegacyReader<Row>,
  stored: string,
  { key, column, owner, row }: SweptValue<Row>,
): Promise<Uint8Array> {
  const plaintext = await reader.decrypt(stored, { key, column, owner, row })
  if (typeof plaintext !== 'string') throw legacyFailed(reader)
  assertPlaintext(plaintext)
  // It would be encrypted twice.
  if (isToken(plaintext))
    throw invalidArgument(`what the legacy reader ${reader.name} gave is a token already`)
  return Buffer.from(plaintext)
}

/** Without the reader's own error: it may quote the value. */
function legacyFailed({ name }: { readonly name: string }): KeystoreError {
  return new KeystoreError('ERR_DECRYPTION_FAILED', `The legacy reader ${name} could not open it`)
}

function notEncrypted(): KeystoreError {
  return new KeystoreError(
    'ERR_NOT_ENCRYPTED',
    'It is no token of ours and of no legacy reader: plaintext is encrypted only with plaintext: true',
  )
}

/** A token that came through JSON, a file or a form: it would be encrypted twice. */
function withoutWrapping(stored: string): string {
  return stored.replace(/^[\s"']+|[\s"']+$/g, '')
}

function wrappedToken(): KeystoreError {
  return new KeystoreError(
    'ERR_MALFORMED_TOKEN',
    'It is a token between white space or quotes: store the token alone, and it can be opened',
  )
}

/** Under a key that is derived from the master key: that there is no local one is about these values alone, and no outage. */
async function openV2OfPool(envelope: EnvelopeCrypto, token: string): Promise<string> {
  try {
    return await envelope.pool.decrypt(token)
  } catch (error) {
    if (isKeystoreError(error) && error.code === 'ERR_MASTER_KEY')
      throw new KeystoreError('ERR_UNKNOWN_MASTER_KEY', error.message)
    throw error
  }
}

function isOfOneValue(error: unknown): error is KeystoreError {
  return isOfOneOwner(error) || (isKeystoreError(error) && VALUE_CODES.has(error.code))
}

const VALUE_CODES: ReadonlySet<string> = new Set(['ERR_DECRYPTION_FAILED', 'ERR_MALFORMED_TOKEN'])
