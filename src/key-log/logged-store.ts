/** A store whose keys are recorded in a key log. */
import { isKeystoreError, type StoreError } from '../errors.js'
import type { KeyStore, ShredOptions, ShredResult } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, refKey } from '../table.js'
import { assertKeyLog, type KeyLog, type KeyLogEntry, type MadeEntry } from './entry.js'
import { KeyLogWriter } from './writer.js'

/**
 * The same store, which records in a key log what is done through it. Give it to the calls of the lifecycle that take a store;
 * `EnvelopeCrypto.open({ keyLog })` makes one by itself.
 *
 * - **Minted, rotated**: recorded after the row is durable, and before anybody is given it. If that fails, so does the insert (ERR_STORE);
 *   the row stays, and is not given out before it is in the log. A key that the log does not know is no alarm; one that only the log knows is.
 *   In a caller's transaction these are not recorded, because it may be rolled back.
 * - **Pruned, shredded**: recorded before anything is erased. If that fails, nothing is.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * await rotateWhere({ store: loggedStore(store, 'keys.jsonl'), masterKeys, olderThanMs })
 */
export function loggedStore<Store extends KeyStore>(store: Store, keyLog: KeyLog): Store {
  assertKeyLog(keyLog)
  const recorder = new Recorder(store, keyLog)
  const logged: Pick<KeyStore, 'getActive' | 'getAll' | 'insertIfAbsent' | 'shred' | 'remove'> = {
    getActive: async (userIds) => {
      await recorder.finishFor(userIds)
      return store.getActive(userIds)
    },
    getAll: async (userIds) => {
      await recorder.finishFor(userIds)
      return store.getAll(userIds)
    },
    insertIfAbsent: (records) => recorder.insertIfAbsent(records),
    shred: (userId, options) => recorder.shred(userId, options),
    remove: (refs) => recorder.remove(refs),
  }
  // A proxy, and no class: what stores can do beside, now and later, passes through.
  return new Proxy(store, {
    get(target, name) {
      if (Object.hasOwn(logged, name)) return Reflect.get(logged, name)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

class Recorder {
  readonly #store: KeyStore
  readonly #log: KeyLogWriter
  /** Keys that are stored and could not be recorded yet. */
  readonly #unrecorded = new Map<string, MadeEntry>()

  constructor(store: KeyStore, keyLog: KeyLog) {
    this.#store = store
    this.#log = new KeyLogWriter(keyLog)
  }

  async insertIfAbsent(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    if (this.#store.transactional) return this.#store.insertIfAbsent(records)
    await this.#log.prepare('no key was made')
    if (this.#unrecorded.size > 0) await this.#record([...this.#unrecorded.values()], 'no key was made')
    const winners = await this.#store.insertIfAbsent(records)
    const stored = new Map(winners.map((winner) => [refKey(winner), winner]))
    const ours = records.filter((record) => {
      const winner = stored.get(refKey(record))
      return winner !== undefined && Buffer.compare(winner.encryptedKey, record.encryptedKey) === 0
    })
    await this.#record(ours.map(madeEntry), NOT_GIVEN_OUT)
    return winners
  }

  /** Records what is left to record of these users, before any of their rows is given out. */
  async finishFor(userIds: readonly string[]): Promise<void> {
    if (this.#unrecorded.size === 0) return
    const asked = new Set(userIds)
    const left = [...this.#unrecorded.values()].filter(({ userId }) => asked.has(userId))
    const [first] = left
    if (first !== undefined) await this.#record(left, NOT_GIVEN_OUT, first)
  }

  /** With the time that the log has: a shred that is applied again then leaves the same row. */
  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const live = ((await this.#rowsOf([userId])) ?? []).filter((row) => !isTombstone(row))
    const versions = live.map(({ version }) => version)
    const kekIds = [...new Set(live.map(({ kekId }) => kekId))]
    await this.#log.write(
      [{ event: 'shredded', userId, versions, kekIds, forget, at }],
      'nothing was shredded',
    )
    return this.#store.shred(userId, { forget, at })
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    const at = new Date()
    const rows = await this.#rowsOf([...new Set(refs.map(({ userId }) => userId))])
    const known = rows === null ? null : new Map(rows.map((row) => [refKey(row), row]))
    const entries = refs.flatMap((ref): KeyLogEntry | [] => {
      const row = known?.get(refKey(ref))
      if (known !== null && (row === undefined || isTombstone(row))) return []
      return { event: 'pruned', userId: ref.userId, version: ref.version, kekId: row?.kekId ?? null, at }
    })
    await this.#log.write(entries, 'nothing was removed')
    return this.#store.remove(refs)
  }

  async #record(entries: readonly MadeEntry[], consequence: string, ref?: KeyRef): Promise<void> {
    for (const entry of entries) this.#unrecorded.set(refKey(entry), entry)
    await this.#log.write(entries, consequence, ref)
    for (const entry of entries) this.#unrecorded.delete(refKey(entry))
  }

  /** @returns null if one of them cannot be read: that must not stop the erasure of its user, of whom the log then knows less */
  async #rowsOf(userIds: readonly string[]): Promise<readonly KeyRecord[] | null> {
    try {
      return [...(await this.#store.getAll(userIds)).values()].flat()
    } catch (error) {
      if (isKeystoreError(error) && (error as StoreError).ref !== undefined) return null
      throw error
    }
  }
}

const NOT_GIVEN_OUT = 'the key is stored, and is given to nobody until it is in the log'

function madeEntry({ userId, version, kekId, createdAt }: KeyRecord): MadeEntry {
  return { event: version === 1 ? 'minted' : 'rotated', userId, version, kekId, at: createdAt }
}
