/**
 * What this process remembers of users' keys: open data keys, bounded and expiring, and the facts that outlive them: which version
 * was the highest, who was shredded. Synchronous, and without a store: key-cache.ts fills it.
 */
import { LRUCache } from 'lru-cache'
import type { DataKey } from './data-key.js'
import type { KeyRef } from './store.js'

export interface CacheOptions {
  /** Of how many users keys are kept, at about a kilobyte a key. Default 10,000. */
  readonly maxEntries?: number
  /**
   * How long a user's keys are used, in milliseconds: it bounds how long a rotation or shred by another process goes unseen where the
   * store cannot tell of it. Expired keys leave the memory when they are next asked for, or when others need their place.
   * Default 5 minutes.
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

/** When a user's rows were read: whether what was read may still be kept. */
export interface Moment {
  readonly erasures: number
  readonly epoch: number
}

interface Handles {
  readonly userId: string
  count: number
}

interface UserEntry {
  readonly versions: Map<number, DataKey>
  /** The key that writes use. Only a write sets it. */
  active: DataKey | undefined
  /** Since the store last said that something may have changed. */
  used: boolean
}

const DEFAULT_MAX_ENTRIES = 10_000
const DEFAULT_TTL_MS = 5 * 60 * 1000
/** Users whose highest version, or whose shredding, is remembered beyond the life of their keys. */
const MAX_REMEMBERED_USERS = 100_000
/** By size, not `max`: lru-cache allocates for `max` entries at once, 13 ms and 3 MB each here. */
const REMEMBERED = { maxSize: MAX_REMEMBERED_USERS, sizeCalculation: () => 1 }

export class KeyMemory {
  /** Null: nothing is kept. */
  readonly #users: LRUCache<string, UserEntry> | null
  /** The highest version seen, of users with more than one: no write goes below it. */
  readonly #highest = new LRUCache<string, number>(REMEMBERED)
  readonly #shredded = new LRUCache<string, true>(REMEMBERED)
  /** How often a user's keys were seen to be erased: what was read before is neither kept nor used. */
  readonly #erased = new LRUCache<string, number>(REMEMBERED)
  /** How many handles of a user somebody holds; not those that an erasure has ended. */
  readonly #handles = new Map<string, Handles>()
  readonly #released = new FinalizationRegistry<Handles>((handles) => this.#release(handles))
  readonly #onlyFirstVersion: boolean
  /** How often everything was dropped. */
  #epoch = 0
  #hits = 0
  #misses = 0
  #closed = false

  /** @param onlyFirstVersion format v2: writes use version 1, whichever others there are */
  constructor(cache: CacheOptions | false, onlyFirstVersion: boolean) {
    this.#users = cache === false ? null : new LRUCache(lruOptions(cache))
    this.#onlyFirstVersion = onlyFirstVersion
  }

  get stats(): CacheStats {
    return { hits: this.#hits, misses: this.#misses, users: this.#users?.size ?? 0 }
  }

  /** The key that a user's writes use. Counted. */
  cachedForWriting(userId: string): DataKey | undefined {
    const entry = this.#users?.get(userId)
    return this.#counted(entry, entry?.active)
  }

  /** A version of a user's key. Counted. */
  cached({ userId, version }: KeyRef): DataKey | undefined {
    const entry = this.#users?.get(userId)
    return this.#counted(entry, entry?.versions.get(version))
  }

  /** The version that a user's writes use, if it is in memory. */
  activeVersion(userId: string): number | undefined {
    return this.#users?.get(userId)?.active?.version
  }

  /** {@link cached}, neither counted nor taken for a use. */
  peek({ userId, version }: KeyRef): DataKey | undefined {
    return this.#users?.get(userId)?.versions.get(version)
  }

  #counted(entry: UserEntry | undefined, key: DataKey | undefined): DataKey | undefined {
    if (entry === undefined || key === undefined) {
      this.#misses += 1
      return undefined
    }
    this.#hits += 1
    entry.used = true
    return key
  }

