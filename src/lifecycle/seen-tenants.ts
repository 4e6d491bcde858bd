/** The tenants that one pass of a rewrap has come by, and whose users are under keys that are not there. */
import { KeystoreError, quoted } from '../errors.js'
import { parseTenantKekId, type TenantKeyRef, tenantKekId } from '../master-keys/tenant-keys.js'
import { versionsWithUsers } from '../master-keys/tenant-versions.js'
import type { KeyStore } from '../store.js'
import { isTenantKekId, isTombstone, type KeyRecord, tenantIdOf } from '../table.js'

/** So many versions of a tenant's key are looked for, from the newest downwards. */
const MOST_GAPS = 1000

export class SeenTenants {
  readonly #store: KeyStore
  /** Of live versions and tombstones. */
  readonly #kekIds = new Set<string>()
  readonly #shredded = new Set<string>()
  /** By tenant id: missing versions under which users are. */
  readonly #missing = new Map<string, number[]>()
  #users = 0

  constructor(store: KeyStore) {
    this.#store = store
  }

  /** How many keys of users are under the versions that are there; 0 if the store cannot count them. */
  get users(): number {
    return this.#users
  }

  /** @param tenants each as all versions of its key, ascending @throws ERR_STORE */
  async add(tenants: readonly (readonly KeyRecord[])[]): Promise<void> {
    const kekIds: string[] = []
    for (const row of tenants.flat()) {
      const tenantId = tenantIdOf(row.userId) ?? ''
      const kekId = tenantKekId({ tenantId, version: row.version })
      kekIds.push(kekId)
      this.#kekIds.add(kekId)
      if (isTombstone(row)) this.#shredded.add(tenantId)
    }
    const counts = await this.#store.maintenance?.countUnder(kekIds)
    for (const count of counts?.values() ?? []) this.#users += count
    const gaps = tenants.filter((versions) => !versions.some(isTombstone)).flatMap(gapsOf)
    const needed = await versionsWithUsers(this.#store, gaps)
    for (const { tenantId, version } of gaps) {
      if (!needed.has(tenantKekId({ tenantId, version }))) continue
      this.#missing.set(tenantId, [...(this.#missing.get(tenantId) ?? []), version])
    }
  }

  /**
   * Refuses to move what is there of a tenant's key while users are under an earlier version that is not: with the earlier one out of the way a
   * planted one could come under the tenant's root as if it had been alone, and be trusted from then on.
   *
   * @throws ERR_KEY_NOT_FOUND
   */
  assertComplete(tenantId: string): void {
    const missing = this.#missing.get(tenantId)
    if (missing === undefined) return
    throw new KeystoreError(
      'ERR_KEY_NOT_FOUND',
      `Versions of the key of tenant ${quoted(tenantId)} are not in the store, and users are under them (${missing.join(', ')}): what is there is not ` +
        'moved. Copy them from a backup (npx keystore restore BACKUP --tenant ID). If they are gone for good, shred their users, or move the tenant ' +
        '(`npx keystore move-tenant ID`, or `moveTenant`)',
    )
  }

  /** Whether a user is under a tenant's key that is none, or is not there. */
  isLost({ kekId }: KeyRecord): boolean {
    if (kekId === null || !isTenantKekId(kekId) || this.#kekIds.has(kekId)) return false
    const ref = parseTenantKekId(kekId)
    return ref === null || !this.#shredded.has(ref.tenantId)
  }
}

/** Versions of a tenant's key below its newest that are not there, as those are that were pruned. */
function gapsOf(versions: readonly KeyRecord[]): readonly TenantKeyRef[] {
  const newest = versions.at(-1)
  if (newest === undefined || newest.version === versions.length) return []
  const there = new Set(versions.map(({ version }) => version))
  const tenantId = tenantIdOf(newest.userId) ?? ''
  const gaps: TenantKeyRef[] = []
  for (let version = newest.version - 1; version >= 1 && gaps.length < MOST_GAPS; version--)
    if (!there.has(version)) gaps.push({ tenantId, version })
  return gaps
}
