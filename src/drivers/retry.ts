/** Tries again after transient failures, with jitter, up to a deadline, and never blocks the event loop. */
import { setTimeout as sleep } from 'node:timers/promises'

/** How long a store tries, unless told otherwise. */
export const DEFAULT_DEADLINE_MS = 10_000

export interface RetryPolicy {
  readonly deadlineMs: number
  /** The first wait is up to this long; each further one up to twice as long as the one before. */
  readonly firstWaitMs: number
  readonly longestWaitMs: number
  isTransient(error: unknown): boolean
}

/** @throws what the last attempt threw */
export async function retrying<T>(policy: RetryPolicy, attempt: () => T | Promise<T>): Promise<T> {
  const end = performance.now() + policy.deadlineMs
  for (let bound = policy.firstWaitMs; ; bound = Math.min(bound * 2, policy.longestWaitMs)) {
    try {
      return await attempt()
    } catch (error) {
      // "Full jitter": waits spread over the whole interval, so that rivals do not meet again.
      const waitMs = Math.random() * bound
      if (!policy.isTransient(error) || performance.now() + waitMs > end) throw error
      await sleep(waitMs)
    }
  }
}
