/** Tenants as their rows show them, with the keys that are under theirs. Needs no master key. */
import { invalidArgument } from '../errors.js'
import { tenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { tenantUserId } from '../table.js'
import { assertTenantId } from '../validate.js'
import { checkedOptions, maintenanceOf, versionsOf } from './long-work.js'
import { type ListedTenant, type TenantVersion, tenantOfRows, tenantPage } from './tenant-list.js'

/** One version of a tenant's key, with what is under it. */
export interface TenantKeyState extends TenantVersion {
  /** Live keys of users under it, each of their versions counted. */
  readonly keys: number
}

/** A tenant that has keys of its own, and its versions. */
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
  const rows = await versionsOf(store, tenantUserId(tenantId))
  if (rows.length === 0) return null
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
