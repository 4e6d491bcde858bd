/** What a store says of its tenants, in one line: `status` and `doctor` print it. */
import { liveCount, totalCount } from '../lifecycle/census.js'
import { tenantPage } from '../lifecycle/tenant-list.js'
import { type CensusRow, type KeyStore, MANY_TENANTS } from '../store.js'
import { counted, thousands } from './output.js'

/** So many tenants are counted one by one. Of more the census says how many there are at least. */
const COUNTED_TENANTS = 1000

/** @returns null if the store has no tenants, and nothing under their keys */
export async function tenantSummary(store: KeyStore, rows: readonly CensusRow[]): Promise<string | null> {
  const own = rows.filter(({ ofTenants }) => ofTenants)
  const keysOfUsers = liveCount(rows, ({ kekId, ofTenants }) => kekId === MANY_TENANTS && !ofTenants)
  if (own.length === 0 && keysOfUsers === 0) return null
  const { tenants, next } = await tenantPage(store, { limit: COUNTED_TENANTS })
  const [least, count, shredded] =
    next === null
      ? ['', tenants.length, tenants.filter((tenant) => tenant.shredded).length]
      : ['at least ', leastOf(own), leastOf(own.filter((row) => row.shredded))]
  const ofThem = shredded > 0 ? ` (${thousands(shredded)} shredded)` : ''
  return (
    `${least}${counted(count, 'tenant')}${ofThem}${rootsText(own)}, ` +
    `${counted(keysOfUsers, 'key')} of users under tenants' keys: npx keystore tenants lists them`
  )
}

/** Each tenant has at most one row of each version. Not all have the first one, since earlier versions can be pruned. */
function leastOf(own: readonly CensusRow[]): number {
  const versions = new Set(own.map(({ version }) => version))
  return Math.max(
    0,
    ...[...versions].map((version) => totalCount(own.filter((row) => row.version === version))),
  )
}

/** Of many roots some are counted together. */
function rootsText(own: readonly CensusRow[]): string {
  const ids = new Set(own.filter(({ shredded }) => !shredded).map(({ kekId }) => kekId))
  const others = ids.delete(MANY_TENANTS)
  if (ids.size === 0) return others ? ' under roots of their own' : ''
  return ` under ${counted(ids.size, 'root')}${others ? ' and others' : ''}`
}
