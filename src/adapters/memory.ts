/** A store in the memory of this process, for tests and examples. Exported as `drizzle-keystore/memory`. */
import { storeClosed } from '../errors.js'
import {
  type CensusOptions,
  type CensusRow,
  type DatedCensusRow,
  type KeyPage,
  type KeyStore,
  MANY_TENANTS,
  type NewKeyRecord,
  type SampledRef,
  type ShredOptions,
  type ShredResult,
  type StoreChange,
  type StoreMaintenance,
  type WrapChange,
} from '../store.js'
import {
  compareRefs,
  isTenantKekId,
  isTenantRow,
  isTombstone,
  type KeyIdentity,
  type KeyRecord,
  type KeyRef,
} from '../table.js'
import { ERASED } from './erasure.js'
import { Listeners } from './listeners.js'
import {
  activeOf,
  concernsTenant,
  distinctUserIds,
  groupByUser,
  insertRounds,
  newTombstone,
  outdatesCaches,
  tombstonesFirst,
  winnersOf,
} from './records.js'
import { SortedIds } from './sorted-ids.js'

/**
 * A store in the memory of this process: its keys are gone when it is closed.
 *
 * @example
 * const envelope = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: localMasterKey(generateMasterKey()) })
 */
export function memoryKeyStore(): KeyStore {
  return new MemoryKeyStore()
}

interface CensusGroup {
  readonly row: Omit<CensusRow, 'count'>
  readonly times: number[]
}

class MemoryKeyStore implements KeyStore {
  readonly transactional = false
  readonly maintenance: StoreMaintenance = {
    restore: (records) => this.#restore(records),
    inspect: async () => {
      this.#assertOpen()
      return []
    },
    finishErasure: async () => {
      this.#assertOpen()
      return ERASED
    },
    datedCensus: async (options) => this.#datedCensus(options),
    countUnder: async (kekIds) => this.#countUnder(kekIds),
    sampleRefs: async (limit) => this.#sampleRefs(limit),
  }
  /** By user id, then by version. */
  readonly #rows = new Map<string, Map<number, KeyRecord>>()
  readonly #userIds = new SortedIds()
  readonly #listeners = new Listeners({ start: () => undefined, stop: () => undefined })
  #closed = false

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const all = await this.getAll(userIds)
    return new Map([...all].flatMap(([userId, versions]) => activeOf(versions).map((row) => [userId, row])))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    this.#assertOpen()
    return groupByUser([...new Set(userIds)].flatMap((userId) => this.#versionsOf(userId)))
  }

  async insertIfAbsent(records: readonly NewKeyRecord[]): Promise<KeyRecord[]> {
    this.#assertOpen()
    const inserted = insertRounds(records)
      .flat()
      .filter((record) => {
        const { whileLive, ...row } = record
        const { userId, version } = row
        const isNext = version === 1 || this.#row({ userId, version: version - 1 }) !== undefined
        return isNext && this.#isLive(whileLive) && !this.#isShredded(userId) && this.#insert(row)
      })
    this.#publish(inserted.filter(outdatesCaches))
    return winnersOf(records, await this.getAll(distinctUserIds(records)))
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    this.#assertOpen()
    const changed = changes.filter(({ from, whileLive, ...change }) => {
      const row = this.#row(change)
      if (row === undefined || isTombstone(row)) return false
      if (![from, change.encryptedKey].some((bytes) => Buffer.compare(row.encryptedKey, bytes) === 0))
        return false
      if (!this.#isLive(whileLive)) return false
      this.#set({ ...row, ...change })
      return true
    })
    this.#publish(changed.filter(concernsTenant))
    return changed.map(({ userId, version }) => ({ userId, version }))
  }

  async list({ after, before, limit, notKekId, kekId }: KeyPage): Promise<KeyRecord[]> {
    this.#assertOpen()
    const page: KeyRecord[] = []
    for (const userId of this.#userIds.from(after?.userId ?? '')) {
      for (const row of this.#storedVersionsOf(userId)) {
        if (after !== undefined && compareRefs(row, after) <= 0) continue
        if (before !== undefined && compareRefs(row, before) >= 0) return page
        if (notKekId !== undefined && (isTombstone(row) || row.kekId === notKekId)) continue
        if (kekId !== undefined && (isTombstone(row) || isTenantRow(row) || row.kekId !== kekId)) continue
        page.push(copyOf(row))
        if (page.length === limit) return page
      }
    }
    return page
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    this.#assertOpen()
    const rows = this.#versionsOf(userId)
    const live = rows.filter((row) => !isTombstone(row))
    for (const row of live) this.#set({ ...row, encryptedKey: new Uint8Array(0), shreddedAt: at })
    if (forget) this.#delete(userId)
    else if (rows.length === 0) this.#insert(newTombstone(userId, at))
    const changed = forget ? rows.length > 0 : live.length > 0 || rows.length === 0
    if (changed) this.#publish([{ userId }], forget)
    const kekIds = [...new Set(live.map(({ kekId }) => kekId))]
    return { userId, versions: live.map(({ version }) => version), kekIds, at: new Date(at), ...ERASED }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    this.#assertOpen()
    const removed = refs.filter(({ userId, version }) => this.#rows.get(userId)?.delete(version))
    for (const { userId } of removed) if (this.#rows.get(userId)?.size === 0) this.#delete(userId)
    this.#publish(removed)
    return removed.length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const taken = new Map<string | null, number>()
    const sample: KeyRecord[] = []
    for (const row of this.#sorted()) {
      const count = taken.get(row.kekId) ?? 0
      if (isTombstone(row) || isTenantRow(row) || isTenantKekId(row.kekId) || count >= limit) continue
      taken.set(row.kekId, count + 1)
      sample.push(copyOf(row))
    }
    return sample
  }

  async census(options?: CensusOptions): Promise<CensusRow[]> {
    return this.#grouped(options).map(({ row, times }) => ({ ...row, count: times.length }))
  }

  changes(listener: (change: StoreChange) => void): () => void {
    this.#assertOpen()
    return this.#listeners.add(listener)
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#rows.clear()
    this.#userIds.clear()
    this.#listeners.clear()
  }

  async #restore(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    this.#assertOpen()
    const restored = tombstonesFirst(records)
      .flat()
      .filter((record) => (isTombstone(record) || !this.#isShredded(record.userId)) && this.#insert(record))
    this.#publish(restored.filter(outdatesCaches))
    return winnersOf(records, await this.getAll(distinctUserIds(records)))
  }

  async #datedCensus(options?: CensusOptions): Promise<DatedCensusRow[]> {
    return this.#grouped(options).map(({ row, times }) => {
      const sorted = times.sort((a, b) => a - b)
      const [oldest, newest] = [new Date(sorted.at(0) ?? 0), new Date(sorted.at(-1) ?? 0)]
      return { ...row, count: times.length, oldest, newest }
    })
  }

  /** The groups of a census, each with the times in milliseconds at which its rows were created. */
  #grouped({ rootIds = [] }: CensusOptions = {}): CensusGroup[] {
    const groups = new Map<string, CensusGroup>()
    for (const record of this.#sorted()) {
      const isNamed = isTenantRow(record)
        ? record.kekId === null || rootIds.includes(record.kekId)
        : !isTenantKekId(record.kekId)
      const kekId = isNamed ? record.kekId : MANY_TENANTS
      const state = { kekId, version: record.version, shredded: isTombstone(record) }
      const row = isTenantRow(record) ? { ...state, ofTenants: true as const } : state
      const group: CensusGroup = groups.get(JSON.stringify(row)) ?? { row, times: [] }
      groups.set(JSON.stringify(row), group)
      group.times.push(record.createdAt.getTime())
    }
    return [...groups.values()]
  }

  #sampleRefs(limit: number): SampledRef[] {
    this.#assertOpen()
    const live = [...this.#sorted()].filter((row) => !isTombstone(row) && !isTenantRow(row))
    const distance = Math.max(1, Math.floor(live.length / limit))
    return live
      .filter((_, index) => index % distance === 0)
      .map(({ userId, version, kekId }) => ({ userId, version, kekId }))
  }

  #countUnder(kekIds: readonly string[]): Map<string, number> {
    const counts = new Map<string, number>()
    for (const row of this.#sorted()) {
      if (isTombstone(row) || isTenantRow(row) || row.kekId === null || !kekIds.includes(row.kekId)) continue
      counts.set(row.kekId, (counts.get(row.kekId) ?? 0) + 1)
    }
    return counts
  }

