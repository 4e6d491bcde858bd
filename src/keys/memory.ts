/**
 * What this process remembers of users' keys: open data keys, bounded and expiring, and the facts that outlive them: which version
 * was the highest, who was shredded. Synchronous, and without a store: key-cache.ts fills it.
 */
import { LRUCache } from 'lru-cache'
import type { KeyRecord, KeyRef } from '../table.js'
import type { DataKey, KeyRow } from './data-key.js'

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

/** A point on a clock of this memory's own, which each change that it learns of moves on. */
export type Time = number

/** When a user's rows were read, and until when what this memory knows is accounted for in them. */
export interface Moment {
  readonly readAt: Time
  readonly knownAt: Time
}

/** Somebody has a user's keys in hand, as their rows were at one time. */
export class Hold {
  readonly #user: HeldUser

  constructor(user: HeldUser) {
    this.#user = user
  }

  /** Whether the keys were erased since, as far as this process knows. */
  get ended(): boolean {
    return this.#user.ended
  }
}

interface HeldUser {
  readonly userId: string
  /** By version, as they were last read. */
  readonly rows: Map<number, KeyRow>
  holds: number
  ended: boolean
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

/** When something last befell each user. Who is remembered no more counts with the latest of them: too careful, never wrong. */
class Times {
  readonly #times = new LRUCache<string, Time>({
    ...REMEMBERED,
    dispose: (time, _userId, reason) => {
      if (reason === 'evict') this.#latestGone = Math.max(this.#latestGone, time)
    },
  })
  #latestGone: Time = 0

  set(userId: string, time: Time): void {
    this.#times.set(userId, time)
  }

  of(userId: string): Time {
    return this.#times.get(userId) ?? this.#latestGone
  }
}

export class KeyMemory {
  /** Null: nothing is kept. */
  readonly #users: LRUCache<string, UserEntry> | null
  /** The highest version seen, of users with more than one: no write goes below it. */
  readonly #highest = new LRUCache<string, Pick<KeyRow, 'version' | 'createdAt'>>(REMEMBERED)
  readonly #shredded = new LRUCache<string, true>(REMEMBERED)
  /** What was read before a user's keys were seen to be erased is neither kept nor used. */
  readonly #erased = new Times()
  /** What was read before a user's rows may have changed is not kept. */
  readonly #changed = new Times()
  /** The same of all users. */
  #allChanged: Time = 0
  #now: Time = 0
  readonly #held = new Map<string, HeldUser>()
  readonly #released = new FinalizationRegistry<HeldUser>((user) => this.#release(user))
  readonly #onlyFirstVersion: boolean
  #hits = 0
  #misses = 0
  #closed = false

  /** @param onlyFirstVersion format v2: writes use version 1, whichever others there are */
  constructor(cache: CacheOptions | false, onlyFirstVersion: boolean) {
    this.#users = cache === false ? null : new LRUCache(lruOptions(cache))
    this.#onlyFirstVersion = onlyFirstVersion
  }

