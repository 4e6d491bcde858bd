/** One Postgres database: migrates it, tries statements again, ends calls at their deadline, closes what was opened. */
import { type SQL, sql } from 'drizzle-orm'
import type { MayTakeLong } from '../../drivers/client-pool.js'
import { Deadline } from '../../drivers/deadline.js'
import { describeDriverError, failedAction, storeError } from '../../drivers/driver-error.js'
import { type Listen, listenOnHost, listenOnPg } from '../../drivers/postgres-listen.js'
import { clientConfig } from '../../drivers/postgres-pool.js'
import { retryingPostgres } from '../../drivers/retry.js'
import { serverOf } from '../../drivers/url.js'
import { invalidArgument, type KeystoreError, StoreError, storeClosed } from '../../errors.js'
import { type MigrateMode, type MigrationReport, missingTable, NOTHING_APPLIED } from '../migrator.js'
import type { PostgresKeyStoreOptions } from '../options.js'
import { accessTo, type PostgresAccess, sqlRunner } from './access.js'
import { migratePostgres, type UnansweredMigration } from './migrate.js'
import { HostTransactionError } from './one-statement.js'
import type { PostgresSource } from './source.js'
import { LOCK_NOT_AVAILABLE } from './statements/decode.js'
import { type PostgresStatements, prepareStatements } from './statements/prepare.js'
import { type SampleQueries, sampleQueries } from './statements/samples.js'

/** A statement that does nothing takes less. */
const QUICK_TRIP_MS = 2
/** So many times as long as that a statement may take in addition. */
const SLOWER_BY = 10
/** query_canceled, which statement_timeout raises, and pg_cancel_backend. */
const STATEMENT_ENDED = '57014'
/** What part of a statement's time it may wait for a lock. */
const LOCK_SHARE = 0.5
/** How long `close` waits for calls that are under way. */
const CLOSE_GRACE_MS = 2000

interface PostgresConnectionOptions extends Required<Pick<PostgresKeyStoreOptions, 'schema' | 'deadlineMs'>> {
  readonly migrate: MigrateMode | undefined
}

/** How one statement or transaction is run. */
export interface RunOptions {
  /** Of the call that it is a part of. Default: it is the whole call. */
  readonly deadline?: Deadline
  /** For statements that read or change the whole table: their time begins anew while the server executes them. Default false. */
  readonly mayTakeLong?: MayTakeLong
  /** Whether another attempt may succeed at once. Default: after a lost connection, a deadlock, a lock that was waited for … */
  readonly isTransient?: (error: unknown) => boolean
}

/**
 * What became of a statement that has little time: its rows, or that the server ended it at work, or while it waited for a
 * lock, or that a transaction of the application's is in its way.
 */
export type BriefAnswer = readonly Record<string, unknown>[] | 'ended' | 'locked'

export class PostgresConnection {
  readonly transactional: boolean
  readonly migrate: MigrateMode
  readonly #deadlineMs: number
  readonly #access: PostgresAccess
  readonly #schema: string
  /** What is under way. */
  readonly #running = new Set<{ readonly deadline: Deadline }>()
  #onIdle: () => void = () => undefined
  /** Where the database is, for errors. */
  readonly #server: string
  #ready: Promise<MigrationReport> | null = null
  #closing: Promise<void> | null = null

  constructor(source: PostgresSource, options: PostgresConnectionOptions) {
    this.#schema = options.schema
    this.#deadlineMs = options.deadlineMs
    this.#access = accessTo(source, options.deadlineMs)
    this.#server = ('url' in source ? serverOf(source.url) : null) ?? 'the database'
    this.transactional = this.#access.transactional
    this.migrate = options.migrate ?? (this.transactional ? 'off' : 'auto')
    if (this.transactional && this.migrate === 'auto') {
      throw invalidArgument(
        "A store inside a transaction does not migrate: use migrate: 'off' or 'check' there",
      )
    }
  }

