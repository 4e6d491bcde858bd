/** All encrypted columns of a schema, said once: what the sweep and `keystore doctor` walk. */

import { invalidArgument } from '../errors.js'
import type { ContextOf } from '../format/context.js'
import type { ValueSource } from '../sources/value-source.js'
import { kindOf } from '../validate.js'
import { type DrizzleDb, type DrizzleRow, drizzleSource } from './drizzle-source.js'
import { type DrizzleTable, partsOf, type TableParts } from './drizzle-table.js'
import { markOf } from './encrypted-column.js'

/** A table and what cannot be seen from it. By the names of its properties. */
export interface EncryptedTableOptions<Table extends DrizzleTable> {
  readonly table: Table
  /** Default: its primary key, if that is one column. */
  readonly key?: (keyof DrizzleRow<Table> & string) | readonly (keyof DrizzleRow<Table> & string)[]
  /** The column with the user's id. Default: the one called `userId`, `ownerId` or `owner`. Null: all values are the shared pool's. */
  readonly owner?: (keyof DrizzleRow<Table> & string) | null
  /**
   * Contexts of columns that have none of their own: of `tokenText`, which must stand here, and of text columns in which the application
   * keeps tokens. Null: none.
   */
  readonly columns?: { readonly [Column in keyof DrizzleRow<Table> & string]?: ContextOf<DrizzleRow<Table>> }
}

/** A table with encrypted columns: its Drizzle table, and options of `drizzleSource` for it. */
export interface EncryptedTable {
  readonly name: string
  readonly table: DrizzleTable
  readonly key: readonly string[]
  readonly owner: string | null
  readonly columns: Readonly<Record<string, ContextOf<never>>>
}

export interface EncryptedRegistry extends Iterable<EncryptedTable> {
  /** A source of values for each table, by its name here. */
  sources(db: DrizzleDb): Map<string, ValueSource<never>>
}

/** Registered, so that the command line, which may be another copy of this package, knows it. */
const REGISTRY = Symbol.for('drizzle-keystore/registry')
/** Of a property or of a column. */
const OWNERS = ['userId', 'user_id', 'ownerId', 'owner_id', 'owner']

/**
 * Lists the tables with encrypted columns. The columns of `encryptedText` and `encryptedJson` are found; export the result from a module
 * of your schema, and `keystore reencrypt --schema FILE` and `keystore doctor --schema FILE` find them all.
 *
 * @throws ERR_INVALID_ARGUMENT if key, owner or a context cannot be told
 * @example
 * export const encrypted = defineEncrypted({ credentials, sessions: { table: sessions, columns: { token: 'sessions.token' } } })
 */
export function defineEncrypted<Tables extends Record<string, DrizzleTable>>(
  tables: {
    readonly [Name in keyof Tables]: Tables[Name] | EncryptedTableOptions<Tables[Name]>
  },
): EncryptedRegistry {
  if (typeof tables !== 'object' || tables === null)
    throw invalidArgument(`tables must be an object, got ${kindOf(tables)}`)
  const list = Object.entries(tables as Readonly<Record<string, DrizzleTable | Given>>).map(([name, given]) =>
    encryptedTable(name, isOptions(given) ? given : { table: given }),
  )
  const registry: EncryptedRegistry = {
    [Symbol.iterator]: () => list.values(),
    sources: (db) =>
      new Map(
        list.map(({ name, table, ...options }) => [
          name,
          drizzleSource<never>(db, table as never, options as never),
        ]),
      ),
  }
  return Object.defineProperty(registry, REGISTRY, { value: true })
}

export function isRegistry(value: unknown): value is EncryptedRegistry {
  return typeof value === 'object' && value !== null && Reflect.get(value, REGISTRY) === true
}

/** {@link EncryptedTableOptions} of any table. */
interface Given {
  readonly table: DrizzleTable
  readonly key?: string | readonly string[]
  readonly owner?: string | null
  readonly columns?: Readonly<Record<string, ContextOf<never>>>
}

/** A table of Drizzle's, which may have a column called `table`, is of a class. */
function isOptions(given: DrizzleTable | Given): given is Given {
  return typeof given === 'object' && given !== null && Object.getPrototypeOf(given) === Object.prototype
}

function encryptedTable(name: string, options: Given): EncryptedTable {
  const { table } = options
  const parts = partsOf(table)
  const { key = primaryKey(name, parts), owner = ownerOf(name, parts), columns = {} } = options
  const contexts: Record<string, ContextOf<never>> = { ...columns }
  for (const [property, column] of parts.columns) {
    const mark = markOf(column)
    if (mark === null || property in contexts) continue
    if (mark.context === null)
      throw needs(name, `the context of ${property}, columns: { ${property}: 'a.context' } or null for none`)
    contexts[property] = mark.context
  }
  if (Object.keys(contexts).length === 0) throw invalidArgument(`table ${name} has no encrypted column`)
  for (const property of Object.keys(columns)) {
    if (!parts.columns.has(property))
      throw invalidArgument(`table ${name} has no property ${JSON.stringify(property)}`)
  }
  return { name, table, key: typeof key === 'string' ? [key] : key, owner, columns: contexts }
}

function primaryKey(name: string, { columns }: TableParts): string[] {
  const primary = Array.from(columns).filter(([, column]) => column.primary === true)
  if (primary.length !== 1) throw needs(name, "its key, key: 'id' or key: ['tenant', 'id']")
  return primary.map(([property]) => property)
}

function ownerOf(name: string, { columns }: TableParts): string {
  const found = Array.from(columns).filter(
    ([property, column]) => OWNERS.includes(property) || OWNERS.includes(column.name),
  )
  const [owner] = found
  if (owner === undefined || found.length > 1)
    throw needs(name, "whose its rows are, owner: 'userId', or owner: null for values of the shared pool")
  return owner[0]
}

function needs(name: string, what: string): Error {
  return invalidArgument(`table ${name} needs to be told ${what}, as in { ${name}: { table, … } }`)
}
