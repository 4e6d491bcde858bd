/** Tenants' keys in a long operation: each version is opened by one call of its root, and then opens the keys of the tenant's users. */
import { KeystoreError, MasterKeyError, printable, quoted } from '../errors.js'
import { equalBytes } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import { newDataKey, unwrapDataKey } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import {
  assertNoUsersLeft,
  kekOf,
  rootToWrap,
  TenantKey,
  type TenantKeyRef,
  tenantKekId,
  tenantRow,
} from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyIdentity, type KeyRecord, tenantIdOf, tenantUserId } from '../table.js'

/** Tenants whose open keys, about 2 KB each, are kept. A further one takes the place of the one that was asked for first. */
const MOST_KEPT = 10_000
/** A root that failed is not asked again for the same tenant so soon. */
const ASK_AGAIN_MS = 1000

const V3: readonly Format[] = ['v3']

/** One version of a tenant's key, open, and the row that it is from. */
export interface OpenTenantKey {
  readonly key: TenantKey
  readonly row: KeyIdentity
}

export class TenantKeys {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #open = new Asked<OpenTenantKey>(Number.POSITIVE_INFINITY)
  /** By KEK id. */
  readonly #found = new Asked<OpenTenantKey>(Number.POSITIVE_INFINITY)
  /** By tenant id. Another process may rotate a tenant's key at any time: a rewrap brings along whoever came under an earlier version. */
  readonly #rows = new Asked<readonly KeyRecord[]>(ASK_AGAIN_MS)
  readonly #current = new Asked<OpenTenantKey>(ASK_AGAIN_MS)

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
    return kekOf(this.#keyring, record, async (ref) => (await this.find(ref)).key)
  }

