/**
 * Every error that leaves this library is a {@link KeystoreError} with a stable `code`. Tell errors apart by
 * `code`, not by `instanceof`: an application may hold two copies of the package.
 *
 * No message, property or cause ever holds plaintext, a key, a wrapped key, a token or a connection password.
 */
import { tenantIdOf } from './table.js'

/**
 * The stable codes.
 *
 * - `ERR_INVALID_ARGUMENT`: the caller passed something that can never work (a lone surrogate, an empty user id …)
 * - `ERR_NO_SCOPE`: an encrypted column was read or written outside `scope()`
 * - `ERR_WRONG_OWNER`: a row that belongs to another user than the scope's was to be written through a column with `ownerColumn`
 * - `ERR_MALFORMED_TOKEN`: begins like a token, but its body cannot be one, or is longer than `maxTokenBytes`; says nothing about any key
 * - `ERR_NOT_ENCRYPTED`: the value is not a token
 * - `ERR_FORMAT_NOT_ACCEPTED`: a token or wrapped key of a format that `accept` does not name
 * - `ERR_DECRYPTION_FAILED`: wrong key, context or user, or tampered with: one message for all of them
 * - `ERR_KEY_NOT_FOUND`: the user, or that version of the user's key, has no row
 * - `ERR_KEY_SHREDDED`: the user's keys were erased on purpose
 * - `ERR_MASTER_KEY`: a master key is unset or unusable, or its key service failed; see `reason` of MasterKeyError
 * - `ERR_UNKNOWN_MASTER_KEY`: rows are wrapped under a master key that was not given; names KEK ids and counts
 * - `ERR_UNWRAP_FAILED`: a wrapped key does not open under its master key
 * - `ERR_STORE`: the store failed; see `retryable`
 * - `ERR_CONFLICT`: two stores disagree about a user; nothing was copied, and the message says what to do
 * - `ERR_KEYS_LOST`: the store lacks keys that its key log names: it is an older copy, or another store. Or it lacks the key of a tenant whose
 *   users it has
 * - `ERR_SCHEMA`: the table or its migrations are not what this version needs; the message says what to do
 * - `ERR_CLOSED`: used after `close()`
 */
export type KeystoreErrorCode =
  | 'ERR_INVALID_ARGUMENT'
  | 'ERR_NO_SCOPE'
  | 'ERR_WRONG_OWNER'
  | 'ERR_MALFORMED_TOKEN'
  | 'ERR_NOT_ENCRYPTED'
  | 'ERR_FORMAT_NOT_ACCEPTED'
  | 'ERR_DECRYPTION_FAILED'
  | 'ERR_KEY_NOT_FOUND'
  | 'ERR_KEY_SHREDDED'
  | 'ERR_MASTER_KEY'
  | 'ERR_UNKNOWN_MASTER_KEY'
  | 'ERR_UNWRAP_FAILED'
  | 'ERR_STORE'
  | 'ERR_CONFLICT'
  | 'ERR_KEYS_LOST'
  | 'ERR_SCHEMA'
  | 'ERR_CLOSED'

/** The last argument of all error constructors. */
export interface KeystoreErrorOptions {
  /** An error that is itself free of secrets; a driver's own error never is (see drivers/driver-error.ts). */
  readonly cause?: unknown
  /** Whether the same call may succeed later though nothing is changed. Default false. */
  readonly retryable?: boolean
  /** See {@link KeystoreError.column}. */
  readonly column?: string | null
}

/**
 * The base of all errors.
 *
 * @example
 * try {
 *   await envelope.decrypt('alice', token)
 * } catch (error) {
 *   if (error instanceof Error && 'code' in error && error.code === 'ERR_KEY_SHREDDED') return null
 *   throw error
 * }
 */
export class KeystoreError extends Error {
  override readonly name: string = 'KeystoreError'
  /** Stable: tell errors apart by it. */
  readonly code: KeystoreErrorCode
  /** Whether the same call may succeed later though nothing is changed. */
  readonly retryable: boolean
  /** Of an error about a value of an encrypted column: the column's context, or the entry `column` of it. */
  declare readonly column?: string

  constructor(code: KeystoreErrorCode, message: string, options: KeystoreErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.retryable = options.retryable ?? false
    if (typeof options.column === 'string') this.column = options.column
  }
}

/** Which row an error is about. */
interface RowRef {
  readonly userId: string
  readonly version: number
  /** The stored version as text, where it is a whole number that `version` rounds. Such a row is no record. */
  readonly exactVersion?: string
}

/**
 * A store failed (`ERR_STORE`), disagrees with another one (`ERR_CONFLICT`), or its schema is not what is needed (`ERR_SCHEMA`). Absent is
 * never an error of a store.
 */
export class StoreError extends KeystoreError {
  override readonly name = 'StoreError'
  /** The row at fault, where it is a single one. */
  readonly ref: RowRef | undefined

  constructor(
    message: string,
    options: KeystoreErrorOptions & {
      readonly code?: 'ERR_STORE' | 'ERR_CONFLICT' | 'ERR_SCHEMA'
      readonly ref?: RowRef
    } = {},
  ) {
    super(options.code ?? 'ERR_STORE', message, options)
    this.ref = options.ref
  }
}

/**
 * Why a master key in a key service did not do its work (`ERR_MASTER_KEY`).
 *
 * - `denied`: the service refuses this caller, or the key is disabled; not retryable
 * - `unavailable`: no answer, or none that says anything about the key: an outage; retryable
 * - `throttled`: asked too often; retryable
 * - `notFound`: there is no such key, or no longer; not retryable
 * - `wrongKey`: the service answered for another key, or with what is no key; not retryable
 */
export type MasterKeyReason = 'denied' | 'unavailable' | 'throttled' | 'notFound' | 'wrongKey'

