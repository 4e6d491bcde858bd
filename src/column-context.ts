/** The context of a column's values, as columns, rows and sources of values name it. */
import { invalidArgument, isKeystoreError } from './errors.js'
import { contextPieces, type EncryptionContext } from './validate.js'

/** A string is short for `{ column: … }`; null is no context. */
export type ColumnContext = string | EncryptionContext | null

/** The same for all rows, or made of each: give it something of the row that never changes, such as its id. */
export type ContextOf<Row> = ColumnContext | ((row: Row) => ColumnContext)

/** @throws ERR_INVALID_ARGUMENT */
export function contextMap(context: ColumnContext): EncryptionContext {
  if (context === null) return NO_CONTEXT
  const map = typeof context === 'string' ? { column: context } : context
  // It must be said, also where there is none: a context that was forgotten binds values to nothing but their user.
  if (map === undefined)
    throw invalidArgument("context is required, such as 'credentials.api_key', or null for none")
  contextPieces(map)
  return map
}

/**
 * How to come from a row to its context. What never changes is checked now.
 *
 * @throws ERR_INVALID_ARGUMENT; the function returned throws it too, also for a context function that throws: its error may quote the row
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
