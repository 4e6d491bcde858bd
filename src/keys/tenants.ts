/**
 * Tenants' own keys in this process. They are users' keys as cache.ts has them, minted, cached and erased in the same way, except that a root
 * wraps them (docs/FORMAT.md, "Wrapped key under a tenant key") and that they wrap the keys of the tenant's users.
 *
 * A root that fails is asked again after a second, for its own tenant alone. No other key takes its place.
 */
import { isKeystoreError, type KeystoreError, type KeystoreErrorCode } from '../errors.js'
import { durationSince, type EmitEvent } from '../events.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { assertOpens } from '../master-keys/rewrapped.js'
import { parseTenantKekId, type TenantKeyRef, tenantOfUser, tenantRow } from '../master-keys/tenant-keys.js'
import { knowsTenants, rootForNext, rootOf, rootsOf, rootToWrap } from '../master-keys/tenant-roots.js'
import { assertNeverMade, assertTrusted, versionOf } from '../master-keys/tenant-versions.js'
import type { KeyStore } from '../store.js'
import { type KeyRecord, type KeyRef, refKey, tenantIdOf, tenantUserId } from '../table.js'
import { SingleFlight } from './batch.js'
import { KeyCache, type KeyPolicy } from './cache.js'
import type { CacheOptions } from './cache-options.js'
import { DataKey } from './data-key.js'
import type { Kek, Keks } from './keks.js'
import { RecentFailures } from './recent-failures.js'
import { moveTenantRows } from './tenant-move.js'
import { evictTenantRows, liveTenantRows } from './tenant-rows.js'

/** What rotating a tenant's key came to. */
export interface TenantRotation {
  readonly tenantId: string
  /** The version that wraps new keys of the tenant's users now. */
  readonly version: number
  /** False if another process made this version since this one last read the tenant's rows. */
  readonly rotated: boolean
}

/** What moving a tenant came to. */
export interface TenantMove {
  readonly tenantId: string
  /** The KEK id of the root under which all versions of the tenant's key are now. */
  readonly kekId: string
  /** The versions that this call has moved, ascending. None: all were there already. */
  readonly versions: readonly number[]
}

/** What will most likely be the same a moment later. */
const ASK_LATER: ReadonlySet<KeystoreErrorCode> = new Set([
  'ERR_MASTER_KEY',
  'ERR_UNWRAP_FAILED',
  'ERR_KEYS_LOST',
])

/** The keys of roots, which wrap tenants' keys. */
class Roots implements Keks {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #emit: EmitEvent

  constructor(store: KeyStore, keyring: MasterKeyring, emit: EmitEvent) {
    this.#store = store
    this.#keyring = keyring
    this.#emit = emit
  }

