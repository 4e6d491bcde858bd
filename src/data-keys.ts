/** Users' data keys: found in the store, minted on first use, unwrapped. */
import { generateKey, importKey, type KeyObject } from './aead.js'
import { KeystoreError } from './errors.js'
import { describeRef, unwrapDataKey, wrapDataKey } from './key-wrap.js'
import type { MasterKeyring } from './master-key.js'
import type { KeyRecord, KeyRef, KeyStore } from './store.js'
import type { Format } from './token.js'

/** How keys are wrapped when minted, and which wraps are opened. */
export interface DataKeyPolicy {
  readonly format: Format
  readonly acceptKeys: readonly Format[]
}

export class DataKeys {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #policy: DataKeyPolicy

  constructor(store: KeyStore, keyring: MasterKeyring, policy: DataKeyPolicy) {
    this.#store = store
    this.#keyring = keyring
    this.#policy = policy
  }

  /**
   * A version of a user's key. Never mints.
   *
   * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · what unwrapping throws
   */
  async get(ref: KeyRef): Promise<KeyObject> {
    const record = await this.#find(ref)
    if (record === null)
      throw new KeystoreError('ERR_KEY_NOT_FOUND', `There is no key for ${describeRef(ref)}`)
    return usable(await this.#unwrap(record))
  }

  /** The key that a user's writes use, minted if there is none. @throws ERR_KEY_SHREDDED · what unwrapping throws */
  async getOrMint(userId: string): Promise<KeyObject> {
    return usable(await this.getOrMintBytes(userId))
  }

  /** The raw bytes of version 1, minted if there is none; the caller owns them. */
  async getOrMintBytes(userId: string): Promise<Uint8Array> {
    const ref = { userId, version: 1 }
    const record = await this.#find(ref)
    return record === null ? this.#mint(ref) : this.#unwrap(record)
  }

  /** The row of a ref, or null. @throws ERR_KEY_SHREDDED if any version of the user is a tombstone */
  async #find({ userId, version }: KeyRef): Promise<KeyRecord | null> {
    const records = (await this.#store.getAll([userId])).get(userId) ?? []
    if (records.some(({ shreddedAt }) => shreddedAt !== null)) throw shredded(userId)
    return records.find((record) => record.version === version) ?? null
  }

  /** Whoever wins the race for the row, every caller goes on with the winner's key. */
  async #mint(ref: KeyRef): Promise<Uint8Array> {
    const dataKey = generateKey()
    const wrapped = await wrapDataKey(this.#keyring, ref, dataKey, this.#policy.format)
    const record = { ...ref, ...wrapped, createdAt: new Date(), wrappedAt: null, shreddedAt: null }
    const [winner] = await this.#store.insertIfAbsent([record])
    if (winner === undefined || winner.shreddedAt !== null) throw shredded(ref.userId)
    if (Buffer.compare(winner.encryptedKey, wrapped.encryptedKey) === 0) return dataKey
    dataKey.fill(0)
    return this.#unwrap(winner)
  }

  #unwrap(record: KeyRecord): Promise<Uint8Array> {
    return unwrapDataKey(this.#keyring, record, this.#policy.acceptKeys)
  }
}

/** Imports a key and wipes the bytes it came in. */
function usable(bytes: Uint8Array): KeyObject {
  const key = importKey(bytes)
  bytes.fill(0)
  return key
}

function shredded(userId: string): KeystoreError {
  return new KeystoreError('ERR_KEY_SHREDDED', `The keys of user ${JSON.stringify(userId)} were shredded`)
}
