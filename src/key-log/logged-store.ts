/** A store whose keys are recorded in a key log. */
import { isKeystoreError, type StoreError } from '../errors.js'
import type { KeyStore, NewKeyRecord, ShredOptions, ShredResult } from '../store.js'
import { isTombstone, type KeyRecord, type KeyRef, refKey } from '../table.js'
import { assertKeyLog, type KeyLog, type KeyLogEntry, type MadeEntry } from './entry.js'
import { readEntriesFrom } from './file.js'
import { refuseWithoutNewestKey } from './older-copy.js'
import { endRemoved, madeEntry } from './row-entries.js'
import { KeyLogWriter } from './writer.js'

/**
 * The same store, which records in a key log what is done through it. Give it to the calls of the lifecycle that take a store;
 * `EnvelopeCrypto.open({ keyLog })` makes one by itself.
 *
 * - **Minted, rotated**: recorded after the row is durable, and before the call returns it. If that fails, the insert fails (ERR_STORE). The
 *   row stays, and no call returns it before it is in the log. A row whose insert has failed, and which is there all the same because the
 *   answer was lost, is recorded when it is read. A crash in between leaves a key that the log does not know, which is no alarm.
 * - **Pruned**: recorded before anything is removed. If that fails, nothing is.
 * - **Shredded**: recorded as begun before anything is erased, and as done once it is. What was only begun is erased again by nobody: the call
 *   may have failed. If the second line cannot be written, the call fails, and is to be repeated.
 *
 * **In a caller's transaction nothing is recorded**, because it may be rolled back. Shred outside of transactions: an erasure that the log does
 * not know is undone by a restored backup.
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
      const found = await store.getActive(userIds)
      await recorder.recordFound([...found.values()])
      return found
    },
    getAll: async (userIds) => {
      await recorder.finishFor(userIds)
      const found = await store.getAll(userIds)
      await recorder.recordFound([...found.values()].flat())
      return found
    },
    insertIfAbsent: (records) => recorder.insertIfAbsent(records),
    shred: (userId, options) => recorder.shred(userId, options),
    remove: (refs) => recorder.remove(refs),
  }
  // A proxy passes on everything else that a store has, such as `ready` and optional methods.
  return new Proxy(store, {
    get(target, name) {
      if (Object.hasOwn(logged, name)) return Reflect.get(logged, name)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** A key that is stored and not in the log yet. */
interface UnrecordedKey {
  readonly entry: MadeEntry
  /** Null if the last write has failed. */
  writing: Promise<void> | null
}

class Recorder {
  readonly #store: KeyStore
  readonly #log: KeyLogWriter
  /** Null if a function stores the entries: then nothing can be read. */
  readonly #path: string | null
  readonly #unrecorded = new Map<string, UnrecordedKey>()
  /** Records whose insert has failed. They may be stored all the same. The oldest first. */
  readonly #uncertain = new Map<string, KeyRecord>()

  constructor(store: KeyStore, keyLog: KeyLog) {
    this.#store = store
    this.#log = new KeyLogWriter(keyLog)
    this.#path = typeof keyLog === 'string' ? keyLog : null
  }

