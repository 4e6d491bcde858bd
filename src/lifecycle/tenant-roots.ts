/** Under which root a tenant's key belongs, and which of its versions may be planted by who can use another root. */
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import { rootToWrap } from '../master-keys/tenant-keys.js'
import { isStray, strayVersion } from '../master-keys/tenant-versions.js'
import { type KeyRecord, tenantIdOf } from '../table.js'

/** Who may be under no key of the keyring without anything being wrong: it does not say which roots tenants have. */
export function knowsTenants({ tenantOf, tenantRoot }: MasterKeyring): boolean {
  return tenantOf !== null || tenantRoot !== null
}

interface KnownRoots {
  readonly keyring: MasterKeyring
  readonly moveTenants?: boolean
}

/**
 * The root under which a tenant's key belongs. Null: the keyring says nothing of tenants. A previous key may then be a customer's, and nobody's
 * key is taken out of their hands, unless the caller says that all are the primary's (`moveTenants`).
 */
export async function namedRoot(
  { keyring, moveTenants = false }: KnownRoots,
  tenantId: string,
): Promise<MasterKey | null> {
  return knowsTenants(keyring) || moveTenants ? rootToWrap(keyring, tenantId) : null
}

/**
 * Refuses the newest version of a tenant's key for a user who is there already, unless whoever could have planted it can open the user's key
 * anyway.
 *
 * @param versions all of the tenant's key
 * @param rootId the KEK id of the master key above the user's key now
 * @throws ERR_CONFLICT · what the keyring's `tenantRoot` throws
 */
export async function assertTrusted(
  roots: KnownRoots,
  versions: readonly KeyRecord[],
  rootId: string | null,
): Promise<void> {
  const newest = versions.at(-1)
  if (newest === undefined || newest.kekId === rootId) return
  const named = await namedRoot(roots, tenantIdOf(newest.userId) ?? '')
  if (isStray(newest, versions, named?.id ?? null)) throw strayVersion(newest)
}
