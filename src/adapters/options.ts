/** The options of the stores, each declared once. Each factory takes those of its dialect, and `openKeyStore` takes all of them. */
import type { MigrateMode } from './migrator.js'

interface SharedOptions {
  /** Default `'auto'`; for a store inside a Postgres transaction `'off'`. */
  readonly migrate?: MigrateMode
  /**
   * How long a call waits in all, in milliseconds: for a connection, for locks, for answers, and between its attempts after transient
   * failures. Past it the call is ERR_STORE, `retryable`. On Postgres, calls that read or change the whole table may take longer while the
   * server works on them, and 20 times as long on a single connection, where it cannot be asked. Default 10,000.
   */
  readonly deadlineMs?: number
}

/** Options of a store on libsql or D1. */
export interface AsyncSqliteKeyStoreOptions extends SharedOptions {}

/** The options of {@link sqliteKeyStore}. */
export interface SqliteKeyStoreOptions extends SharedOptions {
  /** Take over a SQLite file of the Python reference. Default false. */
  readonly adopt?: boolean
  /** SQLite only: how often to look for changes while somebody listens, in milliseconds. Default 1000. */
  readonly pollMs?: number
  /**
   * SQLite files that the store opens: `'wal'` switches the file to a write-ahead log, which stays set in it; `'keep'` leaves a file that is
   * there in its journal mode, and only a file that opening makes has the log. Default `'wal'`.
   */
  readonly journalMode?: 'wal' | 'keep'
}

/** The options of {@link postgresKeyStore}. */
export interface PostgresKeyStoreOptions extends SharedOptions {
  /** Postgres only: the schema of the table and of our ledger, made if it is missing. Default `'public'`. */
  readonly schema?: string
  /**
   * Postgres only: name the prepared statements. Faster on a direct connection, but fails behind a pooler in transaction mode.
   * Default false.
   */
  readonly namedStatements?: boolean
  /**
   * Postgres only: where `changes` listens for notifications. Give the URL of a direct connection, without a pooler in
   * transaction mode in between; `false` listens nowhere. Default: the URL of the store itself. A store on the host's db listens
   * through its postgres-js or PGlite; on any other pool or db it listens nowhere.
   */
  readonly listenUrl?: string | false | undefined
  /**
   * Postgres only: `false` for a server without `pg_notify`, or a role that may not execute it. Nothing that this store writes is announced then,
   * and it listens nowhere: `changes` says so with `silent`. Give it to all stores of one table: another one would listen, and take silence
   * for no change. Default true.
   */
  readonly notify?: boolean
}
