/**
 * How encrypted columns encode and decode values, in both dialects: they encrypt and decrypt with the handle of the scope in
 * force. Imports no drizzle.
 */

import { requiredScope, type ScopeKind } from '../envelope/scope.js'
import {
  inPlaceOf,
  isOfValue,
  isUnreadable,
  isUnreadableJson,
  refuseUnreadable,
} from '../envelope/unreadable.js'
import type { UserHandle } from '../envelope/user-handle.js'
import { invalidArgument, KeystoreError, quoted } from '../errors.js'
import { contextMap, type EncryptionContext } from '../format/context.js'
import { assertFormats, type Format } from '../format/formats.js'
import { isEncrypted, isToken, type Token } from '../format/token.js'
import type { FieldPath } from '../sources/field-path.js'
import { assertBytes, kindOf, ownOptions } from '../validate.js'

/** The options of {@link encryptedText}, {@link encryptedJson} and {@link encryptedBytes}. */
export interface EncryptedColumnOptions {
  /**
   * The context that the column's values are bound to. A string is short for `{ column: … }`. Choose a permanent name, such as
   * `'credentials.api_key'`, and keep it when the table or the column is renamed: other contexts do not decrypt the values. Errors and events
   * name the column by this string, or by the entry `column` of the map, and by nothing else of the map.
   */
  readonly context: string | EncryptionContext
  /** Whose the values are: those of the user in whose scope they are written, or the shared pool's. Default `'user'`. */
  readonly owner?: 'user' | 'pool'
  /**
   * The property of the table that holds the user's id. Writes then check it: a row that belongs to another user than the scope's is
   * ERR_WRONG_OWNER. Not for the pool.
   */
  readonly ownerColumn?: string | undefined
}

/** The arguments of a column, as Drizzle's own columns take them. Without a name it is called as its property, through `casing`. */
export type ColumnArguments<Options> = [name: string, options: Options] | [options: Options]

/** @returns the name `''` for Drizzle if none was given. Options that were left out are undefined, which {@link requiredContext} refuses. */
export function nameAndOptions<Options>([first, second]: ColumnArguments<Options>): [string, Options] {
  return typeof first === 'string' ? [first, second as Options] : ['', first]
}

