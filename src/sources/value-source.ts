/** Where values are stored: a table, a file or anything else whose values the sweep reads and replaces. */

import { invalidArgument, type KeystoreError } from '../errors.js'
import { type ContextOf, contextMaker } from '../format/context.js'
import type { FingerprintKind } from '../format/fingerprint.js'
import { kindOf } from '../validate.js'
import type { SourceFinding } from './finding.js'

/** Names a row: its primary key, or the parts of a composite one in their order. */
export type ValueKey = string | number | bigint | readonly (string | number | bigint)[]

/** One stored value. */
export interface ValueCell<Row = unknown> {
  readonly key: ValueKey
  readonly column: string
  /** Of a value that is a part of a larger one, such as a field of JSON: the column of the whole. It is replaced with the others there. */
  readonly container?: string | undefined
  /** The user whom the value belongs to. Null: it belongs to the shared pool, if {@link ValueSource.pool} says so. Absent: it is reported. */
  readonly owner?: string | null | undefined
  /** The stored value. Null or absent: there is none. */
  readonly value?: string | null | undefined
  /** The context to encrypt it under; a function is given the cell's row. Absent: the context that the sweep is given. */
  readonly context?: ContextOf<Row> | undefined
  /** What context functions and legacy readers are given. */
  readonly row?: Row
  /** Whether its plaintext must be JSON, as that of an `encryptedJson` column: what is none is reported and left as it is. */
  readonly isJson?: boolean
  /** Absent: it is a value. Else it is the fingerprint of one: the sweep makes it anew if it does not match. */
  readonly fingerprint?: FingerprintRole | undefined
  /** Why nothing can be done with it: its key or its owner cannot be read without loss. It is reported and left as it is. */
  readonly defect?: KeystoreError | undefined
}

/** Names a value, with what its cell said. */
export interface ValueRef {
  /** Which row, or which place in another source. */
  readonly key: ValueKey
  /** Which of its values. */
  readonly column: string
  /** The user's id; null: the shared pool's. */
  readonly owner: string | null
}

export interface ValueChange extends ValueRef {
  /** The value as it was read. */
  readonly from: string
  /** A token. */
  readonly to: string
}

/** What a stored fingerprint is made of. */
export interface FingerprintRole {
  /** The column of the value, whose cell the same page has. */
  readonly of: string
  readonly kind: FingerprintKind
}

/** A change of a fingerprint, which is written only while the value, too, is as it was read. */
export interface FingerprintChange extends ValueRef {
  readonly from: string | null
  readonly to: string | null
  readonly of: { readonly column: string; readonly value: string | null }
}

/** Which part of all rows is read next. */
export interface PageOrder {
  /** @param count into how many parts the rows are cut, from the first to the last key */
  begin(count: number): void
  /** The index of a part, each once; null when all were given, or if the work is over before. */
  next(): number | null
  /** Ask between two steps of looking for the parts: whether the work is over, since its `signal` was aborted. */
  isOver(): boolean
}

/**
 * Values that `reencrypt` can bring up to date. Any object with the first two methods is one. An error that they throw ends the sweep.
 *
 * @example
 * const values = new Map([['alice', 'sk-…']])
 * const source = {
 *   *pages() {
 *     yield Array.from(values, ([owner, value]) => ({ key: owner, column: 'apiKey', owner, value }))
 *   },
 *   replace: (changes) => changes.filter(({ key, from, to }) => values.get(key) === from && values.set(key, to)),
 * }
 */
