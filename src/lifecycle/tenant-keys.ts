/** Tenants' keys in a long operation: each version is opened by one call of its root, and then opens the keys of the tenant's users. */
import { KeystoreError, MasterKeyError, printable, quoted } from '../errors.js'
import type { EmitEvent } from '../events.js'
import { equalBytes } from '../format/aead.js'
import type { Format } from '../format/formats.js'
import { newDataKey, unwrapDataKey } from '../master-keys/key-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { TenantKey, type TenantKeyRef, tenantKekId, tenantRow } from '../master-keys/tenant-keys.js'
import { findRoot, kekOf, knowsTenants, type RootsOfTenant, rootsOf } from '../master-keys/tenant-roots.js'
import { assertNeverMade, assertTrusted, versionOf } from '../master-keys/tenant-versions.js'
import type { KeyStore, WrapChange } from '../store.js'
import { isTombstone, type KeyIdentity, type KeyRecord, refKey, tenantIdOf, tenantUserId } from '../table.js'
import { ASK_AGAIN_MS, KeptAnswers } from './kept-answers.js'
import { versionsOf } from './long-work.js'

const V3: readonly Format[] = ['v3']

/** One version of a tenant's key, open, and the row that it is from. */
export interface OpenTenantKey {
  readonly key: TenantKey
  readonly row: KeyIdentity
}

/** The version that wraps a tenant's users now. */
export interface CurrentTenantKey {
  readonly kekId: string
  readonly row: KeyIdentity
  /** All versions as they were read with it, ascending: it is the last. */
  readonly versions: readonly KeyRecord[]
  /** @throws what opens a tenant's row */
  open(): Promise<TenantKey>
}

export class TenantKeys {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #emit: EmitEvent
  readonly #open = new KeptAnswers<TenantKey>(Number.POSITIVE_INFINITY)
  /** By KEK id. */
  readonly #found = new KeptAnswers<OpenTenantKey>(Number.POSITIVE_INFINITY)
  /** By tenant id. Another process may rotate a tenant's key at any time: a rewrap brings along whoever came under an earlier version. */
  readonly #rows = new KeptAnswers<readonly KeyRecord[]>(ASK_AGAIN_MS)
  readonly #current = new KeptAnswers<CurrentTenantKey>(ASK_AGAIN_MS)
  /** By tenant id. The application's `tenantRoot` is asked once for each tenant, not for each user: it may query a database. */
  readonly #roots = new KeptAnswers<RootsOfTenant>(Number.POSITIVE_INFINITY)

  /** @param emit for those who ask for {@link current} keys */
  constructor(store: KeyStore, keyring: MasterKeyring, emit: EmitEvent = () => undefined) {
    this.#store = store
    this.#keyring = keyring
    this.#emit = emit
  }

  /**
   * The key under which any row is wrapped, or null: what `unwrapDataKey` needs.
   *
   * @throws ERR_KEY_SHREDDED (the tenant) · ERR_KEY_NOT_FOUND (the tenant's row is missing) · what opens a tenant's row
   */
  kekOf(record: KeyRecord): MasterKey | null | Promise<MasterKey | null> {
    return kekOf(
      this.#keyring,
      record,
      async (ref) => (await this.find(ref)).key,
      async (row) => findRoot(await this.roots(tenantIdOf(row.userId) ?? ''), row),
    )
  }

  /** The roots of a tenant. @throws what the keyring's `tenantRoot` throws */
  roots(tenantId: string): Promise<RootsOfTenant> {
    return this.#roots.get(tenantId, () => rootsOf(this.#keyring, tenantId))
  }

