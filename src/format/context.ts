/** Encryption contexts: what callers pass, the pieces that AADs are made of, and how a column's values come to theirs. */
import { invalidArgument, isKeystoreError } from '../errors.js'
import { compareUtf8 } from '../table.js'
import { kindOf } from '../validate.js'

/** The caller's name → value map: authenticated by v3 tokens, not stored in them; v2 tokens ignore it. */
export type EncryptionContext = Readonly<Record<string, string>>

/**
 * A context as the pieces that a token's AAD goes on with: name1, value1, name2, value2 …, names in the order of their UTF-8
 * bytes. Own enumerable string keys; absent equals `{}`; names and values may be empty.
 *
 * @throws ERR_INVALID_ARGUMENT unless undefined or a plain object whose values are strings, all well formed
 */
export function contextPieces(context: unknown): readonly string[] {
  if (context === undefined) return NO_PIECES
  if (typeof context !== 'object' || context === null || !isPlain(context)) {
    throw invalidArgument(`context must be a plain object of strings, got ${kindOf(context)}`)
  }
  const names = Object.keys(context)
  // Not JavaScript's own order, which compares UTF-16 units: it has U+1F600 before U+FF5E.
  if (names.length > 1) names.sort(compareUtf8)
  const pieces: string[] = []
  for (const name of names) {
    const value: unknown = (context as Record<string, unknown>)[name]
    if (typeof value !== 'string')
      throw invalidArgument(`context values must be strings, got ${kindOf(value)}`)
    if (!name.isWellFormed() || !value.isWellFormed()) {
      throw invalidArgument('context names and values must be well-formed Unicode, one has a lone surrogate')
    }
    pieces.push(name, value)
  }
  return pieces
}

const NO_PIECES: readonly string[] = []

/** No Map, Date or array: what they hold is in no own key, so that any two of them would be the same context. */
function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** A string is short for `{ column: … }`; null is no context. */
export type ColumnContext = string | EncryptionContext | null

/** The same for all rows, or made of each: give it something of the row that never changes, such as its id. */
export type ContextOf<Row> = ColumnContext | ((row: Row) => ColumnContext)

/** @throws ERR_INVALID_ARGUMENT */
export function contextMap(context: ColumnContext): EncryptionContext {
  if (context === null) return NO_CONTEXT
  const map = typeof context === 'string' ? { column: context } : context
  // Required, and null for none: a forgotten context would bind values to nothing but their user.
  if (map === undefined)
    throw invalidArgument("context is required, such as 'credentials.api_key', or null for none")
  contextPieces(map)
  return map
}

/**
 * Returns the function that makes a row's context. A fixed context is checked now.
 *
 * @throws ERR_INVALID_ARGUMENT, and so does the returned function. A context function's own error is replaced: it may quote the row
 */
export function contextMaker<Row>(context: ContextOf<Row>): (row: Row) => EncryptionContext {
  if (typeof context !== 'function') {
    const fixed = contextMap(context)
    return () => fixed
  }
  return (row) => {
    try {
      return contextMap(context(row))
    } catch (error) {
      throw isKeystoreError(error)
        ? error
        : invalidArgument('the context of the row cannot be made: its function threw')
    }
  }
}

const NO_CONTEXT: EncryptionContext = Object.freeze({})
