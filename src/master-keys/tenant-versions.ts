/**
 * What the versions of one tenant's key show together: that one may have been planted, by who writes to the database and can use some root that
 * is not the tenant's, or that one is missing. Asks no root.
 */
import { KeystoreError, printable, quoted, StoreError } from '../errors.js'
import type { EmitEvent } from '../events.js'
import type { KeyStore } from '../store.js'
import type { KeyRecord } from '../table.js'
import { describeRef } from './key-wrap.js'
import type { MasterKey } from './master-key.js'
import { type TenantKeyRef, tenantKekId, tenantRow } from './tenant-keys.js'

/**
 * Whether a version may be planted: it is not under the root where the tenant's key belongs, and an earlier version is there already, or under a
 * former root of the tenant's own that does not wrap this one. Whoever can use its root may be unable to open the earlier one, so no user of
 * the earlier one may come under it, and it must not come under the tenant's root as if it belonged there.
 *
 * @param versions the tenant's live rows
 * @param roots what the keyring says of the tenant's roots; null if it says nothing of tenants. Then any earlier version under another root tells
 * @param rootId the KEK id under which the tenant's key belongs; null if the keyring names none
 */
export function isStray(
  row: KeyRecord,
  versions: readonly KeyRecord[],
  roots: OwnRoots | null,
  rootId: string | null = roots?.primary.id ?? null,
): boolean {
  if (row.kekId === rootId) return false
  if (roots === null) return earlierThan(row, versions).some(({ kekId }) => kekId !== row.kekId)
  return earlierThan(row, versions).some(({ kekId }) => kekId === rootId) || isOutside(row, versions, roots)
}

interface OwnRoots {
  readonly primary: MasterKey
  readonly own: readonly MasterKey[]
}

/** Whether a version is under none of the tenant's own roots, and an earlier one is: it did not get there by a move of the tenant. */
export function isOutside(
  row: KeyRecord,
  versions: readonly KeyRecord[],
  { own }: Pick<OwnRoots, 'own'>,
): boolean {
  const isOwn = ({ kekId }: KeyRecord) => own.some(({ id }) => id === kekId)
  return !isOwn(row) && earlierThan(row, versions).some(isOwn)
}

function earlierThan({ version }: KeyRecord, versions: readonly KeyRecord[]): readonly KeyRecord[] {
  return versions.filter((other) => other.version < version)
}

/** ERR_CONFLICT of a row that {@link isStray}. */
export function strayVersion(row: KeyRecord): KeystoreError {
  return new KeystoreError(
    'ERR_CONFLICT',
    `The key of ${describeRef(row)} is under ${printable(row.kekId ?? '')}, and an earlier version under another root: ${STRAY}`,
  )
}

const STRAY =
  'whoever can use one of these roots and write to the database may have planted one of them. It is not moved, and no user comes under it. Find out ' +
  'which one nobody made (the key log and backups tell), and delete none before: the other is what users need. With the keyring of the application ' +
  '`rotateTenantKey` makes one that is neither, and `rewrapAll` and then `pruneTenantKey` leave no user under them. If all of them were made by you, ' +
  '`npx keystore move-tenant ID` brings them under one root'

/**
 * Refuses the newest version of a tenant's key for a user who is there already, unless whoever could have planted it can open the user's key
 * anyway.
 *
 * @param versions all of the tenant's key, ascending
 * @param userRootId the KEK id of the master key above the user's key now
 * @param roots see {@link isStray}
 * @throws ERR_CONFLICT
 */
export function assertTrusted(
  versions: readonly KeyRecord[],
  userRootId: string | null,
  roots: OwnRoots | null,
  rootId?: string | null,
): void {
  const newest = versions.at(-1)
  if (newest === undefined || newest.kekId === userRootId) return
  if (isStray(newest, versions, roots, rootId)) throw strayVersion(newest)
}

/**
 * The version that a row's KEK id names, among those that are stored now. Without it, or with another one in its place, the others tell nothing:
 * they may be another tenant's of that id, or planted.
 *
 * @throws ERR_KEY_NOT_FOUND
 */
export function versionOf<Row extends KeyRecord>(
  versions: readonly Row[],
  ref: TenantKeyRef,
  createdAt?: Date,
): Row {
  const row = versions.find(({ version }) => version === ref.version)
  if (row === undefined || (createdAt !== undefined && row.createdAt.getTime() !== createdAt.getTime()))
    throw notStored(ref)
  return row
}

/** ERR_KEY_NOT_FOUND of users under a version that is missing. */
export function notStored({ tenantId, version }: TenantKeyRef): KeystoreError {
  return new KeystoreError(
    'ERR_KEY_NOT_FOUND',
    `The key of tenant ${quoted(tenantId)}, version ${version}, is not in the store, and the keys of its users do not open without it: copy ` +
      'it from a backup (npx keystore restore BACKUP --tenant ID)',
  )
}

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

/**
 * Users may be under a later version only, which is missing too. So many are looked at, by one query: with a key that was rotated once a month
 * for 80 years the highest is 960.
 */
const VERSIONS = 1000
/** Where each takes a query of its own. */
const FEW_VERSIONS = 16

async function hasUsers(store: KeyStore, { tenantId, version }: TenantKeyRef): Promise<boolean> {
  const count = store.maintenance === undefined ? FEW_VERSIONS : VERSIONS
  const refs = Array.from({ length: count }, (_, i) => ({ tenantId, version: version + i }))
  return (await versionsWithUsers(store, refs)).size > 0
}

/** Those versions of tenants' keys under which users are, by KEK id. A row of a user that cannot be read counts. @throws ERR_STORE */
export async function versionsWithUsers(
  store: KeyStore,
  refs: readonly TenantKeyRef[],
): Promise<ReadonlySet<string>> {
  const kekIds = refs.map(tenantKekId)
  if (kekIds.length === 0) return new Set()
  if (store.maintenance !== undefined) return new Set((await store.maintenance.countUnder(kekIds)).keys())
  const found = await Promise.all(kekIds.map((kekId) => hasRow(store, kekId)))
  return new Set(kekIds.filter((_, i) => found[i]))
}

async function hasRow(store: KeyStore, kekId: string): Promise<boolean> {
  let isUnreadable = false
  const onUnreadable = () => {
    isUnreadable = true
  }
  const rows = await store.list({ kekId, limit: 1, onUnreadable })
  if (rows.some((row) => row.kekId !== kekId)) throw ignoresFilter()
  return isUnreadable || rows.length > 0
}

/** Nobody could say then whether a tenant's key is missing. */
function ignoresFilter(): StoreError {
  return new StoreError(
    'The key store lists rows under other KEK ids than it was asked for: its list() must know `kekId`',
  )
}
