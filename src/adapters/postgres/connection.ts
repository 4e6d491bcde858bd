/** How the Postgres store reaches its server: through its own pool, or the host application's pool, drizzle db or transaction. */
import type { SQL } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import type pg from 'pg'
import { isConnectFailure, storeError } from '../../drivers/driver-error.js'
import { clientConfig, newPool, type PostgresUrlSource } from '../../drivers/postgres-pool.js'
import { retryingPostgres } from '../../drivers/retry.js'
import { serverOf } from '../../drivers/url.js'
import { invalidArgument, KeystoreError } from '../../errors.js'
import { type MigrateMode, type MigrationReport, NOTHING_APPLIED } from '../migrator.js'
import type { PostgresKeyStoreOptions } from '../options.js'
import { type InTransaction, migratePostgres, type RunSql } from './migrate.js'
import { quietDb } from './quiet-db.js'

/** A drizzle db on any Postgres driver: node-postgres, postgres-js, pglite … */
export type AnyPostgresDb = PgDatabase<PgQueryResultHKT>

/** The host application's drizzle db or transaction. Typed structurally: it may come from another copy of drizzle-orm. */
export interface HostPostgresDb {
  select(...args: never[]): unknown
  insert(...args: never[]): unknown
  update(...args: never[]): unknown
  delete(...args: never[]): unknown
  execute(...args: never[]): unknown
  transaction(...args: never[]): unknown
}

/**
 * Where the store's database is. A `url`: the store has a pool of its own. A `pool` or `db`: the host application's, which the store
 * does not close.
 */
export type PostgresSource =
  | PostgresUrlSource
  | { readonly pool: pg.Pool }
  | {
      readonly db: HostPostgresDb
      /** Whether `db` is a transaction of the caller's. A drizzle transaction is recognised as one in any case. Default false. */
      readonly transactional?: boolean
    }

interface PostgresConnectionOptions extends Required<Pick<PostgresKeyStoreOptions, 'schema' | 'deadlineMs'>> {
  readonly migrate: MigrateMode | undefined
}

export class PostgresConnection {
  readonly db: AnyPostgresDb
  readonly transactional: boolean
  readonly migrate: MigrateMode
  readonly deadlineMs: number
  readonly #inTransaction: InTransaction
  readonly #end: () => Promise<void>
  readonly #schema: string
  /** Where the database is, for errors. */
  readonly #server: string
  #ready: Promise<MigrationReport> | null = null
  #closed = false

  constructor(source: PostgresSource, options: PostgresConnectionOptions) {
    this.#schema = options.schema
    this.deadlineMs = options.deadlineMs
    // A string here is likely a URL with a password. `in` on a string would throw an error that quotes it.
    if (typeof source !== 'object' || source === null)
      throw invalidArgument('source must be { url }, { pool } or { db }')
    this.#server = ('url' in source ? serverOf(source.url) : null) ?? 'the database'
    if ('db' in source) {
      if (!isPostgresDb(source.db))
        throw invalidArgument('db must be a drizzle db or transaction on Postgres')
      const db = quietDb(source.db)
      this.db = db
      this.transactional = source.transactional === true || 'rollback' in db
      this.#inTransaction = (work) => db.transaction((tx) => work(sqlRunner(tx)))
      this.#end = async () => undefined
    } else {
      const ours = 'url' in source
      const pool = ours ? newPool(source) : source.pool
      this.db = drizzle({ client: pool })
      this.transactional = false
      this.#inTransaction = transactionRunner(pool)
      this.#end = ours ? () => pool.end() : async () => undefined
    }
    this.migrate = options.migrate ?? (this.transactional ? 'off' : 'auto')
    if (this.transactional && this.migrate === 'auto') {
      throw invalidArgument(
        "A store inside a transaction does not migrate: use migrate: 'off' or 'check' there",
      )
    }
  }