  /** The store's statements. To be run by {@link run}. */
  prepare(options: { readonly named: boolean; readonly notify: boolean }): PostgresStatements {
    const { db, nameStatement } = this.#access
    return prepareStatements(db, this.#schema, { ...options, nameStatement })
  }

  /** Builds statements that {@link runBriefly} runs. */
  sampleQueries(): SampleQueries {
    return sampleQueries(this.#access.db, this.#schema)
  }

  /** The client of the host's db, if the store is on neither a pool nor a transaction. */
  get hostClient(): unknown {
    return this.#access.hostClient
  }

  /** Whether {@link runBriefly} may be used: its transactions would disturb an application that has the same connection. */
  get canRunBriefly(): boolean {
    return this.#access.transaction !== null
  }

  /** The time that one call of the store has. */
  newDeadline(): Deadline {
    return new Deadline(this.#deadlineMs)
  }

  /** Migrates, once. After a failure the next call tries again. */
  ready(): Promise<MigrationReport> {
    this.assertOpen()
    if (this.#ready === null) {
      const deadline = this.newDeadline()
      const unanswered: UnansweredMigration = { last: null }
      this.#ready = this.#retrying('migrate the database', deadline, () =>
        this.#prepare(deadline, unanswered),
      )
      this.#ready.catch(() => {
        this.#ready = null
      })
    }
    return this.#ready
  }

