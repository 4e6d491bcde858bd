/** One URL chooses the store; only its driver is loaded. Exported as `drizzle-keystore/open`. */

import { assertUrl, isPostgresUrl, loadDriver, sqlitePath } from '../drivers/url.js'
import { invalidArgument } from '../errors.js'
import type { KeyStore } from '../store.js'
import type { MigrateMode, MigrationReport } from './migrator.js'

export interface OpenKeyStoreOptions {
  /** Default `'auto'`. */
  readonly migrate?: MigrateMode
  /** Take over a SQLite file of the Python reference. Default false. */
  readonly adopt?: boolean
  /** How long a call waits for locks and tries after transient failures, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number
  /** Postgres only: the schema of the table. Default `'public'`. */
  readonly schema?: string
  /** Postgres only: name the prepared statements. Default false. */
  readonly namedStatements?: boolean
  /** Postgres only: where to listen for changes; `false`: nowhere. Default the URL itself. */
  readonly listenUrl?: string | false
  /** SQLite only: how often to look for changes while somebody listens, in milliseconds. Default 1000. */
  readonly pollMs?: number
}

/** A store that is open and migrated. */
export type OpenedKeyStore = KeyStore & {
  /** What opening has migrated. */
  ready(): Promise<MigrationReport>
}

/**
 * Opens and migrates the store that a URL names.
 *
 * - SQLite: a path, `sqlite:data/keystore.db`, `sqlite:///absolute/path`, `file:…`, `:memory:`
 * - Postgres: `postgres://…`, `postgresql://…`
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
  const { schema, namedStatements, listenUrl, adopt, pollMs, ...common } = options
  if (isPostgresUrl(url)) {
    if (adopt === true)
      throw invalidArgument(
        "adopt is for the reference's SQLite files; copy one to Postgres after adopting it",
      )
    if (pollMs !== undefined) throw invalidArgument('pollMs is for SQLite')
    const { postgresKeyStore } = await loadDriver('pg', () => import('./postgres/store.js'))
    return postgresKeyStore({ url }, definedOnly({ ...common, schema, namedStatements, listenUrl }))
  }
  const path = sqlitePath(url)
  if (schema !== undefined || namedStatements !== undefined || listenUrl !== undefined) {
    throw invalidArgument('schema, namedStatements and listenUrl are for Postgres')
  }
  const { sqliteKeyStore } = await loadDriver('better-sqlite3', () => import('./sqlite/store.js'))
  return sqliteKeyStore({ path }, definedOnly({ ...common, adopt, pollMs }))
}

type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> }

/** Without the keys whose value is undefined. */
function definedOnly<T extends object>(options: T): Partial<Defined<T>> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<
    Defined<T>
  >
}
