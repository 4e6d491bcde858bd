/** Makes a Drizzle table a source of values for the sweep, on the host's own connection. */

import { invalidArgument, quoted } from '../errors.js'
import type { ContextOf } from '../format/context.js'
import type { OwnerOf } from '../sources/owner.js'
import { tableOn } from '../sources/table-on.js'
import { tableSource } from '../sources/table-source.js'
import { contextsByColumn, type PoolOption, poolOf, type ValueSource } from '../sources/value-source.js'
import { kindOf, ownOptions } from '../validate.js'
import {
  columnName,
  type DrizzleColumn,
  type DrizzleTable,
  decodedValue,
  tablePartsOf,
} from './drizzle-table.js'
import { markOf } from './encrypted-column.js'
import { fingerprintRoles } from './fingerprint-column.js'

/** The host's drizzle db, on a driver that the stores take. No transaction. */
export type DrizzleDb =
  | { readonly $client: unknown }
  // Drizzle's classes, such as BetterSQLite3Database, do not declare the client, which every db that `drizzle()` makes has.
  | { readonly $client?: unknown; select(...args: never[]): unknown; transaction(...args: never[]): unknown }

/** A table's row as Drizzle selects it, but with encrypted columns as they are stored: as tokens. */
export type DrizzleRow<Table extends DrizzleTable> = Table['$inferSelect']

/** Columns go by the table's property names. */
export interface DrizzleSourceOptions<Row> extends PoolOption {
  /** The columns of the primary key or of another unique key. */
  readonly key: (keyof Row & string) | readonly (keyof Row & string)[]
  /**
   * The column with the user's id, where a number counts as its decimal digits; or a function of the row, which is given all of its columns.
   * Null: all values belong to the shared pool.
   */
  readonly owner: (keyof Row & string) | OwnerOf<Row> | null
  /**
   * The columns with values, with or without their contexts. A column of `encryptedText`, `encryptedJson` or `encryptedFields` without a context here has
   * the one it declares. Any other column without one has the `context` of `reencrypt`.
   */
  readonly columns:
    | readonly (keyof Row & string)[]
    | { readonly [Column in keyof Row & string]?: ContextOf<Row> }
}

/**
 * Makes a Drizzle table a source of values for `reencrypt`, and of the fingerprints of these values in columns of `fingerprintText`. The rows given to functions have all columns. If there is no function of the row, legacy
 * readers are given rows with key, owner and values only.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const source = drizzleSource(db, credentials, { key: 'id', owner: 'userId', columns: ['apiKey'] })
 */
export function drizzleSource<Table extends DrizzleTable>(
  db: DrizzleDb,
  table: Table,
  options: DrizzleSourceOptions<DrizzleRow<Table>>,
): ValueSource<DrizzleRow<Table>> {
  if (typeof db !== 'object' || db === null)
    throw invalidArgument(`db must be a drizzle db, got ${kindOf(db)}`)
  const plan = tablePlan(table, options, db)
  return tableSource(tableOn(db.$client, plan.shape), plan)
}

/** What a source needs to know of a table, without a connection. */
export type TablePlan<Row> = ReturnType<typeof tablePlan<Row>>

/** @param db the drizzle db whose `casing` option and decoding apply; null: column names are as the table has them */
export function tablePlan<Row>(table: unknown, options: DrizzleSourceOptions<Row>, db: unknown) {
  options = ownOptions(options)
  const parts = tablePartsOf(table)
  const { name, schema, columns } = parts
  const columnOf = (what: string, property: unknown): DrizzleColumn => {
    const column = typeof property === 'string' ? columns.get(property) : undefined
    if (column !== undefined) return column
    const given = typeof property === 'string' ? quoted(property) : kindOf(property)
    throw invalidArgument(`${what} must be the name of a property of table ${quoted(name)}, got ${given}`)
  }
  const nameOf = (what: string, property: unknown) => columnName(columnOf(what, property), db)

  const { key, owner } = options
  const keys: readonly unknown[] = Array.isArray(key) ? key : [key]
  if (keys.length === 0) throw invalidArgument('key must name at least one column')
  const swept = Array.from(
    contextsByColumn<Row>(options.columns as Record<string, ContextOf<Row>>),
    ([property, given]) => {
      const column = columnOf('columns', property)
      const mark = markOf(column)
      if (mark?.owner === 'pool' && owner !== null)
        throw invalidArgument(
          `${quoted(property)} of table ${quoted(name)} holds values of the pool: give it a source of its own, with owner: null`,
        )
      const context = given === undefined ? (mark?.context ?? undefined) : given
      const isJson = mark?.kind === 'json'
      return { name: property, column: columnName(column, db), context, isJson, fields: mark?.fields }
    },
  )
  const fingerprints = Array.from(fingerprintRoles(parts), ([property, role]) => ({
    ...role,
    name: property,
    column: nameOf('a fingerprint column', property),
  })).filter(({ of }) => swept.some((value) => value.name === of))
  const shape = {
    table: name,
    schema,
    key: keys.map((property) => nameOf('key', property)),
    owner:
      owner === null || typeof owner === 'function'
        ? null
        : nameOf('owner, or a function of the row, or null for values of the shared pool,', owner),
    ownerOfRow: typeof owner === 'function',
    columns: swept.map(({ column }) => column),
    json: swept.filter(({ fields }) => fields !== undefined).map(({ column }) => column),
    fingerprints: fingerprints.map(({ column }) => column),
    wholeRows: swept.some(({ context }) => typeof context === 'function'),
    // Drizzle's columns decode dates from text.
    datesAsText: true,
  }
  const properties = Array.from(columns, ([property, column]) => ({
    property,
    column,
    name: columnName(column, db),
  }))
  const rowOf = (values: Readonly<Record<string, unknown>>): Row => {
    const row = {}
    for (const { property, column, name } of properties) {
      if (name in values) Object.defineProperty(row, property, decodedProperty(column, values[name], db))
    }
    return row as Row
  }
  const ownerOf = typeof owner === 'function' ? owner : undefined
  return { shape, columns: swept, fingerprints, pool: poolOf(options), ownerOf, rowOf }
}

/**
 * A property of a row, decoded by its column. An encrypted column's value stays a token, because there is no scope to decrypt it in.
 * If the column cannot decode a value, reading the property throws; the column's own error is left out, since it may quote the value.
 */
function decodedProperty(column: DrizzleColumn, value: unknown, db: unknown): PropertyDescriptor {
  try {
    const isRaw = value === null || markOf(column) !== null
    return { enumerable: true, value: isRaw ? value : decodedValue(column, value, db) }
  } catch {
    return {
      enumerable: true,
      get() {
        throw invalidArgument(`column ${quoted(column.name)} holds what its type cannot read`)
      },
    }
  }
}
