/** Checks stored fingerprints in a sample of rows: whether each is the one that is made of its value now. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { printable } from '../errors.js'
import { fingerprintVersion } from '../format/fingerprint.js'
import { type ColumnFinding, sampleRows } from '../sources/sample.js'
import type { SqlTable } from '../sources/table.js'
import { cellsOf, type TableView, type ViewFingerprint } from '../sources/table-source.js'
import { valueRefKey } from '../sources/value-source.js'
import { OwnerKeys } from './owner-keys.js'
import { compareFingerprint, type FingerprintCell, type FoundValue } from './sweep-fingerprints.js'
import { isFingerprint, openValues } from './sweep-page.js'

/** What is wrong with a fingerprint. */
type Fault = 'noFingerprint' | 'wrong' | 'ofNoValue' | 'missing' | 'pruned' | 'otherVersion'

const FAULTS: Readonly<Record<Fault, Pick<ColumnFinding, 'severity' | 'kind'> & { readonly text: string }>> =
  {
    noFingerprint: {
      severity: 'error',
      kind: 'plaintext',
      text: 'hold no fingerprint, and perhaps plaintext: find out who writes it, and run npx keystore reencrypt',
    },
    wrong: {
      severity: 'error',
      kind: 'wrongFingerprint',
      text: 'hold a fingerprint that is not that of their value, so that look-ups go wrong: find out who writes past the column, and run npx keystore reencrypt',
    },
    ofNoValue: {
      severity: 'error',
      kind: 'wrongFingerprint',
      text: 'hold a fingerprint and no value: run npx keystore reencrypt',
    },
    pruned: {
      severity: 'error',
      kind: 'staleFingerprint',
      text: 'hold a fingerprint under a version of the key that was pruned, which no look-up finds: run npx keystore reencrypt',
    },
    missing: {
      severity: 'warning',
      kind: 'staleFingerprint',
      text: 'lack the fingerprint of their value: run npx keystore reencrypt',
    },
    otherVersion: {
      severity: 'warning',
      kind: 'staleFingerprint',
      text: 'hold a fingerprint under a higher version than it is made with now: go on with the prune, or run npx keystore reencrypt',
    },
  }

/**
 * Checks the first and the last rows of a table. Fingerprints of values that do not decrypt are left out: the values are for the sweep to name.
 *
 * @param name of the table, for the findings
 * @throws errors that concern more than one value: an outage
 */
export async function checkFingerprints<Row>(
  envelope: EnvelopeCrypto,
  name: string,
  table: SqlTable,
  view: TableView<Row> & { readonly fingerprints: readonly ViewFingerprint[] },
): Promise<ColumnFinding[]> {
  const rows = await sampleRows(table)
  const cells = rows.flatMap((row) => cellsOf(row, view))
  const keys = new OwnerKeys(envelope)
  const job = {
    envelope,
    legacy: [],
    plaintext: false,
    ciphertextAsPlaintext: false,
    contextOf: () => ({}),
    previousContexts: [],
    pool: view.pool,
  }
  const found = await openValues<Row>(job, cells, keys)
  const counts = new Map<string, Map<Fault, number>>()
  try {
    const values = new Map(found.map((value) => [valueRefKey(value.value), value]))
    for (const cell of cells.filter(isFingerprint<Row>)) {
      const value = values.get(valueRefKey({ key: cell.key, column: cell.fingerprint.of }))
      const fault = value === undefined ? null : await faultOf(cell, value, keys)
      const ofColumn = counts.get(cell.column) ?? new Map<Fault, number>()
      if (fault !== null) counts.set(cell.column, ofColumn.set(fault, (ofColumn.get(fault) ?? 0) + 1))
    }
  } finally {
    for (const { plaintext } of found) plaintext?.fill(0)
  }
  return view.fingerprints.flatMap(({ name: property, column }) =>
    Object.entries(FAULTS).flatMap(([fault, { severity, kind, text }]): ColumnFinding[] => {
      const count = counts.get(property)?.get(fault as Fault) ?? 0
      const reason = `${printable(name)}, column ${printable(column)}: ${count.toLocaleString('en')} of ${rows.length.toLocaleString('en')} rows looked at ${text}`
      return count === 0 ? [] : [{ severity, kind, reason }]
    }),
  )
}

async function faultOf<Row>(
  cell: FingerprintCell<Row>,
  found: FoundValue<Row>,
  keys: OwnerKeys,
): Promise<Fault | null> {
  const { value: stored, fingerprint } = cell
  const version = typeof stored === 'string' ? fingerprintVersion(stored, fingerprint.kind) : null
  if (typeof stored === 'string' && version === null) return 'noFingerprint'
  const comparison = await compareFingerprint(cell, found, keys, 'lowest')
  if (!('wanted' in comparison) || comparison.wanted === undefined) return null
  if (stored === null || stored === undefined) return 'missing'
  if (comparison.wanted === null || version === null) return 'ofNoValue'
  const { owner } = found.value
  if (!keys.of(owner).versions.includes(version)) return 'pruned'
  const isOther = (await compareFingerprint(cell, found, keys, version)).state === 'current'
  return isOther ? 'otherVersion' : 'wrong'
}
