/**
 * Users' data keys: found in the store, minted on first use, rotated, unwrapped, kept for a while. One flight for each key, one query
 * for all that is missed in a tick, and the store's word on what other processes change.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { invalidArgument, isKeystoreError, KeystoreError } from '../errors.js'
import { durationSince, type EmitEvent } from '../events.js'
import type { Format } from '../format/formats.js'
import { describeRef, newDataKey, unwrapBy, unwrapLocally } from '../master-keys/key-wrap.js'
import type { MasterKey, MasterKeyring } from '../master-keys/master-key.js'
import type { KeyStore, StoreChange } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, MAX_KEY_VERSION, refKey } from '../table.js'
import { Batch, KeyedBatch, SingleFlight } from './batch.js'
import { DataKey } from './data-key.js'
import { type CacheOptions, type CacheStats, type Hold, KeyMemory, type Moment, type Time } from './memory.js'
import { insertRows, loadRows } from './rows.js'

/** How keys are wrapped when minted, and which wraps are opened. */
export interface KeyPolicy {
  readonly format: Format
  readonly acceptKeys: readonly Format[]
}

/** All live versions of a user's key. A version that does not open has its error instead. */
export interface UserKeys {
  readonly active: DataKey
  readonly versions: ReadonlyMap<number, DataKey | Error>
  /** Once it has ended, the keys are no longer to be used. */
  readonly hold: Hold
}

/** What a rotation came to. */
export interface Rotation extends KeyRef {
  /** False if another process made this version since this one last looked. */
  readonly rotated: boolean
}

/** A user's live rows, and since when they are known. */
interface Found {
  readonly records: readonly KeyRecord[]
  readonly since: Moment
}

/** A look at a user's rows, and what was known before it. */
interface Look {
  readonly records: readonly KeyRecord[]
  readonly readAt: Time
  readonly wasKnown: boolean
  readonly highest: number
}

/** Users that are looked at again in one query. */
const RECHECK_USERS = 1000
/** Handles go on without asking the store: when a look at their users failed, there is another after this. */
const RECHECK_AGAIN_MS = 1000

export class KeyCache {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #policy: KeyPolicy
  readonly #emit: EmitEvent
  readonly #memory: KeyMemory
  readonly #writing = new SingleFlight<DataKey>()
  readonly #rotating = new SingleFlight<Rotation>()
  readonly #unwrapping = new SingleFlight<DataKey>()
  readonly #load = new KeyedBatch<Look>((userIds) => this.#look(userIds))
  readonly #insert = new Batch<KeyRecord, KeyRecord>((records) => insertRows(this.#store, records))
  /** Users whose rows may have changed, to be looked at again. */
  readonly #doubtful = new Set<string>()
  #isRechecking = false
  #unsubscribe: (() => void) | null = null
  #closed = false

  constructor(
    store: KeyStore,
    keyring: MasterKeyring,
    policy: KeyPolicy,
    cache: CacheOptions | false,
    emit: EmitEvent,
  ) {
    this.#store = store
    this.#keyring = keyring
    this.#policy = policy
    this.#emit = emit
    // What is read or minted inside a caller's transaction may be rolled back.
    this.#memory = new KeyMemory(store.transactional ? false : cache, policy.format === 'v2')
  }

  get stats(): CacheStats {
    return this.#memory.stats
  }

  /** The key that a user's writes use, if it is in memory. */
  cachedForWriting(userId: string): DataKey | undefined {
    return this.#memory.cachedForWriting(userId)
  }

  /** A version of a user's key, if it is in memory. */
  cached(ref: KeyRef): DataKey | undefined {
    return this.#memory.cached(ref)
  }

  /**
   * The key that a user's writes use, minted if there is none: the highest version; under format v2 version 1.
   *
   * @throws ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND (a version seen before is gone) · what store and unwrapping throw
   */
  forWriting(userId: string): Promise<DataKey> {
    return this.#writing.run(userId, async () => {
      for (;;) {
        const { records, since } = await this.#recordsOf(userId)
        const key =
          records.length === 0
            ? (await this.#make({ userId, version: 1 }, 'minted', since)).key
            : await this.#opened(this.#activeOf(userId, records), since)
        // While it was being opened, another call may have seen the user shredded, or a higher version: look again.
        if (this.#memory.isErasedSince(userId, since.knownAt) || this.#memory.isBelowSeen(key)) continue
        this.#memory.setActive(key, since)
        return key
      }
    })
  }

