/**
 * Waits for locks on a better-sqlite3 connection without blocking the event loop. Connections of ours have a busy timeout of 0:
 * SQLite's own waiting would block the whole process.
 */
import { describeDriverError, isBusyCode } from './driver-error.js'
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

function isLocked(error: unknown): boolean {
  if (error instanceof HostTransactionError) return true
  const { code } = describeDriverError(error)
  return code !== null && isBusyCode(code)
}
