/** The maintenance of stores, and the errors among what its `inspect` finds. */
import type { KeyStore, StoreFinding, StoreMaintenance } from '../../src/index.js'

/** @throws if the store has none */
export function storeMaintenance({ maintenance }: KeyStore): StoreMaintenance {
  if (maintenance === undefined) throw new Error('the store has no maintenance')
  return maintenance
}

/** The findings that are errors: warnings depend on the machine. */
export const errorsOf = (findings: readonly StoreFinding[]) =>
  findings.filter(({ severity }) => severity === 'error')
