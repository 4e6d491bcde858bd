/** The leases that are in use: a user of one stays known, and its rows are read again when they have changed. */
import type { KeyRow } from './data-key.js'
import { type KnownUser, Lease } from './known-user.js'

export class Leases {
  /** Users with leases. */
  readonly #users = new Map<string, KnownUser>()
  readonly #collected = new FinalizationRegistry<KnownUser>((user) => this.#collect(user))

  /** Makes a lease of some keys of a user who has not ended. It lasts until it is collected as garbage, or the keys are erased. */
  make(user: KnownUser, keys: readonly KeyRow[]): Lease {
    user.leasedRows ??= new Map()
    for (const row of keys) user.leasedRows.set(row.version, row)
    user.leases += 1
    this.#users.set(user.userId, user)
    const lease = new Lease(user)
    this.#collected.register(lease, user)
    return lease
  }

  /** A user with leases. */
  find(userId: string): KnownUser | undefined {
    return this.#users.get(userId)
  }

  userIds(): string[] {
    return [...this.#users.keys()]
  }

  /** The user's keys have ended, and its leases with them. */
  delete(userId: string): void {
    this.#users.delete(userId)
  }

  #collect(user: KnownUser): void {
    user.leases -= 1
    if (user.leases > 0) return
    user.leasedRows = null
    if (this.#users.get(user.userId) === user) this.#users.delete(user.userId)
  }
}
