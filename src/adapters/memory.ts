/** A store in this process's memory, for tests and examples: the contract with nothing around it. Exported as `drizzle-keystore/memory`. */
import { KeystoreError } from '../errors.js'
import {
  type CensusRow,
  compareRefs,
  type KeyPage,
  type KeyRecord,
  type KeyRef,
  type KeyStore,
  refKey,
  type ShredOptions,
  type ShredResult,
  type WrapChange,
} from '../store.js'
import { groupByUser, inRounds, isTombstone, newTombstone, winnersOf } from './records.js'

/**
 * @example
 * const envelope = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: localMasterKey(generateMasterKey()) })
 */
export function memoryKeyStore(): KeyStore {
  return new MemoryKeyStore()
}

class MemoryKeyStore implements KeyStore {
  readonly transactional = false
  readonly #rows = new Map<string, KeyRecord>()
  #closed = false

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const all = await this.getAll(userIds)
    return new Map([...all].map(([userId, versions]) => [userId, activeOf(versions)]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    const wanted = new Set(userIds)
    return groupByUser(this.#sorted(({ userId }) => wanted.has(userId)))
  }

  async insertIfAbsent(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    this.#assertOpen()
    for (const record of inRounds(records).flat()) {
      const { userId, version } = record
      const shredded = this.#versionsOf(userId).some(isTombstone)
      const follows = version === 1 || this.#rows.has(refKey({ userId, version: version - 1 }))
      if (!shredded && follows && !this.#rows.has(refKey(record)))
        this.#rows.set(refKey(record), copyOf(record))
    }
    return winnersOf(records, await this.getAll(records.map(({ userId }) => userId)))
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    this.#assertOpen()
    const changed = changes.filter(({ from, ...change }) => {
      const row = this.#rows.get(refKey(change))
      if (row === undefined || isTombstone(row) || Buffer.compare(row.encryptedKey, from) !== 0) return false
      this.#rows.set(refKey(change), copyOf({ ...row, ...change }))
      return true
    })
    return changed.map(({ userId, version }) => ({ userId, version }))
  }

  async list({ after, limit, notKekId }: KeyPage): Promise<KeyRecord[]> {
    return this.#sorted()
      .filter((row) => after === undefined || compareRefs(row, after) > 0)
      .filter((row) => notKekId === undefined || (!isTombstone(row) && row.kekId !== notKekId))
      .slice(0, limit)
  }

  async shred(userId: string, { forget }: ShredOptions): Promise<ShredResult> {
    this.#assertOpen()
    const at = new Date()
    const rows = this.#versionsOf(userId)
    const live = rows.filter((row) => !isTombstone(row))
    for (const row of live)
      this.#rows.set(refKey(row), { ...row, encryptedKey: new Uint8Array(0), shreddedAt: at })
    if (forget) await this.remove(rows)
    else if (rows.length === 0) this.#rows.set(refKey({ userId, version: 1 }), newTombstone(userId, at))
    const kekIds = [...new Set(live.map(({ kekId }) => kekId))]
    return { userId, versions: live.map(({ version }) => version), kekIds, at }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    this.#assertOpen()
    return refs.filter((ref) => this.#rows.delete(refKey(ref))).length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const taken = new Map<string | null, number>()
    return this.#sorted().filter((row) => {
      const count = taken.get(row.kekId) ?? 0
      if (isTombstone(row) || count >= limit) return false
      taken.set(row.kekId, count + 1)
      return true
    })
  }

  async census(): Promise<CensusRow[]> {
    const counts = new Map<string, CensusRow>()
    for (const row of this.#sorted()) {
      const key = JSON.stringify([row.kekId, row.version, isTombstone(row)])
      const count = (counts.get(key)?.count ?? 0) + 1
      counts.set(key, { kekId: row.kekId, version: row.version, shredded: isTombstone(row), count })
    }
    return [...counts.values()]
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#rows.clear()
  }

  #versionsOf(userId: string): KeyRecord[] {
    return this.#sorted((row) => row.userId === userId)
  }

  #sorted(where: (row: KeyRecord) => boolean = () => true): KeyRecord[] {
    this.#assertOpen()
    return [...this.#rows.values()].filter(where).sort(compareRefs).map(copyOf)
  }

  #assertOpen(): void {
    if (this.#closed) throw new KeystoreError('ERR_CLOSED', 'This key store was closed')
  }
}

function activeOf(versions: readonly KeyRecord[]): KeyRecord {
  return (versions.find(isTombstone) ?? versions.at(-1)) as KeyRecord
}

/** Neither side may see the other change bytes or dates. */
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
