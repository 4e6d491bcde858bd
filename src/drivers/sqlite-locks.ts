/** Waiting for locks on a better-sqlite3 connection, which never blocks the event loop: the connection itself waits for none. */
import { describeDriverError, isBusy } from './driver-error.js'
import { retrying } from './retry.js'
import type { SqliteClient } from './sqlite-client.js'

/** Thrown to make a write wait while the host is inside a transaction on the connection that we share. */
export class HostTransaction extends Error {
  override readonly name = 'HostTransaction'
}

export function waitForHost(client: SqliteClient): void {
  if (client.inTransaction) throw new HostTransaction()
}

/** @throws what the last attempt threw */
export function retryingWhileLocked<T>(deadlineMs: number, attempt: () => T): Promise<T> {
  return retrying({ deadlineMs, firstWaitMs: 2, longestWaitMs: 50, isTransient: isLocked }, attempt)
}

function isLocked(error: unknown): boolean {
  if (error instanceof HostTransaction) return true
  const { code } = describeDriverError(error)
  return code !== null && isBusy(code)
}
