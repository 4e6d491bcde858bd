/** Tells who listens of what others write to a SQLite database, which is asked every so often, and of our own writes at once. */

import { describeDriverError, isBusy } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { invalidArgument } from '../../errors.js'
import { type ChangeListener, Listeners } from '../listeners.js'

export const DEFAULT_POLL_MS = 1000

/** Two stores may share a host's connection, whose `data_version` does not show what it writes itself. */
const watchers = new WeakMap<SqliteClient, Set<SqliteChanges>>()

export class SqliteChanges {
  readonly #pollMs: number
  readonly #listeners = new Listeners({ start: () => this.#start(), stop: () => this.#stop() })
  #client: SqliteClient | null = null
  #timer: NodeJS.Timeout | null = null
  /** `data_version` when it was last looked at; null if it could not be read. */
  #seen: unknown = null
  #silent = false

  /** @throws ERR_INVALID_ARGUMENT */
  constructor(pollMs: number) {
    if (!Number.isInteger(pollMs) || pollMs < 1 || pollMs > MAX_TIMEOUT_MS)
      throw invalidArgument('pollMs must be a positive whole number of milliseconds')
    this.#pollMs = pollMs
  }

  listen(listener: ChangeListener): () => void {
    return this.#listeners.add(listener)
  }

  /** The connection is open, and nothing was read through it yet: whatever comes from now on is noticed. */
  attach(client: SqliteClient): void {
    this.#client = client
    if (this.#listeners.size > 0) this.#watch(client)
  }

  /** After the commit of a write of ours: every store on this connection is told. */
  tell(userIds: readonly string[]): void {
    if (this.#client === null || userIds.length === 0) return
    const change = { userIds: [...new Set(userIds)] }
    for (const watcher of [...(watchers.get(this.#client) ?? [])]) watcher.#listeners.tell(change)
  }

  close(): void {
    this.#listeners.clear()
    this.#client = null
  }

  #start(): void {
    this.#timer = setInterval(() => this.#poll(), this.#pollMs).unref()
    if (this.#client !== null) this.#watch(this.#client)
  }

  #stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    this.#silent = false
    if (this.#client !== null) watchers.get(this.#client)?.delete(this)
  }

  #watch(client: SqliteClient): void {
    const here = watchers.get(client) ?? new Set()
    watchers.set(client, here.add(this))
    try {
      this.#seen = dataVersion(client)
    } catch {
      this.#seen = null
    }
  }

  #poll(): void {
    // Inside a transaction that the host has begun and not read in yet, our look would fix what it sees from then on.
    if (this.#client === null || this.#client.inTransaction) return
    try {
      const version = dataVersion(this.#client)
      if (!this.#silent && version === this.#seen) return
      this.#seen = version
      this.#listeners.tell(this.#silent ? {} : { unspecific: true })
      this.#silent = false
    } catch (error) {
      const { code, description } = describeDriverError(error)
      if (this.#silent || (code !== null && isBusy(code))) return
      this.#silent = true
      this.#listeners.tell({ silent: `The database cannot be asked for changes (${description})` })
    }
  }
}

/** Node's timers take a longer one for 1 ms. */
const MAX_TIMEOUT_MS = 2_147_483_647

/** Another number once another connection has committed, whichever process has it (sqlite.org/pragma.html#pragma_data_version). */
function dataVersion(client: SqliteClient): unknown {
  return client.pragma('data_version', { simple: true })
}
