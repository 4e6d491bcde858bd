/** Encryption contexts: what callers pass, the pieces that AADs are made of, and how a column's values come to theirs. */
import { invalidArgument, isKeystoreError, quoted } from '../errors.js'
import { compareUtf8 } from '../table.js'
import { isPlainObject, kindOf } from '../validate.js'

/** The caller's name → value map: authenticated by v3 tokens, not stored in them; v2 tokens ignore it. */
export type EncryptionContext = Readonly<Record<string, string>>

/**
 * A context as the pieces that a token's AAD goes on with: name1, value1, name2, value2 …, names in the order of their UTF-8
 * bytes. Absent equals `{}`; names and values may be empty.
 *
 * @throws ERR_INVALID_ARGUMENT unless undefined or a plain object of well-formed strings. Names that would be left out (symbols, names
 *   that are not enumerable, inherited names) are refused
 */
export function contextPieces(context: unknown): readonly string[] {
  if (context === undefined) return NO_PIECES
  const known = PIECES_OF_COPIES.get(context as object)
  if (known !== undefined) return known
  try {
    return piecesOf(context)
  } catch (error) {
    if (isKeystoreError(error)) throw error
    // What a getter or a Proxy threw may hold the plaintext.
    throw invalidArgument('context cannot be read: a getter of it threw')
  }
}

function piecesOf(context: unknown): readonly string[] {
  if (!isPlainObject(context))
    throw invalidArgument(`context must be a plain object of strings, got ${kindOf(context)}`)
  const names = Object.keys(context)
  // Half the time that Reflect.ownKeys takes.
  const isHidden = Object.getOwnPropertyNames(context).length !== names.length
  if (isHidden || Object.getOwnPropertySymbols(context).length > 0)
    throw invalidArgument('context must have enumerable string names only: others would not be authenticated')
  // Not JavaScript's own order, which compares UTF-16 units: it has U+1F600 before U+FF5E.
  if (names.length > 1) names.sort(compareUtf8)
  const pieces: string[] = []
  for (const name of names) {
    const value: unknown = (context as Record<string, unknown>)[name]
    if (typeof value !== 'string')
      throw invalidArgument(`context values must be strings, and that of ${quoted(name)} is ${kindOf(value)}`)
    if (!name.isWellFormed() || !value.isWellFormed()) {
      throw invalidArgument('context names and values must be well-formed Unicode, one has a lone surrogate')
    }
    pieces.push(name, value)
  }
  return pieces
}

const NO_PIECES: readonly string[] = []

/** Of the frozen copies that {@link contextMap} makes, which have no getters. A caller's own object may be another one at its next use. */
const PIECES_OF_COPIES = new WeakMap<object, readonly string[]>()

/** The entry `column` of a context, for events. @param pieces of {@link contextPieces} */
export function columnIn(pieces: readonly string[]): { readonly column?: string } {
  for (let at = 0; at < pieces.length; at += 2) {
    if (pieces[at] === 'column') return { column: pieces[at + 1] as string }
  }
  return {}
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
  return mapOf(contextPieces(map))
}

/** A copy: a getter is asked once, and the caller may go on to change their own. */
function mapOf(pieces: readonly string[]): EncryptionContext {
  const entries: [string, string][] = []
  for (let at = 0; at < pieces.length; at += 2) entries.push([pieces[at] as string, pieces[at + 1] as string])
  const copy: EncryptionContext = Object.freeze(Object.fromEntries(entries))
  PIECES_OF_COPIES.set(copy, pieces)
  return copy
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
