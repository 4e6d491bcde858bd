/** Tenants as their rows show them: for commands, which may have none of the master keys. */
import { invalidArgument, quoted, StoreError } from '../errors.js'
import { tenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyStore, StoreMaintenance } from '../store.js'
import { isTombstone, type KeyRecord, tenantUserId } from '../table.js'
import { assertTenantId, kindOf, ownOptions } from '../validate.js'
import { checkedOptions } from './long-work.js'
import { type ListedTenant, type TenantVersion, tenantOfRows, tenantPage } from './tenant-list.js'

/** One version of a tenant's key, with what is under it. */
export interface TenantKeyState extends TenantVersion {
  /** Live keys of users under it, each of their versions counted. */
  readonly keys: number
}

export interface TenantState extends ListedTenant {
  /** Ascending. The last one wraps new keys of the tenant's users. */
  readonly versions: readonly TenantKeyState[]
}

const DEFAULT_LIMIT = 100
const MAX_LIMIT = 1000

/**
 * One page of tenants, in the order of their ids' UTF-8 bytes, with the number of keys under each. Needs no master key. Its cost grows with the
 * keys of the tenants on the page, not with all.
 *
 * @param options `after`: the last tenant id of the page before. `limit`: 1 … 1,000 tenants, default 100
 * @returns an empty page at the end
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * for (let page = await listTenants({ store }); page.length > 0; page = await listTenants({ store, after: page.at(-1)?.tenantId }))
 *   for (const { tenantId, versions } of page) console.log(tenantId, versions.at(-1)?.kekId)
 */
export async function listTenants(options: {
  readonly store: KeyStore
  readonly after?: string | undefined
  readonly limit?: number
}): Promise<TenantState[]> {
  const { store, after, limit = DEFAULT_LIMIT } = checkedOptions(options, 'store')
  if (after !== undefined) assertTenantId(after, 'after')
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT)
    throw invalidArgument(`limit must be a whole number from 1 to ${MAX_LIMIT}`)
  return withCounts(store, (await tenantPage(store, { after, limit })).tenants)
}

/**
 * The same of one tenant. @returns null if it has no key
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 */
export async function findTenant(options: {
  readonly store: KeyStore
  readonly tenantId: string
}): Promise<TenantState | null> {
  const { store, tenantId } = checkedOptions(options, 'store')
  assertTenantId(tenantId)
  const rows = (await store.getAll([tenantUserId(tenantId)])).get(tenantUserId(tenantId))
  if (rows === undefined) return null
  const [state] = await withCounts(store, [tenantOfRows(tenantId, rows)])
  return state ?? null
}

/** The same tenants with the number of keys under each version: counted through the index, all of them in one query. */
export async function withCounts(store: KeyStore, tenants: readonly ListedTenant[]): Promise<TenantState[]> {
  const kekIds = tenants.flatMap(({ tenantId, versions }) =>
    versions.map(({ version }) => tenantKekId({ tenantId, version })),
  )
  const counts = await maintenanceOf(store).countUnder(kekIds)
  return tenants.map(({ tenantId, shredded, versions }) => ({
    tenantId,
    shredded,
    versions: versions.map((version) => {
      return { ...version, keys: counts.get(tenantKekId({ tenantId, version: version.version })) ?? 0 }
    }),
  }))
}

export function maintenanceOf({ maintenance }: KeyStore): StoreMaintenance {
  if (maintenance !== undefined) return maintenance
  throw invalidArgument('store must be one whose rows can be counted and restored: it has no maintenance')
}

export interface PruneTenantOptions {
  readonly store: KeyStore
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
export const DEFAULT_PRUNE_AGE_MS = 24 * 60 * 60 * 1000

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
  const { store, tenantId, olderThanMs = DEFAULT_PRUNE_AGE_MS, dryRun = false } = ownOptions(options)
  checkedOptions(options, 'store')
  assertTenantId(tenantId)
  assertAge(olderThanMs)
  const maintenance = maintenanceOf(store)
  const rows = (await store.getAll([tenantUserId(tenantId)])).get(tenantUserId(tenantId)) ?? []
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

/** @throws ERR_INVALID_ARGUMENT */
export function assertAge(olderThanMs: unknown): void {
  if (typeof olderThanMs !== 'number' || !(olderThanMs >= 0))
    throw invalidArgument(
      `olderThanMs must be a number of milliseconds, 0 or more, got ${kindOf(olderThanMs)}`,
    )
}

/** Whether any user is under a version of a tenant's key. @throws ERR_STORE if one of them cannot be read */
export async function isNeeded(store: KeyStore, tenantId: string, version: number): Promise<boolean> {
  return (await store.list({ kekId: tenantKekId({ tenantId, version }), limit: 1 })).length > 0
}
