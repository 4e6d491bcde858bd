/** Counts of rows, and which master keys they still need. */
import type { MasterKeyring } from '../master-keys/keyring.js'
import { isLocal } from '../master-keys/local.js'
import type { CensusRow, KeyStore } from '../store.js'
import { checkedOptions } from './long-work.js'

/**
 * Counts the rows by KEK id, key version and tombstone, sorted in that order. Needs no master key. Reads the whole table.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * for (const { kekId, version, shredded, count } of await census({ store })) console.log(kekId, version, shredded, count)
 */
export async function census(options: { readonly store: KeyStore }): Promise<CensusRow[]> {
  options = checkedOptions(options, 'store')
  return (await options.store.census()).sort(compareCensusRows)
}

/** The order of a census: by KEK id, null first; then by version; then live rows before tombstones. */
export function compareCensusRows(a: CensusRow, b: CensusRow): number {
  return compareKekIds(a.kekId, b.kekId) || a.version - b.version || Number(a.shredded) - Number(b.shredded)
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
  readonly primary: boolean
  /** Live rows that name the key, in either wrap format. */
  readonly rows: number
  readonly noRowNeedsIt: boolean
}

/** What to check before a master key is destroyed, because no census knows it. */
export const RETIREMENT_WARNINGS: readonly string[] = [
  'Pool tokens of format v2, which only an application has that ever used this format of the Python reference, are encrypted under the ' +
    'master key itself and are not counted here: keep the key until a re-encryption of them has reported 0 left',
  'Backups made before the rewrap need the old master key: keep the key as long as you keep them, or destroy them first',
]

/** One entry for each master key of the keyring, primary first, then one for each KEK id that rows name and no given key has. */
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
    if (kekId === null || keyring.find(kekId) === null)
      uses.push({ kekId, primary: false, rows: count, noRowNeedsIt: false })
  }
  return uses
}
