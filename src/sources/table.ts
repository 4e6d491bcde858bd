/** One table of the host application as the sweep reads and changes it, in either dialect. */
import { invalidArgument, KeystoreError, printable, quoted, StoreError } from '../errors.js'
import { kindOf } from '../validate.js'
import type { Refusal } from './finding.js'
import type { FingerprintChange, PageOrder, ValueChange, ValueKey } from './value-source.js'

/** Which columns of a table are read and replaced. All names are those of the database. */
export interface TableShape {
  /** Postgres only. Absent: the search path decides. */
  readonly schema?: string | undefined
  readonly table: string
  /** The columns of a unique key. */
  readonly key: readonly string[]
  /** The column with the user's id; null: there is none. */
  readonly owner: string | null
  /**
   * Whether the application makes the owner of the whole row. What rows have as owner is then the text of all columns but those with values
   * and fingerprints, so that a value is replaced only if nothing has changed of what its owner may depend on.
   */
  readonly ownerOfRow?: boolean
  /** The columns with values. */
  readonly columns: readonly string[]
  /** Those of them that hold JSON, with values in its fields: they are read and compared as text, whatever their type. */
  readonly json?: readonly string[]
  /** The columns with fingerprints of values. */
  readonly fingerprints?: readonly string[]
  /** Whether to read all columns. */
  readonly wholeRows: boolean
  /** Postgres only: whether to read dates and times as the database's text, instead of what the driver makes of them. */
  readonly datesAsText?: boolean
}

export interface TableRow {
  readonly key: ValueKey
  /** As text, whatever type the column has. Null where the shape has no owner. */
  readonly owner: string | null
  /** By column, as the driver returns them. */
  readonly values: Readonly<Record<string, unknown>>
  /** Why the row cannot be swept. Its key and owner are then what can be shown of them. */
  readonly defect?: KeystoreError
}

export interface SqlTable {
  readonly shape: TableShape
  /** Compares the shape with the database. @throws ERR_INVALID_ARGUMENT if it has no such table, column or unique key · ERR_STORE */
  check(): Promise<Catalog>
  /** All rows in the order of the key, or in another one. Each page begins after the last key of a page before. */
  pages(limit: number, order?: PageOrder): AsyncGenerator<readonly TableRow[], void, undefined>
  /** The last rows in the order of the key. */
  lastRows(limit: number): Promise<readonly TableRow[]>
  /** Replaces each value that is still as it was read. @returns those of `changes` that were made */
  replace(changes: readonly ColumnChange[]): Promise<readonly ColumnChange[]>
  countRows(): Promise<number>
  /** Makes changes of one column and takes them back. @returns why the database refuses them; null if it does not */
  tryOut(changes: readonly ColumnChange[]): Promise<Refusal | null>
  /** What changes of values set off in the table. */
  sideEffects(): Promise<SideEffects>
}

export interface SideEffects {
  /** The names of triggers that run at an update. */
  readonly triggers: readonly string[]
  /** The names of generated columns, each with a column that it is made of, or null if that is not known. */
  readonly generated: readonly (readonly [name: string, of: string | null])[]
}

/** A change of a value, or of a fingerprint as long as its value is as it was read. */
export type ColumnChange = ValueChange | FingerprintChange

/** What a change depends on besides its own column. */
export function valueBeside(change: ColumnChange): FingerprintChange['of'] | null {
  return 'of' in change ? change.of : null
}

/** A column in the database's catalogue. */
interface CatalogColumn {
  readonly name: string
  /** As SQL names it. */
  readonly type: string
  readonly nullable: boolean
  readonly isText: boolean
}

/** A table in the database's catalogue. */
export interface Catalog {
  readonly columns: readonly CatalogColumn[]
  /** The columns of each unique index over whole rows. */
  readonly uniqueKeys: readonly (readonly string[])[]
}

/** Types of columns that hold JSON and are no text. */
export const JSON_TYPES = /^jsonb?$/

/** Quotes any name as an identifier of both dialects (SQL:2016 §5.2: doubles quotes in it). */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** The columns that an owner may depend on which is made of the row. */
export function ownerColumns({ columns, fingerprints = [] }: TableShape, catalog: Catalog): string[] {
  const swept = new Set([...columns, ...fingerprints])
  return catalog.columns.map(({ name }) => name).filter((name) => !swept.has(name))
}

/** The names of the columns to select: the key, the columns with values or all columns, and the owner. */
export function selectedColumns(shape: TableShape, catalog: Catalog): string[] {
  const { key, owner, columns, fingerprints = [], wholeRows, ownerOfRow } = shape
  const read =
    wholeRows || ownerOfRow ? catalog.columns.map(({ name }) => name) : [...columns, ...fingerprints]
  return [...new Set([...key, ...read, ...(owner === null ? [] : [owner])])]
}

