/** Runs the sweep's statements on a SQLite connection of any driver. */
import type { AsyncSqlite, BoundStatement } from '../drivers/async-sqlite.js'
import { Deadline } from '../drivers/deadline.js'
import { describeDriverError } from '../drivers/driver-error.js'
import { retrying, SQLITE_LOCK_BACKOFF } from '../drivers/retry.js'
import type { SqliteClient, SqliteStatement } from '../drivers/sqlite-client.js'
import { assertNoHostTransaction, isLocked, withoutBusyTimeout } from '../drivers/sqlite-locks.js'

export interface SqliteRunner {
  /** Whether the event loop does not turn while a statement runs. A server runs them elsewhere. */
  readonly isInProcess: boolean
  /** @returns rows as arrays; integers that are not exact as numbers are bigints, where the driver has them */
  query(statement: BoundStatement): Promise<readonly (readonly unknown[])[]>
  /** Runs statements in their order in one transaction. @returns how many rows each has changed */
  write(statements: readonly BoundStatement[]): Promise<readonly number[]>
  /** Of the database's texts, as `pragma encoding` says. */
  encoding(): Promise<string>
  /** Tries work again after transient failures. @throws what the last attempt threw */
  retrying<T>(deadlineMs: number, work: () => Promise<T>): Promise<T>
}

/** While the host's transaction is open on the connection, a write waits as for a lock. No wait blocks this process. */
export function syncRunner(client: SqliteClient): SqliteRunner {
  const prepared = new Map<string, SqliteStatement>()
  const prepare = (sql: string): SqliteStatement => {
    const statement = prepared.get(sql) ?? client.prepare(sql)
    if (!prepared.has(sql) && statement.reader) statement.raw().safeIntegers()
    prepared.set(sql, statement)
    return statement
  }
  const run = ({ sql, params }: BoundStatement): number => {
    const statement = prepare(sql)
    if (!statement.reader) return statement.run(...params).changes
    statement.all(...params)
    return 0
  }
  return {
    isInProcess: true,
    query: async ({ sql, params }) =>
      withoutBusyTimeout(client, () => prepare(sql).all(...params) as unknown[][]),
    async write(statements) {
      assertNoHostTransaction(client)
      return withoutBusyTimeout(client, () => client.transaction(() => statements.map(run)).immediate())
    },
    encoding: async () => String(client.pragma('encoding', { simple: true })),
    retrying: (deadlineMs, work) =>
      retrying({ deadlineMs, backoff: SQLITE_LOCK_BACKOFF, isTransient: isLocked }, work),
  }
}

export function asyncRunner(db: AsyncSqlite): SqliteRunner {
  return {
    isInProcess: db.place !== 'server',
    query: async (statement) => (await db.run(statement)).rows,
    write: async (statements) => (await db.batch(statements)).map(({ changes }) => changes),
    // Of every database that these drivers make.
    encoding: async () => 'UTF-8',
    retrying(deadlineMs, work) {
      const deadline = new Deadline(deadlineMs)
      const isTransient = (error: unknown) => describeDriverError(error).transient
      const attempt = () => deadline.wait(work(), () => 'an answer of the database')
      return retrying({ deadlineMs, backoff: SQLITE_LOCK_BACKOFF, isTransient }, attempt)
    },
  }
}
