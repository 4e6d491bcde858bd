/** What `keystore doctor --schema` finds in the columns of an application, and how many rows it looked at. */
import { isKeystoreError, printable } from '../errors.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { type ColumnFinding, sampleColumns } from '../sources/sample.js'
import type { KeyStore } from '../store.js'
import { fingerprintFindings } from './fingerprint-findings.js'
import { type SchemaOptions, schemaTables, type UnregisteredTable, withHost } from './schema-file.js'

/** How much of a registered column was looked at. */
export interface ColumnCoverage {
  readonly table: string
  readonly column: string
  readonly rowsLookedAt: number
  /** Of the whole table. */
  readonly rows: number
}

export interface ColumnReport {
  readonly findings: readonly ColumnFinding[]
  readonly columns: readonly ColumnCoverage[]
}

/** @throws ERR_INVALID_ARGUMENT if the schema is not that of the database */
export async function checkColumns(
  store: KeyStore,
  masterKeys: MasterKeyring,
  schema: string,
  options: SchemaOptions & Parameters<typeof fingerprintFindings>[2],
): Promise<ColumnReport> {
  return withHost(options, async (host) => {
    const findings: ColumnFinding[] = []
    const columns: ColumnCoverage[] = []
    const { registered, unregistered } = await schemaTables(schema, options, host)
    for (const { name, plan, withColumns } of registered) {
      const { shape } = plan
      const fields = new Map(
        plan.columns.flatMap(({ column, fields }) => (fields ? [[column, fields] as const] : [])),
      )
      const sample = await sampleColumns(name, withColumns, shape.columns, shape.fingerprints, fields)
      findings.push(...sample.findings)
      const rows = Math.max(sample.rows, await withColumns(shape.columns).countRows())
      columns.push(
        ...shape.columns.map((column) => ({ table: name, column, rowsLookedAt: sample.rows, rows })),
      )
    }
    findings.push(...(await fingerprintFindings(store, masterKeys, options, registered)))
    for (const table of unregistered) findings.push(...(await checkUnregistered(table)))
    return { findings, columns }
  })
}

async function checkUnregistered({
  name,
  encrypted,
  withColumns,
}: UnregisteredTable): Promise<readonly ColumnFinding[]> {
  const unregistered = encrypted.map((column) => ({
    severity: 'warning' as const,
    kind: 'unregistered' as const,
    reason: `${printable(name)}, column ${printable(column)}: it is an encrypted column, and no defineEncrypted names its table`,
  }))
  if (withColumns === null) return unregistered
  try {
    return [...unregistered, ...(await sampleColumns(name, withColumns, [], encrypted)).findings]
  } catch (error) {
    // The schema may have tables and columns that this database does not have, or not yet.
    if (isKeystoreError(error) && error.code === 'ERR_INVALID_ARGUMENT') return unregistered
    throw error
  }
}
