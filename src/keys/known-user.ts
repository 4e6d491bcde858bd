/** What a process knows of one user, and what a handle holds of it. Only memory.ts changes it. */
import type { DataKey, KeyRow } from './data-key.js'

/** What is known of one user's keys until they are erased. */
export class KnownUser {
  readonly userId: string
  /** The keys were erased, or the user evicted: whoever has this object in hand reads the rows again. */
  ended = false
  /** The row of the highest version is gone, and the user was not forgotten: an older copy of the store, or a deletion past the library. */
  keysLost = false
  /** When they were last looked for in the key log, in milliseconds of `performance.now()`, and whether they have ended. */
  lookedForAt = 0
  lookedFor: Promise<boolean> | null = null
  /** How often a change of the user's rows was announced. */
  changes: number
  /** {@link changes} when rows of the user were last found, and when it was last announced that the user was forgotten. */
  changesWhenFound = 0
  changesWhenForgotten = 0
  /** A key that was erased when the user was shredded. */
  shreddedKey: Pick<KeyRow, 'version' | 'createdAt'> | null = null
  /** The highest version that was read, and when it was made; 0 before any was read. */
  highest = 0
  highestCreatedAt: Date | null = null
  /** The lowest version that was read first, and when it was made. */
  lowest: Pick<KeyRow, 'version' | 'createdAt'> | null = null
  /** The open keys that are cached, by version; null if none is. */
  keys: Map<number, DataKey> | null = null
  /** Whether a cached key was used since the store last said that something may have changed. */
  isUsed = false
  leases = 0
  /** The rows of leased keys by version, as they were last read. */
  leasedRows: Map<number, KeyRow> | null = null

  constructor(userId: string, changes: number) {
    this.userId = userId
    this.changes = changes
  }

  /** Whether it was announced that the user was forgotten, and no rows were found since: their absence, or other ones, are meant. */
  get isForgotten(): boolean {
    return this.changesWhenForgotten > this.changesWhenFound
  }
}

/** The right of a handle to use a user's keys, until they are erased. */
export class Lease {
  readonly #user: KnownUser

  constructor(user: KnownUser) {
    this.#user = user
  }

  /** Whether the keys were erased, as far as this process knows. */
  get ended(): boolean {
    return this.#user.ended
  }

  /** Whether the keys are gone from the store, though nobody is known to have erased them. */
  get keysLost(): boolean {
    return this.#user.keysLost
  }
}
