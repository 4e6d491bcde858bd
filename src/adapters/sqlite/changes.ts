/** Publishes changes of a SQLite database: our own writes at once, those of other connections when the next poll finds them. */

import { describeDriverError, isBusyCode } from '../../drivers/driver-error.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { withoutBusyTimeout } from '../../drivers/sqlite-locks.js'
import { invalidArgument } from '../../errors.js'
import { type ChangeListener, Listeners } from '../listeners.js'
import type { OpenedFile } from './opened-file.js'

export const DEFAULT_POLL_MS = 1000

/** Every instance with listeners on a connection. `data_version` does not show what a connection itself writes, and stores may share one. */
const instancesOf = new WeakMap<SqliteClient, Set<SqliteChanges>>()
/** Every instance with listeners. */
const polling = new Set<SqliteChanges>()

export class SqliteChanges {
  readonly #pollMs: number
  readonly #listeners = new Listeners({ start: () => this.#start(), stop: () => this.#stop() })
  #client: SqliteClient | null = null
  #file: OpenedFile | null = null
  #timer: NodeJS.Timeout | null = null
  /** `data_version` at the last poll; null if it could not be read. */
  #lastVersion: unknown = null
  #silent = false

  /** @throws ERR_INVALID_ARGUMENT */
  constructor(pollMs: number) {
    if (!Number.isInteger(pollMs) || pollMs < 1 || pollMs > MAX_TIMEOUT_MS)
      throw invalidArgument('pollMs must be a positive whole number of milliseconds')
    this.#pollMs = pollMs
  }

  /** @returns a function that ends it */
  subscribe(listener: ChangeListener): () => void {
    return this.#listeners.add(listener)
  }

  /** Gives the connection, once it is open and before anything is read through it: no later change is missed. */
  attach(client: SqliteClient, file: OpenedFile | null): void {
    this.#client = client
    this.#file = file
    if (file !== null) file.onLost = (reason) => this.#lost(reason)
    if (this.#listeners.size > 0) this.#register(client)
  }

  /** Publishes a committed write of ours to every store on this connection. */
  publish(userIds: readonly string[], forgotten = false): void {
    if (this.#client === null || userIds.length === 0) return
    const change = { userIds: [...new Set(userIds)], ...(forgotten ? { forgotten } : {}) }
    for (const instance of [...(instancesOf.get(this.#client) ?? [])]) instance.#listeners.publish(change)
  }

  close(): void {
    this.#listeners.clear()
    this.#client = null
  }

  #start(): void {
    polling.add(this)
    this.#timer = setInterval(() => this.#poll(), this.#pollMs).unref()
    if (this.#client !== null) this.#register(this.#client)
  }

  #stop(): void {
    polling.delete(this)
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    this.#silent = false
    if (this.#client !== null) instancesOf.get(this.#client)?.delete(this)
  }

  #register(client: SqliteClient): void {
    const instances = instancesOf.get(client) ?? new Set()
    instancesOf.set(client, instances.add(this))
    try {
      this.#lastVersion = dataVersion(client)
    } catch {
      this.#lastVersion = null
    }
  }

  /** Whoever has keys of a file that is gone must not go on with them. Other stores may have the file open too. */
  #lost(reason: string): void {
    this.#silent = true
    this.#listeners.publish({})
    this.#listeners.publish({ silent: reason })
    for (const other of [...polling]) if (other !== this) other.#poll()
  }

  #poll(): void {
    const client = this.#client
    // A transaction of the host's that has read nothing yet takes its snapshot at its first read, which must not be ours.
    if (client === null || client.inTransaction) return
    try {
      const version = withoutBusyTimeout(client, () => {
        this.#file?.assertUnchanged()
        return dataVersion(client)
      })
      if (!this.#silent && version === this.#lastVersion) return
      this.#lastVersion = version
      this.#listeners.publish(this.#silent ? {} : { unspecific: true })
      this.#silent = false
    } catch (error) {
      const { code, description } = describeDriverError(error)
      if (this.#silent || (code !== null && isBusyCode(code))) return
      this.#silent = true
      this.#listeners.publish({ silent: `The database cannot be asked for changes (${description})` })
    }
  }
}

/** The longest delay of Node's timers: a longer one counts as 1 ms. */
const MAX_TIMEOUT_MS = 2_147_483_647

/** A number that is another one once another connection, of any process, has committed (sqlite.org/pragma.html#pragma_data_version). */
function dataVersion(client: SqliteClient): unknown {
  return client.pragma('data_version', { simple: true })
}