  /** To be taken before a user's rows are read. */
  moment(userId: string): Moment {
    return { erasures: this.erasures(userId), epoch: this.#epoch }
  }

  keep(key: DataKey, since: Moment): void {
    if (this.#users === null || !this.#isCurrent(key.userId, since)) return
    const entry = this.#users.get(key.userId)
    // A further version does not lengthen the life of the entry.
    if (entry !== undefined) {
      entry.versions.set(key.version, key)
      if (entry.active?.version === key.version) entry.active = key
    } else {
      const versions = new Map([[key.version, key]])
      this.#users.set(key.userId, { versions, active: undefined, used: true })
    }
  }

  /** What writes use from now on; it was kept before. */
  setActive(key: DataKey, since: Moment): void {
    if (!this.#isCurrent(key.userId, since)) return
    const entry = this.#users?.get(key.userId)
    if (entry?.versions.get(key.version) === key) entry.active = key
  }

  #isCurrent(userId: string, { erasures, epoch }: Moment): boolean {
    return !this.#closed && epoch === this.#epoch && erasures === this.erasures(userId)
  }

  /** Remembers the highest version, and makes writes look again when they use a lower one. */
  see(userId: string, highest: number): void {
    if (highest > this.highest(userId)) this.#highest.set(userId, highest)
    const entry = this.#users?.get(userId)
    if (entry?.active && entry.active.version < highest && !this.#onlyFirstVersion) entry.active = undefined
  }

  /** The highest version seen; 1 of a user of whom none was. */
  highest(userId: string): number {
    return this.#highest.get(userId) ?? 1
  }

  /** Whether writing under this version would go below one that was seen. */
  isBelowSeen({ userId, version }: KeyRef): boolean {
    return !this.#onlyFirstVersion && version < this.highest(userId)
  }

  /** Drops the versions of a user that have no row any more. */
  retain(userId: string, versions: ReadonlySet<number>): void {
    const entry = this.#users?.get(userId)
    for (const version of entry?.versions.keys() ?? []) {
      if (versions.has(version)) continue
      entry?.versions.delete(version)
      if (entry?.active?.version === version) entry.active = undefined
    }
  }

  /** The user is shredded, as a tombstone says: drops the keys, and ends every handle. */
  shred(userId: string): void {
    if (!this.#shredded.has(userId)) this.erase(userId)
    this.#shredded.set(userId, true)
    this.#drop(userId)
  }

  /** The user was erased at this moment, whatever was known before: what is being read is out of date. */
  erase(userId: string): void {
    this.#erased.set(userId, this.erasures(userId) + 1)
    this.#handles.delete(userId)
    this.#drop(userId)
  }

  /** The user has no row: of one that had, what follows is a new key. */
  forget(userId: string): void {
    if (this.isKnown(userId)) this.erase(userId)
  }

  /** The user has no tombstone. */
  revive(userId: string): void {
    this.#shredded.delete(userId)
  }

  #drop(userId: string): void {
    this.#users?.delete(userId)
    this.#highest.delete(userId)
  }

  /** Only the open keys: what was learnt of the user stands. */
  dropKeys(userId: string): void {
    this.#users?.delete(userId)
  }

  erasures(userId: string): number {
    return this.#erased.get(userId) ?? 0
  }

  /** Whether this process knows that keys read after so many erasures were shredded. */
  isShredded(userId: string, erasures: number): boolean {
    return this.#shredded.has(userId) || this.erasures(userId) > erasures
  }

  /** Notes that somebody holds `handle`, until it is collected. */
  hold(userId: string, handle: object): void {
    const handles = this.#handles.get(userId) ?? { userId, count: 0 }
    handles.count += 1
    this.#handles.set(userId, handles)
    this.#released.register(handle, handles)
  }

  #release(handles: Handles): void {
    handles.count -= 1
    if (handles.count === 0 && this.#handles.get(handles.userId) === handles)
      this.#handles.delete(handles.userId)
  }

  /** Whether a change of the user's rows matters here. */
  isKnown(userId: string): boolean {
    return this.#users?.has(userId) || this.#highest.has(userId) || this.#handles.has(userId)
  }

  /** Users with handles. */
  heldUsers(): string[] {
    return [...this.#handles.keys()]
  }

  /** Users whose keys were used since the last call; all others' are dropped. */
  takeUsed(): string[] {
    const used: string[] = []
    for (const [userId, entry] of [...(this.#users?.entries() ?? [])]) {
      if (entry.used) used.push(userId)
      else this.#users?.delete(userId)
      entry.used = false
    }
    return used
  }

  /** Drops every key, and what is being read is not kept either. */
  dropAllKeys(): void {
    this.#epoch += 1
    this.#users?.clear()
  }

  close(): void {
    this.#closed = true
    this.dropAllKeys()
  }
}

function lruOptions({ maxEntries = DEFAULT_MAX_ENTRIES, ttlMs = DEFAULT_TTL_MS }: CacheOptions) {
  return { max: maxEntries, ttl: ttlMs }
}
