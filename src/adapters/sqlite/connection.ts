/** One better-sqlite3 connection, ours or the host's: opening, locks that never block the event loop, closing. */
import { closeSync, existsSync, mkdirSync, openSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import Database from 'better-sqlite3'
import { describeDriverError, storeError } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { HostTransaction, retryingWhileLocked, waitForHost } from '../../drivers/sqlite-locks.js'
import { invalidArgument, KeystoreError, StoreError, schemaError } from '../../errors.js'
import { type MigrateMode, type MigrationReport, NOTHING_APPLIED } from '../migrator.js'
import { checkSqlite, migrateSqlite } from './migrate.js'
import { prepareStatements, type SqliteStatements } from './statements.js'

export interface SqliteConnectionOptions {
  readonly migrate: MigrateMode
  readonly adopt: boolean
  readonly deadlineMs: number
  /** Called when the connection is open and migrated, before anything is read through it. */
  onReady(client: SqliteClient): void
}

/** A synchronous piece of work. */
export type SqliteWork<T> = (statements: SqliteStatements) => T

export class SqliteConnection {
  /** A file of ours, a database in our memory, or whatever the host's connection is on. */
  readonly place: 'file' | 'memory' | 'host'
  /** Null on the host's connection. */
  readonly path: string | null
  readonly migrate: MigrateMode
  readonly #options: SqliteConnectionOptions
  #client: SqliteClient | null
  #statements: SqliteStatements | null = null
  #ready: Promise<MigrationReport> | null = null
  #closed = false

  /** @param source a path, opened at first use, or the host's connection, of which no pragma is changed */
  constructor(source: string | SqliteClient, options: SqliteConnectionOptions) {
    this.path = typeof source === 'string' ? source : null
    this.place = this.path === null ? 'host' : isInMemory(this.path) ? 'memory' : 'file'
    this.migrate = options.migrate
    this.#client = typeof source === 'string' ? null : source
    this.#options = options
  }

  /** Opens and migrates, once. A failure is not kept: the next call tries again. */
  ready(): Promise<MigrationReport> {
    this.assertOpen()
    if (this.#ready === null) {
      this.#ready = this.#prepare()
      this.#ready.catch(() => {
        this.#ready = null
      })
    }
    return this.#ready
  }

  /** Runs one synchronous piece of work, without any lock held before or after. */
  read<T>(action: string, work: SqliteWork<T>): Promise<T> {
    return this.look(action, (client) => work(this.#prepared(client)))
  }

  /** The same for work that does without our statements, which cannot be prepared while the table is missing. */
  async look<T>(action: string, work: (client: SqliteClient) => T): Promise<T> {
    await this.ready()
    return this.#retrying(action, work)
  }

  /** The same in one BEGIN IMMEDIATE; while the host is inside a transaction of its own it waits as for a lock. */
  async write<T>(action: string, work: SqliteWork<T>): Promise<T> {
    await this.ready()
    return this.#retrying(action, (client) => {
      waitForHost(client)
      return client.transaction(() => work(this.#prepared(client))).immediate()
    })
  }

  /** Runs what must be inside no transaction: while the host is in one it waits. */
  async apart<T>(
    action: string,
    work: (client: SqliteClient) => T,
    deadlineMs = this.#options.deadlineMs,
  ): Promise<T> {
    await this.ready()
    return this.#retrying(
      action,
      (client) => {
        waitForHost(client)
        return work(client)
      },
      deadlineMs,
    )
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#ready?.catch(() => undefined)
    if (this.path !== null) this.#client?.close()
  }

  async #prepare(): Promise<MigrationReport> {
    const { migrate, adopt, onReady } = this.#options
    const path = this.path
    if (path !== null) {
      const action = `open ${path}`
      if (migrate !== 'off') await this.#retrying(action, () => inspectFile(path, migrate, adopt))
      this.#client ??= await this.#retrying(action, () => openFile(path, migrate))
    }
    const report = await this.#retrying('migrate the database', (client) => {
      if (migrate === 'off') return NOTHING_APPLIED
      waitForHost(client)
      return migrateSqlite(client, { mode: migrate, adopt })
    })
    if (path !== null) await this.#retrying('set the journal mode', (client) => setJournal(client, path))
    await this.#retrying('begin to read', onReady)
    return report
  }

  #prepared(client: SqliteClient): SqliteStatements {
    this.#statements ??= prepareStatements(client)
    return this.#statements
  }

  #retrying<T>(
    action: string,
    work: (client: SqliteClient) => T,
    deadlineMs = this.#options.deadlineMs,
  ): Promise<T> {
    return retryingWhileLocked(deadlineMs, () => {
      this.assertOpen()
      return work(this.#client as SqliteClient)
    }).catch((error) => {
      throw error instanceof HostTransaction ? stillInTransaction(action) : storeError(action, error)
    })
  }

  /** @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.#closed) throw new KeystoreError('ERR_CLOSED', 'This key store was closed')
  }
}

function stillInTransaction(action: string): StoreError {
  return new StoreError(
    `The key store could not ${action}: the host's connection was inside a transaction all the time. ` +
      'Mint first, with `await envelope.encrypt(…)` or `getOrCreateUserKey`, and begin the transaction then',
    { retryable: true },
  )
}

/**
 * Refuses what would be refused later, through a read-only connection: closing a read-write one may write a WAL back into
 * the file, and a file that is refused stays as it was.
 */
function inspectFile(path: string, mode: Exclude<MigrateMode, 'off'>, adopt: boolean): void {
  if (isInMemory(path) || !existsSync(path) || statSync(path).size === 0) return
  let client: SqliteClient | undefined
  try {
    client = new Database(path, { readonly: true, fileMustExist: true, timeout: 0 })
    checkSqlite(client, { mode, adopt })
  } catch (error) {
    const { code } = describeDriverError(error)
    if (code === 'SQLITE_NOTADB') throw schemaError(`${path} is not a SQLite database. Nothing was changed`)
    if (code?.startsWith('SQLITE_CORRUPT'))
      throw schemaError(`${path} is damaged: restore a backup. Nothing was changed`)
    // A journal left by a killed process can only be rolled back by a connection that may write.
    const cannotLook = code?.startsWith('SQLITE_READONLY') || code?.startsWith('SQLITE_CANTOPEN')
    if (!cannotLook) throw error
  } finally {
    client?.close()
  }
}

function openFile(path: string, mode: MigrateMode): SqliteClient {
  if (!isInMemory(path)) {
    const missing = !existsSync(path)
    if (missing && mode === 'auto') createFile(path)
    else if (missing) throw schemaError(`There is no file ${path}: open it with migrate: 'auto' to make it`)
  }
  const client = new Database(path, { timeout: 0 })
  try {
    client.pragma('secure_delete = ON')
    // better-sqlite3 is built so that the second connection to a WAL file would run with NORMAL, and a power cut could
    // then lose a key that already encrypted data.
    client.pragma('synchronous = FULL')
    // A commit of a thousand rows in the order of their ids changes as many pages all over the file: with SQLite's own 1000
    // pages each such commit would copy all of its pages a second time, and a rewrap take a third longer. 16 MB.
    client.pragma('wal_autocheckpoint = 4000')
    return client
  } catch (error) {
    client.close()
    throw error
  }
}

/** Only its owner may read a new file; SQLite gives the WAL the mode of the database. */
function createFile(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  closeSync(openSync(path, 'a', 0o600))
}

function setJournal(client: SqliteClient, path: string): void {
  const mode = client.pragma('journal_mode = WAL', { simple: true })
  if (mode !== 'wal' && !isInMemory(path)) {
    throw new StoreError(
      `${path} cannot be switched to a write-ahead log (journal mode ${mode}): use a local disk`,
    )
  }
}

function isInMemory(path: string): boolean {
  return path === ':memory:'
}

/** @throws ERR_INVALID_ARGUMENT */
export function assertSqlitePath(path: unknown): asserts path is string {
  if (typeof path !== 'string' || path === '') throw invalidArgument('path must be a non-empty string')
  // A database URL in quotes, or after a space: as a path it would be made, and shown with its password in messages.
  if (path.includes('://'))
    throw invalidArgument('path must be the path of a file, got what looks like a URL')
}
