/** One SQLite database behind an asynchronous driver: migrates it, tries statements again, ends calls at their deadline. */
import type { AsyncSqlite, BoundStatement, StatementResult } from '../../drivers/async-sqlite.js'
import { Deadline } from '../../drivers/deadline.js'
import { describeDriverError, failedAction } from '../../drivers/driver-error.js'
import { retrying, SQLITE_LOCK_BACKOFF } from '../../drivers/retry.js'
import { lockError } from '../../drivers/sqlite-locks.js'
import { storeClosed } from '../../errors.js'
import { type MigrateMode, type MigrationReport, missingTable, NOTHING_APPLIED } from '../migrator.js'
import { migrateAsyncSqlite } from './async-migrate.js'
import { lostFile } from './opened-file.js'

/** The host's transactions are asynchronous: one of them may await a call of the store. */
const HOST_MAY_HOLD_IT =
  ', perhaps a transaction of the application that waits for this very call: `await envelope.user(id)` before it begins'
/** How long `close` waits for migrations that are under way. */
const CLOSE_GRACE_MS = 2000

interface AsyncConnectionOptions {
  readonly migrate: MigrateMode
  readonly deadlineMs: number
  /** Whether the store has made the client, and closes it. */
  readonly own: boolean
}

/** Results of statements that ran in one transaction. */
interface BatchResult {
  readonly results: readonly StatementResult[]
  /** Whether an attempt before may have been committed although its answer was lost. */
  readonly repeated: boolean
}

export class AsyncSqliteConnection {
  readonly migrate: MigrateMode
  readonly place: AsyncSqlite['place']
  readonly kind: AsyncSqlite['kind']
  readonly #db: AsyncSqlite
  readonly #options: AsyncConnectionOptions
  #ready: Promise<MigrationReport> | null = null
  #closed = false

  constructor(db: AsyncSqlite, options: AsyncConnectionOptions) {
    this.migrate = options.migrate
    this.place = db.place
    this.kind = db.kind
    this.#db = db
    this.#options = options
  }

  /** Migrates, once. After a failure the next call tries again. */
  ready(): Promise<MigrationReport> {
    this.assertOpen()
    if (this.#ready === null) {
      this.#ready = this.#retrying(
        'migrate the database',
        new Deadline(this.#options.deadlineMs),
        async () => (this.migrate === 'off' ? NOTHING_APPLIED : migrateAsyncSqlite(this.#db, this.migrate)),
      )
      this.#ready.catch(() => {
        this.#ready = null
      })
    }
    return this.#ready
  }

  /** Runs one statement that reads. */
  async read(action: string, statement: BoundStatement): Promise<StatementResult['rows']> {
    return (await this.use(action, (db) => db.run(statement))).rows
  }

  /** Runs statements in one transaction. If there are none, it asks nobody. */
  async write(action: string, statements: readonly BoundStatement[]): Promise<BatchResult> {
    let attempts = 0
    const results = await this.use(action, async (db) => {
      attempts += 1
      return statements.length === 0 ? [] : db.batch(statements)
    })
    return { results, repeated: attempts > 1 }
  }

  /** Runs any work on the database; it may be tried again. */
  async use<T>(action: string, work: (db: AsyncSqlite) => Promise<T>): Promise<T> {
    const deadline = new Deadline(this.#options.deadlineMs)
    await this.ready()
    return this.#retrying(action, deadline, () => work(this.#db))
  }

  /** Ends within 2 s. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const opened = this.#ready?.catch(() => undefined)
    // A server may not answer.
    if (opened) await new Deadline(CLOSE_GRACE_MS).wait(opened, () => 'migrations').catch(() => undefined)
    if (this.#options.own) this.#db.close()
  }

  /** @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.#closed) throw storeClosed()
  }

  #retrying<T>(action: string, deadline: Deadline, work: () => Promise<T>): Promise<T> {
    const isTransient = (error: unknown) => describeDriverError(error).transient
    const policy = { deadlineMs: deadline.remainingMs, backoff: SQLITE_LOCK_BACKOFF, isTransient }
    return retrying(policy, () => {
      this.assertOpen()
      return deadline.wait(work(), () => 'an answer of the database')
    }).catch((error) => {
      // SQLite itself finds it out, when it writes.
      if (describeDriverError(error).code === 'SQLITE_READONLY_DBMOVED')
        throw lostFile("The store's file", 'it was deleted, renamed or replaced')
      const holder = this.#options.own ? '' : HOST_MAY_HOLD_IT
      throw missingTable(
        lockError(failedAction(action, error), error, Math.round(this.#options.deadlineMs), { holder }),
      )
    })
  }
}
