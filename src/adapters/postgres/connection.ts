/** How the Postgres store reaches its server: a pool of ours or the host's, the host's drizzle db, or its transaction. */
import type { SQL } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import type pg from 'pg'
import { describeDriverError, storeError } from '../../drivers/driver-error.js'
import { clientConfig, newPool, type UrlSource } from '../../drivers/postgres-pool.js'
import { retrying } from '../../drivers/retry.js'
import { invalidArgument, KeystoreError } from '../../errors.js'
import { type MigrateMode, type MigrationReport, NOTHING_APPLIED } from '../migrator.js'
import { type InTransaction, migratePostgres, type RunSql } from './migrate.js'

/** Any of Drizzle's Postgres databases: node-postgres, postgres-js, pglite … */
export type AnyPostgresDb = PgDatabase<PgQueryResultHKT>

/** The host's drizzle db or transaction, structurally: it may come from another copy of drizzle-orm. */
export interface HostPostgresDb {
  select(...args: never[]): unknown
  insert(...args: never[]): unknown
  update(...args: never[]): unknown
  delete(...args: never[]): unknown
  execute(...args: never[]): unknown
  transaction(...args: never[]): unknown
}

export type PostgresSource =
  | UrlSource
  | { readonly pool: pg.Pool }
  | {
      readonly db: HostPostgresDb
      /** Whether `db` is a transaction of the caller's; a drizzle transaction is recognised as one in any case. */
      readonly transactional?: boolean
    }

export interface PostgresConnectionOptions {
  readonly schema: string
  readonly migrate: MigrateMode | undefined
  readonly deadlineMs: number
}

export class PostgresConnection {
  readonly db: AnyPostgresDb
  readonly transactional: boolean
  readonly migrate: MigrateMode
  readonly deadlineMs: number
  readonly #inTransaction: InTransaction
  readonly #end: () => Promise<void>
  readonly #schema: string
  #ready: Promise<MigrationReport> | null = null
  #closed = false

  constructor(source: PostgresSource, options: PostgresConnectionOptions) {
    this.#schema = options.schema
    this.deadlineMs = options.deadlineMs
    // `in` on a string throws an error that quotes the string, and a string here is likely a URL with its password.
    if (typeof source !== 'object' || source === null)
      throw invalidArgument('source must be { url }, { pool } or { db }')
    if ('db' in source) {
      if (!isPostgresDb(source.db))
        throw invalidArgument('db must be a drizzle db or transaction on Postgres')
      const { db } = source
      this.db = db
      this.transactional = source.transactional === true || 'rollback' in db
      this.#inTransaction = (work) => db.transaction((tx) => work(runOn(tx)))
      this.#end = async () => undefined
    } else {
      const ours = 'url' in source
      const pool = ours ? newPool(source) : source.pool
      this.db = drizzle({ client: pool })
      this.transactional = false
      this.#inTransaction = inTransactionOf(pool)
      this.#end = ours ? () => pool.end() : async () => undefined
    }
    this.migrate = options.migrate ?? (this.transactional ? 'off' : 'auto')
    if (this.transactional && this.migrate === 'auto') {
      throw invalidArgument(
        "A store inside a transaction does not migrate: use migrate: 'off' or 'check' there",
      )
    }
  }

  /** Migrates, once. A failure is not kept: the next call tries again. */
  ready(): Promise<MigrationReport> {
    this.assertOpen()
    if (this.#ready === null) {
      this.#ready = this.#retrying('migrate the database', () => this.#prepare())
      this.#ready.catch(() => {
        this.#ready = null
      })
    }
    return this.#ready
  }

  /** Runs what may be run again: after a lost connection nobody knows whether the statement was committed. */
  async run<T>(action: string, work: () => Promise<T>): Promise<T> {
    await this.ready()
    return this.#retrying(action, work)
  }

  /** Runs one statement outside of any transaction. */
  query(action: string, statement: SQL): Promise<readonly Record<string, unknown>[]> {
    return this.run(action, () => runOn(this.db)(statement))
  }

  /** Runs several in one transaction; begins it anew after a transient failure. */
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
    return migratePostgres(runOn(this.db), this.#inTransaction, {
      schema: this.#schema,
      mode: this.migrate,
      lockTimeoutMs: this.deadlineMs,
    })
  }

  #retrying<T>(action: string, work: () => Promise<T>): Promise<T> {
    // Inside the caller's transaction one failure aborts all of it, so there is nothing to try again.
    const deadlineMs = this.transactional ? 0 : this.deadlineMs
    const isTransient = (error: unknown) => !this.transactional && describeDriverError(error).transient
    return retrying({ deadlineMs, firstWaitMs: 20, longestWaitMs: 500, isTransient }, () => {
      this.assertOpen()
      return work()
    }).catch((error) => {
      throw storeError(action, error)
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
 * How to connect for listening, or why not.
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

/** Not drizzle's `transaction` on the pool, which leaks the client when BEGIN itself fails. */
function inTransactionOf(pool: pg.Pool): InTransaction {
  return async (work) => {
    const client = await pool.connect()
    let broken = false
    try {
      await client.query('begin')
      const result = await work(runOn(drizzle({ client })))
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

/** `execute` returns rows, or an object that has them: that differs between Drizzle's drivers. */
function runOn(db: Pick<AnyPostgresDb, 'execute'>): RunSql {
  return async (query: SQL) => {
    const result: unknown = await db.execute(query)
    return Array.isArray(result) ? result : (result as { rows: Record<string, unknown>[] }).rows
  }
}
