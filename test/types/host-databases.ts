/** Compiled, never run: the databases of the application that the stores take, in each of Drizzle's own spellings of their types. */
import type Database from 'better-sqlite3'
import type { ExtractTablesWithRelations } from 'drizzle-orm'
import { type BetterSQLite3Database, drizzle } from 'drizzle-orm/better-sqlite3'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { LibSQLDatabase } from 'drizzle-orm/libsql'
import type { MySqlRemoteDatabase } from 'drizzle-orm/mysql-proxy'
import type { MySql2Database } from 'drizzle-orm/mysql2'
import type { NeonHttpDatabase } from 'drizzle-orm/neon-http'
import type { NeonDatabase } from 'drizzle-orm/neon-serverless'
import { drizzle as drizzlePg, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import type { PgDatabase, PgTransaction } from 'drizzle-orm/pg-core'
import type { PgliteDatabase } from 'drizzle-orm/pglite'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import type { BaseSQLiteDatabase } from 'drizzle-orm/sqlite-core'
import type { SqliteRemoteDatabase } from 'drizzle-orm/sqlite-proxy'
import type pg from 'pg'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { drizzleSource, type EncryptedRegistry } from '../../src/reencrypt/index.js'
import type * as pgSchema from '../fixtures/host-schema-postgres.js'
import type * as schema from '../fixtures/host-schema-sqlite.js'
import { secrets } from '../fixtures/host-schema-sqlite.js'

type Pg = import('drizzle-orm/node-postgres').NodePgQueryResultHKT

export function onSqlite(
  client: Database.Database,
  plain: BetterSQLite3Database,
  withSchema: BetterSQLite3Database<typeof schema>,
  made: ReturnType<typeof drizzle>,
  base: BaseSQLiteDatabase<'sync', Database.RunResult>,
  asynchronous: BaseSQLiteDatabase<'async', Database.RunResult>,
  libsql: LibSQLDatabase<typeof schema>,
  d1: DrizzleD1Database,
  remote: SqliteRemoteDatabase,
  postgres: NodePgDatabase,
) {
  sqliteKeyStore({ db: libsql })
  sqliteKeyStore({ db: d1 })
  // @ts-expect-error sqlite-proxy has no transactions
  sqliteKeyStore({ db: remote })
  sqliteKeyStore({ db: plain })
  sqliteKeyStore({ db: withSchema })
  sqliteKeyStore({ db: made })
  sqliteKeyStore({ db: drizzle({ client }) })
  sqliteKeyStore({ db: drizzle(client, {}) })
  sqliteKeyStore({ db: drizzle('x.db') })
  sqliteKeyStore({ db: base })
  // @ts-expect-error of another driver, whose answers are promises
  sqliteKeyStore({ db: asynchronous })
  // @ts-expect-error of the other dialect
  sqliteKeyStore({ db: postgres })
  // @ts-expect-error a mock has no client
  sqliteKeyStore({ db: drizzle.mock() })
  // @ts-expect-error a transaction of SQLite is over before the store is awaited
  plain.transaction((tx) => sqliteKeyStore({ db: tx }))
}

export function onPostgres(
  pool: pg.Pool,
  plain: NodePgDatabase,
  withSchema: NodePgDatabase<typeof pgSchema>,
  made: ReturnType<typeof drizzlePg>,
  base: PgDatabase<Pg>,
  baseSchema: PgDatabase<Pg, typeof pgSchema>,
  tx: PgTransaction<Pg, typeof pgSchema, ExtractTablesWithRelations<typeof pgSchema>>,
  others: { pglite: PgliteDatabase; postgresJs: PostgresJsDatabase<typeof pgSchema>; neon: NeonDatabase },
  neonHttp: NeonHttpDatabase,
  mysql: MySql2Database,
  mysqlProxy: MySqlRemoteDatabase,
  sqlite: BetterSQLite3Database,
) {
  for (const db of Object.values(others)) postgresKeyStore({ db })
  // @ts-expect-error neither has neon-http
  postgresKeyStore({ db: neonHttp })
  // @ts-expect-error of a dialect that no store is on
  postgresKeyStore({ db: mysql })
  // @ts-expect-error the same
  postgresKeyStore({ db: mysqlProxy })
  postgresKeyStore({ db: plain })
  postgresKeyStore({ db: withSchema })
  postgresKeyStore({ db: made })
  postgresKeyStore({ db: drizzlePg({ client: pool }) })
  postgresKeyStore({ db: drizzlePg('postgres://x') })
  postgresKeyStore({ db: base })
  postgresKeyStore({ db: baseSchema })
  postgresKeyStore({ db: tx })
  // @ts-expect-error of the other dialect
  postgresKeyStore({ db: sqlite })
  plain.transaction(async (tx) => postgresKeyStore({ db: tx, transactional: true }))
}

export function swept(
  registry: EncryptedRegistry,
  sqlite: BetterSQLite3Database<typeof schema>,
  postgres: NodePgDatabase<typeof pgSchema>,
) {
  for (const db of [sqlite, postgres]) {
    registry.sources(db)
    drizzleSource(db, secrets, { key: 'id', owner: 'ownerId', columns: ['note'] })
  }
  // @ts-expect-error no db
  registry.sources({})
}
