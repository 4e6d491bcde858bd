/** From a stored row to an open key: out of the memory, by a local master key at once, or by one call of a key service. */
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
import type { KeyMemory, UserRows } from './memory.js'

export class KeyOpener {
  readonly #keyring: MasterKeyring
  readonly #accept: readonly Format[]
  readonly #memory: KeyMemory
  readonly #emit: EmitEvent
  readonly #unwrapping = new SingleFlight<DataKey>()

  /** @param accept the formats of wrapped keys that are opened */
  constructor(keyring: MasterKeyring, accept: readonly Format[], memory: KeyMemory, emit: EmitEvent) {
    this.#keyring = keyring
    this.#accept = accept
    this.#memory = memory
    this.#emit = emit
  }

  /**
   * Opens a row, and caches its key. Returns the key itself unless a key service has to be asked.
   *
   * @throws ERR_UNWRAP_FAILED · ERR_FORMAT_NOT_ACCEPTED · ERR_UNKNOWN_MASTER_KEY · ERR_MASTER_KEY
   */
  open(record: KeyRecord, rows: UserRows): DataKey | Promise<DataKey> {
    const cached = this.#memory.peek(record)
    // A rewrap changes the bytes as well: then it is opened once more.
    if (cached !== undefined && Buffer.compare(cached.encryptedKey, record.encryptedKey) === 0) return cached
    const start = performance.now()
    try {
      const opened = unwrapLocally(this.#keyring, record, this.#accept)
      if (opened instanceof Uint8Array) return this.#opened(record, opened, start, rows)
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
        return this.#opened(record, await unwrapBy(service, record), start, rows)
      } catch (error) {
        throw this.#failed(record, error)
      }
    })
  }

  #opened(record: KeyRecord, bytes: Uint8Array, start: number, rows: UserRows): DataKey {
    const { userId, version, kekId } = record
    this.#emit({ type: 'unwrapped', userId, version, kekId, durationMs: durationSince(start) })
    const key = new DataKey(record, bytes)
    this.#memory.cache(key, rows)
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
