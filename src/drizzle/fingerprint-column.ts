/** How columns of fingerprints are declared and found, in both dialects. Imports no drizzle. */

import { invalidArgument, quoted } from '../errors.js'
import { type FingerprintKind, type FingerprintOptions, fingerprintKind } from '../format/fingerprint.js'
import type { FingerprintRole } from '../sources/value-source.js'
import { kindOf, ownOptions } from '../validate.js'
import type { TableParts } from './drizzle-table.js'
import { markOf } from './encrypted-column.js'

/** The options of {@link fingerprintText}. */
export interface FingerprintColumnOptions extends Partial<FingerprintOptions> {
  /** The property of the same table whose values are fingerprinted, such as `'apiKey'`: a column of `encryptedText`. */
  readonly of: string
  /** The name of the fingerprints. Default: the context of the column, if it is a string. Keep it when the column is renamed. */
  readonly name?: string
}

/** What a fingerprint column is of. It is kept on the column object, as the mark of an encrypted column is. */
interface FingerprintMark {
  readonly of: string
  readonly bits: number
  /** @param columnName of the encrypted column's context, undefined if that is no plain string */
  kindFor(columnName: string | undefined): FingerprintKind
}

const MARK = Symbol.for('drizzle-keystore/fingerprint-column')

/** @throws ERR_INVALID_ARGUMENT */
export function fingerprintMark(options: FingerprintColumnOptions): FingerprintMark {
  // A name alone leaves them undefined.
  const { of, name: given, ...how } = ownOptions(options ?? {})
  if (typeof of !== 'string' || of === '')
    throw invalidArgument(`of must be the property of the encrypted column, as 'apiKey', got ${kindOf(of)}`)
  // Now, and not at the first write: also where the name is still to come.
  const fixed = fingerprintKind({ ...how, name: given ?? '' })
  return {
    of,
    bits: fixed.bits,
    kindFor(columnName) {
      if (given !== undefined) return fixed
      if (columnName !== undefined) return fingerprintKind({ ...how, name: columnName })
      throw invalidArgument(
        `The fingerprints of ${quoted(of)} need a name, as in { of: ${quoted(of)}, name: 'credentials.api_key' }: its context is no string`,
      )
    },
  }
}

export function markFingerprint(column: object, mark: FingerprintMark): void {
  Object.defineProperty(column, MARK, { value: mark, enumerable: false })
}

/** @returns null unless it is a column of fingerprints */
export function fingerprintMarkOf(column: unknown): FingerprintMark | null {
  if (typeof column !== 'object' || column === null || !(MARK in column)) return null
  return column[MARK] as FingerprintMark
}

/** The fingerprint columns of a table, by property. @throws ERR_INVALID_ARGUMENT if one is of no column of `encryptedText` */
export function fingerprintRoles({ name, columns }: TableParts): Map<string, FingerprintRole> {
  const roles = new Map<string, FingerprintRole>()
  for (const [property, column] of columns) {
    const mark = fingerprintMarkOf(column)
    if (mark === null) continue
    const { of, kindFor } = mark
    const value = markOf(columns.get(of))
    if (value?.kind !== 'text')
      throw invalidArgument(
        `${quoted(property)} of table ${quoted(name)} is to hold fingerprints of ${quoted(of)}, which is no property with an encryptedText column`,
      )
    const { column: columnName, ...others } = value.context ?? {}
    roles.set(property, { of, kind: kindFor(Object.keys(others).length === 0 ? columnName : undefined) })
  }
  return roles
}
