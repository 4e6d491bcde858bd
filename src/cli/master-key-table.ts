/** The table of master keys and the rows that still need them, which `rewrap` and `doctor` print last. */
import { type MasterKeyUse, RETIREMENT_WARNINGS } from '../lifecycle/census.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { kekName, thousands } from './output.js'
import { say } from './say.js'
import { printTable } from './tables.js'

/** Prints the retirement warnings too, if there is a previous key that no row needs. */
export function printMasterKeys(uses: readonly MasterKeyUse[], keyring: MasterKeyring): void {
  const table: string[][] = []
  for (const { kekId, primary, rows, noRowNeedsIt } of uses) {
    const given = kekId !== null && keyring.find(kekId) !== null
    const role = primary ? 'primary' : given ? 'previous' : 'not given'
    table.push([kekName(kekId), role, thousands(rows), needOf(role, rows, noRowNeedsIt)])
  }
  printTable(['master key', 'role', 'rows', 'still needed'], table)
  if (!uses.some(({ primary, noRowNeedsIt }) => !primary && noRowNeedsIt)) return
  say('Before a master key that no row needs is destroyed:')
  for (const warning of RETIREMENT_WARNINGS) say(`- ${warning}`)
}

/** In words that cannot be taken for their contrary. */
function needOf(role: string, rows: number, noRowNeedsIt: boolean): string {
  if (role === 'primary') return 'yes: it wraps new keys'
  if (noRowNeedsIt) return 'no: no row is under it'
  return rows === 1 ? 'yes: a row is under it' : 'yes: rows are under it'
}
