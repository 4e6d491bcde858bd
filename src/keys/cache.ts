/**
 * Users' data keys: found in the store, minted on first use, rotated, unwrapped, and cached for a while. memory.ts says what is promised
 * when keys change meanwhile.
 */
import { describeUser, invalidArgument, isKeystoreError, keyShredded } from '../errors.js'
import { durationSince, type EmitEvent } from '../events.js'
import type { Format } from '../format/formats.js'
import { unavailableEvent } from '../master-keys/failure.js'
import { describeRef, newDataKey } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { KeyStore, NewKeyRecord } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, MAX_KEY_VERSION } from '../table.js'
import { Batch, SingleFlight } from './batch.js'
import type { CacheOptions, CacheStats } from './cache-options.js'
import { DataKey, type Right } from './data-key.js'
import { type Kek, type Keks, masterKeyOf, rightOf, rowOf } from './keks.js'
import type { UserRows } from './known-user.js'
import { type FoundKeys, lookUpKeys, type OpenOrMint, type WantedKey } from './look-up.js'
import { KeyMemory } from './memory.js'
import {
  highestLost,
  keysLostError,
  noSuchVersion,
  notFound,
  rotationNeedsV3,
  storeIsEmpty,
} from './missing.js'
import { type KeepKey, KeyOpener } from './opener.js'
import { type HasEnded, KeyReader } from './reader.js'
import { insertRecords } from './rows.js'

/** How keys are wrapped when minted, and which wraps are opened. */
export interface KeyPolicy {
  readonly format: Format
  readonly acceptKeys: readonly Format[]
  /** False: no user gets a first key. */
  readonly mints: boolean
  /** Null: there is no key log that can be read. */
  readonly hasEnded: HasEnded | null
  /** The keys are tenants' own. */
  readonly ofTenants?: boolean
}

interface Made {
  readonly key: DataKey
  /** False if another process won the race for the row. */
  readonly isOurs: boolean
}

const LOOK_AGAIN_AFTER_MS = 1000

/** All live versions of a user's key, for a handle. A version that does not open has its error instead. */
export interface UserKeys {
  readonly active: DataKey
  readonly versions: ReadonlyMap<number, DataKey | Error>
  /** The user's, and those of the tenants under whose keys they are. Once one has ended, the keys must not be used any more. */
  readonly rights: readonly Right[]
}

/** What a rotation came to. */
export interface Rotation extends KeyRef {
  /** False if another process made this version since this one last read the user's rows. */
  readonly rotated: boolean
}

export class KeyCache {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #keks: Keks
  readonly #policy: KeyPolicy
  readonly #emit: EmitEvent
  readonly #memory: KeyMemory
  readonly #reader: KeyReader
  readonly #opener: KeyOpener
  readonly #writing = new SingleFlight<DataKey>()
  readonly #rotating = new SingleFlight<Rotation>()
  #askedIfEmptyAt = Number.NEGATIVE_INFINITY
  readonly #insert = new Batch<NewKeyRecord, KeyRecord>((records) => insertRecords(this.#store, records))

  constructor(
    store: KeyStore,
    keyring: MasterKeyring,
    keks: Keks,
    policy: KeyPolicy,
    cache: CacheOptions | false,
    emit: EmitEvent,
  ) {
    this.#store = store
    this.#keyring = keyring
    this.#keks = keks
    this.#policy = policy
    this.#emit = emit
    // What is read or minted inside a caller's transaction may be rolled back.
    this.#memory = new KeyMemory(
      store.transactional ? false : cache,
      policy.format === 'v2',
      policy.hasEnded !== null,
      policy.ofTenants,
    )
    keks.onChange((tenant) => this.#memory.changeUnder(tenant))
    this.#reader = new KeyReader(store, this.#memory, emit, policy.hasEnded)
    const keep: KeepKey = (key, rows, kek) => this.#keep(key, rows, kek)
    this.#opener = new KeyOpener(keyring, keks, policy.acceptKeys, this.#memory, keep, emit)
  }

  get stats(): CacheStats {
    return this.#memory.stats
  }

  /** The key that a user's writes use, if it is cached. */
  cachedForWriting(userId: string): DataKey | undefined {
    return this.#memory.cachedForWriting(userId)
  }

  /** A version of a user's key, if it is cached. */
  cached(ref: KeyRef): DataKey | undefined {
    return this.#memory.cached(ref)
  }

