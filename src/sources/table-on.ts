/** Accesses the host application's tables through any of its connections. Imports no driver: it recognises connections by their methods. */

import type { SqliteClient } from '../drivers/sqlite-client.js'
import { invalidArgument } from '../errors.js'
import { type PostgresClient, PostgresTable } from './postgres-table.js'
import { SqliteTable } from './sqlite-table.js'
import type { SqlTable, TableShape } from './table.js'

/** A connection of better-sqlite3, or a `Pool` or `Client` of pg. */
export type HostClient = SqliteClient | PostgresClient

/** @throws ERR_INVALID_ARGUMENT if `client` is a connection of another driver */
export function tableOn(client: unknown, shape: TableShape): SqlTable {
  if (isSqlite(client)) {
    if (shape.schema !== undefined) throw invalidArgument('schema is for Postgres')
    return new SqliteTable(client, shape)
  }
  if (isPostgres(client)) return new PostgresTable(client, shape)
  throw invalidArgument(
    'db must be a drizzle db on better-sqlite3 or node-postgres, and no transaction; for other drivers give an object with pages() and replace()',
  )
}

function isSqlite(client: unknown): client is SqliteClient {
  return has(client, 'prepare', 'pragma', 'transaction')
}

function isPostgres(client: unknown): client is PostgresClient {
  return has(client, 'query', 'connect')
}

function has(client: unknown, ...methods: readonly string[]): boolean {
  return (
    typeof client === 'object' &&
    client !== null &&
    methods.every((name) => typeof Reflect.get(client, name) === 'function')
  )
}