/** The last argument of {@link MasterKeyError}. */
export interface MasterKeyErrorOptions extends KeystoreErrorOptions {
  /** Why the service did not do its work. `retryable` follows from it. */
  readonly reason?: MasterKeyReason | undefined
  /** The service's own code, such as `AccessDeniedException`. At most 128 characters of it are kept. */
  readonly providerCode?: string | undefined
  /** What the service's support asks for. At most 128 characters of it are kept. */
  readonly requestId?: string | undefined
}

/** A master key is unusable, unknown, or does not open what is wrapped under it. */
export class MasterKeyError extends KeystoreError {
  override readonly name = 'MasterKeyError'
  /** Undefined unless a key service failed. */
  readonly reason: MasterKeyReason | undefined
  /** The service's own code, such as `AccessDeniedException`. */
  readonly providerCode: string | undefined
  /** What the service's support asks for. */
  readonly requestId: string | undefined

  /** `retryable` is by default what `reason` says. The provider's code and the request id follow the message. */
  constructor(
    code: 'ERR_MASTER_KEY' | 'ERR_UNKNOWN_MASTER_KEY' | 'ERR_UNWRAP_FAILED',
    message: string,
    options: MasterKeyErrorOptions = {},
  ) {
    const { reason } = options
    const { providerCode, requestId } = serviceDetails(options)
    // Not twice where the message is made of that of another error.
    const details = [providerCode, requestId && `request id ${requestId}`].filter(
      (detail) => detail && !message.includes(detail),
    )
    super(code, details.length === 0 ? message : `${message} (${details.join(', ')})`, {
      retryable: reason === 'unavailable' || reason === 'throttled',
      ...options,
    })
    this.reason = reason
    this.providerCode = providerCode
    this.requestId = requestId
  }
}

/** The provider's code and the request id of an error, printable and bounded, as options of another one. */
export function serviceDetails({
  providerCode,
  requestId,
}: Pick<MasterKeyErrorOptions, 'providerCode' | 'requestId'> = {}): {
  readonly providerCode?: string
  readonly requestId?: string
} {
  return {
    ...(typeof providerCode === 'string' ? { providerCode: printable(providerCode) } : {}),
    ...(typeof requestId === 'string' ? { requestId: printable(requestId) } : {}),
  }
}

/** `ERR_INVALID_ARGUMENT`: names the argument, what was expected and what kind of thing arrived, never its value. */
export function invalidArgument(message: string): KeystoreError {
  return new KeystoreError('ERR_INVALID_ARGUMENT', message)
}

/** `ERR_KEY_SHREDDED`: the user's keys, or the tenant's, were erased on purpose. */
export function keyShredded(userId: string): KeystoreError {
  return new KeystoreError('ERR_KEY_SHREDDED', `The keys of ${describeUser(userId)} were shredded`)
}

/** Whose key it is, for messages: a user's, a tenant's own, or the pool's. */
export function describeUser(userId: string): string {
  if (userId === '') return 'the pool'
  const tenantId = tenantIdOf(userId)
  return tenantId === null ? `user ${quoted(userId)}` : `tenant ${quoted(tenantId)}`
}

/** `ERR_CLOSED` of a store. */
export function storeClosed(): KeystoreError {
  return new KeystoreError(
    'ERR_CLOSED',
    'This key store was closed. The close() of an EnvelopeCrypto closes its store, unless closeStore is false: give each a store of its own',
  )
}

/** `ERR_SCHEMA`: the message must say what to do next. */
export function schemaError(message: string): StoreError {
  return new StoreError(message, { code: 'ERR_SCHEMA' })
}

/** By shape, not by class: an application may hold two copies of this package. */
export function isKeystoreError(error: unknown): error is KeystoreError {
  return (
    error instanceof Error && 'code' in error && 'retryable' in error && String(error.code).startsWith('ERR_')
  )
}

/**
 * Controls (C0, C1, DEL), format characters (bidirectional controls, zero widths), line and paragraph separators, lone surrogates, and
 * what Unicode does not assign: they move a terminal's cursor, begin lines of a log, or show text in another order than it has.
 */
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]/gu

/** Characters of an id that messages show. */
const SHOWN_CHARACTERS = 128

/**
 * A text that came from a store or a caller, for messages: with unprintable characters as `\u001b`, and cut.
 *
 * @param most how many characters (UTF-16 units) are shown. Of a longer text the message says how many it has
 */
export function printable(text: string, most = SHOWN_CHARACTERS): string {
  const { start, rest } = cut(text, most)
  return escaped(start) + rest
}

/** {@link printable} in double quotes, with those in the text escaped as in JSON, so that the reader sees where the id ends. */
export function quoted(text: string): string {
  const { start, rest } = cut(text, SHOWN_CHARACTERS)
  return escaped(JSON.stringify(start)) + rest
}

/** Replaces unprintable characters by the escapes of JSON, which leaves a JSON document's values as they are. */
export function escaped(text: string): string {
  return text.replace(UNPRINTABLE, (character) =>
    Array.from({ length: character.length }, (_, at) => escapeOf(character.charCodeAt(at))).join(''),
  )
}

function escapeOf(unit: number): string {
  return `\\u${unit.toString(16).padStart(4, '0')}`
}

/** @returns the beginning, with no surrogate pair cut in two, and what is said of the rest */
function cut(text: string, most: number): { readonly start: string; readonly rest: string } {
  if (text.length <= most) return { start: text, rest: '' }
  const isPair = /^[\ud800-\udbff][\udc00-\udfff]$/.test(text.slice(most - 1, most + 1))
  const start = text.slice(0, isPair ? most - 1 : most)
  return { start, rest: `… (${text.length.toLocaleString('en')} characters)` }
}