/** What an encrypted column holds. It is kept on the column object, where the sweep and the registry find it. */
export interface EncryptedColumnMark {
  readonly kind: 'text' | 'json' | 'bytes' | 'token' | 'fields'
  /** Null for a column of tokens: the application gives the context when it encrypts. */
  readonly context: EncryptionContext | null
  /** Of a column of tokens, the application decides. */
  readonly owner: ScopeKind
  readonly ownerColumn?: string
  /** Of a JSON column: where in its values the encrypted fields are. */
  readonly fields?: readonly FieldPath[]
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

/** @throws ERR_INVALID_ARGUMENT, also without a context: values would be bound to their owner only */
export function markFrom(
  kind: EncryptedColumnMark['kind'],
  options: EncryptedColumnOptions,
): EncryptedColumnMark & { readonly context: EncryptionContext } {
  const given: Partial<EncryptedColumnOptions> = ownOptions(options ?? {})
  const { context, owner = 'user', ownerColumn } = given
  if (context === undefined || context === null)
    throw invalidArgument("context is required, such as { context: 'credentials.api_key' }")
  if (owner !== 'user' && owner !== 'pool')
    throw invalidArgument(
      `owner must be 'user' or 'pool', got ${kindOf(owner)}. The column with the user's id is the option ownerColumn`,
    )
  const mark = { kind, context: contextMap(context), owner }
  if (ownerColumn === undefined) return mark
  if (typeof ownerColumn !== 'string' || owner === 'pool')
    throw invalidArgument(
      owner === 'pool'
        ? "ownerColumn is for columns of users: the values of owner: 'pool' belong to nobody"
        : `ownerColumn must be the name of a property of the table, such as 'userId', got ${kindOf(ownerColumn)}`,
    )
  return { ...mark, ownerColumn }
}

/** How one kind of column turns values into tokens and back. Never called with null or undefined. */
export interface ColumnCodec<Value> {
  readonly mark: EncryptedColumnMark
  encode(value: Value): Token
  decode(stored: string): Value
}

/** A codec of a column that need not hold one token, and whose driver may give more than text. */
export interface AnyCodec<Value> {
  readonly mark: EncryptedColumnMark
  encode(value: Value): string
  decode(stored: never): Value
  /** Whether a schema may hold the value in plain sight. Absent: no value may be. */
  canBeDefault?(value: unknown): boolean
}

/** The two functions of a codec that Drizzle's `customType` takes. Drizzle calls `toDriver` with the null of a placeholder too. */
export function driverFunctions<Value>({ mark, encode, decode }: AnyCodec<Value>) {
  return {
    toDriver(value: Value) {
      if (isUnreadable(value)) refuseUnreadable(mark.context?.column ?? null)
      return ((value ?? null) === null ? (value as null) : encode(value)) as string
    },
    fromDriver: (stored: string) => decode(stored as never),
  }
}

export function textCodec(options: EncryptedColumnOptions): ColumnCodec<string> {
  return scopedCodec('text', options, TEXT)
}

export function jsonCodec<T>(options: EncryptedColumnOptions): ColumnCodec<T> {
  return scopedCodec<T>('json', options, {
    // JSON text is never a whole token: a token in it has quotes around it.
    seal: (handle, value, context) => handle.encrypt(jsonText(value, context.column ?? null), context),
    open: (handle, stored, context) => parsedJson(handle.decrypt(stored, context), stored),
  })
}

export function bytesCodec(options: EncryptedColumnOptions): ColumnCodec<Uint8Array> {
  return scopedCodec('bytes', options, {
    seal(handle, value, context) {
      assertBytes('An encrypted column of bytes', value)
      return handle.encryptBytes(value, context)
    },
    open: (handle, stored, context) => handle.decryptBytes(stored, context),
  })
}

/** What a kind of column does with the handle of the scope. */
interface Sealing<Value> {
  seal(handle: UserHandle, value: Value, context: EncryptionContext): Token
  open(handle: UserHandle, stored: string, context: EncryptionContext): Value
}

const TEXT: Sealing<string> = {
  seal: (handle, value, context) => handle.encrypt(value, context),
  open: (handle, stored, context) => handle.decrypt(stored, context),
}

function scopedCodec<Value>(
  kind: EncryptedColumnMark['kind'],
  options: EncryptedColumnOptions,
  sealing: Sealing<Value>,
): ColumnCodec<Value> {
  const mark = markFrom(kind, options)
  return { mark, ...scopedValue(mark, mark.context.column ?? null, sealing) }
}

/** Encodes and decodes texts of an owner and a context. @param name what errors call their place; null: its context has no name */
export function scopedText(of: ValuesOf, name: string | null): Omit<ColumnCodec<string>, 'mark'> {
  return scopedValue(of, name, TEXT)
}

interface ValuesOf {
  readonly owner: ScopeKind
  readonly context: EncryptionContext
}

function scopedValue<Value>(
  { owner, context }: ValuesOf,
  name: string | null,
  { seal, open }: Sealing<Value>,
): Omit<ColumnCodec<Value>, 'mark'> {
  return {
    encode: (value) => seal(requiredScope(owner, name).handle, value, context),
    decode(stored) {
      const { handle, onUnreadable } = requiredScope(owner, name)
      try {
        if (typeof stored !== 'string') throw notEncrypted(kindOf(stored))
        return open(handle, stored, context)
      } catch (error) {
        if (!isOfValue(error)) throw error
        // Nothing can be read without the keys: that is no matter of this value.
        if (error.code === 'ERR_KEY_NOT_FOUND') handle.assertUsable()
        return inPlaceOf(stored, name, namedError(error, stored, name), onUnreadable) as Value
      }
    },
  }
}

/** The handle in whose scope a column is written or read. @throws ERR_NO_SCOPE */
export function handleFor({ owner, context }: EncryptedColumnMark): UserHandle {
  return requiredScope(owner, context?.column ?? null).handle
}

/** The error of a value, with the column's name, which Drizzle does not tell. */
function namedError(error: KeystoreError, stored: unknown, column: string | null): KeystoreError {
  const place = column === null ? 'an encrypted column' : `the encrypted column ${quoted(column)}`
  return new KeystoreError(error.code, `A value of ${place}: ${error.message}. ${adviceFor(error, stored)}`, {
    cause: error.cause,
    column,
  })
}

function adviceFor({ code }: KeystoreError, stored: unknown): string {
  if (code !== 'ERR_NOT_ENCRYPTED')
    return 'To read the other rows and find this one, decide in onUnreadable of the scope (docs/COLUMNS.md)'
  const what =
    stored === '' ? 'It is an empty text' : 'It is a plaintext, such as a default or a value from before'
  return `${what}: encrypt it with the sweep (docs/REENCRYPT.md), or decide in onUnreadable of the scope`
}

function notEncrypted(what: string): KeystoreError {
  return new KeystoreError('ERR_NOT_ENCRYPTED', `The value is not a token: it is ${what}`)
}

export const tokenCodec: ColumnCodec<Token> = {
  mark: { kind: 'token', context: null, owner: 'user' },
  encode: checkedToken,
  decode: checkedToken,
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

/** @param column its name, null if it has none @throws ERR_INVALID_ARGUMENT, also if a marker of `onUnreadable` is anywhere in the value */
export function jsonText(value: unknown, column: string | null): string {
  let text: string | undefined
  let hasUnreadable = false
  try {
    // It is given what `toJSON` makes of a value, and has the object that the value is in.
    text = JSON.stringify(value, function (this: Readonly<Record<string, unknown>>, key, part: unknown) {
      if (typeof part === 'object' && part !== null)
        hasUnreadable ||= isUnreadable(part) || isUnreadable(this[key]) || isUnreadableJson(part)
      return part
    })
  } catch {
    // The error is not kept as a cause, because its message may quote the value.
  }
  if (hasUnreadable) refuseUnreadable(column)
  if (text === undefined) throw invalidArgument(`A JSON column got ${kindOf(value)} that JSON cannot express`)
  return text
}

/**
 * A text that was authenticated, but that another kind of column wrote, has the error of all that does not decrypt. A plaintext that passes
 * through was never encrypted.
 */
function parsedJson<T>(text: string, stored: string): T {
  try {
    return JSON.parse(text) as T
  } catch {
    if (!isEncrypted(stored)) throw notEncrypted('plaintext, and no JSON')
    throw new KeystoreError(
      'ERR_DECRYPTION_FAILED',
      'Decryption failed: the value is of another column, or was never JSON',
    )
  }
}

/** @throws ERR_INVALID_ARGUMENT, always: tokens of equal values differ, so a comparison would silently match nothing */
export function refuseComparison(): never {
  throw invalidArgument(
    'An encrypted column cannot be compared: equal values have different tokens. Add a column of fingerprintText, and compare that with fingerprintMatches',
  )
}

/** @throws ERR_INVALID_ARGUMENT, always: a value came to a column past the rules of its table (written-row.ts) */
export function refuseUnseenRow(): never {
  throw invalidArgument(
    'An encrypted column that needs the other values of its row was written past its table. Use insert().values() and update().set(); ' +
      'if you do, the application has two copies of drizzle-orm: let drizzle-keystore find the same one (npm ls drizzle-orm)',
  )
}

/** The options of {@link tokenCheck}. */
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
export function tokenShapes(column: object, options: TokenCheckOptions): TokenShape[] {
  if (markOf(column)?.kind === 'fields')
    throw invalidArgument(
      'tokenCheck is for columns that hold one token: one of encryptedFields holds JSON (docs/COLUMNS.md has a CHECK of its fields)',
    )
  const { formats = ['v3'] } = ownOptions(options)
  assertFormats('formats', formats)
  if (formats.length === 0) throw invalidArgument('formats must name at least one format')
  return formats.map((format) => SHAPES[format])
}

export function tokenCheckName(column: string): string {
  return `${column}_token_check`
}
