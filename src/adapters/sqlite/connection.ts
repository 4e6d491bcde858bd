/** One synchronous connection, ours or the host application's: opens it, waits for locks without blocking, closes it. */
import { existsSync, statSync } from 'node:fs'
import { describeDriverError, storeError } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import {
  assertNoHostTransaction,
  HostTransactionError,
  lockError,
  retryingWhileLocked,
  withoutBusyTimeout,
  withReadLock,
} from '../../drivers/sqlite-locks.js'
import { loadSqlite, type OpenSqlite } from '../../drivers/sqlite-open.js'
import { invalidArgument, StoreError, schemaError, storeClosed } from '../../errors.js'
import { assertFilePath } from '../../folders.js'
import { type MigrateMode, type MigrationReport, missingTable, NOTHING_APPLIED } from '../migrator.js'
import type { SqliteKeyStoreOptions } from '../options.js'
import { isWrittenPastLog } from './file-header.js'
import { checkSqlite, migrateSqlite } from './migrate.js'
import { OpenedFile } from './opened-file.js'
import type { PlaceholderValues, Statement } from './statements/bind.js'
import { prepareDirect } from './statements/direct.js'
import { prepareStatements, type SqliteStatements } from './statements/prepare.js'
import { assertLogged, isInMemory, isNewFile, type JournalMode, prepareFile } from './store-file.js'

interface SqliteConnectionOptions extends Required<Omit<SqliteKeyStoreOptions, 'pollMs'>> {
  /** Called when the connection is open and migrated, before anything is read through it. */
  onReady(client: SqliteClient, file: OpenedFile | null): void
}

type SqliteWork<T> = (statements: SqliteStatements) => T

export class SqliteConnection {
  /** Where the data is: in a file of ours, in our memory, or wherever the host's connection has it. */
  readonly place: 'file' | 'memory' | 'host'
  /** Null on the host's connection. */
  readonly path: string | null
  readonly migrate: MigrateMode
  /** Of a file of ours. */
  readonly journalMode: JournalMode
  readonly #options: SqliteConnectionOptions
  #client: SqliteClient | null
  /** Null for a database in memory. */
  #file: OpenedFile | null = null
  /** Whether there was no database in the file when this began to open it. */
  #isNew = false
  #statements: SqliteStatements | null = null
  #ready: Promise<MigrationReport> | null = null
  #closed = false

  /** @param source a path, opened at first use, or the host's connection, none of whose pragmas we change */
  constructor(source: string | SqliteClient, options: SqliteConnectionOptions) {
    this.path = typeof source === 'string' ? source : null
    this.place = this.path === null ? 'host' : isInMemory(this.path) ? 'memory' : 'file'
    this.migrate = options.migrate
    this.journalMode = options.journalMode
    this.#client = typeof source === 'string' ? null : source
    this.#options = options
  }

  /** Opens and migrates, once. After a failure the next call tries again. */
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

