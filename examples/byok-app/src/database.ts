/** The application's database: SQLite or Postgres, by its URL. Only the driver that is needed is loaded. */
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { sql } from 'drizzle-orm'
import type { BetterSQLite3Database } from 'drizzle-orm/better-sqlite3'
import { isPostgres } from './config.js'
import type * as sqliteTables from './schema/sqlite.js'

/**
 * A Drizzle db, typed as that of SQLite. The two dialects have the same tables with the same types, and what this application calls (select,
 * insert, update, delete and `returning`, all awaited) is the same in both.
 */
export type Database = BetterSQLite3Database
export type Tables = typeof sqliteTables

export interface OpenedDatabase {
  readonly db: Database
  readonly tables: Tables
  /** As Better Auth's adapter calls it. */
  readonly provider: 'sqlite' | 'pg'
  /** Rejects if the database does not answer. */
  ping(): Promise<void>
  close(): Promise<void>
}

/** Opens the database and makes its tables. */
export function openDatabase(url: string): Promise<OpenedDatabase> {
  return isPostgres(url) ? openPostgres(url) : openSqlite(url)
}

const migrationsOf = (dialect: string) => ({
  migrationsFolder: join(import.meta.dirname, '..', 'migrations', dialect),
})

async function openSqlite(path: string): Promise<OpenedDatabase> {
  const { default: Sqlite } = await import('better-sqlite3')
  const { drizzle } = await import('drizzle-orm/better-sqlite3')
  const { migrate } = await import('drizzle-orm/better-sqlite3/migrator')
  const tables = await import('./schema/sqlite.js')
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const client = new Sqlite(path)
  client.pragma('journal_mode = WAL')
  client.pragma('foreign_keys = ON')
  // Deleted rows are overwritten, tokens and sessions too.
  client.pragma('secure_delete = ON')
  const db = drizzle(client)
  migrate(db, migrationsOf('sqlite'))
  return {
    db,
    tables,
    provider: 'sqlite',
    ping: async () => void db.run(sql`select 1`),
    close: async () => void client.close(),
  }
}

/** Any number will do, if all processes of this application have the same. */
const MIGRATION_LOCK = 728_113_004

async function openPostgres(url: string): Promise<OpenedDatabase> {
  const { default: pg } = await import('pg')
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const { migrate } = await import('drizzle-orm/node-postgres/migrator')
  const tables = await import('./schema/postgres.js')
  const pool = new pg.Pool({ connectionString: url, connectionTimeoutMillis: 10_000 })
  // A connection that breaks while nobody uses it: the pool opens another one.
  pool.on('error', () => undefined)
  // Processes that start at the same time migrate one after the other: Drizzle's migrator takes no lock.
  const client = await pool.connect()
  try {
    await client.query('select pg_advisory_lock($1)', [MIGRATION_LOCK])
    await migrate(drizzle(client), migrationsOf('postgres'))
  } finally {
    // Its session ends, and the lock with it.
    client.release(true)
  }
  const db = drizzle(pool)
  return {
    db: db as unknown as Database,
    tables: tables as unknown as Tables,
    provider: 'pg',
    ping: async () => void (await db.execute(sql`select 1`)),
    close: () => pool.end(),
  }
}
