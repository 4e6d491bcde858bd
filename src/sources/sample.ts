/** Looks at some rows of a table: whether its columns hold tokens only, and whether others hold any. */

import { isEncrypted, isToken } from '../format/token.js'
import type { SqlTable, TableRow } from './table.js'

/** How many rows are looked at: at the beginning of the table, and at its end, where the newest often are. */
const FIRST_ROWS = 1000
const LAST_ROWS = 200

/** One thing that is wrong with a column. */
export interface ColumnFinding {
  readonly severity: 'error' | 'warning'
  /**
   * - `plaintext`: a registered column holds what is no token: a leak
   * - `malformedToken`: it holds what begins like a token and can be none
   * - `unregistered`: another column holds tokens: the sweep does not reach them
   */
  readonly kind: 'plaintext' | 'malformedToken' | 'unregistered'
  /** Names table and column, and shows no value. */
  readonly reason: string
}

/**
 * @param name of the table, for people
 * @param withColumns the table with some of its columns
 * @param registered its registered columns
 * @param ignored columns that are not looked at
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
  const rows = await sampleOf(withColumns([...registered, ...others]))
  const findings: ColumnFinding[] = []
  const count = (column: string, which: (value: unknown) => boolean) =>
    rows.filter(({ values }) => values[column] !== null && which(values[column])).length
  const add = (
    severity: ColumnFinding['severity'],
    kind: ColumnFinding['kind'],
    column: string,
    values: number,
    what: string,
  ) => {
    if (values === 0) return
    findings.push({
      severity,
      kind,
      reason: `${name}, column ${column}: ${values} of ${rows.length} rows looked at ${what}`,
    })
  }
  for (const column of registered) {
    const plain = count(column, (value) => !isEncrypted(value))
    const malformed = count(column, (value) => isEncrypted(value) && !isToken(value))
    add(
      'error',
      'plaintext',
      column,
      plain,
      'hold plaintext: find out who writes it, and run keystore reencrypt --plaintext',
    )
    add(
      'error',
      'malformedToken',
      column,
      malformed,
      'begin like a token and can be none: they were cut or changed',
    )
  }
  for (const column of others)
    add(
      'warning',
      'unregistered',
      column,
      count(column, isToken),
      'hold tokens: name the column in defineEncrypted',
    )
  return findings
}

async function sampleOf(table: SqlTable): Promise<readonly TableRow[]> {
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
