/** A Drizzle table as a source of values for the sweep, through the host's own connection. */

import { invalidArgument } from '../errors.js'
import type { ContextOf } from '../format/context.js'
import type { SqlTable } from '../sources/table.js'
import { tableOn } from '../sources/table-on.js'
import { tableSource } from '../sources/table-source.js'
import { contextsByColumn, type ValueSource } from '../sources/value-source.js'
import { kindOf } from '../validate.js'
import { columnName, type DrizzleColumn, type DrizzleTable, partsOf } from './drizzle-table.js'
import { markOf } from './encrypted-column.js'

/** The host's drizzle db, on better-sqlite3 or node-postgres. */
export interface DrizzleDb {
  readonly $client: unknown
}

/** A table's row, as it is selected, but with its encrypted columns as they are stored. */
export type DrizzleRow<Table extends DrizzleTable> = Table['$inferSelect']

/** By the names of the table's properties. */
export interface DrizzleSourceOptions<Row> {
  /** The columns of its primary key, or of another unique one. */
  readonly key: (keyof Row & string) | readonly (keyof Row & string)[]
  /** The column with the user's id; a number counts as its decimal digits. Null: all values are the shared pool's. */
  readonly owner: (keyof Row & string) | null
  /**
   * The columns with values. One without a context here has the one that `encryptedText` or `encryptedJson` was given; any other is
   * swept under the context that `reencrypt` is told.
   */
  readonly columns:
    | readonly (keyof Row & string)[]
    | { readonly [Column in keyof Row & string]?: ContextOf<Row> }
}

/**
 * A table as a source of values for `reencrypt`. Context functions are given the row with all of its columns; without such functions it
 * holds key, owner and values.
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
  const plan = planOf(table, options, db)
  return sourceOn(tableOn(db.$client, plan.shape), plan)
}

/** A source of a table, before there is a connection. */
export type TablePlan<Row> = ReturnType<typeof planOf<Row>>

/** @param db whose `casing` counts; null: column names are as the table has them */
export function planOf<Row>(table: unknown, options: DrizzleSourceOptions<Row>, db: unknown) {
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`options must be an object, got ${kindOf(options)}`)
  const { name, schema, columns } = partsOf(table)
  const columnOf = (what: string, property: unknown): DrizzleColumn => {
    const column = typeof property === 'string' ? columns.get(property) : undefined
    if (column !== undefined) return column
    const given = typeof property === 'string' ? JSON.stringify(property) : kindOf(property)
    throw invalidArgument(
      `${what} must be the name of a property of table ${JSON.stringify(name)}, got ${given}`,
    )
  }
  const nameOf = (what: string, property: unknown) => columnName(columnOf(what, property), db)

  const { key, owner } = options
  const keys: readonly unknown[] = Array.isArray(key) ? key : [key]
  if (keys.length === 0) throw invalidArgument('key must name at least one column')
  const swept = Array.from(
    contextsByColumn<Row>(options.columns as Record<string, ContextOf<Row>>),
    ([property, told]) => {
      const column = columnOf('columns', property)
      const context = told === undefined ? (markOf(column)?.context ?? undefined) : told
      return { name: property, column: columnName(column, db), context }
    },
  )
  const shape = {
    table: name,
    schema,
    key: keys.map((property) => nameOf('key', property)),
    owner: owner === null ? null : nameOf('owner, or null for values of the shared pool,', owner),
    columns: swept.map(({ column }) => column),
    wholeRows: swept.some(({ context }) => typeof context === 'function'),
    // As Drizzle itself has them for its columns to read.
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
      if (name in values) Object.defineProperty(row, property, decoded(column, values[name]))
    }
    return row as Row
  }
  return { shape, columns: swept, rowOf }
}

export function sourceOn<Row>(table: SqlTable, { columns, rowOf }: TablePlan<Row>): ValueSource<Row> {
  return tableSource<Row>(table, { columns, rowOf })
}

/**
 * An encrypted column's value stays a token: there is no scope here. A value that its column cannot read fails only whoever asks for it,
 * and without the column's own error, which may quote it.
 */
function decoded(column: DrizzleColumn, value: unknown): PropertyDescriptor {
  try {
    const isRaw = value === null || markOf(column) !== null
    return { enumerable: true, value: isRaw ? value : column.mapFromDriverValue(value) }
  } catch {
    return {
      enumerable: true,
      get() {
        throw invalidArgument(`column ${JSON.stringify(column.name)} holds what its type cannot read`)
      },
    }
  }
}
