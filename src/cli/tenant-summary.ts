/** What a census says of tenants, in one line: `status` and `doctor` print it. */
import { liveCount, totalCount } from '../lifecycle/census.js'
import { type CensusRow, MANY_TENANTS } from '../store.js'
import { counted, thousands } from './output.js'

/** @returns null if the store has no tenants, and nothing under their keys */
export function tenantSummary(rows: readonly CensusRow[]): string | null {
  const own = rows.filter(({ ofTenants }) => ofTenants)
  const keysOfUsers = liveCount(rows, ({ kekId, ofTenants }) => kekId === MANY_TENANTS && !ofTenants)
  if (own.length === 0 && keysOfUsers === 0) return null
  // Versions of a tenant's key are never pruned: each tenant has a row of version 1, live or a tombstone.
  const first = own.filter(({ version }) => version === 1)
  const shredded = totalCount(first.filter(({ shredded }) => shredded))
  return (
    `${counted(totalCount(first), 'tenant')}${shredded > 0 ? ` (${thousands(shredded)} shredded)` : ''}${rootsText(own)}, ` +
    `${counted(keysOfUsers, 'key')} of users under tenants' keys: npx keystore tenants lists them`
  )
}

/** Of many roots some are counted together. */
function rootsText(own: readonly CensusRow[]): string {
  const ids = new Set(own.filter(({ shredded }) => !shredded).map(({ kekId }) => kekId))
  const others = ids.delete(MANY_TENANTS)
  if (ids.size === 0) return others ? ' under roots of their own' : ''
  return ` under ${counted(ids.size, 'root')}${others ? ' and others' : ''}`
}
