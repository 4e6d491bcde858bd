/** Accesses the host application's tables through any of its connections. Imports no driver: it recognises connections by their methods. */

import { isPool, type PostgresPool } from '../drivers/client-pool.js'
import { isPglite, isPostgresJs } from '../drivers/postgres-clients.js'
import type { SqliteClient } from '../drivers/sqlite-client.js'
import { invalidArgument } from '../errors.js'
import { type PostgresClient, PostgresTable } from './postgres-table.js'
import { SqliteTable } from './sqlite-table.js'
import type { SqlTable, TableShape } from './table.js'

/** A connection of better-sqlite3, or a pool or connection to Postgres. */
export type HostClient = SqliteClient | PostgresPool | PostgresClient

/** @throws ERR_INVALID_ARGUMENT if `client` is a connection of another driver */
export function tableOn(client: unknown, shape: TableShape): SqlTable {
  if (isSqlite(client)) {
    if (shape.schema !== undefined) throw invalidArgument('schema is for Postgres')
    return new SqliteTable(client, shape)
  }
  const postgres = isPool(client) ? client : postgresClient(client)
  if (postgres !== null) return new PostgresTable(postgres, shape)
  throw invalidArgument(
    'db must be a drizzle db on better-sqlite3, node-postgres, postgres-js, pglite or neon-serverless, and no transaction; ' +
      'for other drivers give an object with pages() and replace()',
  )
}

function isSqlite(client: unknown): client is SqliteClient {
  return has(client, 'prepare', 'pragma', 'transaction')
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
