/** A registry of all encrypted columns of a schema, for the sweep and `keystore doctor`. */

import { invalidArgument, printable, quoted } from '../errors.js'
import type { ContextOf } from '../format/context.js'
import type { OwnerOf } from '../sources/owner.js'
import { type PoolOption, poolOf, type ValueSource } from '../sources/value-source.js'
import { kindOf, ownOptions } from '../validate.js'
import { type DrizzleDb, type DrizzleRow, drizzleSource } from './drizzle-source.js'
import { type DrizzleTable, type TableParts, tablePartsOf } from './drizzle-table.js'
import { markOf } from './encrypted-column.js'
import { fingerprintRoles } from './fingerprint-column.js'

/** A table, and what the table itself does not tell. Columns go by their property names. */
export interface EncryptedTableOptions<Table extends DrizzleTable> extends PoolOption {
  readonly table: Table
  /** A unique key. Default: the primary key, if it has one column. */
  readonly key?: (keyof DrizzleRow<Table> & string) | readonly (keyof DrizzleRow<Table> & string)[]
  /**
   * The column with the user's id, or a function of the row. Default: the column called `userId`, `ownerId` or `owner`. Null: all values
   * belong to the shared pool.
   */
  readonly owner?: (keyof DrizzleRow<Table> & string) | OwnerOf<DrizzleRow<Table>> | null
  /**
   * Contexts of columns that declare none: of `tokenText` columns, which must be listed here, and of text columns in which the
   * application keeps tokens. Null: no context.
   */
  readonly columns?: { readonly [Column in keyof DrizzleRow<Table> & string]?: ContextOf<DrizzleRow<Table>> }
}

/**
 * A registered table: its Drizzle table, and the options of `drizzleSource` for it. A table with columns of users and of the pool is in a
 * registry twice: the second is called `NAME (pool)`.
 */
export interface EncryptedTable {
  readonly name: string
  readonly table: DrizzleTable
  readonly key: readonly string[]
  readonly owner: string | OwnerOf<never> | null
  readonly pool: boolean
  readonly columns: Readonly<Record<string, ContextOf<never>>>
}

/** What {@link defineEncrypted} returns: the encrypted columns of a schema. */
export interface EncryptedRegistry extends Iterable<EncryptedTable> {
  /** A source of values for each table, by the table's name in the registry. */
  sources(db: DrizzleDb): Map<string, ValueSource<never>>
}

/** Marks a registry. A registered symbol, because the command line may be another copy of this package. */
const REGISTRY = Symbol.for('drizzle-keystore/registry')
/** A property or a column of this name holds the user's id, unless `owner` names another. */
const OWNER_NAMES = ['userId', 'user_id', 'ownerId', 'owner_id', 'owner']

/**
 * Registers the tables with encrypted columns. Finds the columns of `encryptedText`, `encryptedJson`, `encryptedFields` and `fingerprintText` itself. Export the registry from
 * a module of your schema: `keystore reencrypt --schema FILE` and `keystore doctor --schema FILE` then go over all of its tables.
 *
 * @throws ERR_INVALID_ARGUMENT if the key, the owner or a context is neither given nor found
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
  const list = Object.entries(tables as Readonly<Record<string, DrizzleTable | AnyTableOptions>>).flatMap(
    ([name, given]) => encryptedTables(name, isTableOptions(given) ? given : { table: given }),
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
interface AnyTableOptions extends PoolOption {
  readonly table: DrizzleTable
  readonly key?: string | readonly string[]
  readonly owner?: string | OwnerOf<never> | null
  readonly columns?: Readonly<Record<string, ContextOf<never>>>
}

/** Options are a plain object. A Drizzle table is not, and it may have a column called `table`. */
function isTableOptions(given: DrizzleTable | AnyTableOptions): given is AnyTableOptions {
  return typeof given === 'object' && given !== null && Object.getPrototypeOf(given) === Object.prototype
}

function encryptedTables(name: string, given: AnyTableOptions): EncryptedTable[] {
  const options = ownOptions(given, `table ${printable(name)}`)
  const { table } = options
  const parts = tablePartsOf(table)
  const { key: givenKey = primaryKeyPropertyOf(name, parts), columns = {} } = options
  const ofUsers: Record<string, ContextOf<never>> = { ...columns }
  const ofPool: Record<string, ContextOf<never>> = {}
  for (const [property, column] of parts.columns) {
    const mark = markOf(column)
    if (mark === null) continue
    const context = property in columns ? columns[property] : mark.context
    if (context === undefined || (context === null && !(property in columns)))
      throw missingOption(
        name,
        `the context of ${printable(property)}`,
        `columns: { ${printable(property)}: 'a.context' }, with null for no context`,
      )
    if (mark.owner === 'pool') delete ofUsers[property]
    const ofOwner = mark.owner === 'pool' ? ofPool : ofUsers
    ofOwner[property] = context
  }
  for (const property of Object.keys(columns)) {
    if (!parts.columns.has(property))
      throw invalidArgument(`table ${printable(name)} has no property ${quoted(property)}`)
  }
  // They are found again where they are swept: this is for the errors.
  fingerprintRoles(parts)
  const key = typeof givenKey === 'string' ? [givenKey] : givenKey
  const found: EncryptedTable[] = []
  if (Object.keys(ofUsers).length > 0) {
    const { owner = ownerPropertyOf(name, parts) } = options
    found.push({ name, table, key, owner, pool: poolOf({ ...options, owner }), columns: ofUsers })
  }
  if (Object.keys(ofPool).length > 0) {
    const poolName = found.length === 0 ? name : `${name} (pool)`
    found.push({ name: poolName, table, key, owner: null, pool: true, columns: ofPool })
  }
  if (found.length === 0) throw invalidArgument(`table ${printable(name)} has no encrypted column`)
  return found
}

function primaryKeyPropertyOf(name: string, { columns }: TableParts): string[] {
  const primary = Array.from(columns).filter(([, column]) => column.primary === true)
  if (primary.length !== 1) throw missingOption(name, 'its key', "key: 'id' or key: ['tenant', 'id']")
  return primary.map(([property]) => property)
}

/** What encrypted columns were told, or the column that is called so. */
function ownerPropertyOf(name: string, { columns }: TableParts): string {
  const told = new Set(Array.from(columns.values(), (column) => markOf(column)?.ownerColumn))
  told.delete(undefined)
  const [property] = told
  if (property !== undefined && told.size === 1) return property
  const found = Array.from(columns).filter(
    ([property, column]) => OWNER_NAMES.includes(property) || OWNER_NAMES.includes(column.name),
  )
  const [owner] = found
  if (owner === undefined || found.length > 1)
    throw missingOption(
      name,
      'whose its rows are',
      "owner: 'userId', or a function of the row, or owner: null for values of the shared pool",
    )
  return owner[0]
}

function missingOption(name: string, what: string, option: string): Error {
  return invalidArgument(
    `table ${printable(name)} does not tell ${what}: give ${option}, as in { ${printable(name)}: { table, … } }`,
  )
}