  /** The same if the keyring says anything of tenants; null if not. */
  async namedRoots(tenantId: string): Promise<RootsOfTenant | null> {
    return knowsTenants(this.#keyring) ? this.roots(tenantId) : null
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
  async ofRow(record: KeyRecord): Promise<OpenTenantKey> {
    const { userId, version, createdAt } = record
    const ref = { tenantId: tenantIdOf(userId) ?? '', version }
    const key = await this.#open.get(wrapOf(record), () => this.#opened(ref, record))
    return { key, row: { userId, version, createdAt } }
  }

  /** A row of a tenant's is to hold the same key under another root: nobody has to ask that for it. */
  rewrapped(record: KeyRecord, { encryptedKey, kekId }: WrapChange): void {
    this.#open.copy(wrapOf(record), wrapOf({ ...record, encryptedKey, kekId }))
  }

  /** A row of a tenant's was written. */
  changed(tenantId: string): void {
    this.#rows.delete(tenantId)
    this.#current.delete(tenantId)
  }

  /**
   * The version that wraps a tenant's users now. It is opened by who may use it. A tenant without any gets its first one, which its root has to
   * open before it wraps a user.
   *
   * @param isKept false: it is made, and not stored
   * @throws ERR_KEY_SHREDDED · ERR_KEYS_LOST (users are under a first one that is missing) · for a first one what its root throws
   */
  current(tenantId: string, isKept: boolean): Promise<CurrentTenantKey> {
    return this.#current.get(tenantId, () => this.#newestOrFirst(tenantId, isKept))
  }

  async #newestOrFirst(tenantId: string, isKept: boolean): Promise<CurrentTenantKey> {
    const versions = await this.#liveRows(tenantId)
    const newest = versions.at(-1)
    const kekId = tenantKekId({ tenantId, version: newest?.version ?? 1 })
    if (newest !== undefined)
      return { kekId, row: newest, versions, open: async () => (await this.ofRow(newest)).key }
    const ref = { tenantId, version: 1 }
    await assertNeverMade(this.#store, ref, this.#emit)
    const made = await this.#made(ref)
    const [winner] = isKept ? await this.#store.insertIfAbsent([made.row]) : [made.row]
    if (winner === undefined || isTombstone(winner)) throw tenantShredded(tenantId)
    if (isKept) this.#rows.delete(tenantId)
    const open = equalBytes(winner.encryptedKey, made.row.encryptedKey) ? made : await this.ofRow(winner)
    return { kekId, row: open.row, versions: [winner], open: async () => open.key }
  }

  /** The newest version of the tenant's key that a row names. @throws ERR_KEY_SHREDDED · ERR_KEY_NOT_FOUND · ERR_CONFLICT (it may be planted) · what opens the tenant's row */
  async newestOf(ref: TenantKeyRef): Promise<TenantKey> {
    const rows = await this.#liveRows(ref.tenantId)
    const own = versionOf(rows, ref)
    assertTrusted(rows, own.kekId, await this.namedRoots(ref.tenantId))
    return (await this.ofRow(rows.at(-1) ?? own)).key
  }

  async #made(ref: TenantKeyRef): Promise<OpenTenantKey & { readonly row: KeyRecord }> {
    const { primary: root } = await this.roots(ref.tenantId)
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

  async #opened(ref: TenantKeyRef, record: KeyRecord): Promise<TenantKey> {
    if (isTombstone(record)) throw tenantShredded(ref.tenantId)
    const key = await this.unwrap(record, V3)
    try {
      return new TenantKey(ref, key)
    } finally {
      key.fill(0)
    }
  }

  #liveRows(tenantId: string): Promise<readonly KeyRecord[]> {
    return this.#rows.get(tenantId, () => this.#readLiveRows(tenantId))
  }

  async #readLiveRows(tenantId: string): Promise<readonly KeyRecord[]> {
    const rows = await versionsOf(this.#store, tenantUserId(tenantId))
    if (rows.some(isTombstone)) throw tenantShredded(tenantId)
    return rows
  }

  async #liveRow(ref: TenantKeyRef): Promise<KeyRecord> {
    return versionOf(await this.#liveRows(ref.tenantId), ref)
  }
}

/** Names what a row holds: another key, or the same under another root, has another name. */
function wrapOf(record: KeyRecord): string {
  const bytes = Buffer.from(record.encryptedKey).toString('base64')
  return `${bytes} ${refKey(record)} ${record.kekId}`
}

function tenantShredded(tenantId: string): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_SHREDDED',
    `The key of tenant ${quoted(tenantId)} was erased, and the keys of its users with it`,
  )
}

function wrongWrap({ tenantId }: TenantKeyRef, { id }: MasterKey): MasterKeyError {
  return new MasterKeyError(
    'ERR_UNWRAP_FAILED',
    `Master key ${printable(id)} does not open what it has wrapped, the key of tenant ${quoted(tenantId)}: nothing was written`,
  )
}