  /** Of a version, or the key for writing. Not counted. */
  isCached(userId: string, version?: number): boolean {
    return this.#memory.peekUser(userId, version) !== null
  }

  /** {@link cached}, or without a version {@link cachedForWriting}. What is missing is to be looked up next, and counted then. */
  cachedBeforeLookUp(userId: string, version?: number): DataKey | undefined {
    return this.#memory.cachedBeforeLookUp(userId, version)
  }

  /**
   * The key that a user's writes use: the highest version, under format v2 version 1. Minted if there is none.
   *
   * @throws ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND (a version seen before is gone) · what store and unwrapping throw
   */
  forWriting(userId: string): Promise<DataKey> {
    return this.#writing.run(userId, async () => {
      for (;;) {
        const rows = await this.#read(userId)
        if (this.#memory.isOutdated(rows)) continue
        const key =
          rows.records.length === 0
            ? await this.#mint(rows)
            : await this.#opener.open(this.#activeOf(rows), rows)
        // Another call may have seen the user erased, or a higher version, while the key was being opened or made.
        if (!rows.user.ended && !key.tenant?.ended && !this.#memory.isBelowSeen(rows.user, key.version))
          return key
      }
    })
  }

  /**
   * A version of a user's key. Never mints.
   *
   * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · what store and unwrapping throw
   */
  async get(ref: KeyRef): Promise<DataKey> {
    for (;;) {
      if (this.#memory.isMissing(ref)) throw noSuchVersion(ref)
      const rows = await this.#read(ref.userId)
      if (this.#memory.isOutdated(rows)) continue
      const key = await this.#openVersion(rows, ref)
      if (!rows.user.ended && !key.tenant?.ended) return key
    }
  }

  /**
   * Looks up the keys of many users by one query, and mints what is missing by one insert, with turns of the event loop in between.
   *
   * @returns a function that gives a key, or why there is none; undefined if it must not be used any more
   */
  lookUp(wanted: readonly WantedKey[]): Promise<FoundKeys> {
    const openOrMint: OpenOrMint = (...args) => this.#openOrMint(...args)
    return lookUpKeys(wanted, this.#memory, this.#reader, openOrMint)
  }

  /** @param beforeInsert what an insert waits for */
  async #openOrMint(
    { userId, version }: WantedKey,
    rows: UserRows,
    beforeInsert: Promise<void>,
  ): Promise<DataKey> {
    if (this.#memory.isOutdated(rows) || rows.user.keysLost)
      return version === undefined ? this.forWriting(userId) : this.get({ userId, version })
    if (version !== undefined) return this.#openVersion(rows, { userId, version })
    if (rows.records.length > 0) return this.#opener.open(this.#activeOf(rows), rows)
    return this.#mint(rows, beforeInsert)
  }

  /**
   * Version 1 of a user's key, minted if there is none. Returns the key itself if it is cached.
   *
   * @throws like {@link forWriting}; ERR_KEY_NOT_FOUND if it was pruned
   */
  first(userId: string): DataKey | Promise<DataKey> {
    const ref = { userId, version: 1 }
    return (
      this.cached(ref) ??
      this.forWriting(userId).then((written) => (written.version === 1 ? written : this.get(ref)))
    )
  }

  /**
   * The lowest live version of a user's key, which fingerprints are made with. Minted if there is none. Returns the key itself if it is
   * cached.
   *
   * @throws like {@link forWriting}
   */
  lowest(userId: string): DataKey | Promise<DataKey> {
    return this.#memory.cachedLowest(userId) ?? this.#openLowest(userId)
  }

  async #openLowest(userId: string): Promise<DataKey> {
    for (;;) {
      const rows = await this.#read(userId)
      if (this.#memory.isOutdated(rows)) continue
      const [lowest] = rows.records
      if (lowest === undefined) {
        const minted = await this.forWriting(userId)
        if (minted.version === 1) return minted
        continue
      }
      // While the highest version is lost, nothing is written under a lower one.
      this.#activeOf(rows)
      const key = await this.#opener.open(lowest, rows)
      if (!rows.user.ended && !key.tenant?.ended) return key
    }
  }

  /**
   * All live versions, as they are now, for a handle.
   *
   * @throws like {@link forWriting}; without `mint` ERR_KEY_NOT_FOUND for a user without keys
   */
  async all(userId: string, mint: boolean): Promise<UserKeys> {
    this.#reader.listen()
    for (;;) {
      const rows = await this.#read(userId)
      if (this.#memory.isOutdated(rows)) continue
      const keys = rows.records.length > 0 ? await this.#openAll(rows) : await this.#mintFor(rows, mint)
      if (keys !== null && !keys.rights.some(({ ended }) => ended)) return keys
    }
  }

  async #openAll(rows: UserRows): Promise<UserKeys> {
    const activeRecord = this.#activeOf(rows)
    // From now on an announced change reaches the lease; what was announced while the rows were being read does here.
    const lease = this.#memory.lease(rows.user, rows.records)
    if (!this.#memory.isCurrent(rows)) this.#reader.reread([activeRecord.userId])
    const versions = new Map<number, DataKey | Error>()
    const open = async (record: KeyRecord) => {
      try {
        return await this.#opener.open(record, rows)
      } catch (error) {
        if (record === activeRecord) throw error
        return error as Error
      }
    }
    const keys = await Promise.all(rows.records.map(open))
    for (const [index, { version }] of rows.records.entries()) versions.set(version, keys[index] as DataKey)
    const tenants = new Set(keys.flatMap((key) => (key instanceof DataKey ? (key.tenant ?? []) : [])))
    return { active: versions.get(activeRecord.version) as DataKey, versions, rights: [lease, ...tenants] }
  }

  /** @returns null if the user has other rows by now */
  async #mintFor(rows: UserRows, mint: boolean): Promise<UserKeys | null> {
    const { userId } = rows.user
    if (!mint) throw notFound(`There is no key of ${describeUser(userId)}`, false)
    const minted = await this.forWriting(userId)
    // Not by reading again: that may share a read that began before the insert.
    if (minted.version !== 1 || !this.#memory.isCurrent(rows)) return null
    const lease = this.#memory.lease(rows.user, [minted])
    const rights = minted.tenant === null ? [lease] : [lease, minted.tenant]
    return { active: minted, versions: new Map([[1, minted]]), rights }
  }

  /**
   * Makes the next version of a user's key. Rivals for the same version end with one. If another process rotated since this one last
   * read the user's rows, that is the rotation.
   *
   * @throws ERR_INVALID_ARGUMENT (format v2) · ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · what store and wrapping throw
   */
  rotate(userId: string): Promise<Rotation> {
    return this.#rotating.run(userId, async () => {
      if (this.#policy.format === 'v2') throw rotationNeedsV3()
      const known = this.#memory.cachedHighest(userId)
      let rows = await this.#read(userId)
      while (this.#memory.isOutdated(rows)) rows = await this.#read(userId)
      if (rows.records.length === 0)
        throw notFound(`There is no key of ${describeUser(userId)} to rotate`, false)
      const { version } = this.#activeOf(rows)
      if (known !== undefined && known < version) return { userId, version, rotated: false }
      if (version === MAX_KEY_VERSION)
        throw invalidArgument(`${describeUser(userId)} has used up all versions`)
      const { key, isOurs } = await this.#make({ userId, version: version + 1 }, 'rotated', rows)
      return { userId, version: key.version, rotated: isOurs }
    })
  }

  /** The user's keys were erased by this process. */
  shredded(userId: string, forget: boolean): void {
    this.#memory.erase(userId, !forget)
  }

  /** The tenant's keys are to be opened by its root again. Handles of its users end. */
  revoked(userId: string): void {
    this.#memory.revoke(userId)
  }

  /** Calls `listener` when keys of a user may have changed, or have ended. */
  onChange(listener: (userId: string) => void): void {
    this.#memory.onChange = listener
  }

  /** How long a key is still kept, in milliseconds; 0 if it is not. */
  leftMs(key: DataKey): number {
    return this.#memory.leftMs(key)
  }

  /** It is unknown whether a user's rows were changed. */
  mayHaveChanged(userId: string): void {
    this.#reader.announce(userId)
  }

  #keep(key: DataKey, rows: UserRows, kek: Kek | null): void {
    if (this.#policy.ofTenants === true) {
      key.right = this.#memory.lease(rows.user, [key])
      // What was announced while the key was being opened has not reached the lease.
      if (!this.#memory.isCurrent(rows)) this.#reader.reread([key.userId])
    }
    this.#memory.cache(key, rows, this.#keks.leftMs(kek))
  }

  /** Drops everything; what is still under way is not cached either. */
  close(): void {
    this.#reader.close()
    this.#memory.close()
  }

  /** A user's rows. Lost keys of which the key log says that they have ended are not known any more. */
  async #read(userId: string): Promise<UserRows> {
    for (;;) {
      const rows = await this.#reader.read(userId)
      if (!rows.user.keysLost || !(await this.#reader.hasEnded(rows.user))) return rows
      this.#memory.erase(userId, false)
    }
  }

  /** @throws ERR_KEY_NOT_FOUND · what unwrapping throws */
  async #openVersion(rows: UserRows, ref: KeyRef): Promise<DataKey> {
    const record = rows.records.find(({ version }) => version === ref.version)
    if (record !== undefined) return this.#opener.open(record, rows)
    this.#memory.learnMissingVersion(ref, rows)
    if (rows.records.length > 0 || !(await this.#isStoreEmpty())) throw noSuchVersion(ref)
    // Whoever has a token had a key.
    this.#emit({ type: 'keysLost', users: [ref], count: 1 })
    throw storeIsEmpty(ref)
  }

  /** Asks the store at most once a second. */
  async #isStoreEmpty(): Promise<boolean> {
    const now = performance.now()
    if (now - this.#askedIfEmptyAt < LOOK_AGAIN_AFTER_MS) return false
    this.#askedIfEmptyAt = now
    try {
      return (await this.#store.list({ limit: 1 })).length === 0
    } catch {
      // A row that cannot be read is a row. That the version is missing is known already.
      return false
    }
  }

  /** Which row a user's writes use. */
  #activeOf({ user, records }: UserRows): KeyRecord {
    const { userId } = user
    if (this.#policy.format === 'v2') {
      const first = records.find(({ version }) => version === 1)
      if (first === undefined)
        throw notFound(`There is no key of ${describeRef({ userId, version: 1 })}`, false)
      return first
    }
    const active = records.at(-1) as KeyRecord
    if (this.#memory.isBelowSeen(user, active.version)) {
      throw highestLost({ userId, version: user.highest })
    }
    return active
  }

  /** @throws ERR_KEY_NOT_FOUND (`mint: 'never'`; the user had keys, and lost them) · like {@link #make} */
  async #mint(rows: UserRows, beforeInsert?: Promise<void>): Promise<DataKey> {
    const { userId, keysLost: areLost } = rows.user
    if (!this.#policy.mints)
      throw notFound(`There is no key of ${describeUser(userId)}, and mint is 'never'`, false)
    if (areLost) throw keysLostError(userId)
    const mint = () => this.#make({ userId, version: 1 }, 'minted', rows, beforeInsert)
    const { key } = await mint().catch((error) => {
      // There may be another key of the tenant's by now.
      if (isKeystoreError(error) && error.code === 'ERR_KEY_NOT_FOUND' && error.retryable) return mint()
      throw error
    })
    return key
  }

  /** Inserts a new version. Every rival goes on with the winner's key. The key is cached only after the insert is durable. */
  async #make(
    ref: KeyRef,
    type: 'minted' | 'rotated',
    rows: UserRows,
    beforeInsert?: Promise<void>,
  ): Promise<Made> {
    const start = performance.now()
    const kek = await this.#keks.forNew(ref, rows.records.at(-1))
    const { format } = this.#policy
    const { record, dataKey } = await newDataKey(this.#keyring, ref, format, masterKeyOf(kek)).catch(
      (error) => {
        const unavailable = unavailableEvent(masterKeyOf(kek).id, error)
        if (unavailable !== null) this.#emit(unavailable)
        throw error
      },
    )
    try {
      await this.#keks.check?.(record, dataKey, kek)
      if (beforeInsert !== undefined) await beforeInsert
      const whileLive = rowOf(kek)
      const winner = await this.#insert.add({ ...record, ...(whileLive && { whileLive }) }).catch((error) => {
        // The tenant's key went away while this one was made, however long that took.
        if (isKeystoreError(error) && error.code === 'ERR_KEY_NOT_FOUND') this.#keks.changed?.(kek)
        throw error
      })
      if (isTombstone(winner)) {
        this.#memory.erase(ref.userId, true)
        throw keyShredded(ref.userId)
      }
      this.#memory.raise(rows.user, winner, rows)
      if (Buffer.compare(winner.encryptedKey, record.encryptedKey) !== 0)
        return { key: await this.#opener.open(winner, rows), isOurs: false }
      this.#emit({ type, ...ref, kekId: record.kekId, durationMs: durationSince(start) })
      const key = new DataKey(winner, dataKey, rightOf(kek))
      this.#keep(key, rows, kek)
      return { key, isOurs: true }
    } finally {
      dataKey.fill(0)
    }
  }
}
