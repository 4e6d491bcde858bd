/**
 * Users' data keys: found in the store, minted on first use, unwrapped, kept for a while. Bounded, expiring, one flight for
 * each key, and one query for all that is missed in a tick.
 */
import { LRUCache } from 'lru-cache'
import { generateKey } from './aead.js'
import { Batch, SingleFlight } from './batch.js'
import { DataKey } from './data-key.js'
import { isKeystoreError, KeystoreError, StoreError } from './errors.js'
import { describeRef, unwrapDataKey, wrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './master-key.js'
import { type KeyRecord, type KeyRef, type KeyStore, refKey } from './store.js'
import type { Format } from './token.js'

/** How keys are wrapped when minted, and which wraps are opened. */
export interface KeyPolicy {
  readonly format: Format
  readonly acceptKeys: readonly Format[]
}

export interface CacheOptions {
  /** How many keys are kept, at about a kilobyte each. Default 10,000. */
  readonly maxEntries?: number
  /**
   * How long a key is used, in milliseconds: it bounds how long a rotation or shred by another process goes unseen. An
   * expired key leaves the memory when it is next asked for, or when others need its place. Default 5 minutes.
   */
  readonly ttlMs?: number
}

const DEFAULT_MAX_ENTRIES = 10_000
const DEFAULT_TTL_MS = 5 * 60 * 1000
/** Users whose highest version, or whose shredding, is remembered beyond the life of their keys. */
const MAX_REMEMBERED_USERS = 100_000
/** By size, not `max`: lru-cache allocates for `max` entries at once, 13 ms and 3 MB each here. */
const REMEMBERED = { maxSize: MAX_REMEMBERED_USERS, sizeCalculation: () => 1 }

/** All live versions of a user's key. A version that does not open has its error instead. */
export interface UserKeys {
  readonly active: DataKey
  readonly versions: ReadonlyMap<number, DataKey | Error>
  /** How many erasures of the user's keys this process had seen: one more, and these are no longer to be used. */
  readonly erasures: number
}

export class KeyCache {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #policy: KeyPolicy
  /** By user, version and accept policy. Null: nothing is kept. */
  readonly #keys: LRUCache<string, DataKey> | null
  /** Which version a user's writes use. Only a write sets it. */
  readonly #active: LRUCache<string, number> | null
  /** The highest version seen, of users with more than one: no write goes below it. */
  readonly #highest = new LRUCache<string, number>(REMEMBERED)
  readonly #shredded = new LRUCache<string, true>(REMEMBERED)
  /** How often a user's keys were seen to be erased: what was loaded before is neither kept nor used. */
  readonly #erased = new LRUCache<string, number>(REMEMBERED)
  readonly #loading = new SingleFlight<readonly KeyRecord[]>()
  readonly #writing = new SingleFlight<DataKey>()
  readonly #unwrapping = new SingleFlight<DataKey>()
  readonly #load = new Batch<string, readonly KeyRecord[]>((userIds) => this.#loadAll(userIds))
  readonly #insert = new Batch<KeyRecord, KeyRecord>((records) => this.#insertAll(records))
  readonly #acceptKey: string
  #closed = false

  constructor(store: KeyStore, keyring: MasterKeyring, policy: KeyPolicy, cache: CacheOptions | false) {
    this.#store = store
    this.#keyring = keyring
    this.#policy = policy
    this.#acceptKey = policy.acceptKeys.join()
    // What is read or minted inside a caller's transaction may be rolled back.
    const kept = cache === false || store.transactional ? null : lruOptions(cache)
    this.#keys = kept && new LRUCache(kept)
    this.#active = kept && new LRUCache(kept)
  }

  /** The key that a user's writes use, if it is in memory. */
  cachedForWriting(userId: string): DataKey | undefined {
    const version = this.#active?.get(userId)
    return version === undefined ? undefined : this.cached({ userId, version })
  }

  /**
   * The key that a user's writes use, minted if there is none: the highest version; under format v2 version 1.
   *
   * @throws ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND (a version seen before is gone) · what store and unwrapping throw
   */
  forWriting(userId: string): Promise<DataKey> {
    return this.#writing.run(userId, async () => {
      for (;;) {
        const records = await this.#recordsOf(userId)
        const erasures = this.#erasures(userId)
        const key =
          records.length === 0
            ? await this.#mint(userId)
            : await this.#opened(this.#activeOf(userId, records))
        // While it was being opened, another call may have seen the user shredded, or a higher version: look again.
        if (this.#erasures(userId) > erasures || this.#isBelowSeen(key)) continue
        if (!this.#closed) this.#active?.set(userId, key.version)
        return key
      }
    })
  }

  /** A version of a user's key, if it is in memory. */
  cached(ref: KeyRef): DataKey | undefined {
    return this.#keys?.get(this.#cacheKey(ref))
  }

  /**
   * A version of a user's key. Never mints, and never changes which version writes use.
   *
   * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · what store and unwrapping throw
   */
  async get(ref: KeyRef): Promise<DataKey> {
    const records = await this.#recordsOf(ref.userId)
    const record = records.find(({ version }) => version === ref.version)
    if (record === undefined) throw notFound(`There is no key of ${describeRef(ref)}`, false)
    return this.#opened(record)
  }

  /**
   * All live versions, as they are now.
   *
   * @throws like {@link forWriting}; without `mint` ERR_KEY_NOT_FOUND for a user without keys
   */
  async all(userId: string, mint: boolean): Promise<UserKeys> {
    for (;;) {
      const records = await this.#recordsOf(userId)
      const erasures = this.#erasures(userId)
      if (records.length === 0) {
        if (!mint) throw notFound(`There is no key of user ${JSON.stringify(userId)}`, false)
        const minted = await this.forWriting(userId)
        // Not by another look: it may share one that began before the insert.
        if (minted.version === 1) return { active: minted, versions: new Map([[1, minted]]), erasures }
        continue
      }
      const activeRecord = this.#activeOf(userId, records)
      const keys = await Promise.all(
        records.map((record) =>
          record === activeRecord
            ? this.#opened(record)
            : this.#opened(record).catch((error: Error) => error),
        ),
      )
      if (this.#erasures(userId) > erasures) continue
      const versions = new Map(records.map(({ version }, index) => [version, keys[index] as DataKey | Error]))
      return { active: versions.get(activeRecord.version) as DataKey, versions, erasures }
    }
  }

  /** Whether this process knows that these keys of the user were shredded. */
  isShredded(userId: string, { erasures }: UserKeys): boolean {
    return this.#shredded.has(userId) || this.#erasures(userId) > erasures
  }

  /** Drops everything; what is still under way is not kept either. */
  close(): void {
    this.#closed = true
    this.#keys?.clear()
    this.#active?.clear()
  }

  /** The live rows of a user, ascending; one flight a user, one query a tick. @throws ERR_KEY_SHREDDED */
  async #recordsOf(userId: string): Promise<readonly KeyRecord[]> {
    const records = await this.#loading.run(userId, () => this.#load.add(userId))
    if (records.some(({ shreddedAt }) => shreddedAt !== null)) {
      throw this.#shred(userId)
    }
    this.#shredded.delete(userId)
    if (records.length === 0) this.#forget(userId)
    this.#see(userId, records.at(-1)?.version ?? 0)
    return records
  }

  /** Remembers the highest version, and makes writes look again when they use a lower one. */
  #see(userId: string, highest: number): void {
    if (highest > (this.#highest.get(userId) ?? 1)) this.#highest.set(userId, highest)
    const active = this.#active?.peek(userId)
    if (active !== undefined && active < highest && this.#policy.format !== 'v2') this.#active?.delete(userId)
  }

  /** Drops what is in memory of a shredded user. @returns the error to throw */
  #shred(userId: string): KeystoreError {
    if (!this.#shredded.has(userId)) this.#erased.set(userId, this.#erasures(userId) + 1)
    this.#shredded.set(userId, true)
    this.#forget(userId)
    return shredded(userId)
  }

  /** Without any live row the user was shredded, perhaps forgotten: what follows is a new key. Looks through all only then. */
  #forget(userId: string): void {
    const known =
      this.#active?.has(userId) ||
      this.#highest.has(userId) ||
      this.cached({ userId, version: 1 }) !== undefined
    if (!known) return
    this.#active?.delete(userId)
    this.#highest.delete(userId)
    for (const [cacheKey, key] of [...(this.#keys?.entries() ?? [])])
      if (key.userId === userId) this.#keys?.delete(cacheKey)
    if (!this.#shredded.has(userId)) this.#erased.set(userId, this.#erasures(userId) + 1)
  }

  #erasures(userId: string): number {
    return this.#erased.get(userId) ?? 0
  }

  #isBelowSeen({ userId, version }: KeyRef): boolean {
    return this.#policy.format !== 'v2' && version < (this.#highest.get(userId) ?? 1)
  }

  /** Which row a user's writes use. */
  #activeOf(userId: string, records: readonly KeyRecord[]): KeyRecord {
    if (this.#policy.format === 'v2') {
      const first = records.find(({ version }) => version === 1)
      if (first === undefined)
        throw notFound(`There is no key of ${describeRef({ userId, version: 1 })}`, false)
      return first
    }
    const active = records.at(-1) as KeyRecord
    const seen = this.#highest.get(userId) ?? 1
    if (active.version < seen) {
      const ref = describeRef({ userId, version: seen })
      throw notFound(
        `The key of ${ref}, which this process has used, is not in the store: nothing is written under a lower one`,
        true,
      )
    }
    return active
  }

  /** Whoever wins the race for the row, every caller goes on with the winner's key. Kept only after the insert is durable. */
  async #mint(userId: string): Promise<DataKey> {
    const ref = { userId, version: 1 }
    const dataKey = generateKey()
    const erasures = this.#erasures(userId)
    try {
      const wrapped = await wrapDataKey(this.#keyring, ref, dataKey, this.#policy.format)
      const winner = await this.#insert.add({
        ...ref,
        ...wrapped,
        createdAt: new Date(),
        wrappedAt: null,
        shreddedAt: null,
      })
      if (winner.shreddedAt !== null) throw this.#shred(userId)
      if (Buffer.compare(winner.encryptedKey, wrapped.encryptedKey) !== 0) return await this.#opened(winner)
      return this.#keep(new DataKey(ref, winner.encryptedKey, dataKey), erasures)
    } finally {
      dataKey.fill(0)
    }
  }

  async #opened(record: KeyRecord): Promise<DataKey> {
    const known = this.cached(record)
    // A rewrap changes the bytes as well: then it is opened once more.
    if (known !== undefined && Buffer.compare(known.wrapped, record.encryptedKey) === 0) return known
    const flight = `${refKey(record)}:${Buffer.from(record.encryptedKey).toString('base64')}`
    return this.#unwrapping.run(flight, async () => {
      const erasures = this.#erasures(record.userId)
      const bytes = await unwrapDataKey(this.#keyring, record, this.#policy.acceptKeys)
      return this.#keep(new DataKey(record, record.encryptedKey, bytes), erasures)
    })
  }

  /** @param erasures as they were when the key's row was read */
  #keep(key: DataKey, erasures: number): DataKey {
    if (!this.#closed && this.#erasures(key.userId) === erasures) this.#keys?.set(this.#cacheKey(key), key)
    return key
  }

  #cacheKey(ref: KeyRef): string {
    return `${this.#acceptKey}:${refKey(ref)}`
  }

  /** One query; a row that cannot be read costs one more, and fails its own user only. */
  async #loadAll(userIds: readonly string[]): Promise<(readonly KeyRecord[] | Error)[]> {
    const unreadable = new Map<string, Error>()
    for (;;) {
      try {
        const found = await this.#store.getAll(userIds.filter((userId) => !unreadable.has(userId)))
        return userIds.map((userId) => unreadable.get(userId) ?? found.get(userId) ?? [])
      } catch (error) {
        const userId = isKeystoreError(error) ? (error as StoreError).ref?.userId : undefined
        if (userId === undefined || unreadable.has(userId)) throw error
        unreadable.set(userId, error as StoreError)
      }
    }
  }

  async #insertAll(records: readonly KeyRecord[]): Promise<(KeyRecord | Error)[]> {
    const unreadable = new Map<string, Error>()
    for (;;) {
      try {
        const winners = await this.#store.insertIfAbsent(
          records.filter(({ userId }) => !unreadable.has(userId)),
        )
        const byUser = new Map(winners.map((winner) => [winner.userId, winner]))
        return records.map(
          ({ userId }) =>
            unreadable.get(userId) ??
            byUser.get(userId) ??
            new StoreError('The key store inserted a key and does not have it'),
        )
      } catch (error) {
        const userId = isKeystoreError(error) ? (error as StoreError).ref?.userId : undefined
        if (userId === undefined || unreadable.has(userId)) throw error
        unreadable.set(userId, error as StoreError)
      }
    }
  }
}

function lruOptions({ maxEntries = DEFAULT_MAX_ENTRIES, ttlMs = DEFAULT_TTL_MS }: CacheOptions) {
  return { max: maxEntries, ttl: ttlMs }
}

function notFound(message: string, retryable: boolean): KeystoreError {
  return new KeystoreError('ERR_KEY_NOT_FOUND', message, { retryable })
}

function shredded(userId: string): KeystoreError {
  return new KeystoreError('ERR_KEY_SHREDDED', `The keys of user ${JSON.stringify(userId)} were shredded`)
}
