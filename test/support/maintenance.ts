/** The maintenance of stores, and what it and `verifyAll` find that does not depend on the machine. */
import {
  type Finding,
  type KeyStore,
  type MasterKeyring,
  type StoreFinding,
  type StoreMaintenance,
  verifyAll,
} from '../../src/index.js'

/** @throws if the store has none */
export function storeMaintenance({ maintenance }: KeyStore): StoreMaintenance {
  if (maintenance === undefined) throw new Error('the store has no maintenance')
  return maintenance
}

/** The findings that are errors: warnings depend on the machine. */
export const errorsOf = (findings: readonly StoreFinding[]) =>
  findings.filter(({ severity }) => severity === 'error')

/** What `verifyAll` finds, without what is said about the database's settings. */
export async function findingsOf(store: KeyStore, masterKeys: MasterKeyring): Promise<readonly Finding[]> {
  const { findings } = await verifyAll({ store, masterKeys })
  return findings.filter(({ kind }) => kind !== 'setting')
}
