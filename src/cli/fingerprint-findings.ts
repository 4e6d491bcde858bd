/** What `doctor --schema` finds out about fingerprints: it opens the service, which no other check of doctor needs. */
import { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { isKeystoreError } from '../errors.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { checkFingerprints } from '../reencrypt/check-fingerprints.js'
import type { ColumnFinding } from '../sources/sample.js'
import type { KeyStore } from '../store.js'
import { withoutLibraryAdvice } from './existing-store.js'
import { type AcceptOptions, acceptedBesides } from './options.js'
import type { RegisteredTable } from './schema-file.js'

export async function fingerprintFindings(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: AcceptOptions,
  tables: readonly RegisteredTable[],
): Promise<ColumnFinding[]> {
  const withFingerprints = tables.filter(({ plan }) => plan.fingerprints.length > 0)
  if (withFingerprints.length === 0) return []
  const formats = acceptedBesides(options)
  let envelope: EnvelopeCrypto
  try {
    envelope = await EnvelopeCrypto.open({
      ...{ store, masterKeys, closeStore: false, allowUnknownMasterKeys: true, mint: 'never' },
      accept: { keys: formats, tokens: formats },
    })
  } catch (error) {
    // What is wrong with the store has its own finding.
    if (!isKeystoreError(error)) throw error
    const reason = `Fingerprints were not compared with their values: ${withoutLibraryAdvice(error.message)}`
    return [{ severity: 'warning', kind: 'notChecked', reason }]
  }
  try {
    const findings: ColumnFinding[] = []
    for (const { name, plan, withColumns } of withFingerprints)
      findings.push(...(await checkFingerprints(envelope, name, withColumns(plan.shape.columns), plan)))
    return findings
  } finally {
    await envelope.close()
  }
}
