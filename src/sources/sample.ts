/** Checks some rows of a table: registered columns must hold only tokens, and other columns none. */

import { printable } from '../errors.js'
import { isDamagedToken, isToken } from '../format/token.js'
import type { SqlTable, TableRow } from './table.js'

/** How many rows are checked at the beginning of the table, and at its end, where the newest rows often are. */
const FIRST_ROWS = 1000
const LAST_ROWS = 200

/** Something that is wrong with a column. */
export interface ColumnFinding {
  readonly severity: 'error' | 'warning'
  /**
   * - `plaintext`: a registered column holds a value that is no token: a leak
   * - `malformedToken`: a registered column holds a token that was cut or changed
   * - `unregistered`: another column holds tokens, which the sweep does not reach
   * - `wrongFingerprint`: a fingerprint is not that of its value
   * - `staleFingerprint`: a fingerprint is missing, or not under the version that fingerprints are made with
   * - `notChecked`: fingerprints that could not be compared
   */
  readonly kind:
    | 'plaintext'
    | 'malformedToken'
    | 'unregistered'
    | 'wrongFingerprint'
    | 'staleFingerprint'
    | 'notChecked'
  /** Names the table and the column, and quotes no value. */
  readonly reason: string
}

/** A thing that can be wrong with a column, and which values show it. */
interface ColumnCheck {
  readonly severity: ColumnFinding['severity']
  readonly kind: ColumnFinding['kind']
  /** What the values do, and what to do about it. */
  readonly text: string
  shows(value: unknown): boolean
}

const REGISTERED_CHECKS: readonly ColumnCheck[] = [
  {
    severity: 'error',
    kind: 'plaintext',
    text: 'hold plaintext: find out who writes it, and run npx keystore reencrypt --plaintext',
    shows: (value) => !isToken(value) && !isDamaged(value),
  },
  {
    severity: 'error',
    kind: 'malformedToken',
    text: 'are tokens that were cut or changed: restore them from a copy',
    shows: isDamaged,
  },
]
const OTHER_CHECKS: readonly ColumnCheck[] = [
  {
    severity: 'warning',
    kind: 'unregistered',
    text: 'hold tokens: name the column in defineEncrypted',
    shows: isToken,
  },
]

/**
 * Checks the first and the last rows of a table.
 *
 * @param name of the table, for the findings
 * @param withColumns gives access to some columns of the table
 * @param registered its registered columns
 * @param ignored columns that are not checked
 */
export async function sampleColumns(
  name: string,
  withColumns: (columns: readonly string[]) => SqlTable,
  registered: readonly string[],
  ignored: readonly string[] = [],
): Promise<ColumnFinding[]> {
  const table = withColumns(registered)
  const { key, owner } = table.shape
  const { columns } = await table.check()
  const others = columns
    .filter((column) => column.isText && ![...registered, ...ignored, ...key, owner].includes(column.name))
    .map((column) => column.name)
  const rows = await sampleRows(withColumns([...registered, ...others]))
  const findingsOf = (column: string, checks: readonly ColumnCheck[]): ColumnFinding[] =>
    checks.flatMap(({ severity, kind, text, shows }) => {
      const count = rows.filter(({ values }) => values[column] !== null && shows(values[column])).length
      const reason = `${printable(name)}, column ${printable(column)}: ${count} of ${rows.length} rows looked at ${text}`
      return count === 0 ? [] : [{ severity, kind, reason }]
    })
  return [
    ...registered.flatMap((column) => findingsOf(column, REGISTERED_CHECKS)),
    ...others.flatMap((column) => findingsOf(column, OTHER_CHECKS)),
  ]
}

function isDamaged(value: unknown): boolean {
  return typeof value === 'string' && isDamagedToken(value)
}

/** The first and the last rows of a table. */
export async function sampleRows(table: SqlTable): Promise<readonly TableRow[]> {
  const rows = new Map<string, TableRow>()
  const add = (some: readonly TableRow[]) => {
    for (const row of some)
      rows.set(
        JSON.stringify(row.key, (_, part) => (typeof part === 'bigint' ? `${part}` : part)),
        row,
      )
  }
  for await (const page of table.pages(FIRST_ROWS)) {
    add(page)
    break
  }
  add(await table.lastRows(LAST_ROWS))
  return [...rows.values()]
}
