/**
 * What an encrypted column does with values, whichever dialect: encrypts on the way in and decrypts on the way out, under the handle
 * of the scope that is in force. Imports no drizzle.
 */

import { currentHandle } from '../envelope/scope.js'
import { invalidArgument, KeystoreError } from '../errors.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import type { Format } from '../format/formats.js'
import { isEncrypted, isToken, type Token } from '../format/token.js'
import { kindOf } from '../validate.js'

export interface EncryptedColumnOptions {
  /**
   * The context that the column's values are bound to; a string is short for `{ column: … }`. Give the place a name that stays, such as
   * `'credentials.api_key'`: renaming table or column then changes nothing.
   */
  readonly context: string | EncryptionContext
}

/** What a column of ours holds; kept on the column object, where the sweep and the registry find it. */
export interface EncryptedColumnMark {
  readonly kind: 'text' | 'json' | 'token'
  /** Of a column of tokens null: whoever encrypts them gives the context. */
  readonly context: EncryptionContext | null
}

/** On the column object; registered, so that two copies of this package understand each other. */
const MARK = Symbol.for('drizzle-keystore/encrypted-column')

export function markColumn(column: object, mark: EncryptedColumnMark): void {
  Object.defineProperty(column, MARK, { value: mark, enumerable: false })
}

/** @returns null unless the column is one of ours */
export function markOf(column: unknown): EncryptedColumnMark | null {
  if (typeof column !== 'object' || column === null || !(MARK in column)) return null
  return column[MARK] as EncryptedColumnMark
}

/** @throws ERR_INVALID_ARGUMENT: a missing context would bind values to nothing but their user */
export function contextOf(options: EncryptedColumnOptions): EncryptionContext {
  const context: unknown = options?.context
  if (context === undefined)
    throw invalidArgument("context is required, such as { context: 'credentials.api_key' }")
  const map = typeof context === 'string' ? { column: context } : (context as EncryptionContext)
  contextPieces(map)
  return Object.freeze({ ...map })
}

/** How one kind of column turns values into tokens and back. Null and undefined never come here. */
export interface ColumnCodec<Value> {
  readonly mark: EncryptedColumnMark
  encode(value: Value): Token
  decode(stored: string): Value
}

/** A codec as the two functions of Drizzle's `customType`. Drizzle encodes the null of a placeholder too. */
export function driverFunctions<Value>({ encode, decode }: ColumnCodec<Value>) {
  return {
    toDriver: (value: Value) => ((value ?? null) === null ? (value as null) : encode(value)) as string,
    fromDriver: (stored: string) => decode(stored),
  }
}

export function textCodec(options: EncryptedColumnOptions): ColumnCodec<string> {
  const context = contextOf(options)
  return {
    mark: { kind: 'text', context },
    encode: (value) => handleInScope().encrypt(value, context),
    decode: (stored) => handleInScope().decrypt(stored, context),
  }
}

export function jsonCodec<T>(options: EncryptedColumnOptions): ColumnCodec<T> {
  const context = contextOf(options)
  return {
    mark: { kind: 'json', context },
    // A JSON text may be a token in quotes, but never a whole token.
    encode: (value) => handleInScope().encrypt(jsonOf(value), context),
    decode: (stored) => parsed(handleInScope().decrypt(stored, context)),
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

/** @throws ERR_NOT_ENCRYPTED · ERR_MALFORMED_TOKEN, neither of which shows the value */
function checkedToken(value: unknown): Token {
  if (isToken(value)) return value
  if (isEncrypted(value)) {
    throw new KeystoreError(
      'ERR_MALFORMED_TOKEN',
      'A column of tokens got a value that begins like one, and cannot be one',
    )
  }
  throw new KeystoreError(
    'ERR_NOT_ENCRYPTED',
    `A column of tokens got ${kindOf(value)} that is no token: encrypt it first`,
  )
}

function jsonOf(value: unknown): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch {
    // No cause: its message may quote the value.
  }
  if (text === undefined)
    throw invalidArgument(`An encrypted JSON column got ${kindOf(value)} that JSON cannot express`)
  return text
}

/** Authenticated, but not what this column writes: of one message with everything else that does not open. */
function parsed<T>(text: string): T {
  try {
    return JSON.parse(text) as T
  } catch {
    throw new KeystoreError(
      'ERR_DECRYPTION_FAILED',
      'Decryption failed: the value is of another column, or was never JSON',
    )
  }
}

/** @throws always: ciphertexts of equal values differ, so that a comparison would match nothing, silently */
export function refuseComparison(): never {
  throw invalidArgument(
    'An encrypted column cannot be compared: equal values have different tokens. Store envelope.fingerprint(…) in a column of its own and compare that',
  )
}

export interface TokenCheckOptions {
  /** The formats allowed. Default `['v3']`; name `'v2'` too while tokens of the Python reference are left. */
  readonly formats?: readonly Format[]
}

/** What the text of a token looks like, for a CHECK constraint. */
interface TokenShape {
  readonly prefix: string
  /** Of the empty plaintext's token, prefix included. */
  readonly leastLength: number
  /** As a set of characters in a pattern. */
  readonly alphabet: string
}

/** v3: 76 bytes and more, unpadded; v2: 28 bytes and more, either alphabet, padded or not (docs/FORMAT.md). */
const SHAPES: Readonly<Record<Format, TokenShape>> = {
  v3: { prefix: 'v3:', leastLength: 3 + 102, alphabet: 'A-Za-z0-9_-' },
  v2: { prefix: 'v2:', leastLength: 3 + 38, alphabet: 'A-Za-z0-9_+/=-' },
}

/** @throws ERR_INVALID_ARGUMENT */
export function tokenShapes({ formats = ['v3'] }: TokenCheckOptions): TokenShape[] {
  const shapes = Array.isArray(formats) ? formats.map((format) => SHAPES[format as Format]) : []
  if (shapes.length === 0 || shapes.includes(undefined as never))
    throw invalidArgument("formats must be an array of 'v3' and 'v2'")
  return shapes
}

export function tokenCheckName(column: string): string {
  return `${column}_token_check`
}
