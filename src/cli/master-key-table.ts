/** The table of master keys and the rows that still need them, which `rewrap` and `doctor` print last. */
import { type MasterKeyUse, RETIREMENT_WARNINGS } from '../lifecycle/census.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { kekName, plainTable, thousands } from './output.js'

/** Prints the retirement warnings too, if there is a previous key that no row needs. */
export function printMasterKeys(uses: readonly MasterKeyUse[], keyring: MasterKeyring): void {
  const table = plainTable(['master key', 'role', 'rows', 'needed by rows'])
  for (const { kekId, primary, rows, noRowNeedsIt } of uses) {
    const given = kekId !== null && keyring.find(kekId) !== null
    const role = primary ? 'primary' : given ? 'previous' : 'not given'
    table.push([kekName(kekId), role, thousands(rows), noRowNeedsIt ? 'no' : 'yes'])
  }
  console.log(table.toString())
  if (!uses.some(({ primary, noRowNeedsIt }) => !primary && noRowNeedsIt)) return
  console.log('Before a master key that no row needs is destroyed:')
  for (const warning of RETIREMENT_WARNINGS) console.log(`- ${warning}`)
}