  /**
   * Runs a statement that may run twice: after a lost connection it is unknown whether it was committed, and it runs again.
   *
   * @param work is given how many attempts have failed before
   */
  async run<T>(
    action: string,
    work: (failures: number) => Promise<T>,
    { deadline = this.newDeadline(), mayTakeLong = false }: RunOptions = {},
  ): Promise<T> {
    await this.ready()
    return this.#retrying(action, deadline, (failures) =>
      this.#access.run({ deadline, mayTakeLong }, () => work(failures)),
    )
  }

  /** Runs one statement outside of any transaction. */
  query(action: string, statement: SQL, options?: RunOptions): Promise<readonly Record<string, unknown>[]> {
    return this.run(action, () => sqlRunner(this.#access.db)(statement), options)
  }

  /**
   * Runs one statement in a transaction of its own, which the server ends after some milliseconds, or a little later if it is slow to answer
   * anything. Only where {@link canRunBriefly}.
   */
  async runBriefly(action: string, statement: SQL, ms: number): Promise<BriefAnswer> {
    await this.ready()
    const deadline = this.newDeadline()
    const { transaction } = this.#access
    if (transaction === null) throw new TypeError('the connection is shared with the application')
    return this.#retrying(action, deadline, async () => {
      let ended: 'ended' | 'locked' | null = null
      try {
        return await transaction({ deadline }, async (run): Promise<BriefAnswer> => {
          // Of this transaction alone: behind a pooler the next one may be another client's.
          const setTimeouts = (timeMs: number) =>
            run(sql`select pg_catalog.set_config('statement_timeout', ${String(Math.ceil(timeMs))}, true),
              pg_catalog.set_config('lock_timeout', ${String(Math.ceil(timeMs * LOCK_SHARE))}, true)`)
          const start = performance.now()
          await setTimeouts(ms)
          // On a machine that is busy everything takes longer.
          const trip = performance.now() - start
          const limitMs = trip > QUICK_TRIP_MS ? ms + trip * SLOWER_BY : ms
          if (limitMs > ms) await setTimeouts(limitMs)
          const begun = performance.now()
          return run(statement).catch((error: unknown) => {
            const { code } = describeDriverError(error)
            if (code === LOCK_NOT_AVAILABLE) ended = 'locked'
            // Sooner than that somebody else has cancelled it.
            else if (code === STATEMENT_ENDED && performance.now() - begun >= limitMs) ended = 'ended'
            if (ended === null) throw error
            return ended
          })
        })
      } catch (error) {
        // postgres-js fails the transaction of a statement that has failed, whoever has caught its error.
        if (ended !== null) return ended
        if (error instanceof HostTransactionError) return 'locked'
        throw error
      }
    })
  }

  /**
   * Runs statements in one transaction, and again after a transient failure: each of them may run twice.
   *
   * @throws ERR_STORE, also if the application has a transaction open on the same connection
   */
  async batch(
    action: string,
    statements: readonly SQL[],
    { deadline = this.newDeadline(), mayTakeLong = false, isTransient }: RunOptions = {},
  ): Promise<void> {
    await this.ready()
    const attempt = () => this.#access.batch({ deadline, mayTakeLong }, statements)
    return this.#retrying(action, deadline, attempt, isTransient)
  }

  /** Runs one statement, though the database may not be migrated. @throws the driver's errors */
  queryUnprepared(statement: SQL): Promise<readonly Record<string, unknown>[]> {
    return this.#access.run({ deadline: this.newDeadline() }, () => sqlRunner(this.#access.db)(statement))
  }

  /** Waits a while for calls that are under way, then ends them. Ends within 4 s. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve
    })
    if (this.#running.size > 0)
      await new Deadline(CLOSE_GRACE_MS).wait(idle, () => 'calls').catch(() => undefined)
    for (const { deadline } of this.#running) deadline.abort(storeClosed())
    await this.#access.close()
  }

  #prepare(deadline: Deadline, unanswered: UnansweredMigration): Promise<MigrationReport> {
    if (this.migrate === 'off') return Promise.resolve(NOTHING_APPLIED)
    const access = this.#access
    const limits = { deadline, mayTakeLong: true }
    const { transaction } = access
    return migratePostgres(
      {
        run: (query) => access.run({ deadline }, () => sqlRunner(access.db)(query)),
        transaction: transaction && ((work) => transaction(limits, work)),
        batch: (statements) => access.batch(limits, statements),
      },
      { schema: this.#schema, mode: this.migrate, lockTimeoutMs: () => deadline.remainingMs, unanswered },
    )
  }

  /** @param action what could not be done, for the error */
  #retrying<T>(
    action: string,
    deadline: Deadline,
    work: (failures: number) => Promise<T>,
    isTransient?: (error: unknown) => boolean,
  ): Promise<T> {
    const attempt = async (failures: number) => {
      this.assertOpen()
      return work(failures)
    }
    // A failure aborts the whole of a caller's transaction: nothing in it can be tried again.
    const result = this.transactional ? attempt(0) : retryingPostgres(deadline, attempt, isTransient)
    const call = { deadline }
    this.#running.add(call)
    const ended = () => {
      this.#running.delete(call)
      if (this.#running.size === 0) this.#onIdle()
    }
    return result.then(
      (value) => {
        ended()
        return value
      },
      (error: unknown) => {
        ended()
        throw withAdvice(storeError(failedAction(action, error, this.#server), error))
      },
    )
  }

  /** @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.#closing !== null) throw storeClosed()
  }
}

/** What to do about a missing table, or about a server or a role that cannot notify. */
function withAdvice(error: KeystoreError): KeystoreError {
  if (error.code !== 'ERR_STORE' || !NO_NOTIFY.test(error.message)) return missingTable(error)
  return new StoreError(
    `${error.message}. Where pg_notify is missing or may not be executed, open the store with { notify: false }; other processes then see ` +
      'changes only when their cached keys expire',
    { cause: error.cause },
  )
}

/** 42501: insufficient_privilege; 42883: undefined_function; 0A000: feature_not_supported. */
const NO_NOTIFY = /SQLSTATE (42501|42883|0A000): .*\bpg_notify\b/

/**
 * How to listen for changes, or why the store cannot.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export function listenTarget(
  source: PostgresSource,
  listenUrl: string | false | undefined,
  { transactional, hostClient }: PostgresConnection,
): Listen | string {
  const ours = 'url' in source ? source : {}
  const url = listenUrl ?? ('url' in source ? source.url : undefined)
  const target = url === undefined || url === false ? null : listenOnPg(clientConfig('listenUrl', url, ours))
  if (transactional)
    return 'The store is bound to a transaction, which sees no notifications: listen with another store'
  if (listenUrl === false) return 'Listening is switched off (listenUrl: false)'
  return (
    target ??
    listenOnHost(hostClient) ??
    "The store has only the host's connections, none of its own to listen on: give listenUrl, a direct connection"
  )
}
