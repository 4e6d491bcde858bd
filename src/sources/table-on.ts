/** Accesses the host application's tables through any of its connections. Imports no driver: it recognises connections by their methods. */

import { type AsyncSqliteClient, asyncSqlite } from '../drivers/async-sqlite.js'
import { isPool, type PostgresPool } from '../drivers/client-pool.js'
import { isPglite, isPostgresJs } from '../drivers/postgres-clients.js'
import { type SyncSqliteClient, syncSqlite } from '../drivers/sync-sqlite.js'
import { invalidArgument } from '../errors.js'
import { type PostgresClient, PostgresTable } from './postgres-table.js'
import { asyncRunner, type SqliteRunner, syncRunner } from './sqlite-runner.js'
import { SqliteTable } from './sqlite-table.js'
import type { SqlTable, TableShape } from './table.js'

/** A connection to SQLite, or a pool or connection to Postgres. */
export type HostClient = SyncSqliteClient | AsyncSqliteClient | PostgresPool | PostgresClient

/** @throws ERR_INVALID_ARGUMENT if `client` is a connection of another driver */
export function tableOn(client: unknown, shape: TableShape): SqlTable {
  const sqlite = sqliteRunner(client)
  if (sqlite !== null) {
    if (shape.schema !== undefined) throw invalidArgument('schema is for Postgres')
    return new SqliteTable(sqlite, shape)
  }
  const postgres = isPool(client) ? client : postgresClient(client)
  if (postgres !== null) return new PostgresTable(postgres, shape)
  throw invalidArgument(
    'db must be a drizzle db on better-sqlite3, node:sqlite, bun:sqlite, libsql, d1, node-postgres, postgres-js, pglite or ' +
      'neon-serverless, and no transaction; ' +
      'for other drivers give an object with pages() and replace()',
  )
}

/** @returns null for the client of another driver */
function sqliteRunner(client: unknown): SqliteRunner | null {
  const sync = syncSqlite(client)
  if (sync !== null) return syncRunner(sync)
  const async = asyncSqlite(client)
  return async === null ? null : asyncRunner(async)
}

/** @returns null for the client of another driver */
function postgresClient(client: unknown): PostgresClient | null {
  if (isPostgresJs(client)) {
    return { query: async (text, values = []) => ({ rows: await client.unsafe(text, values) }) }
  }
  return isPglite(client) || has<PostgresClient>(client, 'query', 'connect') ? client : null
}

function has<Client = unknown>(client: unknown, ...methods: readonly string[]): client is Client {
  return (
    typeof client === 'object' &&
    client !== null &&
    methods.every((name) => typeof Reflect.get(client, name) === 'function')
  )
}
