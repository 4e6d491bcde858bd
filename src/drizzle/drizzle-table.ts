/** What is read of Drizzle's tables, structurally: the host may have another copy of drizzle-orm, and this file imports none. */
import { invalidArgument } from '../errors.js'

/** A table of `sqliteTable` or `pgTable`. */
export interface DrizzleTable {
  /** Of types only. */
  readonly $inferSelect: object
}

export interface DrizzleColumn {
  readonly name: string
  readonly primary: boolean
  mapFromDriverValue(value: unknown): unknown
}

const NAME = Symbol.for('drizzle:Name')
const SCHEMA = Symbol.for('drizzle:Schema')
const COLUMNS = Symbol.for('drizzle:Columns')

export interface TableParts {
  readonly name: string
  readonly schema: string | undefined
  /** By the names of their properties. */
  readonly columns: ReadonlyMap<string, DrizzleColumn>
}

/** @throws ERR_INVALID_ARGUMENT unless a table of Drizzle's */
export function partsOf(table: unknown): TableParts {
  const parts = partsOfAny(table)
  if (parts === null)
    throw invalidArgument('table must be a table of Drizzle, such as sqliteTable and pgTable make')
  return parts
}

/** @returns null unless a table of Drizzle's */
export function partsOfAny(table: unknown): TableParts | null {
  if (typeof table === 'object' && table !== null) {
    const [name, schema, columns] = [NAME, SCHEMA, COLUMNS].map((symbol): unknown =>
      Reflect.get(table, symbol),
    )
    if (typeof name === 'string' && typeof columns === 'object' && columns !== null) {
      return {
        name,
        schema: typeof schema === 'string' ? schema : undefined,
        columns: new Map(Object.entries(columns as Record<string, DrizzleColumn>)),
      }
    }
  }
  return null
}

/** How a db turns the names of properties into names of columns that were given none, with drizzle's `casing`. */
export interface Casing {
  getColumnCasing(column: DrizzleColumn): string
}

/** The database's name of a column. @param db whose `casing` option counts */
export function columnName(column: DrizzleColumn, db: unknown): string {
  const dialect: unknown = property(db, 'dialect')
  const casing = property(dialect, 'casing') as Partial<Casing> | undefined
  return typeof casing?.getColumnCasing === 'function' ? casing.getColumnCasing(column) : column.name
}

function property(of: unknown, name: string): unknown {
  return typeof of === 'object' && of !== null ? Reflect.get(of, name) : undefined
}
