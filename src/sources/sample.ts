/** Checks some rows of a table: registered columns must hold only tokens, and other columns none. */

import { printable } from '../errors.js'
import { isDamagedToken, isToken } from '../format/token.js'
import type { FieldPath } from './field-path.js'
import { fieldValues, tokenElsewhere } from './sample-fields.js'
import type { SqlTable, TableRow } from './table.js'
import { keyText } from './value-source.js'

/** How many rows are checked at the beginning of the table, and at its end, where the newest rows often are. */
const FIRST_ROWS = 1000
const LAST_ROWS = 200

/** Something that is wrong with a column. */
export interface ColumnFinding {
  readonly severity: 'error' | 'warning'
  /**
   * - `plaintext`: a registered column holds a value that is no token: a leak
   * - `malformedToken`: a registered column holds a token that was cut or changed
   * - `unregistered`: another column, or another field of a JSON column, holds tokens, which the sweep does not reach
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

/** What was found in a sample of a table. */
export interface ColumnSample {
  readonly findings: readonly ColumnFinding[]
  /** How many rows were looked at. */
  readonly rows: number
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
/** What has to be JSON, and is none: its fields can be neither read nor swept. */
const NO_JSON = 'hold what is no JSON: find out who writes it'

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
 * @param fields of registered columns that hold JSON: the paths of their registered fields, by column
 */
export async function sampleColumns(
  name: string,
  withColumns: (columns: readonly string[]) => SqlTable,
  registered: readonly string[],
  ignored: readonly string[] = [],
  fields: ReadonlyMap<string, readonly FieldPath[]> = new Map(),
): Promise<ColumnSample> {
  const table = withColumns(registered)
  const { key, owner } = table.shape
  const { columns } = await table.check()
  const others = columns
    .filter((column) => column.isText && ![...registered, ...ignored, ...key, owner].includes(column.name))
    .map((column) => column.name)
  const rows = await sampleRows(withColumns([...registered, ...others]))
  const finding = (
    where: string,
    { severity, kind, text }: Omit<ColumnCheck, 'shows'>,
    count: number,
  ): ColumnFinding[] => {
    const reason = `${printable(name)}, ${where}: ${count.toLocaleString('en')} of ${rows.length.toLocaleString('en')} rows looked at ${text}`
    return count === 0 ? [] : [{ severity, kind, reason }]
  }
  const countOf = (column: string, shows: (value: unknown) => boolean) =>
    rows.filter(({ values }) => values[column] !== null && shows(values[column])).length
  const findingsOf = (column: string, checks: readonly ColumnCheck[]) =>
    checks.flatMap((check) => finding(`column ${printable(column)}`, check, countOf(column, check.shows)))
  const fieldFindings = (column: string, paths: readonly FieldPath[]) => {
    const place = `column ${printable(column)}`
    const noJson = countOf(column, (stored) => fieldValues(stored, []) === null)
    const inFields = paths.flatMap((path) =>
      REGISTERED_CHECKS.flatMap((check) => {
        const count = countOf(column, (stored) =>
          (fieldValues(stored, [path]) ?? []).some((value) => value !== null && check.shows(value)),
        )
        return finding(`${place}, field ${printable(path.join('.'))}`, check, count)
      }),
    )
    const elsewhere = rows.flatMap(({ values }) => tokenElsewhere(values[column], paths) ?? [])
    const text = `hold a token in a field that is not registered, such as ${printable(elsewhere[0] ?? '')}: name it in the paths of encryptedFields`
    return [
      ...finding(place, { severity: 'error', kind: 'plaintext', text: NO_JSON }, noJson),
      ...inFields,
      ...finding(place, { severity: 'warning', kind: 'unregistered', text }, elsewhere.length),
    ]
  }
  const findings = [
    ...registered.flatMap((column) => {
      const paths = fields.get(column)
      return paths === undefined ? findingsOf(column, REGISTERED_CHECKS) : fieldFindings(column, paths)
    }),
    ...others.flatMap((column) => findingsOf(column, OTHER_CHECKS)),
  ]
  return { findings, rows: rows.length }
}

function isDamaged(value: unknown): boolean {
  return typeof value === 'string' && isDamagedToken(value)
}

/** The first and the last rows of a table. */
export async function sampleRows(table: SqlTable): Promise<readonly TableRow[]> {
  const rows = new Map<string, TableRow>()
  const add = (some: readonly TableRow[]) => {
    for (const row of some) rows.set(keyText(row.key), row)
  }
  for await (const page of table.pages(FIRST_ROWS)) {
    add(page)
    break
  }
  add(await table.lastRows(LAST_ROWS))
  return [...rows.values()]
}
