/**
 * Removes keys of tenants that no user needs any more: earlier versions after a rotation, or all of a tenant after its users were moved out of
 * the hierarchy. Needs no master key.
 */
import { invalidArgument, KeystoreError, quoted, StoreError } from '../errors.js'
import { tenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { isTombstone, type KeyRecord, refKey, tenantIdOf, tenantUserId } from '../table.js'
import { assertTenantId, kindOf } from '../validate.js'
import { checkedOptions, maintenanceOf, versionsOf } from './long-work.js'
import { tenantPage } from './tenant-list.js'

/** The options of {@link pruneTenantKey}. */
export interface PruneTenantOptions {
  /** Where the versions are. */
  readonly store: KeyStore
  /** Whose versions are removed. */
  readonly tenantId: string
  /**
   * Removes earlier versions only if the newest is older than this, in milliseconds. All processes use the newest within 2 s, but one that was
   * suspended may wake up with an earlier one. Default: a day.
   */
  readonly olderThanMs?: number
  /** Return the versions, and remove nothing. */
  readonly dryRun?: boolean
}

/** A day. */
const DEFAULT_PRUNE_AGE_MS = 24 * 60 * 60 * 1000

/**
 * Removes earlier versions of a tenant's key under which no user is any more, because `rewrapAll` has brought all of them along. A version that
 * a user comes under meanwhile is put back.
 *
 * @returns the versions removed, or with `dryRun` that would be
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (also if a user of the tenant cannot be read) · ERR_CLOSED
 * @example
 * await envelope.rotateTenantKey('acme') // and after a day
 * await rewrapAll({ store, masterKeys })
 * await pruneTenantKey({ store, tenantId: 'acme' })
 */
export async function pruneTenantKey(
  options: PruneTenantOptions,
): Promise<{ readonly tenantId: string; readonly versions: readonly number[] }> {
  const own = checkedOptions(options, 'store')
  const { store, tenantId, olderThanMs = DEFAULT_PRUNE_AGE_MS, dryRun = false } = own
  assertTenantId(tenantId)
  assertAge(olderThanMs)
  const maintenance = maintenanceOf(store)
  const rows = await versionsOf(store, tenantUserId(tenantId))
  const newest = rows.at(-1)
  const isDue = newest !== undefined && newest.createdAt.getTime() <= Date.now() - olderThanMs
  const retired: KeyRecord[] = []
  for (const row of rows)
    if (isDue && row !== newest && !isTombstone(row) && !(await isNeeded(store, tenantId, row.version)))
      retired.push(row)
  const versions = retired.map(({ version }) => version)
  if (retired.length === 0 || dryRun) return { tenantId, versions }
  await store.remove(retired)
  const needed: KeyRecord[] = []
  for (const row of retired) if (await isNeeded(store, tenantId, row.version)) needed.push(row)
  if (needed.length === 0) return { tenantId, versions }
  await maintenance.restore(needed)
  throw new StoreError(
    `A user came under a version of the key of tenant ${quoted(tenantId)} that was being removed, so it was put back. Run rewrapAll, and then ` +
      'this again',
    { retryable: true },
  )
}

/** Whether any user is under a version of a tenant's key. @throws ERR_STORE if one of them cannot be read */
async function isNeeded(store: KeyStore, tenantId: string, version: number): Promise<boolean> {
  return (await store.list({ kekId: tenantKekId({ tenantId, version }), limit: 1 })).length > 0
}

/**
 * Whether it is a tenant's own key that no user needs, under a root that was not given: nobody misses it, and {@link pruneUnusedTenants} removes it. But
 * if it is the newest version, and an earlier one is under another root, the next user would come under it.
 *
 * @param page the rows that it came with
 * @param error of unwrapping it
 */
export async function isLeftOver(
  store: KeyStore,
  { userId, version, kekId }: KeyRecord,
  page: readonly KeyRecord[],
  { code }: KeystoreError,
): Promise<boolean> {
  const tenantId = tenantIdOf(userId)
  if (code !== 'ERR_UNKNOWN_MASTER_KEY' || tenantId === null) return false
  const others = page.filter((row) => row.userId === userId && row.version !== version)
  const isNewest = others.every((row) => row.version < version)
  if (isNewest && others.some((row) => row.kekId !== kekId)) return false
  return !(await isNeeded(store, tenantId, version))
}

/** The options of {@link pruneUnusedTenants}. */
export interface PruneUnusedTenantsOptions {
  /** Where the tenants' keys are. */
  readonly store: KeyStore
  /** Look at this tenant alone. Default: at all. */
  readonly tenantId?: string
  /** Removes tenants only whose newest version is older than this, in milliseconds. Default: a day. */
  readonly olderThanMs?: number
  /** Return the tenants, and remove nothing. */
  readonly dryRun?: boolean
}

/** What {@link pruneUnusedTenants} removed. */
export interface PrunedTenants {
  /** The tenants whose keys were removed, or with `dryRun` would be. */
  readonly tenantIds: readonly string[]
}

/** Tenants that are removed together. */
const TENANTS_A_PAGE = 1000

/**
 * Removes all versions of the keys of tenants under which no user is. Shredded tenants stay shredded. First see that no process makes users of
 * these tenants any more, that is, that no `tenantOf` names them. A process that has used such a key lately emits `keysLost` once, and makes
 * no new key for the tenant until it is opened anew.
 *
 * No user is lost who comes under such a key meanwhile: before the removal, and it is put back; after it, and the store refuses the user's key,
 * however long its insert has been waiting.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE (`retryable`: a key was put back; also any outage) · ERR_CONFLICT (and perhaps could not be) · ERR_CLOSED
 * @example
 * await rewrapAll({ store, masterKeys: masterKeyring({ primary, tenantOf: () => null, tenantRoot }) })
 * const { tenantIds } = await pruneUnusedTenants({ store })
 */
export async function pruneUnusedTenants(options: PruneUnusedTenantsOptions): Promise<PrunedTenants> {
  const own = checkedOptions(options, 'store')
  const { store, tenantId, olderThanMs = DEFAULT_PRUNE_AGE_MS, dryRun = false } = own
  if (tenantId !== undefined) assertTenantId(tenantId)
  assertAge(olderThanMs)
  const tenantIds: string[] = []
  for await (const page of pagesOfTenants(store, tenantId)) {
    const unused = await unusedOf(store, page, Date.now() - olderThanMs)
    if (unused.length === 0) continue
    if (!dryRun) await removeUnlessNeeded(store, unused)
    tenantIds.push(...new Set(unused.map(({ userId }) => tenantIdOf(userId) ?? '')))
  }
  return { tenantIds }
}

async function* pagesOfTenants(
  store: KeyStore,
  tenantId: string | undefined,
): AsyncGenerator<readonly string[], void, undefined> {
  if (tenantId !== undefined) return yield [tenantId]
  for (let after: string | undefined; ; ) {
    const { tenants, next } = await tenantPage(store, { after, limit: TENANTS_A_PAGE })
    yield tenants.map((tenant) => tenant.tenantId)
    if (next === null) return
    after = next
  }
}

/** The rows of those tenants none of whose versions wraps a user's key. */
async function unusedOf(
  store: KeyStore,
  tenantIds: readonly string[],
  before: number,
): Promise<readonly KeyRecord[]> {
  const found = [...(await store.getAll(tenantIds.map(tenantUserId))).values()]
  const old = found.filter(
    (rows) => !rows.some(isTombstone) && (rows.at(-1)?.createdAt.getTime() ?? 0) <= before,
  )
  const needed = await neededOf(store, old.flat())
  return old.filter((rows) => !rows.some((row) => needed.includes(row))).flat()
}

/** Those of the rows under which users are. Unreadable rows of users count too. */
async function neededOf(store: KeyStore, rows: readonly KeyRecord[]): Promise<readonly KeyRecord[]> {
  if (rows.length === 0) return []
  const counts = await maintenanceOf(store).countUnder(rows.map(kekIdOf))
  return rows.filter((row) => counts.has(kekIdOf(row)))
}

function kekIdOf({ userId, version }: KeyRecord): string {
  return tenantKekId({ tenantId: tenantIdOf(userId) ?? '', version })
}

async function removeUnlessNeeded(store: KeyStore, rows: readonly KeyRecord[]): Promise<void> {
  await store.remove(rows)
  // Nobody comes under them any more: an insert needs the tenant's row (`whileLive`). Who did is seen now.
  const needed = await neededOf(store, rows)
  if (needed.length === 0) return
  const names = [...new Set(needed.map(({ userId }) => quoted(tenantIdOf(userId) ?? '')))].join(', ')
  const restored = new Map((await maintenanceOf(store).restore(needed)).map((row) => [refKey(row), row]))
  if (needed.some((row) => restored.get(refKey(row))?.createdAt.getTime() !== row.createdAt.getTime()))
    throw new KeystoreError(
      'ERR_CONFLICT',
      `Other processes made new keys of tenants whose keys were being removed, and users are under them (${names}): look first whether all of them open ` +
        '(npx keystore doctor, or verifyAll, with the roots of these tenants). If so, they are under the new keys, and there is nothing to do. A user ' +
        'who does not open is under a removed key, which only a backup has: do not forget the tenant before you have copied the store',
    )
  throw new StoreError(
    `Users came under the keys of tenants that were being removed, so these were put back: ${names}. See that no process makes users of these ` +
      'tenants, run rewrapAll, and then this again',
    { retryable: true },
  )
}

/** @throws ERR_INVALID_ARGUMENT */
function assertAge(olderThanMs: unknown): void {
  if (typeof olderThanMs !== 'number' || !(olderThanMs >= 0))
    throw invalidArgument(
      `olderThanMs must be a number of milliseconds, 0 or more, got ${kindOf(olderThanMs)}`,
    )
}