export function keyParts(key: ValueKey): readonly (string | number | bigint)[] {
  return typeof key === 'object' ? key : [key]
}

/** The values of a row by the names of their columns. A loop takes a third of what `Object.fromEntries` does, which is for a name that would be set otherwise. */
export function namedValues(
  names: readonly string[],
  valueAt: (index: number) => unknown,
): Record<string, unknown> {
  if (names.includes('__proto__'))
    return Object.fromEntries(names.map((name, index) => [name, valueAt(index)]))
  const values: Record<string, unknown> = {}
  for (let at = 0; at < names.length; at += 1) values[names[at] as string] = valueAt(at)
  return values
}

export function keyFromParts(parts: readonly (string | number | bigint)[]): ValueKey {
  return parts.length === 1 ? (parts[0] as ValueKey) : parts
}

export function groupByColumn(changes: readonly ColumnChange[]): Map<string, ColumnChange[]> {
  const groups = new Map<string, ColumnChange[]>()
  for (const change of changes) {
    const group = groups.get(change.column)
    if (group) group.push(change)
    else groups.set(change.column, [change])
  }
  return groups
}

/** Returns a number if it is exact, else the bigint. */
export function exactNumber(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}

/**
 * Checks a shape against the catalogue. A missing column must be found here: SQLite would take its quoted name for a string. So must a
 * key that is not unique: the pages would skip rows.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export function assertShape(shape: TableShape, { columns, uniqueKeys }: Catalog): void {
  const { table, key, owner, columns: values, fingerprints = [] } = shape
  const swept = [...values, ...fingerprints]
  const names = new Set(columns.map(({ name }) => name))
  for (const name of [...key, ...(owner === null ? [] : [owner]), ...swept]) {
    if (!names.has(name)) throw noColumn(table, name, names)
  }
  for (const name of swept) {
    if (key.includes(name) || name === owner)
      throw invalidArgument(
        `column ${quoted(name)} cannot be swept: it is part of the key, or names the owner`,
      )
    const column = columns.find((column) => column.name === name)
    const isJson = shape.json?.includes(name) && JSON_TYPES.test(column?.type ?? '')
    if (column?.isText === false && !isJson) throw new ColumnTypeError(name, column.type)
  }
  if (!uniqueKeys.some((unique) => unique.every((name) => key.includes(name)))) {
    throw invalidArgument(
      `key ${key.map(quoted).join(', ')} of table ${quoted(table)} must be unique: name its primary key, or columns with a unique index`,
    )
  }
}

/** A column that holds no text. */
export class ColumnTypeError extends KeystoreError {
  /** As the database calls it. */
  readonly columnName: string

  constructor(column: string, type: string) {
    const ofJson = JSON_TYPES.test(type)
      ? ` (using ${printable(quoteIdentifier(column))}::text), or declare it with encryptedFields to encrypt some of its fields`
      : ''
    super(
      'ERR_INVALID_ARGUMENT',
      `column ${quoted(column)} must be of text to hold tokens or fingerprints, it is ${printable(type)}: make it of type text first, in a migration of its own${ofJson}`,
    )
    this.columnName = column
  }
}

function noColumn(table: string, name: string, names: ReadonlySet<string>): KeystoreError {
  const snake = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
  const hint =
    snake !== name && names.has(snake)
      ? `: it has ${quoted(snake)}. Name the column so in the schema, or give the casing of your drizzle db (--casing snake_case)`
      : ''
  return invalidArgument(`table ${quoted(table)} has no column ${quoted(name)}${hint}`)
}

export function tableNotFound(name: string): Error {
  return invalidArgument(`there is no table ${printable(name)} in this database`)
}

/** The error for rows with a null in the key: pages by key would skip them. */
export function nullKeyError({ table, key }: TableShape): Error {
  return invalidArgument(
    `table ${quoted(table)} has rows whose ${key.map(quoted).join(', ')} is null: give them a key first`,
  )
}

/** The error for a page that ends with the row that the page before it ended with: the pages would never end. */
export function samePageError({ table }: TableShape): Error {
  return new StoreError(
    `The sweep reads the same rows of table ${printable(table)} again and again: name another unique key`,
  )
}

/** @throws ERR_INVALID_ARGUMENT unless it is a non-empty string without NUL */
export function assertName(what: string, name: unknown): asserts name is string {
  if (typeof name !== 'string' || name === '' || name.includes('\0'))
    throw invalidArgument(
      `${what} must be a name, got ${typeof name === 'string' ? 'one that is none' : kindOf(name)}`,
    )
}
