/**
 * Tenants' keys that were opened a while ago. They are dropped from the cache whenever something may have changed; where the row turns out to be
 * exactly as it was, they go on, and the tenant's root is not asked again for each notice of a change.
 */
import { LRUCache } from 'lru-cache'
import { type KeyRecord, type KeyRef, refKey } from '../table.js'
import type { DataKey } from './data-key.js'
import { isRewritten } from './known-user.js'

export class SetAsideKeys {
  readonly #keys: LRUCache<string, DataKey>
  readonly #ttlMs: number

  /** @param ttlMs for how long a key is used before its root is asked again */
  constructor(maxEntries: number, ttlMs: number) {
    this.#keys = new LRUCache({ max: maxEntries, ttl: ttlMs })
    this.#ttlMs = ttlMs
  }

  /** @returns how long the key may still be used, in milliseconds */
  add(key: DataKey): number {
    const known = this.leftMs(key)
    if (known > 0) return known
    this.#keys.set(refKey(key), key)
    return this.#ttlMs
  }

  /** How long a key may still be used, in milliseconds; 0 if it is not here. */
  leftMs(key: DataKey): number {
    const name = refKey(key)
    return this.#keys.get(name) === key ? this.#keys.getRemainingTTL(name) : 0
  }

  /** The open key of a row, if the row is as it was. */
  find(record: KeyRecord): DataKey | undefined {
    const key = this.#keys.get(refKey(record))
    return key !== undefined && !isRewritten(record, key) ? key : undefined
  }

  delete(ref: KeyRef): void {
    this.#keys.delete(refKey(ref))
  }

  clear(): void {
    this.#keys.clear()
  }
}