  /** @throws ERR_KEYS_LOST (users are under the version already) · what the keyring's `tenantRoot` throws */
  async forNew({ userId, version }: KeyRef, before: KeyRecord | undefined): Promise<MasterKey> {
    const tenantId = tenantIdOf(userId) as string
    await assertNeverMade(this.#store, { tenantId, version }, this.#emit)
    if (before === undefined) return rootToWrap(this.#keyring, tenantId)
    return rootForNext(this.#keyring, await liveTenantRows(this.#store, tenantId))
  }

  of(record: KeyRecord): Promise<MasterKey | null> {
    return rootOf(this.#keyring, record)
  }

  /** `open` has seen that the primary opens what it wraps. Another root that does not would be found when there are users under its tenant. */
  async check(record: KeyRecord, tenantKey: Uint8Array, root: MasterKey): Promise<void> {
    if (root !== this.#keyring.primary) await assertOpens(this.#keyring, record, tenantKey, root, 'v3')
  }

  leftMs(): number {
    return Number.POSITIVE_INFINITY
  }

  onChange(): void {}
}

/** Tenants' own keys, and which key wraps a user's: that of the tenant, or one of the keyring. */
export class Tenants implements Keks {
  readonly #store: KeyStore
  readonly #keyring: MasterKeyring
  readonly #make: () => KeyCache
  readonly #emit: EmitEvent
  /** Made when a tenant is first asked for: most applications have none. */
  #made: KeyCache | null = null
  #onChange: (userId: string) => void = () => undefined
  readonly #finding = new SingleFlight<DataKey>()
  readonly #failed = new RecentFailures()

  constructor(
    store: KeyStore,
    keyring: MasterKeyring,
    policy: KeyPolicy,
    cache: CacheOptions | false,
    emit: EmitEvent,
  ) {
    this.#store = store
    this.#keyring = keyring
    this.#emit = emit
    const own = { ...policy, format: 'v3', acceptKeys: ['v3'], ofTenants: true } as const
    // The cache of users' keys says it too.
    const emitOwn: EmitEvent = (event) => event.type !== 'changesSilent' && emit(event)
    this.#make = () => new KeyCache(store, keyring, new Roots(store, keyring, emitOwn), own, cache, emitOwn)
  }

  get #keys(): KeyCache {
    if (this.#made === null) {
      this.#made = this.#make()
      this.#made.onChange((userId) => {
        this.#failed.delete(userId)
        this.#onChange(userId)
      })
    }
    return this.#made
  }

  onChange(listener: (userId: string) => void): void {
    this.#onChange = listener
  }

  changed(kek: Kek): void {
    if (kek instanceof DataKey) this.mayHaveChanged(kek.userId)
  }

  leftMs(kek: Kek | null): number {
    return kek instanceof DataKey ? this.#keys.leftMs(kek) : Number.POSITIVE_INFINITY
  }

  /** A first key goes under the key of the tenant whom `tenantOf` names; a further version stays where the version before it is. */
  forNew({ userId }: KeyRef, before: KeyRecord | undefined): Kek | Promise<Kek> {
    if (before === undefined) {
      if (this.#keyring.tenantOf === null || userId === '') return this.#keyring.primary
      return this.#forFirst(userId)
    }
    const tenant = parseTenantKekId(before.kekId)
    return tenant === null ? this.#keyring.primary : this.#forNext(tenant)
  }

  async #forFirst(userId: string): Promise<Kek> {
    const tenantId = await tenantOfUser(this.#keyring, userId)
    return tenantId === null ? this.#keyring.primary : this.#current(tenantId)
  }

  /** Looks for the tenant's key first: a tenant whose rows are gone gets no second one. @throws also ERR_CONFLICT (the newest version may be planted) */
  async #forNext(tenant: TenantKeyRef): Promise<Kek> {
    const { createdAt } = await this.#find(tenant)
    const versions = await liveTenantRows(this.#store, tenant.tenantId)
    const { kekId } = versionOf(versions, tenant, createdAt)
    const roots = knowsTenants(this.#keyring) ? await rootsOf(this.#keyring, tenant.tenantId) : null
    assertTrusted(versions, kekId, roots)
    return this.#current(tenant.tenantId)
  }

  of(record: KeyRecord): Kek | null | Promise<Kek | null> {
    const tenant = parseTenantKekId(record.kekId)
    return tenant === null ? this.#keyring.find(record.kekId ?? '') : this.#find(tenant)
  }

  /** The key that wraps users now, minted if there is none. */
  #current(tenantId: string): DataKey | Promise<DataKey> {
    const userId = tenantUserId(tenantId)
    return (
      this.#keys.cachedForWriting(userId) ??
      this.#asked({ userId, version: 0 }, () => this.#keys.forWriting(userId))
    )
  }

  #find(tenant: TenantKeyRef): DataKey | Promise<DataKey> {
    const ref = tenantRow(tenant)
    return this.#keys.cached(ref) ?? this.#asked(ref, () => this.#keys.get(ref))
  }

  /** One call for all who need the same key; none for a second after it has failed. */
  #asked(ref: KeyRef, ask: () => Promise<DataKey>): Promise<DataKey> {
    return this.#finding.run(refKey(ref), async () => {
      const failed = this.#failed.get(ref)
      if (failed !== undefined) throw failed
      try {
        return await ask()
      } catch (error) {
        if (isKeystoreError(error) && ASK_LATER.has(error.code)) await this.#remember(ref, error)
        throw error
      }
    })
  }

  /** Version 0 stands for the newest, and the newest for it. */
  async #remember(ref: KeyRef, error: KeystoreError): Promise<void> {
    this.#failed.add(ref, error)
    const { userId } = ref
    const rows = await this.#store.getActive([userId]).catch(() => null)
    const newest = rows?.get(userId)?.version ?? 0
    if (ref.version === 0 || ref.version === newest)
      for (const version of [0, newest]) this.#failed.add({ userId, version }, error)
  }

  /** Makes the next version of a tenant's key. @throws like `KeyCache.rotate` */
  async rotate(tenantId: string): Promise<TenantRotation> {
    const { version, rotated } = await this.#keys.rotate(tenantUserId(tenantId))
    return { tenantId, version, rotated }
  }

  /** A shred has erased a tenant's key. @param userId of the tenant's own rows */
  shredded(userId: string, forget: boolean): void {
    this.#keys.shredded(userId, forget)
  }

  /** It is unknown whether a tenant's rows were changed. @param userId of the tenant's own rows */
  mayHaveChanged(userId: string): void {
    this.#keys.mayHaveChanged(userId)
  }

  /**
   * Writes a tenant's rows again as they are, which makes every process forget the tenant's key. Asks no root.
   *
   * @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_STORE
   */
  async evict(tenantId: string): Promise<void> {
    const userId = tenantUserId(tenantId)
    try {
      await evictTenantRows(this.#store, tenantId)
    } finally {
      this.#failed.delete(userId)
      this.#keys.revoked(userId)
    }
  }

  /**
   * Wraps all versions of a tenant's key under another root. Nothing of the tenant's users is touched.
   *
   * @throws ERR_INVALID_ARGUMENT · ERR_CONFLICT · ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED · ERR_STORE · what either root throws: see
   *   `moveTenantRows`
   */
  async move(tenantId: string, root: MasterKey): Promise<TenantMove> {
    const start = performance.now()
    const moved = new Set<number>()
    try {
      await moveTenantRows(this.#store, this.#keyring, tenantId, root, moved)
    } finally {
      // Also what was written before an error.
      this.#failed.delete(tenantUserId(tenantId))
      this.#keys.revoked(tenantUserId(tenantId))
      const count = moved.size
      if (count > 0)
        this.#emit({ type: 'rewrapped', kekId: root.id, count, durationMs: durationSince(start) })
    }
    return { tenantId, kekId: root.id, versions: [...moved].sort((a, b) => a - b) }
  }

  close(): void {
    this.#made?.close()
  }
}