  /** True without a row to ask for. */
  #isLive(identity: KeyIdentity | undefined): boolean {
    if (identity === undefined) return true
    const row = this.#row(identity)
    return row !== undefined && !isTombstone(row) && row.createdAt.getTime() === identity.createdAt.getTime()
  }

  #isShredded(userId: string): boolean {
    return this.#versionsOf(userId).some(isTombstone)
  }

  /** Stores the row if its ref is free. @returns whether it was */
  #insert(record: KeyRecord): boolean {
    if (this.#row(record) !== undefined) return false
    this.#set(record)
    return true
  }

  #row({ userId, version }: KeyRef): KeyRecord | undefined {
    return this.#rows.get(userId)?.get(version)
  }

  #set(record: KeyRecord): void {
    let versions = this.#rows.get(record.userId)
    if (versions === undefined) {
      versions = new Map()
      this.#rows.set(record.userId, versions)
      this.#userIds.add(record.userId)
    }
    versions.set(record.version, copyOf(record))
  }

  #delete(userId: string): void {
    this.#rows.delete(userId)
    this.#userIds.delete(userId)
  }

  #publish(changed: readonly Pick<KeyRef, 'userId'>[], forgotten = false): void {
    if (changed.length === 0) return
    this.#listeners.publish({ userIds: distinctUserIds(changed), ...(forgotten ? { forgotten } : {}) })
  }

  #versionsOf(userId: string): KeyRecord[] {
    return this.#storedVersionsOf(userId).map(copyOf)
  }

  #storedVersionsOf(userId: string): KeyRecord[] {
    return [...(this.#rows.get(userId)?.values() ?? [])].sort(compareRefs)
  }

  /** All rows in the order of `list`, not copied. */
  *#sorted(): Generator<KeyRecord, void, undefined> {
    this.#assertOpen()
    for (const userId of this.#userIds.from('')) yield* this.#storedVersionsOf(userId)
  }

  #assertOpen(): void {
    if (this.#closed) throw storeClosed()
  }
}

/** A deep copy: the caller and the store share no bytes and no dates. */
function copyOf(record: KeyRecord): KeyRecord {
  const { encryptedKey, createdAt, wrappedAt, shreddedAt } = record
  return {
    ...record,
    encryptedKey: new Uint8Array(encryptedKey),
    createdAt: new Date(createdAt),
    wrappedAt: wrappedAt && new Date(wrappedAt),
    shreddedAt: shreddedAt && new Date(shreddedAt),
  }
}