  /** Whether any key is ever kept. */
  get keepsKeys(): boolean {
    return this.#users !== null
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

  /** The highest version when the user's rows were last read, while any of the keys is in memory. */
  knownVersion(userId: string): number | undefined {
    return this.#users?.has(userId) ? this.highest(userId) : undefined
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

  /** To be taken before rows are read: what befell their user later may not show in them. */
  now(): Time {
    return this.#now
  }

  isErasedSince(userId: string, time: Time): boolean {
    return this.#erased.of(userId) > time
  }

  isChangedSince(userId: string, time: Time): boolean {
    return Math.max(this.#allChanged, this.#changed.of(userId)) > time
  }

  /** Whether nothing is known to have befallen the user's rows since. */
  isCurrent(userId: string, { readAt, knownAt }: Moment): boolean {
    return !this.#closed && !this.isChangedSince(userId, readAt) && !this.isErasedSince(userId, knownAt)
  }

  /** @param since of the key's row */
  keep(key: DataKey, since: Moment): void {
    if (this.#users === null || !this.isCurrent(key.userId, since)) return
    const entry = this.#users.get(key.userId)
    // A further version does not lengthen the life of the entry.
    if (entry !== undefined) {
      entry.versions.set(key.version, key)
      entry.used = true
      if (entry.active?.version === key.version) entry.active = key
    } else {
      const versions = new Map([[key.version, key]])
      this.#users.set(key.userId, { versions, active: undefined, used: true })
    }
  }

  /** What writes use from now on; it was kept before. */
  setActive(key: DataKey, since: Moment): void {
    if (!this.isCurrent(key.userId, since)) return
    const entry = this.#users?.get(key.userId)
    if (entry?.versions.get(key.version) === key) entry.active = key
  }

  /** Learns from a user's live rows, ascending, or that there is none. */
  see(userId: string, records: readonly KeyRecord[]): void {
    this.#shredded.delete(userId)
    if (this.#isMintedAnew(userId, records)) this.erase(userId)
    const top = records.at(-1)
    if (top !== undefined) this.seeHighest(top)
  }

  /** Remembers the highest version, and makes writes look again when they use a lower one. */
  seeHighest({ userId, version, createdAt }: KeyRow): void {
    if (version > this.highest(userId)) this.#highest.set(userId, { version, createdAt })
    const entry = this.#users?.get(userId)
    if (entry?.active && entry.active.version < version && !this.#onlyFirstVersion) entry.active = undefined
  }

  /** The highest version seen; 1 of a user of whom none was. */
  highest(userId: string): number {
    return this.#highest.get(userId)?.version ?? 1
  }

  /** Whether writing under this version would go below one that was seen. */
  isBelowSeen({ userId, version }: KeyRef): boolean {
    return !this.#onlyFirstVersion && version < this.highest(userId)
  }

  /** Whether the user was forgotten and minted anew since, though this process saw no moment without rows. */
  #isMintedAnew(userId: string, records: readonly KeyRecord[]): boolean {
    const kept = this.#users?.get(userId)?.versions
    const held = this.#held.get(userId)?.rows
    const [top, highest] = [records.at(-1), this.#highest.get(userId)]
    const isBelow = top !== undefined && highest !== undefined && top.version < highest.version
    return (
      records.some(
        (row) => isAnother(row, kept?.get(row.version)) || isAnother(row, held?.get(row.version)),
      ) ||
      (isBelow && top.createdAt.getTime() > highest.createdAt.getTime())
    )
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

  /** The user is shredded, as a tombstone says. */
  shred(userId: string): void {
    if (!this.#shredded.has(userId)) this.erase(userId)
    this.#shredded.set(userId, true)
  }

  /** The user was erased at this moment: drops the keys and ends every hold, and what is being read is out of date. */
  erase(userId: string): void {
    this.#erased.set(userId, this.#next())
    const held = this.#held.get(userId)
    if (held !== undefined) held.ended = true
    this.#held.delete(userId)
    this.#users?.delete(userId)
    this.#highest.delete(userId)
    this.#shredded.delete(userId)
  }

  /** Notes that somebody holds the keys of these rows, until the result is collected or they are erased. */
  hold(userId: string, rows: readonly KeyRow[]): Hold {
    const user = this.#held.get(userId) ?? { userId, rows: new Map(), holds: 0, ended: false }
    for (const row of rows) user.rows.set(row.version, row)
    user.holds += 1
    this.#held.set(userId, user)
    const hold = new Hold(user)
    this.#released.register(hold, user)
    return hold
  }

  #release(user: HeldUser): void {
    user.holds -= 1
    if (user.holds === 0 && !user.ended) this.#held.delete(user.userId)
  }

  /** Whether a change of the user's rows matters here. */
  isKnown(userId: string): boolean {
    return this.#users?.has(userId) || this.#highest.has(userId) || this.#held.has(userId)
  }

  isHeld(userId: string): boolean {
    return this.#held.has(userId)
  }

  heldUsers(): string[] {
    return [...this.#held.keys()]
  }

  /** The user's rows may have changed: drops the open keys. What was learnt of the user stands. */
  change(userId: string): void {
    this.#changed.set(userId, this.#next())
    this.#users?.delete(userId)
  }

  /** Anybody's rows may have changed: drops all keys that were not used since the last call. @returns whose were */
  takeUsed(): string[] {
    this.#allChanged = this.#next()
    const used: string[] = []
    for (const [userId, entry] of [...(this.#users?.entries() ?? [])]) {
      if (entry.used) used.push(userId)
      else this.#users?.delete(userId)
      entry.used = false
    }
    return used
  }

  /** Anybody's rows may have changed: drops every key. */
  dropAll(): void {
    this.#allChanged = this.#next()
    this.#users?.clear()
  }

  close(): void {
    this.#closed = true
    this.dropAll()
  }

  #next(): Time {
    this.#now += 1
    return this.#now
  }
}

/** Whether a row of the same ref was made anew. A rewrap changes the bytes too, but leaves the time at which it was made. */
function isAnother(row: KeyRow, seen: KeyRow | undefined): boolean {
  if (seen === undefined || row.createdAt.getTime() === seen.createdAt.getTime()) return false
  return Buffer.compare(row.encryptedKey, seen.encryptedKey) !== 0
}

function lruOptions({ maxEntries = DEFAULT_MAX_ENTRIES, ttlMs = DEFAULT_TTL_MS }: CacheOptions) {
  return { max: maxEntries, ttl: ttlMs }
}
