/** One table of the host's, as the sweep uses it, whichever dialect. */
import { invalidArgument } from '../errors.js'
import { kindOf } from '../validate.js'
import type { ValueChange, ValueKey, ValueRef } from './value-source.js'

/** What is read of a table and what is replaced in it. All names are the database's own. */
export interface TableShape {
  /** Postgres only. Absent: as the search path has it. */
  readonly schema?: string | undefined
  readonly table: string
  /** The columns of a unique key. */
  readonly key: readonly string[]
  /** The column with the user's id; null: the values are the shared pool's. */
  readonly owner: string | null
  /** The columns with values. */
  readonly columns: readonly string[]
  /** Read all columns. */
  readonly wholeRows: boolean
  /** Postgres only. Give dates and times as the database shows them, not as what the driver makes of them. */
  readonly datesAsText?: boolean
}

export interface TableRow {
  readonly key: ValueKey
  /** As text, whatever type the column has. */
  readonly owner: string | null
  /** As the driver gives them, by column. */
  readonly values: Readonly<Record<string, unknown>>
}

export interface SqlTable {
  readonly shape: TableShape
  /** @throws ERR_INVALID_ARGUMENT if the database has no such table, column or unique key · ERR_STORE */
  check(): Promise<Catalog>
  /** All rows, by keyset in the order of the key. */
  pages(limit: number): AsyncGenerator<readonly TableRow[], void, undefined>
  /** The last rows in the order of the key. */
  lastRows(limit: number): Promise<readonly TableRow[]>
  /** Whoever wrote first wins. @returns those that were replaced */
  replace(changes: readonly ValueChange[]): Promise<readonly ValueRef[]>
  countRows(): Promise<number>
}

/** A column, as the database's catalogue has it. */
export interface CatalogColumn {
  readonly name: string
  /** As SQL. */
  readonly type: string
  readonly nullable: boolean
  readonly isText: boolean
}

/** What the catalogue says of a table. */
export interface Catalog {
  readonly columns: readonly CatalogColumn[]
  /** The columns of each unique index over whole rows. */
  readonly uniqueKeys: readonly (readonly string[])[]
}

/** A name, whatever is in it, as an identifier of both dialects (SQL:2016 §5.2: a quote in it is doubled). */
export function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

export function partsOf(key: ValueKey): readonly (string | number | bigint)[] {
  return typeof key === 'object' ? key : [key]
}

export function keyOf(parts: readonly (string | number | bigint)[]): ValueKey {
  return parts.length === 1 ? (parts[0] as ValueKey) : parts
}

/** Changes by their columns. */
export function byColumn(changes: readonly ValueChange[]): Map<string, ValueChange[]> {
  const groups = new Map<string, ValueChange[]>()
  for (const change of changes) {
    const group = groups.get(change.column)
    if (group) group.push(change)
    else groups.set(change.column, [change])
  }
  return groups
}

/** A whole number as a number where that is exact. */
export function exactNumber(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}

/**
 * A column that is not there must be found now: SQLite takes its quoted name for a text. A key that is not unique would lose the rows
 * that fall between two pages.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export function assertShape(shape: TableShape, { columns, uniqueKeys }: Catalog): void {
  const { table, key, owner, columns: swept } = shape
  const names = new Set(columns.map(({ name }) => name))
  for (const name of [...key, ...(owner === null ? [] : [owner]), ...swept]) {
    if (!names.has(name)) throw invalidArgument(`table ${quoted(table)} has no column ${quoted(name)}`)
  }
  for (const name of swept) {
    if (key.includes(name) || name === owner)
      throw invalidArgument(
        `column ${quoted(name)} cannot be swept: it is part of the key, or names the owner`,
      )
    const column = columns.find((column) => column.name === name)
    if (column?.isText === false)
      throw invalidArgument(`column ${quoted(name)} must be of text to hold tokens, it is ${column.type}`)
  }
  if (!uniqueKeys.some((unique) => unique.every((name) => key.includes(name)))) {
    throw invalidArgument(
      `key ${key.map(quoted).join(', ')} of table ${quoted(table)} must be unique: name its primary key, or columns with a unique index`,
    )
  }
}

export function noTable(name: string): Error {
  return invalidArgument(`there is no table ${name} in this database`)
}

/** Such a token would be lost, and what it holds with it. */
export const ALTERED = 'a trigger alters what is written to it, so nothing was'

/** Pages by key never come to a row without one. */
export function nullKeys({ table, key }: TableShape): Error {
  return invalidArgument(
    `table ${quoted(table)} has rows whose ${key.map(quoted).join(', ')} is null: give them a key first`,
  )
}

/** @throws ERR_INVALID_ARGUMENT unless a non-empty string */
export function assertName(what: string, name: unknown): asserts name is string {
  if (typeof name !== 'string' || name === '' || name.includes('\0'))
    throw invalidArgument(
      `${what} must be a name, got ${typeof name === 'string' ? 'one that is none' : kindOf(name)}`,
    )
}