  /** Migrates, once. After a failure the next call tries again. */
  ready(): Promise<MigrationReport> {
    this.assertOpen()
    if (this.#ready === null) {
      const action = (error: unknown) =>
        isConnectFailure(error) ? `connect to ${this.#server}` : 'migrate the database'
      this.#ready = this.#retrying(action, () => this.#prepare())
      this.#ready.catch(() => {
        this.#ready = null
      })
    }
    return this.#ready
  }

  /** Runs what may run twice: after a lost connection it is unknown whether the statement was committed, and it runs again. */
  async run<T>(action: string, work: () => Promise<T>): Promise<T> {
    await this.ready()
    return this.#retrying(action, work)
  }

  /** Runs one statement outside of any transaction. */
  query(action: string, statement: SQL): Promise<readonly Record<string, unknown>[]> {
    return this.run(action, () => sqlRunner(this.db)(statement))
  }

  /** Runs statements in one transaction. After a transient failure `work` runs again, in a new one. */
  transaction<T>(action: string, work: (run: RunSql) => Promise<T>): Promise<T> {
    return this.run(action, () => this.#inTransaction(work))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#ready?.catch(() => undefined)
    await this.#end()
  }

  async #prepare(): Promise<MigrationReport> {
    if (this.migrate === 'off') return NOTHING_APPLIED
    return migratePostgres(sqlRunner(this.db), this.#inTransaction, {
      schema: this.#schema,
      mode: this.migrate,
      lockTimeoutMs: this.deadlineMs,
    })
  }

  /** @param action what could not be done, for the error, or a function that says it of what the driver threw */
  #retrying<T>(action: string | ((error: unknown) => string), work: () => Promise<T>): Promise<T> {
    const attempt = async () => {
      this.assertOpen()
      return work()
    }
    // A failure aborts the whole of a caller's transaction: nothing in it can be tried again.
    const result = this.transactional ? attempt() : retryingPostgres(this.deadlineMs, attempt)
    return result.catch((error) => {
      throw storeError(typeof action === 'string' ? action : action(error), error)
    })
  }

  /** @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.#closed) throw new KeystoreError('ERR_CLOSED', 'This key store was closed')
  }
}

function isPostgresDb(db: object): db is AnyPostgresDb {
  if (typeof db !== 'object' || db === null) return false
  return ['select', 'insert', 'update', 'delete', 'execute', 'transaction'].every(
    (name) => name in db && typeof db[name as keyof typeof db] === 'function',
  )
}

/**
 * How to connect to listen for changes, or why the store cannot.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export function listenTarget(
  source: PostgresSource,
  listenUrl: string | false | undefined,
  transactional: boolean,
): pg.ClientConfig | string {
  const ours = 'url' in source ? source : {}
  const url = listenUrl ?? ('url' in source ? source.url : undefined)
  const target = url === undefined || url === false ? null : clientConfig('listenUrl', url, ours)
  if (transactional)
    return 'The store is bound to a transaction, which sees no notifications: listen with another store'
  if (listenUrl === false) return 'Listening is switched off (listenUrl: false)'
  return (
    target ??
    "The store has only the host's connections, none of its own to listen on: give listenUrl, a direct connection"
  )
}

/** Replaces drizzle's `transaction` on a pool, which leaks the client when BEGIN itself fails. */
function transactionRunner(pool: pg.Pool): InTransaction {
  return async (work) => {
    const client = await pool.connect()
    let broken = false
    try {
      await client.query('begin')
      const result = await work(sqlRunner(drizzle({ client })))
      await client.query('commit')
      return result
    } catch (error) {
      await client.query('rollback').catch(() => {
        broken = true
      })
      throw error
    } finally {
      client.release(broken)
    }
  }
}

/** Drizzle's drivers differ: `execute` returns the rows, or an object that has them. */
function sqlRunner(db: Pick<AnyPostgresDb, 'execute'>): RunSql {
  return async (query: SQL) => {
    const result: unknown = await db.execute(query)
    return Array.isArray(result) ? result : (result as { rows: Record<string, unknown>[] }).rows
  }
}
