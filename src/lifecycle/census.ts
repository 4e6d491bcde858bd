/** Who needs which master key. */

import type { MasterKeyring } from '../master-keys/keyring.js'
import { isLocal } from '../master-keys/local.js'
import type { CensusRow, KeyStore } from '../store.js'
import { assertOptions } from './long-work.js'

/**
 * Counts by KEK id, key version and tombstone, in that order. Reads the whole table, and needs no master key.
 *
 * @throws ERR_INVALID_ARGUMENT · ERR_STORE · ERR_CLOSED
 * @example
 * for (const { kekId, version, shredded, count } of await census({ store })) console.log(kekId, version, shredded, count)
 */
export async function census(options: { readonly store: KeyStore }): Promise<CensusRow[]> {
  assertOptions(options, 'store')
  return (await options.store.census()).sort(inCensusOrder)
}

/** By KEK id, rows without one first, then by version, live before shredded. */
export function inCensusOrder(a: CensusRow, b: CensusRow): number {
  return compareKekIds(a.kekId, b.kekId) || a.version - b.version || Number(a.shredded) - Number(b.shredded)
}

function compareKekIds(a: string | null, b: string | null): number {
  if (a === null || b === null) return Number(a !== null) - Number(b !== null)
  return a < b ? -1 : Number(a > b)
}

/** Whether a master key is still needed to open rows. Says nothing about backups and v2 pool tokens: see {@link RETIREMENT_WARNINGS}. */
export interface MasterKeyUse {
  /** The master key's id; of one that was not given the KEK id in the rows, null for the reference's rows that open under none. */
  readonly kekId: string | null
  readonly primary: boolean
  /** Live rows that name it, in either wrap format. */
  readonly rows: number
  readonly noRowNeedsIt: boolean
}

/** What a census cannot know, to be read before a master key is destroyed. */
export const RETIREMENT_WARNINGS: readonly string[] = [
  'Pool tokens of format v2 are encrypted under the master key itself and are not counted here: keep it until a re-encryption of ' +
    'them has reported 0 left',
  'Backups made before the rewrap need the old master key: keep it as long as them, or destroy them first',
]

/** One entry for each master key given, primary first, then for each that rows need and nobody gave. */
export function masterKeyUses(rows: readonly CensusRow[], keyring: MasterKeyring): MasterKeyUse[] {
  const live = new Map<string | null, number>()
  for (const { kekId, shredded, count } of rows)
    if (!shredded) live.set(kekId, (live.get(kekId) ?? 0) + count)
  const withoutId = live.get(null) ?? 0
  const uses = keyring.all.map((key): MasterKeyUse => {
    const ids = isLocal(key) ? [key.id, key.v2Id] : [key.id]
    const named = ids.reduce((sum, id) => sum + (live.get(id) ?? 0), 0)
    // A row without a KEK id may be under any local key.
    const needed = named > 0 || (withoutId > 0 && isLocal(key))
    return { kekId: key.id, primary: key === keyring.primary, rows: named, noRowNeedsIt: !needed }
  })
  for (const [kekId, count] of live) {
    if (kekId === null || keyring.find(kekId) === null)
      uses.push({ kekId, primary: false, rows: count, noRowNeedsIt: false })
  }
  return uses
}
