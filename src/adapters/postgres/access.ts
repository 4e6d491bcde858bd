/**
 * How statements reach the server: through a pool of node-postgres or of a driver that offers the same, ours or the host application's, or
 * through the host's drizzle db. Imports no driver.
 */
import { type SQL, sql } from 'drizzle-orm'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/pg-proxy'
import {
  ClientPool,
  isInTransaction,
  isPool,
  type MayTakeLong,
  type PooledClient,
  type PostgresPool,
} from '../../drivers/client-pool.js'
import { Deadline, DeadlineError } from '../../drivers/deadline.js'
import { assertDrizzleDb, isTransaction } from '../../drivers/drizzle-db.js'
import { assertConnecting, assertUsableClient, startOf } from '../../drivers/host-client.js'
import { isPostgresJs } from '../../drivers/postgres-clients.js'
import { newPool } from '../../drivers/postgres-pool.js'
import { HOST_TRANSACTION_BACKOFF, retrying } from '../../drivers/retry.js'
import { invalidArgument } from '../../errors.js'
import type { RunSql } from './migrate.js'
import { HostTransactionError, runAsOne } from './one-statement.js'
import { quietDb } from './quiet-db.js'
import type { HostPostgresDb, PostgresSource } from './source.js'

/** A drizzle db on any Postgres driver: node-postgres, postgres-js, PGlite … */
export type AnyPostgresDb = PgDatabase<PgQueryResultHKT>

/** How long the statements of one call may take. */
export interface CallLimits {
  readonly deadline: Deadline
  /** Whether the statement may take longer while the server executes it: see {@link ClientPool.use}. */
  readonly mayTakeLong?: MayTakeLong
}

export interface PostgresAccess {
  /** Builds and runs statements. */
  readonly db: AnyPostgresDb
  readonly transactional: boolean
  /** The client of the host's db, if the store is on neither a pool nor a transaction. */
  readonly hostClient: unknown
  /** Has a statement of {@link db} prepared on the server under a name. Not where Drizzle itself does that. */
  nameStatement?(text: string, name: string): void
  /**
   * Runs `work`, which runs one statement through {@link db}, and begins it before it awaits anything.
   *
   * @throws DeadlineError · what `work` throws
   */
  run<T>(limits: CallLimits, work: () => Promise<T>): Promise<T>
  /**
   * Runs `work` in one transaction. Null where a transaction would have no connection of its own: the application's statements would get into
   * it, and would be rolled back with it; or it would end a transaction of the application's.
   *
   * @throws DeadlineError · HostTransactionError · what `work` throws
   */
  readonly transaction: (<T>(limits: CallLimits, work: (run: RunSql) => Promise<T>) => Promise<T>) | null
  /**
   * Runs statements in one transaction, at the level "read committed". Also on a connection that the application uses too.
   *
   * @throws DeadlineError · HostTransactionError · the driver's errors
   */
  batch(limits: CallLimits, statements: readonly SQL[]): Promise<void>
  /** Closes what was opened for the store. Ends within 2 s. */
  close(): Promise<void>
}

/** Why all connections of the host's pool may be in use, and what to do. */
const HOST_USES_UP =
  ', perhaps by transactions of the application that wait for this very call. Mint before the transaction, with ' +
  '`await envelope.user(id)`, and begin scopes outside it, envelope.scope(id, () => db.transaction(…)); or use a store on it: postgresKeyStore({ db: tx, transactional: true })'
const CALLS_USE_UP = ': give the store more of them (maxConnections)'

/** @throws ERR_INVALID_ARGUMENT */
export function accessTo(source: PostgresSource, deadlineMs: number): PostgresAccess {
  // A string here is likely a URL with a password. `in` on a string would throw an error that quotes it.
  if (typeof source !== 'object' || source === null)
    throw invalidArgument('source must be { url }, { pool } or { db }')
  if ('url' in source) {
    const { pool, close } = newPool(source, deadlineMs)
    return poolAccess(pool, deadlineMs, CALLS_USE_UP, close)
  }
  if ('pool' in source) {
    if (typeof source.pool?.connect !== 'function') throw invalidArgument('pool must be a Pool of pg')
    assertUsableClient('pool', source.pool)
    return poolAccess(source.pool, deadlineMs, HOST_USES_UP)
  }
  assertDrizzleDb(source.db, 'postgres')
  const transactional = source.transactional === true || isTransaction(source.db)
  const db = quietDb(source.db as HostPostgresDb & AnyPostgresDb)
  const client: unknown = Reflect.get(db, '$client')
  if (!transactional && '$client' in db) assertUsableClient('db', client)
  return !transactional && isPool(client)
    ? poolAccess(client, deadlineMs, HOST_USES_UP)
    : dbAccess(db, transactional, client)
}

