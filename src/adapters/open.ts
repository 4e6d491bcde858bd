/** One URL chooses the store; only its driver is loaded. Exported as `drizzle-keystore/open`. */
import { fileURLToPath } from 'node:url'
import { invalidArgument, StoreError } from '../errors.js'
import type { MigrateMode, MigrationReport } from '../migrator.js'
import type { KeyStore } from '../store.js'

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
  if (typeof url !== 'string' || url === '') throw invalidArgument('url must be a non-empty string')
  // From a file or an environment variable: as a path it would be made, line end and all.
  if (url !== url.trim()) throw invalidArgument('url must not begin or end with white space')
  const { schema, namedStatements, listenUrl, adopt, pollMs, ...common } = options
  if (/^postgres(ql)?:/i.test(url)) {
    if (adopt === true)
      throw invalidArgument(
        "adopt is for the reference's SQLite files; copy one to Postgres after adopting it",
      )
    if (pollMs !== undefined) throw invalidArgument('pollMs is for SQLite')
    const { postgresKeyStore } = await load('pg', () => import('./postgres.js'))
    return postgresKeyStore({ url }, definedOnly({ ...common, schema, namedStatements, listenUrl }))
  }
  const path = sqlitePath(url)
  if (schema !== undefined || namedStatements !== undefined || listenUrl !== undefined) {
    throw invalidArgument('schema, namedStatements and listenUrl are for Postgres')
  }
  const { sqliteKeyStore } = await load('better-sqlite3', () => import('./sqlite.js'))
  return sqliteKeyStore({ path }, definedOnly({ ...common, adopt, pollMs }))
}

/** @throws ERR_INVALID_ARGUMENT for a scheme that is none of ours; of the URL only the scheme is shown */
function sqlitePath(url: string): string {
  const [, scheme, rest = ''] = /^([a-z][a-z0-9+.-]+):(.*)$/is.exec(url) ?? []
  // A single letter is a Windows drive, and a scheme of two or more letters is not.
  if (scheme === undefined || url === ':memory:') return url
  const name = scheme.toLowerCase()
  if (name !== 'sqlite' && name !== 'file') {
    throw invalidArgument(
      `The key store's URL has the scheme ${name}: it must be a path, sqlite:…, file:… or postgres://…`,
    )
  }
  if (/[?#]/.test(rest))
    throw invalidArgument(`A ${name}: URL takes no parameters: pass options to openKeyStore`)
  if (rest === '') throw invalidArgument(`The ${name}: URL has no path`)
  if (!rest.startsWith('//')) return rest
  try {
    return fileURLToPath(`file:${rest}`)
  } catch {
    throw invalidArgument(`The ${name}: URL must be ${name}:relative/path or ${name}:///absolute/path`)
  }
}

async function load<T>(driver: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') throw error
    // Only the quoted name is what is missing; the file that wanted it, often one of drizzle-orm's, stands unquoted.
    const missing = error instanceof Error && error.message.includes("'drizzle-orm") ? 'drizzle-orm' : driver
    throw new StoreError(
      `This key store needs the package ${missing}, which is not installed: npm install ${missing}`,
    )
  }
}

type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> }

/** Without the keys whose value is undefined. */
function definedOnly<T extends object>(options: T): Partial<Defined<T>> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<
    Defined<T>
  >
}
