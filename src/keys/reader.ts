/**
 * Reads users' rows: one flight for each user, one query for all that is asked in a tick, and again when the store announces changes.
 * What it reads it brings to the memory.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { isKeystoreError, keyShredded } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { KeyStore, StoreChange } from '../store.js'
import type { KeyIdentity, KeyRef } from '../table.js'
import { KeyedBatch } from './batch.js'
import type { KnownUser, UserRows } from './known-user.js'
import type { KeyMemory } from './memory.js'
import { loadRows } from './rows.js'

/** Users whom an event names. */
const MAX_NAMED = 10
/** Users whose rows are read again in one query. */
const REREAD_USERS = 1000
/** Handles go on without asking the store: a failed read of their users is repeated after this. */
const REREAD_AFTER_MS = 1000
/** The key log may be long. */
const LOOK_IN_LOG_AFTER_MS = 1000

/** Looks into the key log: was a key that is gone from the store forgotten or given up? */
export type HasEnded = (key: KeyIdentity) => Promise<boolean>

export class KeyReader {
  readonly #store: KeyStore
  readonly #memory: KeyMemory
  readonly #emit: EmitEvent
  readonly #hasEnded: HasEnded | null
  readonly #load = new KeyedBatch<UserRows | null>((userIds) => this.#loadAll(userIds))
  /** Users whose rows may have changed. */
  readonly #outdated = new Set<string>()
  #isRereading = false
  #unsubscribe: (() => void) | null = null
  #closed = false

  /** @param hasEnded null: there is no key log that can be read */
  constructor(store: KeyStore, memory: KeyMemory, emit: EmitEvent, hasEnded: HasEnded | null) {
    this.#store = store
    this.#memory = memory
    this.#emit = emit
    this.#hasEnded = hasEnded
  }

  /**
   * The live rows of a user, ascending.
   *
   * @throws ERR_KEY_SHREDDED · ERR_STORE
   */
  async read(userId: string): Promise<UserRows> {
    if (this.#memory.keepsKeys) this.listen()
    for (;;) {
      if (this.#memory.wasJustShredded(userId)) throw keyShredded(userId)
      const rows = await this.#load.get(userId)
      if (rows === null) continue
      if (rows.isShredded) throw keyShredded(userId)
      return rows
    }
  }

  /** Whether the key log says that a user's lost keys have ended. Reads it at most once a second for each user. */
  async hasEnded(user: KnownUser): Promise<boolean> {
    const { userId, highest: version, highestCreatedAt: createdAt } = user
    if (this.#hasEnded === null || createdAt === null) return false
    const now = performance.now()
    if (user.lookedFor === null || now - user.lookedForAt >= LOOK_IN_LOG_AFTER_MS) {
      user.lookedForAt = now
      user.lookedFor = this.#hasEnded({ userId, version, createdAt })
    }
    return user.lookedFor
  }

  /** Subscribes to changes, before the first read whose result is kept. Some stores need a connection of its own for it. */
  listen(): void {
    if (this.#unsubscribe !== null || this.#store.transactional) return
    this.#unsubscribe = this.#store.changes?.((change) => this.#announced(change)) ?? null
    this.#memory.changesAreAnnounced = this.#unsubscribe !== null
  }

  /** A user's rows may have changed. */
  announce(userId: string): void {
    this.#announced({ userIds: [userId] })
  }

  /** Reads users again whose rows may have changed; one query at a time, however fast changes are announced. */
  reread(userIds: readonly string[]): void {
    for (const userId of userIds) this.#outdated.add(userId)
    if (!this.#isRereading) void this.#rereadAll()
  }

  close(): void {
    this.#closed = true
    this.#unsubscribe?.()
  }

  async #loadAll(userIds: readonly string[]): Promise<(UserRows | null | Error)[]> {
    const reads = userIds.map((userId) => this.#memory.beginRead(userId))
    const found = await loadRows(this.#store, userIds)
    const lost: KnownUser[] = []
    const results = reads.map((read, index) => {
      const records = found[index] ?? []
      if (records instanceof Error) return records
      const rows = this.#memory.endRead(read, records)
      if (rows !== null && rows.lostVersion > 0) lost.push(read.user)
      return rows
    })
    if (lost.length > 0) {
      if (this.#hasEnded === null) this.#emitLost(lost)
      else void this.#emitUnlessEnded(lost)
    }
    return results
  }

  #emitLost(lost: readonly KnownUser[]): void {
    if (lost.length === 0) return
    const users = lost
      .slice(0, MAX_NAMED)
      .map(({ userId, highest }): KeyRef => ({ userId, version: highest }))
    this.#emit({ type: 'keysLost', users, count: lost.length })
  }

  async #emitUnlessEnded(lost: readonly KnownUser[]): Promise<void> {
    // A log that cannot be read says of no key that it has ended.
    const ended = await Promise.all(lost.map((user) => this.hasEnded(user).catch(() => false)))
    this.#emitLost(lost.filter((_, index) => !ended[index]))
  }

  #announced({ userIds, forgotten, unspecific, silent }: StoreChange): void {
    this.#memory.changesAreAnnounced = silent === undefined
    if (silent !== undefined) {
      this.#emit({ type: 'changesSilent', reason: silent })
    } else if (userIds !== undefined) {
      for (const userId of userIds) this.#memory.change(userId, forgotten)
      this.reread(userIds.filter((userId) => this.#memory.outlastsKeys(userId)))
    } else if (unspecific === true) {
      this.reread([...this.#memory.takeUsed(), ...this.#memory.leasedUsers()])
    } else {
      this.#memory.dropAll()
      this.reread(this.#memory.leasedUsers())
    }
  }

  async #rereadAll(): Promise<void> {
    this.#isRereading = true
    while (this.#outdated.size > 0 && !this.#closed) {
      const users = [...this.#outdated].slice(0, REREAD_USERS)
      for (const userId of users) this.#outdated.delete(userId)
      // Not through #load: a read that is under way may have begun before the change.
      const results = await this.#loadAll(users).catch((error: Error) => users.map(() => error))
      const failed = users.filter((userId, index) => this.#isToBeRepeated(userId, results[index] ?? null))
      for (const userId of failed) this.#outdated.add(userId)
      if (failed.length > 0) await sleep(REREAD_AFTER_MS, undefined, { ref: false })
    }
    this.#isRereading = false
  }

  /** Drops a user who cannot be read from the cache. The next call asks the store, so only leases need another read. */
  #isToBeRepeated(userId: string, result: UserRows | Error | null): boolean {
    if (!(result instanceof Error)) return false
    this.#memory.change(userId)
    return isKeystoreError(result) && result.retryable && this.#memory.isLeased(userId)
  }
}