export interface ValueSource<Row = unknown> {
  /**
   * All values, about `limit` rows a page. Gives each row once, however long it takes and whatever others write meanwhile: go in the
   * order of a unique key, and begin each page after the last key of the page before. The sweep asks for a page once it has replaced
   * the values of the one before.
   *
   * @param page `order`, if there is one, may be ignored: it says which pages come first, so that several sweeps at the same time help each other
   */
  pages(page: {
    readonly limit: number
    readonly order?: PageOrder
  }): AsyncIterable<readonly ValueCell<Row>[]> | Iterable<readonly ValueCell<Row>[]>
  /**
   * Writes `to` only where the value still is `from`, so that no value is lost that somebody else wrote meanwhile. Each comparison and
   * its write must be atomic.
   *
   * @returns the changes that were written, in any order
   */
  replace(
    changes: readonly ValueChange[],
  ): Promise<readonly Pick<ValueRef, 'key' | 'column'>[]> | readonly Pick<ValueRef, 'key' | 'column'>[]
  /** {@link replace} for fingerprints. Required only of a source whose pages have some. */
  replaceFingerprints?(
    changes: readonly FingerprintChange[],
  ): Promise<readonly Pick<ValueRef, 'key' | 'column'>[]> | readonly Pick<ValueRef, 'key' | 'column'>[]
  /**
   * For a dry run: makes changes of one column as {@link replace} would, and takes them back. Values with a `container` are of that column.
   *
   * @returns what refuses or alters them there, and what they set off; quotes no value
   */
  foresee?(changes: readonly ValueChange[]): Promise<readonly SourceFinding[]>
  /** Whether values whose owner is null belong to the shared pool. Default false: they are reported and left as they are. */
  readonly pool?: boolean
  /** How many values `pages` gives, for reports of progress. */
  count?(): Promise<number> | number
  /**
   * True if `replace` also takes the changes of the page before the one that was read last: the sweep then reads and opens a page while the one
   * before is being written. Default false.
   */
  readonly keepsTwoPages?: boolean
  /** True if the changes are written all at once, when `pages` has been read to its end. */
  readonly atOnce?: boolean
  close?(): Promise<void>
}

/** The columns of a source: their names, or an object with the context of each name. */
export type SourceColumns<Row> = readonly string[] | Readonly<Record<string, ContextOf<Row>>>

/** An option of every source. */
export interface PoolOption {
  /**
   * Whether values whose owner is null belong to the shared pool. Default false: they are reported and left as they are, since the pool's
   * key opens them for everybody. True by itself where the source has no owners at all (`owner: null`).
   */
  readonly pool?: boolean
}

/** A text for a key, as of a map. */
export function keyText(key: ValueKey): string {
  if (typeof key === 'number') return String(key)
  if (typeof key === 'string') return JSON.stringify(key)
  return JSON.stringify(key, (_, part) => (typeof part === 'bigint' ? `${part}n` : part))
}

/** A map key for a value's place. */
export function valueRefKey({ key, column }: Pick<ValueRef, 'key' | 'column'>): string {
  return `${JSON.stringify(column)} ${keyText(key)}`
}

/** @throws ERR_INVALID_ARGUMENT */
export function poolOf({ owner, pool = owner === null }: PoolOption & { readonly owner: unknown }): boolean {
  if (typeof pool !== 'boolean') throw invalidArgument(`pool must be a boolean, got ${kindOf(pool)}`)
  return pool
}

/** The context of each column, undefined where none is given. @throws ERR_INVALID_ARGUMENT */
export function contextsByColumn<Row>(columns: SourceColumns<Row>): Map<string, ContextOf<Row> | undefined> {
  if (typeof columns !== 'object' || columns === null)
    throw invalidArgument(
      `columns must be an array of names or an object of contexts, got ${kindOf(columns)}`,
    )
  const entries: [string, ContextOf<Row> | undefined][] = Array.isArray(columns)
    ? columns.map((name) => [name, undefined])
    : Object.entries(columns)
  if (entries.length === 0) throw invalidArgument('columns must name at least one')
  for (const [name, context] of entries) {
    if (typeof name !== 'string' || name === '') throw invalidArgument('columns must be names')
    if (!Array.isArray(columns)) contextMaker(context as ContextOf<Row>)
  }
  return new Map(entries)
}