  /**
   * A version of a user's key. Never mints, and never changes which version writes use.
   *
   * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · what store and unwrapping throw
   */
  async get(ref: KeyRef): Promise<DataKey> {
    const { records, since } = await this.#recordsOf(ref.userId)
    const record = records.find(({ version }) => version === ref.version)
    if (record === undefined) throw notFound(`There is no key of ${describeRef(ref)}`, false)
    return this.#opened(record, since)
  }

  /**
   * Version 1 of a user's key, minted if there is none; at once, if it is in memory.
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
   * All live versions, as they are now.
   *
   * @throws like {@link forWriting}; without `mint` ERR_KEY_NOT_FOUND for a user without keys
   */
  async all(userId: string, mint: boolean): Promise<UserKeys> {
    this.#listen()
    for (;;) {
      const { records, since } = await this.#recordsOf(userId)
      if (records.length === 0) {
        if (!mint) throw notFound(`There is no key of user ${JSON.stringify(userId)}`, false)
        const minted = await this.forWriting(userId)
        // Not by another look: it may share one that began before the insert.
        if (minted.version === 1 && this.#memory.isCurrent(userId, since)) {
          const hold = this.#memory.hold(userId, [minted])
          return { active: minted, versions: new Map([[1, minted]]), hold }
        }
        continue
      }
      const activeRecord = this.#activeOf(userId, records)
      // From now on a change of the user's rows matters here; what was told before, while they were being read, does at once.
      const hold = this.#memory.hold(userId, records)
      if (!this.#memory.isCurrent(userId, since)) this.#recheck([userId])
      const keys = await Promise.all(
        records.map(async (record) => {
          try {
            return await this.#opened(record, since)
          } catch (error) {
            if (record === activeRecord) throw error
            return error as Error
          }
        }),
      )
      if (hold.ended) continue
      const versions = new Map(records.map(({ version }, index) => [version, keys[index] as DataKey | Error]))
      return { active: versions.get(activeRecord.version) as DataKey, versions, hold }
    }
  }

  /**
   * Makes the next version of a user's key. Rivals for the same version end with one. If another process rotated since this one last
   * looked at the user, that is the rotation.
   *
   * @throws ERR_INVALID_ARGUMENT (format v2) · ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · what store and wrapping throw
   */
  rotate(userId: string): Promise<Rotation> {
    return this.#rotating.run(userId, async () => {
      if (this.#policy.format === 'v2') throw rotationNeedsV3()
      const known = this.#memory.knownVersion(userId)
      const { records, since } = await this.#recordsOf(userId)
      if (records.length === 0)
        throw notFound(`There is no key of user ${JSON.stringify(userId)} to rotate`, false)
      const { version } = this.#activeOf(userId, records)
      if (known !== undefined && known < version) return { userId, version, rotated: false }
      if (version === MAX_KEY_VERSION)
        throw invalidArgument(`user ${JSON.stringify(userId)} has used up all versions`)
      const { key, isOurs } = await this.#make({ userId, version: version + 1 }, 'rotated', since)
      if (!this.#memory.isErasedSince(userId, since.knownAt)) this.#memory.seeHighest(key)
      this.#memory.setActive(key, since)
      return { userId, version: key.version, rotated: isOurs }
    })
  }

  /** The user's keys were erased by this process. */
  shredded(userId: string, forget: boolean): void {
    this.#memory.erase(userId)
    if (!forget) this.#memory.shred(userId)
  }

  /** Nobody knows whether a user's rows were changed. */
  mayHaveChanged(userId: string): void {
    this.#changed({ userIds: [userId] })
  }

  /** Drops everything; what is still under way is not kept either. */
  close(): void {
    this.#closed = true
    this.#unsubscribe?.()
    this.#memory.close()
  }

  /** The live rows of a user, ascending; one flight a user, one query a tick. @throws ERR_KEY_SHREDDED */
  async #recordsOf(userId: string): Promise<Found> {
    if (this.#memory.keepsKeys) this.#listen()
    for (;;) {
      const { records, readAt, wasKnown, highest } = await this.#load.get(userId)
      // Erased or rotated while the look was under way: it may have seen the rows of before.
      const isRotated = this.#memory.highest(userId) > Math.max(highest, records.at(-1)?.version ?? 0)
      if (isRotated || this.#memory.isErasedSince(userId, readAt)) continue
      this.#note(userId, records, wasKnown)
      if (records.some(isTombstone)) throw shredded(userId)
      return { records, since: { readAt, knownAt: this.#memory.now() } }
    }
  }

  /** Users' rows by one query, and what was known of each right before it. */
  async #look(userIds: readonly string[]): Promise<(Look | Error)[]> {
    const readAt = this.#memory.now()
    // What was known before: a look that began before a mint ends without its row, and means nothing by it.
    const known = userIds.map((userId) => this.#memory.isKnown(userId))
    const highest = userIds.map((userId) => this.#memory.highest(userId))
    const found = await loadRows(this.#store, userIds)
    return found.map((records, index) =>
      records instanceof Error
        ? records
        : { records, readAt, wasKnown: known[index] as boolean, highest: highest[index] as number },
    )
  }

  /** Remembers what a user's rows say. */
  #note(userId: string, records: readonly KeyRecord[], wasKnown: boolean): void {
    if (records.some(isTombstone)) {
      this.#memory.shred(userId)
    } else {
      // Of a user who had rows and has none, what follows is a new key.
      if (records.length === 0 && wasKnown) this.#memory.erase(userId)
      this.#memory.see(userId, records)
    }
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
    if (this.#memory.isBelowSeen(active)) {
      const ref = describeRef({ userId, version: this.#memory.highest(userId) })
      throw notFound(
        `The key of ${ref}, which this process has used, is not in the store: nothing is written under a lower one`,
        true,
      )
    }
    return active
  }

  /** Whoever wins the race for the row, every caller goes on with the winner's key. Kept only after the insert is durable. */
  async #make(
    ref: KeyRef,
    type: 'minted' | 'rotated',
    since: Moment,
  ): Promise<{ readonly key: DataKey; readonly isOurs: boolean }> {
    const start = performance.now()
    const { record, dataKey } = await newDataKey(this.#keyring, ref, this.#policy.format)
    try {
      const winner = await this.#insert.add(record)
      if (isTombstone(winner)) {
        this.#memory.shred(ref.userId)
        throw shredded(ref.userId)
      }
      if (Buffer.compare(winner.encryptedKey, record.encryptedKey) !== 0)
        return { key: await this.#opened(winner, since), isOurs: false }
      this.#emit({ type, ...ref, kekId: record.kekId, durationMs: durationSince(start) })
      return { key: this.#keep(new DataKey(winner, dataKey), since), isOurs: true }
    } finally {
      dataKey.fill(0)
    }
  }

  /** At once, unless a key service has to be asked. */
  #opened(record: KeyRecord, since: Moment): DataKey | Promise<DataKey> {
    const known = this.#memory.peek(record)
    // A rewrap changes the bytes as well: then it is opened once more.
    if (known !== undefined && Buffer.compare(known.encryptedKey, record.encryptedKey) === 0) return known
    const start = performance.now()
    try {
      const opened = unwrapLocally(this.#keyring, record, this.#policy.acceptKeys)
      if (opened instanceof Uint8Array) return this.#unwrapped(record, opened, start, since)
      return this.#openedBy(opened, record, start, since)
    } catch (error) {
      throw this.#notUnwrapped(record, error)
    }
  }

  /** One call of a key service for all who wait for the same row. */
  #openedBy(service: MasterKey, record: KeyRecord, start: number, since: Moment): Promise<DataKey> {
    const { buffer, byteOffset, byteLength } = record.encryptedKey
    const flight = `${refKey(record)}:${Buffer.from(buffer, byteOffset, byteLength).toString('latin1')}`
    return this.#unwrapping.run(flight, async () => {
      try {
        return this.#unwrapped(record, await unwrapBy(service, record), start, since)
      } catch (error) {
        throw this.#notUnwrapped(record, error)
      }
    })
  }

  #unwrapped(record: KeyRecord, bytes: Uint8Array, start: number, since: Moment): DataKey {
    const { userId, version, kekId } = record
    this.#emit({ type: 'unwrapped', userId, version, kekId, durationMs: durationSince(start) })
    return this.#keep(new DataKey(record, bytes), since)
  }

  #notUnwrapped({ userId, version, kekId }: KeyRecord, error: unknown): unknown {
    if (isKeystoreError(error) && error.code === 'ERR_UNWRAP_FAILED')
      this.#emit({ type: 'damagedKey', userId, version, kekId })
    return error
  }

  /** @param since when the key's row was read */
  #keep(key: DataKey, since: Moment): DataKey {
    this.#memory.keep(key, since)
    return key
  }

  /** Before the first look: what comes after it is told. A process that keeps nothing in memory needs no connection for it. */
  #listen(): void {
    if (this.#unsubscribe !== null || this.#closed || this.#store.transactional) return
    this.#unsubscribe = this.#store.changes?.((change) => this.#changed(change)) ?? null
  }

  #changed({ userIds, unspecific, silent }: StoreChange): void {
    if (this.#closed) return
    if (silent !== undefined) {
      this.#emit({ type: 'changesSilent', reason: silent })
    } else if (userIds !== undefined) {
      for (const userId of userIds) this.#memory.change(userId)
      this.#recheck(userIds.filter((userId) => this.#memory.isKnown(userId)))
    } else if (unspecific === true) {
      this.#recheck([...this.#memory.takeUsed(), ...this.#memory.heldUsers()])
    } else {
      this.#memory.dropAll()
      this.#recheck(this.#memory.heldUsers())
    }
  }

  /** Looks again at users whose rows may have changed; one query at a time, however fast changes are told. */
  #recheck(userIds: readonly string[]): void {
    for (const userId of userIds) this.#doubtful.add(userId)
    if (!this.#isRechecking) void this.#recheckAll()
  }

  async #recheckAll(): Promise<void> {
    this.#isRechecking = true
    while (this.#doubtful.size > 0 && !this.#closed) {
      const some = [...this.#doubtful].slice(0, RECHECK_USERS)
      for (const userId of some) this.#doubtful.delete(userId)
      const readAt = this.#memory.now()
      // Not through #load: a look that is under way may have begun before the change.
      const found = await loadRows(this.#store, some).catch((error: Error) => some.map(() => error))
      const failed = some.filter((userId, index) => !this.#learn(userId, found[index], readAt))
      for (const userId of failed) this.#doubtful.add(userId)
      if (failed.length > 0) await sleep(RECHECK_AGAIN_MS, undefined, { ref: false })
    }
    this.#isRechecking = false
  }

  /** Who cannot be looked at is no longer in memory: the next call asks the store. @returns false to look again */
  #learn(userId: string, found: readonly KeyRecord[] | Error | undefined, readAt: Time): boolean {
    // Another look has told more since.
    if (this.#memory.isErasedSince(userId, readAt)) return true
    if (found === undefined || found instanceof Error) {
      this.#memory.change(userId)
      return !(isKeystoreError(found) && found.retryable && this.#memory.isHeld(userId))
    }
    this.#note(userId, found, true)
    this.#memory.retain(userId, new Set(found.map(({ version }) => version)))
    return true
  }
}

function notFound(message: string, retryable: boolean): KeystoreError {
  return new KeystoreError('ERR_KEY_NOT_FOUND', message, { retryable })
}

function shredded(userId: string): KeystoreError {
  return new KeystoreError('ERR_KEY_SHREDDED', `The keys of user ${JSON.stringify(userId)} were shredded`)
}

function rotationNeedsV3(): KeystoreError {
  return invalidArgument("format 'v2' has version 1 only: open with format 'v3' to rotate")
}
