/** Reads Drizzle's tables structurally. It imports no drizzle-orm, because the host may have another copy of it. */
import { invalidArgument } from '../errors.js'

/** A table of `sqliteTable` or `pgTable`. */
export interface DrizzleTable {
  /** Exists in types only. */
  readonly $inferSelect: object
}

export interface DrizzleColumn {
  readonly name: string
  readonly primary: boolean
  mapFromDriverValue(value: unknown): unknown
}

const TABLE_NAME = Symbol.for('drizzle:Name')
const TABLE_SCHEMA = Symbol.for('drizzle:Schema')
const TABLE_COLUMNS = Symbol.for('drizzle:Columns')

export interface TableParts {
  readonly name: string
  readonly schema: string | undefined
  /** By property name. */
  readonly columns: ReadonlyMap<string, DrizzleColumn>
}

/** @throws ERR_INVALID_ARGUMENT unless it is a Drizzle table */
export function tablePartsOf(table: unknown): TableParts {
  const parts = tablePartsOrNull(table)
  if (parts === null)
    throw invalidArgument('table must be a table of Drizzle, such as sqliteTable and pgTable make')
  return parts
}

/** @returns null unless it is a Drizzle table */
export function tablePartsOrNull(table: unknown): TableParts | null {
  if (typeof table === 'object' && table !== null) {
    const [name, schema, columns] = [TABLE_NAME, TABLE_SCHEMA, TABLE_COLUMNS].map((symbol): unknown =>
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

/** Drizzle's `casing` option: makes the database's names of columns that were given none. */
interface Casing {
  getColumnCasing(column: DrizzleColumn): string
}

/** The database's name of a column. @param db the drizzle db whose `casing` option applies */
export function columnName(column: DrizzleColumn, db: unknown): string {
  const dialect: unknown = property(db, 'dialect')
  const casing = property(dialect, 'casing') as Partial<Casing> | undefined
  return typeof casing?.getColumnCasing === 'function' ? casing.getColumnCasing(column) : column.name
}

/** How drizzle-orm 1.0 decodes what the driver gives, before the column does. */
interface Codecs {
  apply(column: DrizzleColumn, type: 'normalize', value: unknown): unknown
}

/** Decodes a column's value as Drizzle does when it selects it. @param db the drizzle db whose driver has given the value */
export function decodedValue(column: DrizzleColumn, value: unknown, db: unknown): unknown {
  const codecs = property(property(db, 'dialect'), 'codecs') as Partial<Codecs> | undefined
  const given = typeof codecs?.apply === 'function' ? codecs.apply(column, 'normalize', value) : value
  return column.mapFromDriverValue(given)
}

function property(object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? Reflect.get(object, name) : undefined
}
