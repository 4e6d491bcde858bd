/** Whose the values of a row are, where a function of the host application says it. */
import { invalidArgument, type KeystoreError } from '../errors.js'
import { kindOf } from '../validate.js'

/**
 * The id of the user whom a row's values belong to; a whole number counts as its decimal digits. Null: they belong to the shared pool, if
 * `pool: true` says so, and else they are reported. If it throws or returns anything else, such as undefined, the row's values are reported
 * and left as they are. It must not be async.
 */
export type OwnerOf<Row> = (row: Row) => string | number | bigint | null

export interface FoundOwner {
  readonly owner: string | null
  /** Why nobody's key can be used. */
  readonly defect?: KeystoreError
}

export function ownerFrom<Row>(ownerOf: OwnerOf<Row>, row: Row): FoundOwner {
  let found: unknown
  try {
    found = ownerOf(row)
  } catch {
    // The function's error may quote the row.
    return nobody('threw')
  }
  if (found === null || (typeof found === 'string' && found !== '')) return { owner: found }
  if (typeof found === 'bigint' || Number.isSafeInteger(found)) return { owner: String(found) }
  return nobody(`returned ${found === '' ? 'an empty text' : kindOf(found)}`)
}

function nobody(what: string): FoundOwner {
  const defect = invalidArgument(
    `Its owner cannot be told: the owner function ${what}. It must return the user's id, or null for the shared pool's (with pool: true)`,
  )
  return { owner: null, defect }
}
