/**
 * How encrypted columns encode and decode values, in both dialects: they encrypt and decrypt with the user handle of the current
 * scope. Imports no drizzle.
 */

import { currentHandle } from '../envelope/scope.js'
import { invalidArgument, KeystoreError } from '../errors.js'
import { contextMap, type EncryptionContext } from '../format/context.js'
import { assertFormats, type Format } from '../format/formats.js'
import { isEncrypted, isToken, type Token } from '../format/token.js'
import { kindOf, ownOptions } from '../validate.js'

export interface EncryptedColumnOptions {
  /**
   * The context that the column's values are bound to. A string is short for `{ column: … }`. Choose a permanent name, such as
   * `'credentials.api_key'`, and keep it when the table or the column is renamed: other contexts do not decrypt the values.
   */
  readonly context: string | EncryptionContext
}

/** What an encrypted column holds. It is kept on the column object, where the sweep and the registry find it. */
interface EncryptedColumnMark {
  readonly kind: 'text' | 'json' | 'token'
  /** Null for a column of tokens: the application gives the context when it encrypts. */
  readonly context: EncryptionContext | null
}

/** The property of the column object. A registered symbol, so that two copies of this package find it. */
const MARK = Symbol.for('drizzle-keystore/encrypted-column')

export function markColumn(column: object, mark: EncryptedColumnMark): void {
  Object.defineProperty(column, MARK, { value: mark, enumerable: false })
}

/** @returns null unless it is an encrypted column */
export function markOf(column: unknown): EncryptedColumnMark | null {
  if (typeof column !== 'object' || column === null || !(MARK in column)) return null
  return column[MARK] as EncryptedColumnMark
}

/** @throws ERR_INVALID_ARGUMENT, also without a context: values would be bound to their user only */
function requiredContext(options: EncryptedColumnOptions): EncryptionContext {
  const { context }: Partial<EncryptedColumnOptions> = ownOptions(options ?? {})
  if (context === undefined || context === null)
    throw invalidArgument("context is required, such as { context: 'credentials.api_key' }")
  return contextMap(context)
}

/** How one kind of column turns values into tokens and back. Never called with null or undefined. */
export interface ColumnCodec<Value> {
  readonly mark: EncryptedColumnMark
  encode(value: Value): Token
  decode(stored: string): Value
}

/** The two functions of a codec that Drizzle's `customType` takes. Drizzle calls `toDriver` with the null of a placeholder too. */
export function driverFunctions<Value>({ encode, decode }: ColumnCodec<Value>) {
  return {
    toDriver: (value: Value) => ((value ?? null) === null ? (value as null) : encode(value)) as string,
    fromDriver: (stored: string) => decode(stored),
  }
}

export function textCodec(options: EncryptedColumnOptions): ColumnCodec<string> {
  const context = requiredContext(options)
  return {
    mark: { kind: 'text', context },
    encode: (value) => handleInScope().encrypt(value, context),
    decode: (stored) => handleInScope().decrypt(stored, context),
  }
}

export function jsonCodec<T>(options: EncryptedColumnOptions): ColumnCodec<T> {
  const context = requiredContext(options)
  return {
    mark: { kind: 'json', context },
    // JSON text is never a whole token: a token in it has quotes around it.
    encode: (value) => handleInScope().encrypt(jsonText(value), context),
    decode: (stored) => parsedJson(handleInScope().decrypt(stored, context)),
  }
}

export const tokenCodec: ColumnCodec<Token> = {
  mark: { kind: 'token', context: null },
  encode: checkedToken,
  decode: checkedToken,
}

/** @throws ERR_NO_SCOPE */
export function handleInScope() {
  const handle = currentHandle()
  if (handle !== undefined) return handle
  throw new KeystoreError(
    'ERR_NO_SCOPE',
    'An encrypted column was read or written outside a scope: run the query inside `await envelope.scope(userId, () => …)`',
  )
}

/** @throws ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN. Their messages do not show the value. */
function checkedToken(value: unknown): Token {
  if (isToken(value)) return value
  if (isEncrypted(value)) {
    throw new KeystoreError(
      'ERR_MALFORMED_TOKEN',
      'A column of tokens got a value that begins like a token and cannot be one',
    )
  }
  throw new KeystoreError(
    'ERR_NOT_ENCRYPTED',
    `A column of tokens got ${kindOf(value)} that is no token: encrypt it first`,
  )
}

function jsonText(value: unknown): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch {
    // The error is not kept as a cause, because its message may quote the value.
  }
  if (text === undefined)
    throw invalidArgument(`An encrypted JSON column got ${kindOf(value)} that JSON cannot express`)
  return text
}

/** The text was authenticated, but another kind of column wrote it: the error is the same as for all that does not decrypt. */
function parsedJson<T>(text: string): T {
  try {
    return JSON.parse(text) as T
  } catch {
    throw new KeystoreError(
      'ERR_DECRYPTION_FAILED',
      'Decryption failed: the value is of another column, or was never JSON',
    )
  }
}

/** @throws ERR_INVALID_ARGUMENT, always: tokens of equal values differ, so a comparison would silently match nothing */
export function refuseComparison(): never {
  throw invalidArgument(
    'An encrypted column cannot be compared: equal values have different tokens. Store envelope.fingerprint(…) in a column of its own and compare that',
  )
}

export interface TokenCheckOptions {
  /** The token formats allowed. Default `['v3']`. Add `'v2'` while tokens of the Python reference are left. */
  readonly formats?: readonly Format[]
}

/** How the text of a token looks, for a CHECK constraint. */
interface TokenShape {
  readonly prefix: string
  /** Characters of an empty plaintext's token, prefix included. */
  readonly minLength: number
  /** The characters after the prefix, as a set in a pattern. */
  readonly alphabet: string
}

/** v3: 76 bytes or more, unpadded. v2: 28 bytes or more, in either base64 alphabet, padded or not (docs/FORMAT.md). */
const SHAPES: Readonly<Record<Format, TokenShape>> = {
  v3: { prefix: 'v3:', minLength: 3 + 102, alphabet: 'A-Za-z0-9_-' },
  v2: { prefix: 'v2:', minLength: 3 + 38, alphabet: 'A-Za-z0-9_+/=-' },
}

/** @throws ERR_INVALID_ARGUMENT */
export function tokenShapes(options: TokenCheckOptions): TokenShape[] {
  const { formats = ['v3'] } = ownOptions(options)
  assertFormats('formats', formats)
  if (formats.length === 0) throw invalidArgument('formats must name at least one format')
  return formats.map((format) => SHAPES[format])
}

export function tokenCheckName(column: string): string {
  return `${column}_token_check`
}