function poolAccess(
  pool: PostgresPool,
  deadlineMs: number,
  whenUsedUp: string,
  close: PostgresAccess['close'] = async () => undefined,
): PostgresAccess {
  const clients = new ClientPool<PooledClient>(pool, whenUsedUp)
  const names = new Map<string, string>()
  /** Those of the statement that is being begun. */
  let limits: CallLimits | null = null
  const transaction: InTransaction = async ({ deadline, mayTakeLong = false }, work) => {
    const attempt = async (client: PooledClient) =>
      (await isInTransaction(client, clients.isOfOne))
        ? null
        : { result: await inTransaction(client, deadline, work) }
    const done = await clients.use(deadline, attempt, { mayTakeLong })
    // Not thrown in there: a connection on which something fails is closed, and the transaction with it.
    if (done === null) throw new HostTransactionError()
    return done.result
  }
  return {
    // Drizzle begins a statement before it awaits anything. A version that does not leaves it the store's deadline instead of the call's.
    db: dbOn((query) => {
      const { deadline, mayTakeLong = false } = limits ?? { deadline: new Deadline(deadlineMs) }
      return clients.use(deadline, query, { mayTakeLong })
    }, names),
    transactional: false,
    hostClient: null,
    nameStatement: (text, name) => void names.set(text, name),
    run(given, work) {
      limits = given
      try {
        return work()
      } finally {
        limits = null
      }
    },
    transaction,
    batch: (given, statements) => transaction(given, (run) => runEach(run, statements)),
    close,
  }
}

type InTransaction = NonNullable<PostgresAccess['transaction']>

async function runEach(run: RunSql, statements: readonly SQL[]): Promise<void> {
  await run(sql`set transaction isolation level read committed`)
  for (const statement of statements) await run(statement)
}

type Rows = { readonly rows: unknown[] }

/** Drizzle's db for node-postgres imports that driver, its pg-proxy none. */
function dbOn(
  run: (query: (client: PooledClient) => Promise<Rows>) => Promise<Rows>,
  names?: ReadonlyMap<string, string>,
): AnyPostgresDb {
  return drizzle((text, values, method) =>
    run((client) => {
      const rowMode = method === 'all' ? 'array' : undefined
      return client.query({ text, name: names?.get(text), rowMode, types: typesOf(client) }, values)
    }),
  )
}

/** The OID of timestamptz (pg_type.dat of PostgreSQL). */
const TIMESTAMPTZ = 1184

/** As the connection reads values, except for times: the host may have them made objects of some library. */
function typesOf(client: object): object | undefined {
  const parserOf: unknown = Reflect.get(client, 'getTypeParser')
  if (typeof parserOf !== 'function') return undefined
  const getTypeParser = (oid: number, format: string): unknown =>
    oid === TIMESTAMPTZ ? String : parserOf.call(client, oid, format)
  return { getTypeParser }
}

/** Drizzle's own `transaction` on a pool leaks the client when BEGIN itself fails. */
async function inTransaction<T>(
  client: PooledClient,
  deadline: Deadline,
  work: (run: RunSql) => Promise<T>,
): Promise<T> {
  await client.query('begin')
  try {
    const result = await work(untilOver(deadline, sqlRunner(dbOn((query) => query(client)))))
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback').catch(() => undefined)
    throw error
  }
}

/** The connection is not ours: at the deadline the call ends, and the statement goes on. */
function dbAccess(db: AnyPostgresDb, transactional: boolean, client: unknown): PostgresAccess {
  const waitedFor = () =>
    transactional
      ? "an answer on the transaction's connection: the server is out of reach, or another session has a lock"
      : (startOf(client) ??
        `the application's connection: for an answer of the server, or for a free one. All may be in use${HOST_USES_UP}`)
  const wait = async <T>({ deadline, mayTakeLong }: CallLimits, work: () => Promise<T>): Promise<T> => {
    assertConnecting(client)
    return mayTakeLong === true ? deadline.waitLonger(work(), waitedFor) : deadline.wait(work(), waitedFor)
  }
  const transaction: InTransaction = (limits, work) =>
    wait(limits, () => db.transaction((tx) => work(untilOver(limits.deadline, sqlRunner(tx)))))
  // postgres-js reserves a connection. Where it has but one, the application may have sent BEGIN on it, as on PGlite and on a Client.
  const isolated = !transactional && isPostgresJs(client) && client.options.max > 1
  return {
    db,
    transactional,
    hostClient: transactional ? null : client,
    run: wait,
    transaction: isolated ? transaction : null,
    batch: (limits, statements) =>
      isolated
        ? transaction(limits, (run) => runEach(run, statements))
        : wait(limits, () => betweenTransactions(limits.deadline, () => runAsOne(db, statements))),
    close: async () => undefined,
  }
}

/** How long to wait for the end of a transaction of the application's on the same connection: it may be the one that waits for us. */
const HOST_TRANSACTION_MS = 1000

function betweenTransactions(deadline: Deadline, attempt: () => Promise<void>): Promise<void> {
  return retrying(
    {
      deadlineMs: Math.min(HOST_TRANSACTION_MS, deadline.remainingMs),
      backoff: HOST_TRANSACTION_BACKOFF,
      isTransient: (error) => error instanceof HostTransactionError,
    },
    () => {
      assertNotOver(deadline)
      return attempt()
    },
  )
}

/** Nobody waits for a transaction any more whose time is over: it must not go on when its connection answers after all. */
function untilOver(deadline: Deadline, run: RunSql): RunSql {
  return async (query) => {
    assertNotOver(deadline)
    return run(query)
  }
}

function assertNotOver(deadline: Deadline): void {
  if (deadline.isOver) throw new DeadlineError('the time of the transaction was over')
}

/** Drizzle's drivers differ: `execute` returns the rows, or an object that has them. */
export function sqlRunner(db: Pick<AnyPostgresDb, 'execute'>): RunSql {
  return async (query: SQL) => {
    const result: unknown = await db.execute(query)
    return Array.isArray(result) ? result : (result as { rows: Record<string, unknown>[] }).rows
  }
}
