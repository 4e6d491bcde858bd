/** Tables without a Drizzle schema as sources, through a connection of our own. Exported with `drizzle-keystore/reencrypt`. */

import { storeError } from '../drivers/driver-error.js'
import { loadLibsqlForFiles, openLibsql } from '../drivers/libsql.js'
import { newPool } from '../drivers/postgres-pool.js'
import { loadSqlite } from '../drivers/sqlite-open.js'
import { assertUrl, isLibsqlUrl, isPostgresUrl, sqlitePath } from '../drivers/url.js'
import { invalidArgument } from '../errors.js'
import type { ContextOf } from '../format/context.js'
import { ownOptions } from '../validate.js'
import type { OwnerOf } from './owner.js'
import { assertName } from './table.js'
import { type HostClient, tableOn } from './table-on.js'
import { tableSource } from './table-source.js'
import {
  contextsByColumn,
  type PoolOption,
  poolOf,
  type SourceColumns,
  type ValueSource,
} from './value-source.js'

/** A row as the driver returns it, by column. */
export type SqlRow = Readonly<Record<string, unknown>>

/** The options of {@link sqlSource}. */
export type SqlSourceOptions = {
  readonly table: string
  /** Postgres only. Default: the search path decides. */
  readonly schema?: string
  /** The columns of its primary key, or of another unique one. */
  readonly key: string | readonly string[]
  /**
   * The column with the user's id, where a number counts as its decimal digits; or a function of the row, which is given all of its columns.
   * Null: all values are the shared pool's.
   */
  readonly owner: string | OwnerOf<SqlRow> | null
} & PoolOption &
  (
    | {
        readonly column: string
        /**
         * The context to encrypt values under. Default: the context that the sweep is given. A function is given the row with all of its
         * columns; legacy readers are then given all of them too, and else key, owner and value.
         */
        readonly context?: ContextOf<SqlRow>
      }
    | { readonly columns: SourceColumns<SqlRow> }
  )

/** A source that has a connection of its own. */
export type SqlSource = ValueSource<SqlRow> & { close(): Promise<void> }

/**
 * Opens a table as a source of values for `reencrypt`. The URL is that of its database, in any form that `openKeyStore` takes. Close the
 * source afterwards.
 *
 * @throws ERR_INVALID_ARGUMENT, also if there is no such table, column or unique key · ERR_STORE
 * @example
 * const source = await sqlSource('postgres://…', { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' })
 * const report = await reencrypt({ envelope, source, context: 'credentials.api_key' }).finally(() => source.close())
 */
export async function sqlSource(url: string, options: SqlSourceOptions): Promise<SqlSource> {
  options = ownOptions(options)
  const { table, schema, owner } = options
  const columns = columnContexts(options)
  const pool = poolOf(options)
  const key = typeof options.key === 'string' ? [options.key] : options.key
  assertName('table', table)
  if (schema !== undefined) assertName('schema', schema)
  const ownerOf = typeof owner === 'function' ? owner : undefined
  if (owner !== null && ownerOf === undefined)
    assertName("owner, or null for the shared pool's values,", owner)
  if (!Array.isArray(key) || key.length === 0) throw invalidArgument('key must name at least one column')
  for (const name of key) assertName('key', name)

  const database = await openHostDatabase(url)
  try {
    const wholeRows = [...columns.values()].some((context) => typeof context === 'function')
    const shape = {
      table,
      schema,
      key,
      owner: typeof owner === 'function' ? null : owner,
      ownerOfRow: ownerOf !== undefined,
      columns: [...columns.keys()],
      wholeRows,
    }
    const sqlTable = tableOn(database.client, shape)
    await sqlTable.check()
    const view = Array.from(columns, ([name, context]) => ({ name, column: name, context }))
    const source = tableSource<SqlRow>(sqlTable, { columns: view, pool, ownerOf, rowOf: (values) => values })
    return { ...source, close: database.close }
  } catch (error) {
    await database.close()
    throw error
  }
}

function columnContexts(options: SqlSourceOptions): Map<string, ContextOf<SqlRow> | undefined> {
  if ('columns' in options) return contextsByColumn(options.columns)
  const { column, context } = options
  assertName('column', column)
  return contextsByColumn(context === undefined ? [column] : { [column]: context })
}

/** A connection of ours to the host application's database. */
export interface HostDatabase {
  readonly client: HostClient
  close(): Promise<void>
}

/** @throws ERR_INVALID_ARGUMENT · ERR_STORE */
export async function openHostDatabase(url: string): Promise<HostDatabase> {
  assertUrl(url)
  if (isPostgresUrl(url)) {
    // One connection reads ahead while the other writes.
    const { pool, close } = newPool({ url, maxConnections: 2 })
    return { client: pool, close }
  }
  if (isLibsqlUrl(url)) {
    const client = await openLibsql(url)
    return { client, close: async () => client.close() }
  }
  const path = sqlitePath(url)
  const libsql = await loadLibsqlForFiles()
  try {
    if (libsql !== null) {
      const client = await libsql(path, { mustExist: true })
      return { client, close: async () => client.close() }
    }
    const open = await loadSqlite()
    const client = open(path, { mustExist: true })
    // Overwrites the plaintexts that tokens replace.
    client.pragma('secure_delete = ON')
    return { client, close: async () => void client.close() }
  } catch (error) {
    throw storeError(`open ${path}`, error, 'The sweep')
  }
}
