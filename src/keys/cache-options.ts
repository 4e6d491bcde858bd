/** How many keys are kept in memory, and how long. */

export interface CacheOptions {
  /** The number of users whose keys are kept, at about a kilobyte a key. Default 10,000. */
  readonly maxEntries?: number
  /**
   * How long a user's keys are used, in milliseconds. It bounds how long a rotation or shred by another process goes unnoticed if the
   * store cannot announce it. Expired keys leave the memory when they are next asked for, or when others need their place.
   * Default 5 minutes; 1 minute while the store does not announce changes.
   */
  readonly ttlMs?: number
}

/** Counted since the service was opened. */
export interface CacheStats {
  /** Calls whose key was in memory. */
  readonly hits: number
  /** Calls that had to ask the store, or to share another call's question. */
  readonly misses: number
  /** Users whose keys are in memory now. */
  readonly users: number
}

export const DEFAULT_MAX_ENTRIES = 10_000
export const DEFAULT_TTL_MS = 5 * 60 * 1000
/** For keys that are cached while no changes are announced. */
export const UNANNOUNCED_TTL_MS = 60 * 1000