  /** Runs our statements outside of a transaction. */
  read<T>(action: string, work: SqliteWork<T>, deadlineMs?: number): Promise<T> {
    return this.withClient(action, (client) => work(this.#preparedStatements(client)), deadlineMs)
  }

  /** {@link read} for a statement that is not among the prepared ones. @returns its rows as arrays */
  query(
    action: string,
    statement: Statement,
    values: PlaceholderValues = {},
  ): Promise<readonly (readonly unknown[])[]> {
    return this.withClient(action, (client) => prepareDirect(client, statement).rows(values))
  }

  /** Runs work that needs none of our statements, which cannot be prepared while the table is missing. */
  async withClient<T>(
    action: string,
    work: (client: SqliteClient) => T,
    deadlineMs = this.#options.deadlineMs,
  ): Promise<T> {
    const remainingMs = await this.#whenReady(deadlineMs)
    return this.#retrying(action, work, remainingMs)
  }

  /** Runs our statements in one BEGIN IMMEDIATE. While the host's transaction is open it waits, as for a lock. */
  write<T>(action: string, work: SqliteWork<T>, deadlineMs?: number): Promise<T> {
    const inTransaction = (client: SqliteClient) =>
      client.transaction(() => work(this.#preparedStatements(client))).immediate()
    return this.outsideTransaction(action, inTransaction, deadlineMs)
  }

  /** A deadline for several calls: it gives how long the next of them may still take. */
  newDeadline(): () => number {
    const end = performance.now() + this.#options.deadlineMs
    return () => Math.max(0, end - performance.now())
  }

  /** Runs work that cannot run inside a transaction. While the host's transaction is open it waits. */
  async outsideTransaction<T>(
    action: string,
    work: (client: SqliteClient) => T,
    deadlineMs = this.#options.deadlineMs,
  ): Promise<T> {
    const remainingMs = await this.#whenReady(deadlineMs)
    return this.#retrying(
      action,
      (client) => {
        assertNoHostTransaction(client)
        this.#file?.assertUnchanged()
        const result = this.place === 'host' ? withoutBusyTimeout(client, () => work(client)) : work(client)
        // Replaced meanwhile: nobody else has what was committed.
        this.#file?.assertSameAfterCommit()
        return result
      },
      remainingMs,
    )
  }

  /** Opens first, if need be. @returns how long the call may still take */
  async #whenReady(deadlineMs: number): Promise<number> {
    const start = performance.now()
    await this.ready()
    return Math.max(0, deadlineMs - (performance.now() - start))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#ready?.catch(() => undefined)
    if (this.path !== null) this.#client?.close()
    this.#file?.release()
  }

  /** The database file, to read its pages; null if it has no descriptor of ours. */
  get fd(): number | null {
    return this.#file?.fd ?? null
  }

  async #prepare(): Promise<MigrationReport> {
    const { migrate, adopt, onReady, deadlineMs } = this.#options
    const end = performance.now() + deadlineMs
    // One deadline for all steps of opening.
    const step = <T>(action: string, work: (client: SqliteClient) => T) =>
      this.#retrying(action, work, Math.max(0, end - performance.now()))
    const path = this.path
    if (path !== null) {
      assertFilePath(path)
      this.#isNew ||= isNewFile(path)
      const action = `open ${path}`
      const open = await loadSqlite().catch((error) => {
        throw storeError(action, error)
      })
      if (migrate !== 'off') await step(action, () => checkFile(open, path, migrate, adopt))
      this.#client ??= await step(action, () => this.#openFile(open, path, migrate))
    }
    if (path === null) await step('look at the file', (client) => this.#watchHostFile(client))
    const report = await step('migrate the database', (client) => {
      if (migrate === 'off') return NOTHING_APPLIED
      assertNoHostTransaction(client)
      return migrateSqlite(client, { mode: migrate, adopt })
    })
    if (path !== null && (this.#isNew || this.journalMode === 'wal'))
      await step('set the journal mode', (client) =>
        assertLogged(path, client.pragma('journal_mode = WAL', { simple: true })),
      )
    await step('begin to read', (client) => {
      // Reading makes the write-ahead log, whose identity is then known.
      if (path !== null) client.prepare('select 1 from sqlite_master limit 1').all()
      this.#file?.assertUnchanged()
      onReady(client, this.#file)
    })
    return report
  }

  #openFile(open: OpenSqlite, path: string, mode: MigrateMode): SqliteClient {
    if (isInMemory(path)) return openFile(open, path)
    prepareFile(path, mode)
    let query: (() => boolean) | undefined
    const file = new OpenedFile({
      path,
      own: true,
      fixedLog: this.journalMode === 'wal',
      // Both are asked for only once the connection is open.
      hasLog: () => {
        query ??= logQuery(this.#client as SqliteClient)
        return query()
      },
      whileReading: (work) => withReadLock(this.#client as SqliteClient, work),
    })
    try {
      const client = openFile(open, path)
      this.#file = file
      return client
    } catch (error) {
      file.release()
      throw error
    }
  }

  #watchHostFile(client: SqliteClient): void {
    const query = () => client.prepare("select file from pragma_database_list where name = 'main'").get()
    // The first statement of a connection reads the schema, for which it may have to wait.
    const main = isWrittenPastLog(client.name) ? query() : withoutBusyTimeout(client, query)
    const path = (main as { readonly file: string | null } | undefined)?.file ?? ''
    const hasLog = logQuery(client)
    const whileReading = <T>(work: () => T) => withReadLock(client, work)
    this.#file ??=
      path === '' ? null : new OpenedFile({ path, own: false, fixedLog: false, hasLog, whileReading })
  }

  /** Whether the host's connection waits for locks when it only reads. With a write-ahead log readers wait for nobody. */
  #waitsForWriters(): boolean {
    return this.place === 'host' && this.#file !== null && !this.#file.hasLog
  }

  #preparedStatements(client: SqliteClient): SqliteStatements {
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
      this.#file?.assertSameNowAndThen()
      const client = this.#client as SqliteClient
      return this.#waitsForWriters() ? withoutBusyTimeout(client, () => work(client)) : work(client)
    }).catch((error) => {
      throw error instanceof HostTransactionError
        ? stillInTransaction(action)
        : missingTable(lockError(action, error, Math.round(deadlineMs)))
    })
  }

  /** @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.#closed) throw storeClosed()
  }
}

function stillInTransaction(action: string): StoreError {
  return new StoreError(
    `The key store could not ${action}: the host's connection was inside a transaction all the time. ` +
      'Mint first, with `await envelope.encrypt(…)` or `getOrCreateUserKey`, and begin the transaction then',
    { retryable: true },
  )
}

/** Asks whether the connection uses a write-ahead log. */
function logQuery(client: SqliteClient): () => boolean {
  const journal = client.prepare("select 1 from pragma_journal_mode where journal_mode = 'wal'")
  return () => journal.get() !== undefined
}

/**
 * Throws what opening the file would throw. The connection is read-only, so that a refused file is not changed: closing one that
 * may write can write a WAL back into the file.
 */
function checkFile(open: OpenSqlite, path: string, mode: Exclude<MigrateMode, 'off'>, adopt: boolean): void {
  if (isInMemory(path) || !existsSync(path) || statSync(path).size === 0) return
  let client: SqliteClient | undefined
  try {
    client = open(path, { readonly: true })
    client.pragma('trusted_schema = OFF')
    checkSqlite(client, { mode, adopt })
  } catch (error) {
    const { code } = describeDriverError(error)
    if (code === 'SQLITE_NOTADB') throw schemaError(`${path} is not a SQLite database. Nothing was changed`)
    if (code?.startsWith('SQLITE_CORRUPT'))
      throw schemaError(`${path} is damaged: restore a backup. Nothing was changed`)
    // A killed process's journal can only be rolled back by a connection that may write. Then opening the file does the checks.
    const cannotRead = code?.startsWith('SQLITE_READONLY') || code?.startsWith('SQLITE_CANTOPEN')
    if (!cannotRead) throw error
  } finally {
    client?.close()
  }
}

function openFile(open: OpenSqlite, path: string): SqliteClient {
  const client = open(path)
  try {
    // The file may be a restored one. Its schema must not call functions with side effects (sqlite.org/security.html). The driver has made
    // the connection defensive already.
    client.pragma('trusted_schema = OFF')
    client.pragma('secure_delete = ON')
    // better-sqlite3's build sets NORMAL on the second connection to a WAL file. With NORMAL a power cut can lose a key that
    // already encrypted data.
    client.pragma('synchronous = FULL')
    // 4000 pages are 16 MB. One commit of a rewrap changes about 1000 pages all over the file. With SQLite's default of 1000 each
    // such commit would also copy all of its pages into the database, and a rewrap would take a third longer.
    client.pragma('wal_autocheckpoint = 4000')
    return client
  } catch (error) {
    client.close()
    throw error
  }
}

/** @throws ERR_INVALID_ARGUMENT */
export function assertSqlitePath(path: unknown): asserts path is string {
  if (typeof path !== 'string' || path.trim() === '') throw invalidArgument('path must be a non-empty string')
  // Else a mistyped URL (in quotes, after a space) would become a file name, and messages would show its password.
  if (path.includes('://'))
    throw invalidArgument('path must be the path of a file, got what looks like a URL')
  if (/^(sqlite|file|libsql|postgres(ql)?):/i.test(path))
    throw invalidArgument('path must be the path of a file, got a URL: openKeyStore(url) takes those')
}
