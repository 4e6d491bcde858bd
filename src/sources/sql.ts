/** Tables without a Drizzle schema, through a connection of our own. Exported with `drizzle-keystore/open`. */

import { storeError } from '../drivers/driver-error.js'
import { assertUrl, isPostgresUrl, loadDriver, sqlitePath } from '../drivers/url.js'
import { invalidArgument } from '../errors.js'
import type { ContextOf } from '../format/context.js'
import { kindOf } from '../validate.js'
import { assertName } from './table.js'
import { type HostClient, tableOn } from './table-on.js'
import { tableSource } from './table-source.js'
import { type SourceColumns, sourceColumns, type ValueSource } from './value-source.js'

/** A row as the driver gives it, by the names of its columns. */
export type SqlRow = Readonly<Record<string, unknown>>

export type SqlSourceOptions = {
  readonly table: string
  /** Postgres only. Default: as the search path has it. */
  readonly schema?: string
  /** The columns of its primary key, or of another unique one. */
  readonly key: string | readonly string[]
  /** The column with the user's id; a number counts as its decimal digits. Null: all values are the shared pool's. */
  readonly owner: string | null
} & (
  | {
      readonly column: string
      /** The wanted context. Default: what the sweep is told. Its row holds key, owner and value; of a function all columns. */
      readonly context?: ContextOf<SqlRow>
    }
  | { readonly columns: SourceColumns<SqlRow> }
)

/** A source that has a connection of its own. */
export type SqlSource = ValueSource<SqlRow> & { close(): Promise<void> }

/**
 * Opens a table as a source of values for `reencrypt`, by the URL of its database: as for `openKeyStore`. Close it afterwards.
 *
 * @throws ERR_INVALID_ARGUMENT, also if there is no such table, column or unique key · ERR_STORE
 * @example
 * const source = await sqlSource('postgres://…', { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' })
 * const report = await reencrypt({ envelope, source, context: 'credentials.api_key' }).finally(() => source.close())
 */
export async function sqlSource(url: string, options: SqlSourceOptions): Promise<SqlSource> {
  if (typeof options !== 'object' || options === null)
    throw invalidArgument(`options must be an object, got ${kindOf(options)}`)
  const { table, schema, owner } = options
  const columns = columnsOf(options)
  const key = typeof options.key === 'string' ? [options.key] : options.key
  assertName('table', table)
  if (schema !== undefined) assertName('schema', schema)
  if (owner !== null) assertName("owner, or null for the shared pool's values,", owner)
  if (!Array.isArray(key) || key.length === 0) throw invalidArgument('key must name at least one column')
  for (const name of key) assertName('key', name)

  const host = await openHost(url)
  try {
    const wholeRows = [...columns.values()].some((context) => typeof context === 'function')
    const shape = { table, schema, key, owner, columns: [...columns.keys()], wholeRows }
    const opened = tableOn(host.client, shape)
    await opened.check()
    const view = Array.from(columns, ([name, context]) => ({ name, column: name, context }))
    const source = tableSource<SqlRow>(opened, { columns: view, rowOf: (values) => values })
    return { ...source, close: host.close }
  } catch (error) {
    await host.close()
    throw error
  }
}

function columnsOf(options: SqlSourceOptions): Map<string, ContextOf<SqlRow> | undefined> {
  if ('columns' in options) return sourceColumns(options.columns)
  const { column, context } = options
  assertName('column', column)
  return sourceColumns(context === undefined ? [column] : { [column]: context })
}

/** The host's database, through a connection of ours. */
export interface OpenedHost {
  readonly client: HostClient
  close(): Promise<void>
}

/** @throws ERR_INVALID_ARGUMENT · ERR_STORE */
export async function openHost(url: string): Promise<OpenedHost> {
  assertUrl(url)
  if (isPostgresUrl(url)) {
    const { newPool } = await loadDriver('pg', () => import('../drivers/postgres-pool.js'))
    // One reads ahead while the other writes.
    const pool = newPool({ url, maxConnections: 2 })
    return { client: pool, close: () => pool.end() }
  }
  const path = sqlitePath(url)
  const { default: Database } = await loadDriver('better-sqlite3', () => import('better-sqlite3'))
  try {
    const client = new Database(path, { fileMustExist: true, timeout: 0 })
    // What a plaintext leaves behind is overwritten.
    client.pragma('secure_delete = ON')
    return { client, close: async () => void client.close() }
  } catch (error) {
    throw storeError(`open ${path}`, error, 'The sweep')
  }
}
