/** What a scope does with a stored value that cannot be read. */
import { inspect, types } from 'node:util'
import {
  invalidArgument,
  isKeystoreError,
  type KeystoreError,
  type KeystoreErrorCode,
  quoted,
} from '../errors.js'
import { kindOf } from '../validate.js'

/** A stored value of an encrypted column that cannot be read. */
export interface UnreadableValue {
  /** The column, by its context: the string, or the entry `column` of the map. Null: its context has no such entry. */
  readonly column: string | null
  /**
   * Why. `code` tells what was never encrypted (ERR_NOT_ENCRYPTED: a default such as `'{}'`, an empty text, a plaintext from before) from
   * what is damaged or another user's (ERR_MALFORMED_TOKEN, ERR_DECRYPTION_FAILED), of a format that is not accepted
   * (ERR_FORMAT_NOT_ACCEPTED), or lost with its key (ERR_KEY_SHREDDED, ERR_KEY_NOT_FOUND, ERR_UNWRAP_FAILED).
   */
  readonly error: KeystoreError
  /** With ERR_NOT_ENCRYPTED: what is stored, as it is. It may be a secret, so it is not enumerable: logs and JSON do not show it. */
  readonly leftover: string | null
}

/**
 * - `'throw'`: the query fails with the value's error. The default
 * - `'null'`: the value is null, also where the column's type says that it is not
 * - `'marker'`: the value is an {@link Unreadable}, whatever the column's type says
 * - a function: the value is what it returns. It must not be asynchronous; what it throws makes the query fail
 */
export type OnUnreadable = 'throw' | 'null' | 'marker' | ((value: UnreadableValue) => unknown)

/** @throws ERR_INVALID_ARGUMENT */
export function assertOnUnreadable(given: unknown): asserts given is OnUnreadable {
  if (typeof given === 'function' || given === 'throw' || given === 'null' || given === 'marker') return
  throw invalidArgument(`onUnreadable must be 'throw', 'null', 'marker' or a function, got ${kindOf(given)}`)
}

/** A registered symbol, so that two copies of this package know each other's markers. */
const UNREADABLE = Symbol.for('drizzle-keystore/unreadable')

/**
 * Stands for a value that cannot be read (`onUnreadable: 'marker'`). It cannot be taken for a text: where a text is needed, it throws the
 * value's error. `JSON.stringify` gives `{"unreadable":"credentials.api_key","code":"ERR_DECRYPTION_FAILED"}`.
 */
export class Unreadable {
  /** {@link UnreadableValue.column} */
  readonly column: string | null
  /** {@link UnreadableValue.error} */
  readonly error: KeystoreError

  constructor({ column, error }: UnreadableValue) {
    this.column = column
    this.error = error
    // Enumerable, so that a copy by spreading is one too.
    Object.defineProperty(this, UNREADABLE, { value: true, enumerable: true })
  }

  /** A property of its own, because functions cannot be cloned: a structured clone would be an object like any other. */
  readonly toString = (): never => {
    throw this.error
  };

  [Symbol.toPrimitive](): never {
    throw this.error
  }

  /** Called by pg, which would make JSON of it for a text column. */
  toPostgres(): never {
    throw this.error
  }

  toJSON(): { readonly unreadable: string | null; readonly code: KeystoreErrorCode } {
    return { unreadable: this.column, code: this.error.code }
  }

  [inspect.custom](): string {
    return `[unreadable ${this.column ?? 'value'}: ${this.error.code}]`
  }
}

/**
 * Whether a value that was read from an encrypted column stands for one that cannot be read.
 *
 * @example
 * const rows = await envelope.scope('alice', () => db.select().from(credentials), { onUnreadable: 'marker' })
 * const broken = rows.filter(({ apiKey }) => isUnreadable(apiKey))
 */
export function isUnreadable(value: unknown): value is Unreadable {
  return typeof value === 'object' && value !== null && Reflect.get(value, UNREADABLE) === true
}

/**
 * Refuses to write what stands for a value that cannot be read: it would replace the stored value, which a backup, another key or the right user
 * may still open.
 *
 * @param column what the message calls the column; null: its context has no name
 * @throws ERR_INVALID_ARGUMENT
 */
export function refuseUnreadable(column: string | null): never {
  const place = column === null ? 'an encrypted column' : `the encrypted column ${quoted(column)}`
  throw invalidArgument(
    `What stands for an unreadable value (onUnreadable) was to be written to ${place}, in place of the stored value: leave the column out, or write a value of your own`,
  )
}

/** Whether a value is what a marker is in JSON, such as one that a client sends back. */
export function isUnreadableJson(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { unreadable, code } = value as Readonly<Record<string, unknown>>
  return (
    Object.keys(value).length === 2 &&
    (typeof unreadable === 'string' || unreadable === null) &&
    OF_VALUES.includes(code as KeystoreErrorCode)
  )
}

/** The codes of errors that are about one stored value. All others are about the scope, the service or the caller. */
const OF_VALUES: readonly KeystoreErrorCode[] = [
  'ERR_NOT_ENCRYPTED',
  'ERR_MALFORMED_TOKEN',
  'ERR_FORMAT_NOT_ACCEPTED',
  'ERR_DECRYPTION_FAILED',
  'ERR_KEY_NOT_FOUND',
  'ERR_KEY_SHREDDED',
  'ERR_UNWRAP_FAILED',
]

/**
 * Whether an error says that one stored value cannot be read, now or later. An outage, a closed service and a version that the scope's
 * snapshot lacks (`retryable`) say nothing about the value.
 */
export function isOfValue(error: unknown): error is KeystoreError {
  return isKeystoreError(error) && !error.retryable && OF_VALUES.includes(error.code)
}

/** What to read in place of a value that cannot be read. @throws the value's error */
export function inPlaceOf(
  stored: unknown,
  column: string | null,
  error: KeystoreError,
  on: OnUnreadable,
): unknown {
  if (on === 'throw') throw error
  if (on === 'null') return null
  const leftover = error.code === 'ERR_NOT_ENCRYPTED' && typeof stored === 'string' ? stored : null
  const value = Object.defineProperty({ column, error }, 'leftover', { value: leftover }) as UnreadableValue
  if (on === 'marker') return new Unreadable(value)
  const given = on(value)
  if (types.isPromise(given)) {
    given.catch(() => {})
    throw invalidArgument('onUnreadable must not be asynchronous: it has returned a promise')
  }
  return given
}
