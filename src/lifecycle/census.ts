/** Counts of rows, and which master keys they still need. */
import type { MasterKeyring } from '../master-keys/keyring.js'
import { isLocal } from '../master-keys/local.js'
import { type CensusOptions, type CensusRow, type KeyStore, MANY_TENANTS } from '../store.js'
import { isTenantRow, RESERVED_USER_ID_PREFIX } from '../table.js'
import { checkedOptions } from './long-work.js'

/**
 * Counts the rows by KEK id, key version and tombstone, sorted in that order. Needs no master key. Reads the whole table.
 *
 * Its length does not grow with the number of tenants: users under tenants' keys are counted together, under the KEK id `tenant:`, and so are
 * tenants' own rows (`ofTenants`), but for those under `rootIds`.
 *
 * @param options `rootIds`: the ids of master keys under which tenants' own rows are counted by themselves. Default: those of the first 1,000
 *   rows of tenants, if they are at most 100
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * for (const { kekId, version, shredded, count } of await census({ store })) console.log(kekId, version, shredded, count)
 */
export async function census(options: CensusOfStore): Promise<CensusRow[]> {
  options = checkedOptions(options, 'store')
  const { store, rootIds = await commonRootIds(store) } = options
  return (await store.census({ rootIds })).sort(compareCensusRows)
}

interface CensusOfStore extends CensusOptions {
  readonly store: KeyStore
}

const LOOKED_AT = 1000
const MOST_ROOTS = 100

/** The KEK ids of tenants' own rows, if there are few. Customers' own roots are as many as tenants: then none. */
export async function commonRootIds(store: KeyStore): Promise<string[]> {
  const after = { userId: RESERVED_USER_ID_PREFIX, version: 0 }
  const rows = await store.list({ after, limit: LOOKED_AT, onUnreadable: () => undefined })
  const ids = new Set(rows.filter(isTenantRow).flatMap(({ kekId }) => kekId ?? []))
  return ids.size > MOST_ROOTS ? [] : [...ids]
}

/** A census that names the master keys of a keyring where tenants' own rows are under them. */
export async function censusFor(store: KeyStore, keyring: MasterKeyring): Promise<CensusRow[]> {
  const rootIds = keyring.all.map(({ id }) => id)
  return (await store.census({ rootIds })).sort(compareCensusRows)
}

/** The order of a census: by KEK id, null first; then users before tenants' own rows; then by version; then live rows before tombstones. */
export function compareCensusRows(a: CensusRow, b: CensusRow): number {
  return (
    compareKekIds(a.kekId, b.kekId) ||
    Number(a.ofTenants ?? false) - Number(b.ofTenants ?? false) ||
    a.version - b.version ||
    Number(a.shredded) - Number(b.shredded)
  )
}

function compareKekIds(a: string | null, b: string | null): number {
  if (a === null || b === null) return Number(a !== null) - Number(b !== null)
  return a < b ? -1 : Number(a > b)
}

/** How many rows of the key store the census rows stand for. */
export function totalCount(rows: readonly CensusRow[]): number {
  return rows.reduce((sum, { count }) => sum + count, 0)
}

/** The same of live rows, and of those only the ones that `isCounted` is true of. */
export function liveCount(rows: readonly CensusRow[], isCounted: (row: CensusRow) => boolean): number {
  return totalCount(rows.filter((row) => !row.shredded && isCounted(row)))
}

/**
 * Whether rows still need a master key. Backups and pool tokens of format v2 may need it too, and no census knows:
 * see {@link RETIREMENT_WARNINGS}.
 */
export interface MasterKeyUse {
  /**
   * The id of the master key. For a key that was not given: the KEK id in the rows. Null for the rows of the Python
   * reference, which name no key.
   */
  readonly kekId: string | null
  /** Whether it is the primary of the keyring that was given. */
  readonly primary: boolean
  /** Live rows that name the key, in either wrap format. */
  readonly rows: number
  /** Whether no live row is wrapped under it. Backups from before may still need it. */
  readonly noRowNeedsIt: boolean
}

/** What to check before a master key is destroyed, because no census knows it. */
export const RETIREMENT_WARNINGS: readonly string[] = [
  'Pool tokens of format v2, if the application has ever used this format, are encrypted under the master key itself and are not ' +
    'counted here: keep the key until a re-encryption of them has reported 0 left',
  'Backups made before the rewrap need the old master key: keep the key as long as you keep them, or destroy them first',
]

/**
 * One entry for each master key of the keyring, primary first, then one for each KEK id that rows name and no given key has; none for tenants'
 * keys and tenants' own roots, which are no keys of the application.
 *
 * @param rows a census that names the keyring's ids: {@link censusFor}
 */
export function masterKeyUses(rows: readonly CensusRow[], keyring: MasterKeyring): MasterKeyUse[] {
  const live = new Map<string | null, number>()
  for (const { kekId, shredded, count } of rows)
    if (!shredded) live.set(kekId, (live.get(kekId) ?? 0) + count)
  const withoutId = live.get(null) ?? 0
  const uses = keyring.all.map((key): MasterKeyUse => {
    const ids = isLocal(key) ? [key.id, key.v2Id] : [key.id]
    const named = ids.reduce((sum, id) => sum + (live.get(id) ?? 0), 0)
    // A row without a KEK id may be wrapped under any local key.
    const needed = named > 0 || (withoutId > 0 && isLocal(key))
    return { kekId: key.id, primary: key === keyring.primary, rows: named, noRowNeedsIt: !needed }
  })
  for (const [kekId, count] of live) {
    if (kekId === MANY_TENANTS) continue
    if (kekId === null || keyring.find(kekId) === null)
      uses.push({ kekId, primary: false, rows: count, noRowNeedsIt: false })
  }
  return uses
}
