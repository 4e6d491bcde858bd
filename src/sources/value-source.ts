/** Where stored values lie: what the sweep reads and replaces, whether table, file or anything else. */

import { invalidArgument } from '../errors.js'
import { type ContextOf, contextMaker } from '../format/context.js'
import { kindOf } from '../validate.js'

/** Which row: its primary key, or of a composite one the parts in their order. */
export type ValueKey = string | number | bigint | readonly (string | number | bigint)[]

/** One stored value. */
export interface ValueCell<Row = unknown> {
  readonly key: ValueKey
  readonly column: string
  /** The user whose value it is. Null or absent: the shared pool's. */
  readonly owner?: string | null | undefined
  /** As it is stored. Null or absent: nothing is. */
  readonly value?: string | null | undefined
  /** The context that it is wanted under; a function is given the cell's row. Absent: what the sweep is told. */
  readonly context?: ContextOf<Row> | undefined
  /** What contexts are made of and legacy readers are given. */
  readonly row?: Row
}

/** Which value, as its cell said. */
export interface ValueRef {
  readonly key: ValueKey
  readonly column: string
  readonly owner: string | null
}

export interface ValueChange extends ValueRef {
  /** The value as it was read. */
  readonly from: string
  /** A token. */
  readonly to: string
}

/**
 * Values that the sweep can bring up to date. Anything can be one that has these two methods; what they throw ends the sweep.
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
   * All values, about `limit` rows at a time, each row once however long it takes and whatever others write meanwhile: in the order of a
   * unique key, from where the last page ended. A page is asked for when the one before has been replaced.
   */
  pages(page: {
    readonly limit: number
  }): AsyncIterable<readonly ValueCell<Row>[]> | Iterable<readonly ValueCell<Row>[]>
  /**
   * Writes `to` where `from` still stands, and in no other place: whoever wrote meanwhile wins. Each comparison and its write must be one
   * step for all writers.
   *
   * @returns those that were written, in any order
   */
  replace(
    changes: readonly ValueChange[],
  ): Promise<readonly Pick<ValueRef, 'key' | 'column'>[]> | readonly Pick<ValueRef, 'key' | 'column'>[]
  /** How many values `pages` gives, for progress. */
  count?(): Promise<number> | number
  /** True if nothing is written before `pages` has been read to its end, and all of it then. */
  readonly atOnce?: boolean
  close?(): Promise<void>
}

/** The columns of a source: their names, or their names with the context of each. */
export type SourceColumns<Row> = readonly string[] | Readonly<Record<string, ContextOf<Row>>>

/** @returns for each column its context, undefined if none is told @throws ERR_INVALID_ARGUMENT */
export function sourceColumns<Row>(columns: SourceColumns<Row>): Map<string, ContextOf<Row> | undefined> {
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
