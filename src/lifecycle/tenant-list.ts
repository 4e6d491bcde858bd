/** Pages of tenants, by their own rows. Needs no master key, and costs what reading these rows costs, however many users there are. */
import type { KeyStore, UnreadableRow } from '../store.js'
import { isTombstone, type KeyRecord, MAX_KEY_VERSION, tenantIdOf, tenantUserId } from '../table.js'

/** One version of a tenant's key. */
export interface TenantVersion
  extends Pick<KeyRecord, 'version' | 'kekId' | 'createdAt' | 'wrappedAt' | 'shreddedAt'> {}

export interface ListedTenant {
  readonly tenantId: string
  /** Whether the tenant was shredded, and its users with it. */
  readonly shredded: boolean
  /** Ascending. The last one wraps new keys of the tenant's users. */
  readonly versions: readonly TenantVersion[]
}

/** One page, in the order of the ids' UTF-8 bytes. */
export interface TenantPage {
  readonly tenants: readonly ListedTenant[]
  /** The id after which the next page begins; null: this is the last one. */
  readonly next: string | null
  /** Rows on the way that are no records. */
  readonly unreadable: readonly UnreadableRow[]
}

/** Rows read at once. */
const ROWS = 1000

/** @param after a tenant's id; the page begins behind it @throws ERR_STORE · ERR_CLOSED */
export async function tenantPage(
  store: KeyStore,
  { after = '', limit }: { readonly after?: string | undefined; readonly limit: number },
): Promise<TenantPage> {
  const unreadable: UnreadableRow[] = []
  const byTenant = new Map<string, KeyRecord[]>()
  const isLast = async () => {
    for await (const { tenantId, row } of tenantRowsOf(store, after, (row) => void unreadable.push(row))) {
      const rows = byTenant.get(tenantId)
      if (rows !== undefined) rows.push(row)
      else if (byTenant.size === limit) return false
      else byTenant.set(tenantId, [row])
    }
    return true
  }
  const next = (await isLast()) ? null : ([...byTenant.keys()].at(-1) ?? null)
  return { tenants: [...byTenant].map(([tenantId, rows]) => tenantOfRows(tenantId, rows)), next, unreadable }
}

/** Tenants' own rows are the first of the store but for the pool's. */
async function* tenantRowsOf(
  store: KeyStore,
  afterTenant: string,
  onUnreadable: (row: UnreadableRow) => void,
): AsyncGenerator<{ readonly tenantId: string; readonly row: KeyRecord }, void, undefined> {
  for (let after = { userId: tenantUserId(afterTenant), version: MAX_KEY_VERSION }; ; ) {
    const rows = await store.list({
      after,
      limit: ROWS,
      // Of a row whose id is not the stored one nobody can say whose it is.
      onUnreadable: (row) => row.hasId && tenantIdOf(row.userId) !== null && onUnreadable(row),
    })
    for (const row of rows) {
      const tenantId = tenantIdOf(row.userId)
      if (tenantId === null) return
      yield { tenantId, row }
    }
    const last = rows.at(-1)
    if (last === undefined) return
    after = { userId: last.userId, version: last.version }
  }
}

/** @param rows of the tenant's own key, by version */
export function tenantOfRows(tenantId: string, rows: readonly KeyRecord[]): ListedTenant {
  return {
    tenantId,
    shredded: rows.some(isTombstone),
    versions: rows.map(({ version, kekId, createdAt, wrappedAt, shreddedAt }) => {
      return { version, kekId, createdAt, wrappedAt, shreddedAt }
    }),
  }
}
