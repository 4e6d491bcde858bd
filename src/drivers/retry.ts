/** Tries an operation again after transient failures, until a deadline. The waits in between never block the event loop. */
import { setTimeout as sleep } from 'node:timers/promises'
import { describeDriverError } from './driver-error.js'

/** How long a store goes on trying, unless its options say otherwise. */
export const DEFAULT_DEADLINE_MS = 10_000

/** How long the waits between attempts may become. */
interface BackoffBounds {
  /** The longest that the first wait may be. The bound doubles with each further wait. */
  readonly firstMs: number
  /** The bound stops growing here. */
  readonly longestMs: number
}

/** Between attempts to get a SQLite lock, which its holder usually keeps for a few milliseconds. */
export const SQLITE_LOCK_BACKOFF: BackoffBounds = { firstMs: 2, longestMs: 50 }
/** Between attempts to run a Postgres statement. */
const POSTGRES_BACKOFF: BackoffBounds = { firstMs: 20, longestMs: 500 }
/** Between attempts to replace a lost Postgres connection that listens. They go on for as long as anybody listens. */
export const RECONNECT_BACKOFF: BackoffBounds = { firstMs: 100, longestMs: 5000 }

/**
 * The waits between attempts: exponential, with "full jitter". Each wait is a random part of its bound, so that processes that
 * failed together do not try again together.
 */
export class Backoff {
  readonly #bounds: BackoffBounds
  #boundMs: number

  constructor(bounds: BackoffBounds) {
    this.#bounds = bounds
    this.#boundMs = bounds.firstMs
  }

  /** How long to wait now, in milliseconds. Doubles the bound of the next wait. */
  nextMs(): number {
    const waitMs = Math.random() * this.#boundMs
    this.#boundMs = Math.min(this.#boundMs * 2, this.#bounds.longestMs)
    return waitMs
  }

  /** Starts again with the first bound. */
  reset(): void {
    this.#boundMs = this.#bounds.firstMs
  }
}

interface RetryPolicy {
  /** No attempt begins later than this after the call. */
  readonly deadlineMs: number
  readonly backoff: BackoffBounds
  isTransient(error: unknown): boolean
}

/** @throws what the last attempt threw */
export async function retrying<T>(policy: RetryPolicy, attempt: () => T | Promise<T>): Promise<T> {
  const end = performance.now() + policy.deadlineMs
  const backoff = new Backoff(policy.backoff)
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      const waitMs = backoff.nextMs()
      if (!policy.isTransient(error) || performance.now() + waitMs > end) throw error
      await sleep(waitMs)
    }
  }
}

/**
 * Retries a Postgres operation.
 *
 * @param isTransient default: whether the driver's error is a transient one, such as a lost connection or a deadlock
 * @throws what the last attempt threw
 */
export function retryingPostgres<T>(
  deadlineMs: number,
  attempt: () => Promise<T>,
  isTransient: (error: unknown) => boolean = isTransientDriverError,
): Promise<T> {
  return retrying({ deadlineMs, backoff: POSTGRES_BACKOFF, isTransient }, attempt)
}

function isTransientDriverError(error: unknown): boolean {
  return describeDriverError(error).transient
}
