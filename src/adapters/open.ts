/** Opens the store that a URL names, and loads only its driver. Exported as `drizzle-keystore/open`. */

import { onLibsql } from '../drivers/async-sqlite.js'
import { loadLibsqlForFiles, openLibsql } from '../drivers/libsql.js'
import { assertUrl, isLibsqlUrl, isPostgresUrl, loadDriver, sqlitePath } from '../drivers/url.js'
import { invalidArgument } from '../errors.js'
import type { KeyStore } from '../store.js'
import { ownOptions } from '../validate.js'
import type { MigrationReport } from './migrator.js'
import type { PostgresKeyStoreOptions, SqliteKeyStoreOptions } from './options.js'

/** The options of both dialects. One that is for the other dialect is refused. */
export interface OpenKeyStoreOptions extends SqliteKeyStoreOptions, PostgresKeyStoreOptions {}

/** A store that is open and migrated. */
export type OpenedKeyStore = KeyStore & {
  /** What opening migrated. */
  ready(): Promise<MigrationReport>
}

/**
 * Opens and migrates the store that a URL names.
 *
 * - SQLite: a path, `sqlite:data/keystore.db`, `sqlite:///absolute/path`, `file:…`, `:memory:`
 * - libsql: `libsql://…`, with its token as `?authToken=…`
 * - Postgres: `postgres://…`, `postgresql://…`
 *
 * A file is opened with better-sqlite3, or with the SQLite of the runtime. If there is neither, it is opened with @libsql/client, which cannot
 * tell of changes by others, and leaves erasures pending.
 *
 * A file and a table that are not there are made, also for a mistyped URL. In production pass `migrate: 'check'`, which is ERR_SCHEMA then.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_SCHEMA · ERR_STORE (its driver is not installed; cannot be opened or reached)
 * @example
 * const store = await openKeyStore(process.env.KEYSTORE_URL ?? 'sqlite:data/keystore.db')
 */
export async function openKeyStore(url: string, options: OpenKeyStoreOptions = {}): Promise<OpenedKeyStore> {
  const store = await storeFor(url, options)
  try {
    await store.ready()
    return store
  } catch (error) {
    await store.close().catch(() => undefined)
    throw error
  }
}

async function storeFor(url: string, options: OpenKeyStoreOptions): Promise<OpenedKeyStore> {
  assertUrl(url)
  const { adopt, pollMs, journalMode, schema, namedStatements, listenUrl, notify } = ownOptions(options)
  if (isPostgresUrl(url)) {
    if (adopt === true)
      throw invalidArgument(
        "adopt is for the reference's SQLite files; copy one to Postgres after adopting it",
      )
    if (pollMs !== undefined) throw invalidArgument('pollMs is for SQLite')
    if (journalMode !== undefined) throw invalidArgument('journalMode is for files of SQLite')
    const { postgresKeyStore } = await loadDriver('pg', () => import('./postgres/store.js'))
    return postgresKeyStore({ url }, options)
  }
  const isLibsql = isLibsqlUrl(url)
  const path = isLibsql ? null : sqlitePath(url)
  if ([schema, namedStatements, listenUrl, notify].some((option) => option !== undefined))
    throw invalidArgument('schema, namedStatements, listenUrl and notify are for Postgres')
  if (path === null) {
    const { AsyncSqliteKeyStore } = await loadDriver('drizzle-orm', () => import('./sqlite/async-store.js'))
    return new AsyncSqliteKeyStore(onLibsql(await openLibsql(url)), options, true)
  }
  const libsql = await loadLibsqlForFiles()
  if (libsql !== null) {
    const { openLibsqlStore } = await loadDriver('drizzle-orm', () => import('./sqlite/libsql-file.js'))
    return openLibsqlStore(libsql, path, options)
  }
  const { sqliteKeyStore } = await loadDriver('drizzle-orm', () => import('./sqlite/store.js'))
  return sqliteKeyStore({ path }, options)
}
