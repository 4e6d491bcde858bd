/** Tenants' keys in a long operation: each version is opened by one call of its root, and then opens the keys of the tenant's users. */
import { isKeystoreError, KeystoreError, MasterKeyError, printable, quoted } from '../errors.js'
import { equalBytes } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import { isMasterKeyFailure } from '../master-keys/failure.js'
import { newDataKey, unwrapDataKey } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import {
  kekOf,
  rootToWrap,
  TenantKey,
  type TenantKeyRef,
  tenantKekId,
  tenantRow,
} from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord, tenantIdOf, tenantUserId } from '../table.js'

/** Open keys that are kept: about 2 KB each. A further one takes the place of the one that was opened first. */
const MOST_OPEN = 10_000
/** A root that failed is not asked again for the same tenant so soon. */
const ASK_AGAIN_MS = 1000

const V3: readonly Format[] = ['v3']

export class TenantKeys {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #open = new Map<string, Promise<TenantKey>>()

  constructor(store: KeyStore, keyring: MasterKeyring) {
    this.#store = store
    this.#keyring = keyring
  }

  /**
   * The key under which any row is wrapped, or null: what `unwrapDataKey` needs.
   *
   * @throws ERR_KEY_SHREDDED (the tenant) · ERR_KEY_NOT_FOUND (the tenant's row is missing) · what opens a tenant's row
   */
  kekOf(record: KeyRecord): MasterKey | null | Promise<MasterKey | null> {
    return kekOf(this.#keyring, record, (ref) => this.find(ref))
  }

  /** Opens the wrapped key of any live row. @returns 32 bytes @throws like `unwrapDataKey` and {@link kekOf} */
  async unwrap(record: KeyRecord, accept: readonly Format[]): Promise<Uint8Array> {
    const kek = this.kekOf(record)
    return unwrapDataKey(this.#keyring, record, accept, kek instanceof Promise ? await kek : kek)
  }

  find(ref: TenantKeyRef): Promise<TenantKey> {
    return this.#once(ref, async () => this.#opened(ref, await this.#liveRow(ref)))
  }

  /** The key that a tenant's own row holds. */
  ofRow(record: KeyRecord): Promise<TenantKey> {
    const ref = { tenantId: tenantIdOf(record.userId) ?? '', version: record.version }
    return this.#once(ref, () => this.#opened(ref, record))
  }

  /**
   * The version that wraps a tenant's users now. A tenant without any gets its first one, which its root has to open before it wraps a user.
   *
   * @param isKept false: it is made, and not stored
   */
  async current(tenantId: string, isKept: boolean): Promise<TenantKey> {
    const rows = await this.#liveRows(tenantId)
    const newest = rows.at(-1)
    if (newest !== undefined) return this.ofRow(newest)
    const ref = { tenantId, version: 1 }
    const made = await this.#made(ref)
    const [winner] = isKept ? await this.#store.insertIfAbsent([made.record]) : [made.record]
    if (winner === undefined || isTombstone(winner)) throw tenantShredded(tenantId)
    if (!equalBytes(winner.encryptedKey, made.record.encryptedKey)) return this.ofRow(winner)
    return isKept ? this.#once(ref, async () => made.key) : made.key
  }

  /** The newest version of the tenant's key that a row names. @throws ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND · what opens the tenant's row */
  async newestOf(ref: TenantKeyRef): Promise<TenantKey> {
    const rows = await this.#liveRows(ref.tenantId)
    const newest = rows.at(-1)
    // Without the version that the row names the tenant may be another one of that id.
    if (newest === undefined || !rows.some(({ version }) => version === ref.version)) throw notStored(ref)
    return this.ofRow(newest)
  }

  async #made(ref: TenantKeyRef): Promise<{ readonly record: KeyRecord; readonly key: TenantKey }> {
    const root = await rootToWrap(this.#keyring, ref.tenantId)
    const { record, dataKey } = await newDataKey(this.#keyring, tenantRow(ref), 'v3', root)
    try {
      const again = await unwrapDataKey(this.#keyring, record, V3, root)
      const isSame = equalBytes(again, dataKey)
      again.fill(0)
      if (!isSame) throw wrongWrap(ref, root)
      return { record, key: new TenantKey(ref, dataKey) }
    } finally {
      dataKey.fill(0)
    }
  }

  async #opened(ref: TenantKeyRef, record: KeyRecord): Promise<TenantKey> {
    if (isTombstone(record)) throw tenantShredded(ref.tenantId)
    const key = await this.unwrap(record, V3)
    try {
      return new TenantKey(ref, key)
    } finally {
      key.fill(0)
    }
  }

  async #liveRows(tenantId: string): Promise<readonly KeyRecord[]> {
    const userId = tenantUserId(tenantId)
    const rows = (await this.#store.getAll([userId])).get(userId) ?? []
    if (rows.some(isTombstone)) throw tenantShredded(tenantId)
    return rows
  }

  async #liveRow({ tenantId, version }: TenantKeyRef): Promise<KeyRecord> {
    const row = (await this.#liveRows(tenantId)).find((row) => row.version === version)
    if (row === undefined) throw notStored({ tenantId, version })
    return row
  }

  /** One call for all who want the same version at the same time, and none again for a second after it has failed. */
  #once(ref: TenantKeyRef, open: () => Promise<TenantKey>): Promise<TenantKey> {
    const id = tenantKekId(ref)
    const known = this.#open.get(id)
    if (known !== undefined) return known
    const opening = open()
    this.#open.set(id, opening)
    const [oldest] = this.#open.keys()
    if (this.#open.size > MOST_OPEN && oldest !== undefined) this.#open.delete(oldest)
    opening.catch((error) => {
      const forget = () => {
        if (this.#open.get(id) === opening) this.#open.delete(id)
      }
      // An outage of the store is over when the next call succeeds.
      if (isKeystoreError(error) && (isMasterKeyFailure(error) || error.code === 'ERR_UNWRAP_FAILED'))
        setTimeout(forget, ASK_AGAIN_MS).unref()
      else forget()
    })
    return opening
  }
}

/** Who may be under no key of the keyring without anything being wrong: it does not say which roots tenants have. */
export function knowsTenants({ tenantOf, tenantRoot }: MasterKeyring): boolean {
  return tenantOf !== null || tenantRoot !== null
}

function tenantShredded(tenantId: string): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_SHREDDED',
    `The key of tenant ${quoted(tenantId)} was erased, and the keys of its users with it`,
  )
}

function notStored({ tenantId, version }: TenantKeyRef): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_NOT_FOUND',
    `The key of tenant ${quoted(tenantId)}, version ${version}, is not in the store, and the keys of its users do not open without it: copy ` +
      'it from a backup (npx keystore restore)',
  )
}

function wrongWrap({ tenantId }: TenantKeyRef, { id }: MasterKey): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `Master key ${printable(id)} does not open what it has wrapped, the key of tenant ${quoted(tenantId)}: nothing was written`,
  )
}
