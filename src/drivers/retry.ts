/** Tries an operation again after transient failures, until a deadline. The waits in between never block the event loop. */
import { setTimeout as sleep } from 'node:timers/promises'
import { ANSWER_OF_SERVER, type Deadline, DeadlineError } from './deadline.js'
import { describeDriverError, isConnectFailure } from './driver-error.js'

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
/** Between attempts to find no transaction of the application's on a Postgres connection. */
export const HOST_TRANSACTION_BACKOFF: BackoffBounds = { firstMs: 2, longestMs: 50 }
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

/**
 * @param attempt is given how many attempts have failed before
 * @throws what the last attempt threw
 */
export async function retrying<T>(
  policy: RetryPolicy,
  attempt: (failures: number) => T | Promise<T>,
): Promise<T> {
  const end = performance.now() + policy.deadlineMs
  const backoff = new Backoff(policy.backoff)
  let last: unknown = null
  for (let failures = 0; ; failures += 1) {
    try {
      return await attempt(failures)
    } catch (error) {
      const waitMs = backoff.nextMs()
      if (!policy.isTransient(error) || performance.now() + waitMs > end)
        throw failures === 0 ? error : withReasonBefore(error, last)
      last = error
      await sleep(waitMs)
    }
  }
}

/**
 * The last attempt may have begun just before the deadline, which cut it off: why the one before it failed says more. If that could not
 * connect, and nothing says that the last one could, it is the reason.
 */
function withReasonBefore(error: unknown, before: unknown): unknown {
  // Drizzle wraps what a connection throws.
  for (let current = error; current instanceof Error; current = current.cause) {
    if (!(current instanceof DeadlineError)) continue
    if (isConnectFailure(before) && !current.message.includes(ANSWER_OF_SERVER)) return before
    return new DeadlineError(`${current.message}; before that: ${describeDriverError(before).description}`)
  }
  return error
}

/**
 * Retries a Postgres operation.
 *
 * @param deadline after which no attempt begins; the attempts themselves must keep to it
 * @param attempt is given how many attempts have failed before: what they wrote may be committed although their answer was lost
 * @param isTransient default: whether the driver's error is a transient one, such as a lost connection or a deadlock
 * @throws what the last attempt threw
 */
export function retryingPostgres<T>(
  deadline: Deadline,
  attempt: (failures: number) => Promise<T>,
  isTransient: (error: unknown) => boolean = isTransientDriverError,
): Promise<T> {
  return retrying({ deadlineMs: deadline.remainingMs, backoff: POSTGRES_BACKOFF, isTransient }, attempt)
}

function isTransientDriverError(error: unknown): boolean {
  return describeDriverError(error).transient
}
