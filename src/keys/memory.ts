/**
 * What this process knows of users' keys. Synchronous and without a store: reader.ts brings the rows, cache.ts the opened keys.
 *
 * There is one {@link KnownUser} for each user, from the first read of its rows until its keys are erased; what comes after is another
 * object. Calls that run at the same time agree on two facts of it only: whether it has `ended`, and how many `changes` were announced.
 *
 * What is promised in this process, and kept here and in the files beside:
 *
 * - **Shred**, by this process or seen in the rows: from then on no earlier key is used. Cached keys are dropped, handles throw, and a call
 *   that has earlier rows in hand reads them again. Calls for a user who was just found to be shredded cost one query a second, for 1,000 such
 *   users at a time.
 * - **Forget**: the same, and nothing that was known of the earlier keys binds those that are minted anew. Rows that were minted anew are
 *   recognised by their time and bytes, even if nobody saw the moment without rows.
 * - **Rotation**: once a version was seen, no call of the service writes under a lower one; also not one that read the rows before. A handle is
 *   a snapshot: it goes on writing under the version that was the highest when it was made.
 * - **Rewrap**: changes no data key, so cached keys and handles go on. A key is unwrapped again when its row is read with other bytes.
 * - **An announced change**: what was read before it is not kept; what is cached is dropped or read again, handles included.
 * - **Lost keys**: keys that this process has used and whose rows are gone, though nobody has announced that their user was forgotten, are
 *   neither used nor replaced: nothing is minted or written for the user until the rows are back, or the user is known to have been forgotten.
 *   It is enough that the highest version is gone. An event says so. With neither a cache nor a key log a service is told of no forget: where
 *   all rows are gone, it only emits the event.
 * - **Rows that are back**: live rows of a user whom this process knows to be shredded are those of an older copy, and the user stays shredded.
 * - **A lost announcement** (the store says that anything may have changed): the same for all users.
 * - **Tenants** are users here, with a memory of their own. Every opened key of a tenant has a lease. If a leased row was written again (moved,
 *   evicted), the tenant's keys are *revoked*: its root is asked again. A user's key is cached only while its tenant's key is, and never
 *   longer. When a tenant's keys change, its users' cached keys are dropped, and when they end, its users' handles end. So a user's keys are
 *   revoked too when its rows come under a tenant's key, or under another tenant's.
 * - **Mint**: a key is kept once its insert is durable, and never one that a caller's transaction may still roll back.
 * - **Bounds**: open keys of `maxEntries` users are kept for `ttlMs`. Facts without keys are kept for 100,000 further users. An evicted user is
 *   read again.
 */
import { LRUCache } from 'lru-cache'
import { isTombstone, type KeyRecord, type KeyRef, refKey } from '../table.js'
import {
  type CacheOptions,
  type CacheStats,
  DEFAULT_MAX_ENTRIES,
  DEFAULT_TTL_MS,
  UNANNOUNCED_TTL_MS,
} from './cache-options.js'
import type { DataKey, KeyRow } from './data-key.js'
import {
  hasOtherTenant,
  isMintedAnew,
  isRewrapped,
  isSame,
  KnownUser,
  type Lease,
  type Read,
  type UserRows,
} from './known-user.js'
import { Leases } from './leases.js'
import { SetAsideKeys } from './set-aside.js'
import { UsersOfTenants } from './users-of-tenants.js'

/** Users whose facts are remembered beyond those whose keys are kept. */
const MAX_REMEMBERED_USERS = 100_000
/** The store is not asked again within a second for users who were just found to be shredded, or for versions that were just missing. */
const JUST_FOUND = { max: 1000, ttl: 1000 }

