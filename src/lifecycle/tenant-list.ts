/** Lists tenants by their own rows. Needs no master key, and its cost is that of the rows listed, however many users there are. */
import type { KeyStore, UnreadableRow } from '../store.js'
import { isTombstone, type KeyRecord, MAX_KEY_VERSION, tenantIdOf, tenantUserId } from '../table.js'

/** What the rows say of a tenant. */
export interface ListedTenant {
  readonly tenantId: string
  /** The versions of its key, ascending: of its tombstones if it was shredded. */
  readonly versions: readonly number[]
  /** The roots that wrap them. Several: a move was interrupted, or goes on. */
  readonly kekIds: readonly (string | null)[]
  /** When the lowest version was made. */
  readonly createdAt: Date
  readonly shreddedAt: Date | null
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
export async function listTenants(
  store: KeyStore,
  { after = '', limit }: { readonly after?: string | undefined; readonly limit: number },
): Promise<TenantPage> {
  const unreadable: UnreadableRow[] = []
  const byTenant = new Map<string, KeyRecord[]>()
  for await (const { tenantId, row } of tenantRowsOf(store, after, (row) => void unreadable.push(row))) {
    const rows = byTenant.get(tenantId)
    if (rows !== undefined) rows.push(row)
    else if (byTenant.size === limit) return page(byTenant, unreadable, true)
    else byTenant.set(tenantId, [row])
  }
  return page(byTenant, unreadable, false)
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

function page(
  byTenant: ReadonlyMap<string, readonly KeyRecord[]>,
  unreadable: readonly UnreadableRow[],
  more: boolean,
): TenantPage {
  const tenants = [...byTenant].map(([tenantId, rows]) => listed(tenantId, rows))
  return { tenants, next: more ? (tenants.at(-1)?.tenantId ?? null) : null, unreadable }
}

function listed(tenantId: string, rows: readonly KeyRecord[]): ListedTenant {
  const tombstone = rows.find(isTombstone)
  return {
    tenantId,
    versions: rows.map(({ version }) => version),
    kekIds: [...new Set(rows.map(({ kekId }) => kekId))],
    // A tenant has a row, or it would not be here.
    createdAt: (rows[0] as KeyRecord).createdAt,
    shreddedAt: tombstone?.shreddedAt ?? null,
  }
}
