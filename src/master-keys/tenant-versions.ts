/**
 * What the versions of one tenant's key show together: that one may have been planted, by who writes to the database and can use some root that
 * is not the tenant's, or that one is missing. Asks no root.
 */
import { KeystoreError, printable, quoted } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { KeyStore } from '../store.js'
import { type KeyRecord, tenantIdOf } from '../table.js'
import { describeRef } from './key-wrap.js'
import { type TenantKeyRef, tenantKekId, tenantRow } from './tenant-keys.js'

/**
 * Whether a version may be planted: it is under another root than an earlier version, and not under the tenant's. Who can use its root cannot
 * open the earlier one, so no user of the earlier one may come under it, and it must not come under the tenant's root as if it belonged there.
 *
 * @param versions the tenant's live rows
 * @param rootId of the root that the keyring names for the tenant; null if it names none
 */
export function isStray(
  { version, kekId }: KeyRecord,
  versions: readonly KeyRecord[],
  rootId: string | null,
): boolean {
  return kekId !== rootId && versions.some((other) => other.version < version && other.kekId !== kekId)
}

/** ERR_CONFLICT of a row that {@link isStray}. */
export function strayVersion(row: KeyRecord): KeystoreError {
  return new KeystoreError(
    'ERR_CONFLICT',
    `The key of ${describeRef(row)} is under ${printable(row.kekId ?? '')}, and an earlier version under another root: ${STRAY} If you know who ` +
      `made it, move the tenant (\`npx keystore move-tenant ID\`, or \`moveTenant\`); if nobody did, delete its row, and forget users under ` +
      `"${printable(tenantKekId({ tenantId: tenantIdOf(row.userId) ?? '', version: row.version }))}"`,
  )
}

const STRAY =
  'whoever can use its root and write to the database may have planted it. It is not moved, and no user comes under it.'

/**
 * Looks whether users are under a version of a tenant's key that is about to be made. It is missing then, and must not be made a second time:
 * its users would never open again, not even after a restore.
 *
 * @throws ERR_KEYS_LOST · ERR_STORE
 */
export async function assertNeverMade(store: KeyStore, ref: TenantKeyRef, emit: EmitEvent): Promise<void> {
  if (!(await hasUsers(store, ref))) return
  // Another process may have made it, and a user, since this one has looked.
  const row = tenantRow(ref)
  const versions = (await store.getAll([row.userId])).get(row.userId)
  if (versions?.some(({ version }) => version >= ref.version)) return
  emit({ type: 'keysLost', users: [row], count: 1 })
  throw new KeystoreError(
    'ERR_KEYS_LOST',
    `The key of tenant ${quoted(ref.tenantId)}, version ${ref.version} or a later one, is not in the store, and keys of its users are under it: no second one ` +
      'is made in its place. Copy its row from a backup (npx keystore restore). If the tenant was forgotten on purpose, remove its users first: ' +
      'npx keystore shred-tenant ID --forget --with-users --allow-unknown',
  )
}

/** Users may be under a later version only, which is missing too. */
const VERSIONS = 16

async function hasUsers(store: KeyStore, { tenantId, version }: TenantKeyRef): Promise<boolean> {
  const kekId = tenantKekId({ tenantId, version })
  if (store.maintenance !== undefined) {
    const later = Array.from({ length: VERSIONS }, (_, i) => tenantKekId({ tenantId, version: version + i }))
    return (await store.maintenance.countUnder(later)).size > 0
  }
  // A row that cannot be read is one; a store that does not know the filter gives any row.
  let isUnreadable = false
  const onUnreadable = () => {
    isUnreadable = true
  }
  const rows = await store.list({ kekId, limit: 1, onUnreadable })
  return isUnreadable || rows.some((row) => row.kekId === kekId)
}