  /** Opens the wrapped key of any live row. @returns 32 bytes @throws like `unwrapDataKey` and {@link kekOf} */
  async unwrap(record: KeyRecord, accept: readonly Format[]): Promise<Uint8Array> {
    const kek = this.kekOf(record)
    return unwrapDataKey(this.#keyring, record, accept, kek instanceof Promise ? await kek : kek)
  }

  find(ref: TenantKeyRef): Promise<OpenTenantKey> {
    return this.#found.get(tenantKekId(ref), async () => this.ofRow(await this.#liveRow(ref)))
  }

  /** The key that a tenant's own row holds. */
  ofRow(record: KeyRecord): Promise<OpenTenantKey> {
    const ref = { tenantId: tenantIdOf(record.userId) ?? '', version: record.version }
    // A tenant who was forgotten and made anew has another key of the same version.
    const name = `${record.createdAt.getTime()} ${tenantKekId(ref)}`
    return this.#open.get(name, () => this.#opened(ref, record))
  }

  /**
   * The version that wraps a tenant's users now. A tenant without any gets its first one, which its root has to open before it wraps a user.
   *
   * @param isKept false: it is made, and not stored
   */
  current(tenantId: string, isKept: boolean): Promise<OpenTenantKey> {
    return this.#current.get(tenantId, () => this.#newestOrFirst(tenantId, isKept))
  }

  async #newestOrFirst(tenantId: string, isKept: boolean): Promise<OpenTenantKey> {
    const rows = await this.#liveRows(tenantId)
    const newest = rows.at(-1)
    if (newest !== undefined) {
      await assertNotPlanted(this.#keyring, rows)
      return this.ofRow(newest)
    }
    await assertNoUsersLeft(this.#store, tenantId)
    const ref = { tenantId, version: 1 }
    const made = await this.#made(ref)
    const [winner] = isKept ? await this.#store.insertIfAbsent([made.row]) : [made.row]
    if (winner === undefined || isTombstone(winner)) throw tenantShredded(tenantId)
    return equalBytes(winner.encryptedKey, made.row.encryptedKey) ? made : this.ofRow(winner)
  }

  /** The newest version of the tenant's key that a row names. @throws ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND · what opens the tenant's row */
  async newestOf(ref: TenantKeyRef): Promise<TenantKey> {
    const rows = await this.#liveRows(ref.tenantId)
    const newest = rows.at(-1)
    // Without the version that the row names the tenant may be another one of that id.
    if (newest === undefined || !rows.some(({ version }) => version === ref.version)) throw notStored(ref)
    await assertNotPlanted(this.#keyring, rows)
    return (await this.ofRow(newest)).key
  }

  async #made(ref: TenantKeyRef): Promise<OpenTenantKey & { readonly row: KeyRecord }> {
    const root = await rootToWrap(this.#keyring, ref.tenantId)
    const { record, dataKey } = await newDataKey(this.#keyring, tenantRow(ref), 'v3', root)
    try {
      const again = await unwrapDataKey(this.#keyring, record, V3, root)
      const isSame = equalBytes(again, dataKey)
      again.fill(0)
      if (!isSame) throw wrongWrap(ref, root)
      return { row: record, key: new TenantKey(ref, dataKey) }
    } finally {
      dataKey.fill(0)
    }
  }

  async #opened(ref: TenantKeyRef, record: KeyRecord): Promise<OpenTenantKey> {
    if (isTombstone(record)) throw tenantShredded(ref.tenantId)
    const key = await this.unwrap(record, V3)
    try {
      const { userId, version, createdAt } = record
      return { key: new TenantKey(ref, key), row: { userId, version, createdAt } }
    } finally {
      key.fill(0)
    }
  }

  #liveRows(tenantId: string): Promise<readonly KeyRecord[]> {
    return this.#rows.get(tenantId, () => this.#readLiveRows(tenantId))
  }

  async #readLiveRows(tenantId: string): Promise<readonly KeyRecord[]> {
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
}

/** What was asked for: once for all who ask at the same time, and kept for a while. What failed is not asked for again so soon. */
class Asked<T> {
  readonly #keptMs: number
  readonly #answers = new Map<string, { readonly answer: Promise<T>; until: number }>()

  constructor(keptMs: number) {
    this.#keptMs = keptMs
  }

  get(name: string, ask: () => Promise<T>): Promise<T> {
    const known = this.#answers.get(name)
    if (known !== undefined && performance.now() < known.until) return known.answer
    const entry = { answer: ask(), until: Number.POSITIVE_INFINITY }
    this.#answers.delete(name)
    this.#answers.set(name, entry)
    const [oldest] = this.#answers.keys()
    if (this.#answers.size > MOST_KEPT && oldest !== undefined) this.#answers.delete(oldest)
    entry.answer.then(
      () => {
        entry.until = performance.now() + this.#keptMs
      },
      () => {
        entry.until = performance.now() + ASK_AGAIN_MS
      },
    )
    return entry.answer
  }
}

/** Who may be under no key of the keyring without anything being wrong: it does not say which roots tenants have. */
export function knowsTenants({ tenantOf, tenantRoot }: MasterKeyring): boolean {
  return tenantOf !== null || tenantRoot !== null
}

/**
 * Refuses a newest version under another root than the earlier ones, unless that is where the tenant belongs. A row opens under whichever key of
 * the keyring it names: who can write to the database and use one of them, such as another customer's, can plant a version that they know. No
 * user who is there already may be brought under it.
 *
 * @param rows all versions of one tenant
 * @throws ERR_CONFLICT
 */
export async function assertNotPlanted(keyring: MasterKeyring, rows: readonly KeyRecord[]): Promise<void> {
  const newest = rows.at(-1)
  if (newest === undefined || rows.every(({ kekId }) => kekId === newest.kekId)) return
  const tenantId = tenantIdOf(newest.userId) ?? ''
  if ((await rootToWrap(keyring, tenantId)).id === newest.kekId) return
  throw new KeystoreError(
    'ERR_CONFLICT',
    `Version ${newest.version} of the key of tenant ${quoted(tenantId)} is under master key ${printable(newest.kekId ?? '')}, which neither wraps all ` +
      'earlier versions nor is where the tenant belongs. It may be planted: nothing is brought under it. If a move was interrupted, run move-tenant ' +
      'again (`moveTenant`). If nobody moved or rotated it, find out who wrote the row',
  )
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