export class KeyMemory {
  /** Users whose open keys are cached; each of them is in #users too. Null: nothing is cached. */
  readonly #cached: LRUCache<string, KnownUser> | null
  readonly #users: LRUCache<string, KnownUser>
  /** Their users are not evicted. */
  readonly #leases = new Leases()
  readonly #shredded = new LRUCache<string, true>(JUST_FOUND)
  /** By {@link refKey}: a version that is missing, and the rows that its user has. */
  readonly #missing = new LRUCache<string, { readonly rows: UserRows; readonly highest: number }>(JUST_FOUND)
  readonly #usersOfTenants = new UsersOfTenants()
  readonly #onlyFirstVersion: boolean
  readonly #refusesLost: boolean
  readonly #ofTenants: boolean
  readonly #setAside: SetAsideKeys | null
  /** For keys that are cached while no changes are announced. */
  readonly #unannounced: { readonly ttl?: number }
  /** Whether the store announces changes now. */
  changesAreAnnounced = false
  /** Called when keys of a user may have changed, or have ended, or are lost. */
  onChange: ((userId: string) => void) | null = null
  /** How often a change of anybody's rows was announced. */
  #changes = 0
  #hits = 0
  #misses = 0
  #closed = false

  /**
   * @param onlyFirstVersion format v2: writes use version 1, whichever others there are
   * @param hasKeyLog whether it can be looked up who was forgotten
   * @param ofTenants the keys are tenants' own: a rewrap revokes them
   */
  constructor(cache: CacheOptions | false, onlyFirstVersion: boolean, hasKeyLog = false, ofTenants = false) {
    this.#ofTenants = ofTenants
    this.#refusesLost = cache !== false || hasKeyLog
    const { maxEntries = DEFAULT_MAX_ENTRIES, ttlMs = DEFAULT_TTL_MS } = cache === false ? {} : cache
    this.#setAside = ofTenants && cache !== false ? new SetAsideKeys(maxEntries, ttlMs) : null
    this.#unannounced = cache !== false && cache.ttlMs === undefined ? { ttl: UNANNOUNCED_TTL_MS } : {}
    const dispose = (user: KnownUser) => {
      user.keys = null
      if (user.tenants !== null) this.#usersOfTenants.remove(user)
    }
    this.#cached = cache === false ? null : new LRUCache({ max: maxEntries, ttl: ttlMs, dispose })
    this.#users = new LRUCache({
      // Not `max`, for which lru-cache allocates all entries at once: 13 ms and 3 MB.
      maxSize: maxEntries + MAX_REMEMBERED_USERS,
      sizeCalculation: () => 1,
      dispose: (user, userId, reason) => {
        if (reason === 'evict') this.#evicted(userId, user)
      },
    })
    this.#onlyFirstVersion = onlyFirstVersion
  }

  /** Whether any key is kept beyond the call that has read it. */
  get keepsKeys(): boolean {
    return this.#cached !== null || this.#ofTenants
  }

  get stats(): CacheStats {
    return { hits: this.#hits, misses: this.#misses, users: this.#cached?.size ?? 0 }
  }

  /** The key that a user's writes use. Counted. */
  cachedForWriting(userId: string): DataKey | undefined {
    const user = this.#cached?.get(userId)
    return this.#counted(user, user?.keys?.get(this.#writtenVersion(user)))
  }

  /** A version of a user's key. Counted. */
  cached({ userId, version }: KeyRef): DataKey | undefined {
    const user = this.#cached?.get(userId)
    return this.#counted(user, user?.keys?.get(version))
  }

  /** {@link cached}, or without a version {@link cachedForWriting}. What is missing is looked up next, and counted then. */
  cachedBeforeLookUp(userId: string, version?: number): DataKey | undefined {
    const user = this.#cached?.get(userId)
    const key = user?.keys?.get(version ?? this.#writtenVersion(user))
    return key && this.#counted(user, key)
  }

  /** The lowest live version of a user's key. Counted. */
  cachedLowest(userId: string): DataKey | undefined {
    const user = this.#cached?.get(userId)
    return this.#counted(user, user?.keys?.get(user.lowestLive))
  }

  /** {@link cached}, neither counted nor taken for a use. */
  peek({ userId, version }: KeyRef): DataKey | undefined {
    return this.#cached?.get(userId)?.keys?.get(version)
  }

  /** A user's cached key, by default the one for writing, and what is known of the user. Neither counted nor taken for a use. */
  peekUser(userId: string, version?: number): { readonly user: KnownUser; readonly key: DataKey } | null {
    const user = this.#cached?.get(userId)
    const key = user?.keys?.get(version ?? this.#writtenVersion(user))
    return user === undefined || key === undefined ? null : { user, key }
  }

  #writtenVersion(user: KnownUser): number {
    return this.#onlyFirstVersion ? 1 : user.highest
  }

  /** The highest version when the user's rows were last read, while any of its keys is cached. */
  cachedHighest(userId: string): number | undefined {
    return this.#cached?.get(userId)?.highest
  }

  #counted(user: KnownUser | undefined, key: DataKey | undefined): DataKey | undefined {
    if (user === undefined || key === undefined) {
      this.#misses += 1
      return undefined
    }
    this.#hits += 1
    user.isUsed = true
    return key
  }

  /** To be called before a user's rows are read: what happens later may not show in them. */
  beginRead(userId: string): Read {
    let user = this.#users.get(userId)
    if (user === undefined) {
      user = this.#leases.find(userId) ?? new KnownUser(userId, 0)
      this.#users.set(userId, user)
    }
    return { user, userChanges: user.changes, allChanges: this.#changes, highest: user.highest }
  }

  /**
   * Learns from all rows of a user, ascending, that a read has found.
   *
   * @returns null if they may be older than what is known by now: to be read again
   */
  endRead(read: Read, records: readonly KeyRecord[]): UserRows | null {
    const { user, userChanges, allChanges, highest } = read
    if (user.ended) return null
    const top = records.at(-1)
    // Minted or rotated meanwhile, perhaps after the rows were read.
    if (user.highest > Math.max(highest, top?.version ?? 0)) return null
    const latest = Math.max(user.highest, top?.version ?? 0)
    const isShredded = records.some((row) => isTombstone(row) || isSame(row, user.shreddedKey))
    const rows = { user, userChanges, allChanges, records, lostVersion: 0, isShredded, highest: latest }
    if (isShredded) return { ...rows, user: this.#learnShredded(user) }
    if (top === undefined) return user.highest === 0 ? rows : { ...rows, ...this.#learnMissing(user) }
    const known = this.#ended(user, records)
    this.raise(known, top, rows)
    const [{ version, createdAt }] = records as readonly [KeyRecord]
    known.lowest ??= { version, createdAt }
    known.lowestLive = version
    this.#retain(known, records)
    const lostVersion = this.isBelowSeen(known, top.version) ? this.#learnLost(known) : 0
    return { ...rows, user: known, lostVersion, highest: known === user ? latest : known.highest }
  }

  /** Whether a higher version became known since the rows were read: they are to be read again before anything is said to be missing. */
  isOutdated({ user, highest }: UserRows): boolean {
    return user.highest > highest
  }

  /** All rows of a user are gone that this process has used. */
  #learnMissing(user: KnownUser): Pick<UserRows, 'user' | 'lostVersion'> {
    const { highest } = user
    if (user.isForgotten) return { user: this.#erase(user), lostVersion: 0 }
    if (!this.#refusesLost) return { user: this.#erase(user), lostVersion: highest }
    return { user, lostVersion: this.#learnLost(user) }
  }

  /** The row of the highest version is gone. @returns the version if this was not known; 0 if it was */
  #learnLost(user: KnownUser): number {
    const lostVersion = user.keysLost ? 0 : user.highest
    user.keysLost = true
    this.#cached?.delete(user.userId)
    this.onChange?.(user.userId)
    return lostVersion
  }

  /** Whether nothing is known to have happened to the rows since they were read. */
  isCurrent({ user, userChanges, allChanges }: UserRows): boolean {
    const isUnchanged = user.changes === userChanges && this.#changes === allChanges
    return !this.#closed && !user.ended && isUnchanged
  }

  /**
   * Caches a key.
   *
   * @param rows among which its row was, or to which it was added
   * @param leftMs how long at most, because the tenant's key that wraps it is kept no longer
   */
  cache(key: DataKey, rows: UserRows, leftMs = Number.POSITIVE_INFINITY): void {
    const { user } = rows
    if (this.#setAside !== null && !user.ended) leftMs = this.#setAside.add(key)
    if (this.#cached === null || !this.isCurrent(rows) || leftMs <= 0) return
    // A further version does not lengthen the life of the entry.
    if (this.#cached.has(key.userId)) user.keys?.set(key.version, key)
    else {
      user.keys = new Map([[key.version, key]])
      this.#cached.set(key.userId, user, this.changesAreAnnounced ? {} : this.#unannounced)
    }
    if (leftMs < this.#cached.getRemainingTTL(key.userId))
      this.#cached.set(key.userId, user, { ttl: Math.ceil(leftMs) })
    if (key.tenant !== null) this.#usersOfTenants.add(key.tenant.userId, user)
    user.isUsed = true
  }

  /** The open key of a tenant's row, though it was dropped: the row is as it was. */
  setAside(record: KeyRecord): DataKey | undefined {
    return this.#setAside?.find(record)
  }

  /** How long a key is still kept, in milliseconds; 0 if it is not, or another one is. */
  leftMs(key: DataKey): number {
    return this.peek(key) === key ? (this.#cached?.getRemainingTTL(key.userId) ?? 0) : 0
  }

  /** A tenant's keys may have changed: drops its users' open keys. @param tenant the user id of the tenant's own rows */
  changeUnder(tenant: string): void {
    for (const userId of this.#usersOfTenants.of(tenant)) this.change(userId)
  }

  /**
   * Remembers a version if it is the highest. From then on no cached key of a lower one is used for writing.
   *
   * @param rows among which it was found, or to which it was added
   */
  raise(
    user: KnownUser,
    { version, createdAt }: Pick<KeyRow, 'version' | 'createdAt'>,
    { userChanges }: Pick<Read, 'userChanges'>,
  ): void {
    user.changesWhenFound = userChanges
    if (version >= user.highest) user.keysLost = false
    if (user.lowestLive === 0) user.lowestLive = version
    if (version <= user.highest) return
    user.highest = version
    user.highestCreatedAt = createdAt
  }

  /** Whether writing under this version would go below one that was seen. */
  isBelowSeen(user: KnownUser, version: number): boolean {
    return !this.#onlyFirstVersion && version < user.highest
  }

  /** The user's keys were erased; `shredded`: and no others may be minted. */
  erase(userId: string, shredded: boolean): void {
    const user = this.#find(userId)
    if (user !== undefined) this.#erase(user, shredded)
    if (shredded) this.#shredded.set(userId, true)
    else this.#shredded.delete(userId)
  }

  /** Whether the user was known to be shredded a moment ago. */
  wasJustShredded(userId: string): boolean {
    return this.#shredded.has(userId)
  }

  /** A user has rows, but none of this version. */
  learnMissingVersion(ref: KeyRef, rows: UserRows): void {
    if (rows.records.length > 0) this.#missing.set(refKey(ref), { rows, highest: rows.user.highest })
  }

  /** Whether the user was a moment ago known to have rows, but none of this version. */
  isMissing(ref: KeyRef): boolean {
    const found = this.#missing.get(refKey(ref))
    return found !== undefined && this.isCurrent(found.rows) && found.rows.user.highest === found.highest
  }

  /** Makes a lease for a handle of some keys of a user who has not ended. */
  lease(user: KnownUser, keys: readonly KeyRow[]): Lease {
    return this.#leases.make(user, keys)
  }

  /** Whether a change of the user's rows has to be read at once, because the next use of its keys would not find it out. */
  outlastsKeys(userId: string): boolean {
    const user = this.#find(userId)
    if (user === undefined) return false
    return user.leases > 0 || user.highest > 1 || (user.highest > 0 && user.isForgotten)
  }

  isLeased(userId: string): boolean {
    return this.#leases.find(userId) !== undefined
  }

  leasedUsers(): string[] {
    return this.#leases.userIds()
  }

  /** The user's rows may have changed: drops its open keys. What was learnt of the user stands. @param forgotten and their absence is meant */
  change(userId: string, forgotten = false): void {
    const user = this.#find(userId)
    if (user !== undefined) user.changes += 1
    if (user !== undefined && forgotten) user.changesWhenForgotten = user.changes
    this.#cached?.delete(userId)
    this.#shredded.delete(userId)
    this.onChange?.(userId)
  }

  /** Anybody's rows may have changed: drops all keys that were not used since the last call. @returns whose were */
  takeUsed(): string[] {
    this.#changes += 1
    this.#shredded.clear()
    const used: string[] = []
    for (const [userId, user] of [...(this.#cached?.entries() ?? [])]) {
      if (user.isUsed) used.push(userId)
      else this.#cached?.delete(userId)
      user.isUsed = false
    }
    return used
  }

  /** Anybody's rows may have changed: drops every key. */
  dropAll(): void {
    this.#changes += 1
    this.#shredded.clear()
    this.#cached?.clear()
  }

  close(): void {
    this.#closed = true
    this.dropAll()
    this.#setAside?.clear()
  }

  #find(userId: string): KnownUser | undefined {
    return this.#users.get(userId) ?? this.#leases.find(userId)
  }

  /** Ends what is known of a user. @returns what is known of it from now on */
  #erase(user: KnownUser, shredded = false): KnownUser {
    const { userId, highest: version, highestCreatedAt: createdAt } = user
    this.#end(user)
    const next = new KnownUser(userId, user.changes)
    if (shredded) next.shreddedKey = createdAt === null ? user.shreddedKey : { version, createdAt }
    this.#users.set(userId, next)
    return next
  }

  /** The tenant's keys are to be opened by its root again, by whoever is to use them. */
  revoke(userId: string): void {
    const user = this.#find(userId)
    if (user !== undefined) this.#revoke(user)
  }

  /** Ends the keys, and forgets nothing of what is known of their rows. */
  #revoke(user: KnownUser): KnownUser {
    user.revoked = true
    const next = user.successor()
    this.#end(user)
    this.#users.set(user.userId, next)
    return next
  }

  #end(user: KnownUser): void {
    user.ended = true
    user.keysLost = false
    this.#cached?.delete(user.userId)
    for (const version of user.leasedRows?.keys() ?? [])
      this.#setAside?.delete({ userId: user.userId, version })
    this.#leases.delete(user.userId)
    this.onChange?.(user.userId)
  }

  /** @returns what is known of a user from now on, given these rows */
  #ended(user: KnownUser, records: readonly KeyRecord[]): KnownUser {
    if (isMintedAnew(user, records)) return this.#erase(user)
    const isRevoked = this.#ofTenants ? isRewrapped(user, records) : hasOtherTenant(user, records)
    return isRevoked ? this.#revoke(user) : user
  }

  #learnShredded(user: KnownUser): KnownUser {
    this.#shredded.set(user.userId, true)
    return this.#erase(user, true)
  }

  /** Drops the versions of a user that have no row any more. */
  #retain(user: KnownUser, records: readonly KeyRecord[]): void {
    if (user.keys === null) return
    for (const version of user.keys.keys())
      if (!records.some((record) => record.version === version)) user.keys.delete(version)
  }

  /** Calls under way read the rows again: what is announced of the user would not reach them. A leased user stays known. */
  #evicted(userId: string, user: KnownUser): void {
    this.#cached?.delete(userId)
    if (user.leases === 0) user.ended = true
  }
}
