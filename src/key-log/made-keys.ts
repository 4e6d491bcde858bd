/** The keys that a key log, or the end of one, says to be in the store. */
import type { KeyIdentity } from '../table.js'
import type { KeyLogEntry } from './entry.js'

export interface MadeKey {
  readonly version: number
  readonly kekId: string | null
  readonly createdAt: Date
  /** Counted through the log. */
  readonly order: number
}

/** The keys that were made and have not ended. */
export class MadeKeys {
  readonly #keys = new Map<string, MadeKey[]>()
  /** Of users whose erasure was begun and not finished: when, in milliseconds. */
  readonly #endedAt = new Map<string, number>()

  #order = 0

  get isEmpty(): boolean {
    return this.#keys.size === 0
  }

  /** The key of the last entry that made one which has not ended. */
  get newest(): KeyIdentity | null {
    let newest: (KeyIdentity & { readonly order: number }) | null = null
    for (const [userId, keys] of this.#keys)
      for (const { version, createdAt, order } of keys)
        if (newest === null || order > newest.order) newest = { userId, version, createdAt, order }
    return newest
  }

  users(): IterableIterator<[string, readonly MadeKey[]]> {
    return this.#keys.entries()
  }

  addAll(entries: readonly KeyLogEntry[]): void {
    for (const entry of entries) this.#add(entry)
  }

  #add(entry: KeyLogEntry): void {
    const { userId } = entry
    switch (entry.event) {
      case 'minted':
      case 'rotated':
        this.#order += 1
        this.#made(userId, {
          version: entry.version,
          kekId: entry.kekId,
          createdAt: entry.at,
          order: this.#order,
        })
        break
      case 'pruned':
        this.#end(userId, ({ version }) => version === entry.version)
        break
      case 'lost':
        this.#end(
          userId,
          ({ version, createdAt }) =>
            version === entry.version && createdAt.getTime() === entry.createdAt.getTime(),
        )
        break
      case 'shredding':
      case 'shredded':
        // The pool ends for the operator alone, who can only forget it.
        if (userId === '' && !entry.forget) break
        this.#keys.delete(userId)
        // What is made after a finished erasure is another key, whatever the clock of its process says.
        if (entry.event === 'shredded') this.#endedAt.delete(userId)
        else this.#endedAt.set(userId, entry.at.getTime())
        break
    }
  }

  #made(userId: string, key: MadeKey): void {
    const time = key.createdAt.getTime()
    // Another process made it before the erasure, and wrote its line after.
    if (time <= (this.#endedAt.get(userId) ?? Number.NEGATIVE_INFINITY)) return
    const keys = this.#keys.get(userId)
    if (keys === undefined) this.#keys.set(userId, [key])
    else if (!keys.some(({ version, createdAt }) => version === key.version && createdAt.getTime() === time))
      keys.push(key)
  }

  #end(userId: string, isEnded: (key: MadeKey) => boolean): void {
    const left = this.#keys.get(userId)?.filter((key) => !isEnded(key)) ?? []
    if (left.length > 0) this.#keys.set(userId, left)
    else this.#keys.delete(userId)
  }
}
