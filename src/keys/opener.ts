/** From a stored row to an open key: out of the memory, by a local master key or a tenant's at once, or by one call of a key service. */
import { isKeystoreError } from '../errors.js'
import { durationSince, type EmitEvent } from '../events.js'
import type { Format } from '../format/formats.js'
import { unavailableEvent } from '../master-keys/failure.js'
import { unwrapBy, unwrapLocally } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { type KeyRecord, refKey } from '../table.js'
import { SingleFlight } from './batch.js'
import { DataKey } from './data-key.js'
import { type Kek, type Keks, masterKeyOf, rightOf } from './keks.js'
import type { UserRows } from './known-user.js'
import type { KeyMemory } from './memory.js'

/** @param rows among which the row of the key was. @param kek what wraps it */
export type KeepKey = (key: DataKey, rows: UserRows, kek: Kek | null) => void

export class KeyOpener {
  readonly #keyring: MasterKeyring
  readonly #accept: readonly Format[]
  readonly #memory: KeyMemory
  readonly #emit: EmitEvent
  readonly #keks: Keks
  readonly #keep: KeepKey
  readonly #unwrapping = new SingleFlight<DataKey>()

  /** @param accept the formats of wrapped keys that are opened */
  constructor(
    keyring: MasterKeyring,
    keks: Keks,
    accept: readonly Format[],
    memory: KeyMemory,
    keep: KeepKey,
    emit: EmitEvent,
  ) {
    this.#keyring = keyring
    this.#keks = keks
    this.#accept = accept
    this.#memory = memory
    this.#keep = keep
    this.#emit = emit
  }

  /**
   * Opens a row, and caches its key. Returns the key itself unless a key service has to be asked.
   *
   * @throws ERR_UNWRAP_FAILED · ERR_FORMAT_NOT_ACCEPTED · ERR_UNKNOWN_MASTER_KEY · ERR_MASTER_KEY · what opening the tenant's key throws
   */
  open(record: KeyRecord, rows: UserRows): DataKey | Promise<DataKey> {
    const cached = this.#memory.peek(record)
    const isUsable = cached !== undefined && !cached.tenant?.ended
    // A rewrap changes the bytes as well: then it is opened once more.
    if (isUsable && Buffer.compare(cached.encryptedKey, record.encryptedKey) === 0) return cached
    const setAside = this.#memory.setAside(record)
    if (setAside !== undefined) {
      this.#keep(setAside, rows, null)
      return setAside
    }
    const start = performance.now()
    const kek = this.#keks.of(record)
    if (kek instanceof Promise) return kek.then((found) => this.#openUnder(found, record, start, rows))
    return this.#openUnder(kek, record, start, rows)
  }

  #openUnder(kek: Kek | null, record: KeyRecord, start: number, rows: UserRows): DataKey | Promise<DataKey> {
    try {
      const opened = unwrapLocally(this.#keyring, record, this.#accept, kek && masterKeyOf(kek))
      if (opened instanceof Uint8Array) return this.#opened(record, opened, kek, start, rows)
      return this.#openBy(opened, record, start, rows)
    } catch (error) {
      throw this.#failed(record, error)
    }
  }

  /** One call of a key service for all who wait for the same row. */
  #openBy(service: MasterKey, record: KeyRecord, start: number, rows: UserRows): Promise<DataKey> {
    const { buffer, byteOffset, byteLength } = record.encryptedKey
    const flight = `${refKey(record)}:${Buffer.from(buffer, byteOffset, byteLength).toString('latin1')}`
    return this.#unwrapping.run(flight, async () => {
      try {
        return this.#opened(record, await unwrapBy(service, record), service, start, rows)
      } catch (error) {
        throw this.#failed(record, error)
      }
    })
  }

  #opened(record: KeyRecord, bytes: Uint8Array, kek: Kek | null, start: number, rows: UserRows): DataKey {
    const { userId, version, kekId } = record
    this.#emit({ type: 'unwrapped', userId, version, kekId, durationMs: durationSince(start) })
    const key = new DataKey(record, bytes, rightOf(kek))
    this.#keep(key, rows, kek)
    return key
  }

  #failed({ userId, version, kekId }: KeyRecord, error: unknown): unknown {
    if (isKeystoreError(error) && error.code === 'ERR_UNWRAP_FAILED')
      this.#emit({ type: 'damagedKey', userId, version, kekId })
    const unavailable = kekId === null ? null : unavailableEvent(kekId, error)
    if (unavailable !== null) this.#emit(unavailable)
    return error
  }
}
