/** How statements reach the server: through a node-postgres pool, ours or the host application's, or through the host's drizzle db. */
import { entityKind, type SQL } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import type pg from 'pg'
import { ClientPool } from '../../drivers/client-pool.js'
import { Deadline, DeadlineError } from '../../drivers/deadline.js'
import { newPool, type PostgresUrlSource } from '../../drivers/postgres-pool.js'
import { invalidArgument } from '../../errors.js'
import type { RunSql } from './migrate.js'
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

/** How long the statements of one call may take. */
export interface CallLimits {
  readonly deadline: Deadline
  /** Whether the statement may take longer while the server executes it: see {@link ClientPool.use}. */
  readonly mayTakeLong?: boolean
}

export interface PostgresAccess {
  /** Builds and runs statements. */
  readonly db: AnyPostgresDb
  readonly transactional: boolean
  /**
   * Runs `work`, which runs one statement through {@link db}, and begins it before it awaits anything.
   *
   * @throws DeadlineError · what `work` throws
   */
  run<T>(limits: CallLimits, work: () => Promise<T>): Promise<T>
  /** Runs `work` in one transaction. @throws DeadlineError · what `work` throws */
  transaction<T>(limits: CallLimits, work: (run: RunSql) => Promise<T>): Promise<T>
  /** Closes what was opened for the store. Ends within 2 s. */
  close(): Promise<void>
}

/** Why all connections of the host's pool may be in use, and what to do. */
const HOST_USES_UP =
  ', perhaps by transactions of the application that wait for this very call. Mint before the transaction, with ' +
  '`await envelope.user(id)`, or use a store on it: postgresKeyStore({ db: tx, transactional: true })'
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
    return poolAccess(source.pool, deadlineMs, HOST_USES_UP)
  }
  if (!isPostgresDb(source.db)) throw invalidArgument('db must be a drizzle db or transaction on Postgres')
  const db = quietDb(source.db)
  const transactional = source.transactional === true || 'rollback' in db
  const pool = transactional ? null : poolOf(db)
  return pool === null ? dbAccess(db, transactional) : poolAccess(pool, deadlineMs, HOST_USES_UP)
}

function poolAccess(
  pool: pg.Pool,
  deadlineMs: number,
  whenUsedUp: string,
  close: PostgresAccess['close'] = async () => undefined,
): PostgresAccess {
  const clients = new ClientPool<pg.PoolClient>(pool, whenUsedUp)
  /** Those of the statement that is being begun. */
  let limits: CallLimits | null = null
  // Statements are prepared once, for this view of the pool, which lends each run a connection of its own. A version of Drizzle that
  // does not begin a statement at once leaves it the store's deadline instead of the call's.
  const view: pg.Pool = Object.create(pool, {
    query: {
      value: (config: pg.QueryConfig, values: unknown[]) => {
        const { deadline, mayTakeLong = false } = limits ?? { deadline: new Deadline(deadlineMs) }
        return clients.use(deadline, (client) => client.query(config, values), { mayTakeLong })
      },
    },
  })
  return {
    db: drizzle({ client: view }),
    transactional: false,
    run(given, work) {
      limits = given
      try {
        return work()
      } finally {
        limits = null
      }
    },
    transaction: ({ deadline, mayTakeLong = false }, work) =>
      clients.use(deadline, (client) => inTransaction(client, deadline, work), { mayTakeLong }),
    close,
  }
}

/** Drizzle's own `transaction` on a pool leaks the client when BEGIN itself fails. */
async function inTransaction<T>(
  client: pg.PoolClient,
  deadline: Deadline,
  work: (run: RunSql) => Promise<T>,
): Promise<T> {
  await client.query('begin')
  try {
    const result = await work(untilOver(deadline, sqlRunner(drizzle({ client }))))
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback').catch(() => undefined)
    throw error
  }
}

/** The connection is not ours: at the deadline the call ends, and the statement goes on. */
function dbAccess(db: AnyPostgresDb, transactional: boolean): PostgresAccess {
  const waitedFor = () =>
    transactional
      ? "an answer on the transaction's connection: the server is out of reach, or another session has a lock"
      : "the application's connection: for a free one, or for an answer of the server"
  return {
    db,
    transactional,
    run: ({ deadline }, work) => deadline.wait(work(), waitedFor),
    transaction: ({ deadline }, work) =>
      deadline.wait(
        db.transaction((tx) => work(untilOver(deadline, sqlRunner(tx)))),
        waitedFor,
      ),
    close: async () => undefined,
  }
}

/** Nobody waits for a transaction any more whose time is over: it must not go on when its connection answers after all. */
function untilOver(deadline: Deadline, run: RunSql): RunSql {
  return async (query) => {
    if (deadline.isOver) throw new DeadlineError('the time of the transaction was over')
    return run(query)
  }
}

/** Drizzle's drivers differ: `execute` returns the rows, or an object that has them. */
export function sqlRunner(db: Pick<AnyPostgresDb, 'execute'>): RunSql {
  return async (query: SQL) => {
    const result: unknown = await db.execute(query)
    return Array.isArray(result) ? result : (result as { rows: Record<string, unknown>[] }).rows
  }
}

function isPostgresDb(db: object): db is AnyPostgresDb {
  if (typeof db !== 'object' || db === null) return false
  return ['select', 'insert', 'update', 'delete', 'execute', 'transaction'].every(
    (name) => name in db && typeof db[name as keyof typeof db] === 'function',
  )
}

/** The pool of a drizzle db on node-postgres; null for a db on one client or on another driver. */
function poolOf(db: AnyPostgresDb): pg.Pool | null {
  const kind: unknown = Reflect.get(db.constructor, entityKind)
  const client: unknown = Reflect.get(db, '$client')
  return kind === 'NodePgDatabase' && isPool(client) ? client : null
}

function isPool(client: unknown): client is pg.Pool {
  return (
    typeof client === 'object' &&
    client !== null &&
    'connect' in client &&
    'totalCount' in client &&
    'idleCount' in client
  )
}
