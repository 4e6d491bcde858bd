/**
 * Waits for locks on a better-sqlite3 connection without blocking the event loop. Connections of ours have a busy timeout of 0:
 * SQLite's own waiting would block the whole process.
 */
import type { KeystoreError } from '../errors.js'
import { describeDriverError, isBusyCode, storeError } from './driver-error.js'
import { retrying, SQLITE_LOCK_BACKOFF } from './retry.js'
import type { SqliteClient } from './sqlite-client.js'

/** The host application is inside a transaction on the connection that it shares with us. */
export class HostTransactionError extends Error {
  override readonly name = 'HostTransactionError'
}

/** Inside {@link retryingWhileLocked} this waits for the end of the host's transaction. @throws HostTransactionError */
export function assertNoHostTransaction(client: SqliteClient): void {
  if (client.inTransaction) throw new HostTransactionError()
}

/** Tries again while another connection has the lock, or the host's transaction is open. @throws what the last attempt threw */
export function retryingWhileLocked<T>(deadlineMs: number, attempt: () => T): Promise<T> {
  return retrying({ deadlineMs, backoff: SQLITE_LOCK_BACKOFF, isTransient: isLocked }, attempt)
}

/** {@link storeError}, which for a lock says how long it was waited for. */
export function lockError(
  action: string,
  error: unknown,
  deadlineMs: number,
  { who, holder = '' }: { readonly who?: string; readonly holder?: string } = {},
): KeystoreError {
  const { code } = describeDriverError(error)
  const isBusy = code !== null && isBusyCode(code)
  return storeError(
    isBusy ? `${action} within ${deadlineMs} ms: another connection has the lock${holder}` : action,
    error,
    who,
  )
}

/**
 * Runs work on the host's connection without the time that it waits for locks, which would stop the whole process for as long. Work is
 * synchronous, so that the host does not see the change.
 */
export function withoutBusyTimeout<T>(client: SqliteClient, work: () => T): T {
  const waitMs = Number(client.pragma('busy_timeout', { simple: true }))
  if (waitMs === 0) return work()
  client.pragma('busy_timeout = 0')
  try {
    return work()
  } finally {
    client.pragma(`busy_timeout = ${waitMs}`)
  }
}

/** Runs work while the connection holds its lock for reading: without a write-ahead log nobody writes into the file meanwhile. */
export function withReadLock<T>(client: SqliteClient, work: () => T): T {
  // The lock is held from the first row until the statement is reset (sqlite.org/lockingv3.html).
  const rows = client.prepare('select count(*) from sqlite_master').iterate()
  try {
    rows.next()
    return work()
  } finally {
    rows.return?.()
  }
}

export function isLocked(error: unknown): boolean {
  if (error instanceof HostTransactionError) return true
  const { code } = describeDriverError(error)
  return code !== null && isBusyCode(code)
}