  async insertIfAbsent(records: readonly NewKeyRecord[]): Promise<KeyRecord[]> {
    if (this.#store.transactional) return this.#store.insertIfAbsent(records)
    const begin = await this.#log.prepare('no key was made')
    if (this.#path !== null) await refuseWithoutNewestKey(this.#store, this.#path)
    const failed = [...this.#unrecorded.values()].filter(({ writing }) => writing === null)
    if (failed.length > 0) await this.#record(entriesOf(failed), 'no key was made')
    const winners = await this.#store.insertIfAbsent(records).catch((error: unknown) => {
      this.#addUncertain(records)
      throw error
    })
    await this.recordFound(winners)
    const stored = new Map(winners.map((winner) => [refKey(winner), winner]))
    const ours = records.filter((record) => {
      const winner = stored.get(refKey(record))
      return winner !== undefined && isSameKey(winner, record)
    })
    if (ours.length === 0) return winners
    await this.#record(ours.map(madeEntry), NOT_GIVEN_OUT)
    if (this.#path !== null) await this.#endErased(this.#path, begin, ours)
    return winners
  }

  /** Another process may have erased a key, and written its line, before the key had its own, which would then name a lost key. */
  async #endErased(path: string, begin: number, made: readonly KeyRecord[]): Promise<void> {
    const entries = (await readEntriesFrom(path, begin)) ?? []
    const erased = new Set(entries.flatMap(({ event, userId }) => (event === 'shredded' ? userId : [])))
    const suspect = made.filter(({ userId }) => erased.has(userId))
    if (suspect.length > 0) await endRemoved(this.#store, this.#log, suspect)
  }

  #addUncertain(records: readonly KeyRecord[]): void {
    for (const record of records) this.#uncertain.set(refKey(record), record)
    for (const name of this.#uncertain.keys()) {
      if (this.#uncertain.size <= MOST_UNCERTAIN) break
      this.#uncertain.delete(name)
    }
  }

  /** Records rows whose insert had failed. */
  async recordFound(rows: readonly KeyRecord[]): Promise<void> {
    if (this.#uncertain.size === 0) return
    const found = rows.filter((row) => this.#uncertain.has(refKey(row)))
    const ours = found.filter((row) => isSameKey(row, this.#uncertain.get(refKey(row))))
    for (const row of found) this.#uncertain.delete(refKey(row))
    if (ours.length > 0) await this.#record(ours.map(madeEntry), NOT_GIVEN_OUT)
  }

  /** Waits until the keys of these users are in the log. Those that could not be recorded when they were made are recorded now. */
  async finishFor(userIds: readonly string[]): Promise<void> {
    if (this.#unrecorded.size === 0) return
    const asked = new Set(userIds)
    const keys = [...this.#unrecorded.values()].filter(({ entry }) => asked.has(entry.userId))
    const failed = keys.filter(({ writing }) => writing === null)
    const [first] = failed
    if (first !== undefined) await this.#record(entriesOf(failed), NOT_GIVEN_OUT, first.entry)
    // If one of them fails, the next look at its user finds it so.
    await Promise.all(keys.map(({ writing }) => writing?.catch(() => this.finishFor(userIds))))
  }

  /** With the time that the log has: a shred that is applied again then leaves the same row. */
  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    if (this.#store.transactional) return this.#store.shred(userId, { forget, at })
    const live = ((await this.#rowsOf([userId])) ?? []).filter((row) => !isTombstone(row))
    const versions = live.map(({ version }) => version)
    const kekIds = [...new Set(live.map(({ kekId }) => kekId))]
    const entry = { userId, versions, kekIds, forget, at }
    await this.#log.write([{ event: 'shredding', ...entry }], 'nothing was shredded')
    const result = await this.#store.shred(userId, { forget, at })
    await this.#log.write([{ event: 'shredded', ...entry }], 'the keys are erased: shred again to record it')
    return result
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    if (this.#store.transactional) return this.#store.remove(refs)
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

  /** @param ref the user who fails if the write does; without it, all of the call do */
  async #record(entries: readonly MadeEntry[], consequence: string, ref?: KeyRef): Promise<void> {
    const writing = this.#log.write(entries, consequence, ref)
    const keys = entries.map((entry): [string, UnrecordedKey] => [refKey(entry), { entry, writing }])
    for (const [name, key] of keys) this.#unrecorded.set(name, key)
    try {
      await writing
      for (const [name] of keys) this.#unrecorded.delete(name)
    } catch (error) {
      for (const [, key] of keys) key.writing = null
      throw error
    }
  }

  /** @returns null if a row cannot be read: this must not stop the erasure of its user */
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

/** Users whose inserts have failed during an outage. */
const MOST_UNCERTAIN = 10_000

function isSameKey(row: KeyRecord, record: KeyRecord | undefined): boolean {
  return record !== undefined && Buffer.compare(row.encryptedKey, record.encryptedKey) === 0
}

function entriesOf(keys: readonly UnrecordedKey[]): MadeEntry[] {
  return keys.map(({ entry }) => entry)
}
