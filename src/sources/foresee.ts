/** What becomes of new values in a table, before they are written: what refuses them, and what they set off. */
import { printable } from '../errors.js'
import type { SourceFinding } from './finding.js'
import type { ColumnChange, SqlTable } from './table.js'
import { keyText } from './value-source.js'

/** A column as the caller calls it, and as the database does. */
interface NamedColumn {
  readonly name: string
  readonly column: string
}

/** @param changes of this column, which are made and taken back */
export async function foresee(
  table: SqlTable,
  column: NamedColumn,
  changes: readonly ColumnChange[],
): Promise<SourceFinding[]> {
  return [...(await refusals(table, column, changes)), ...(await warnings(table, column))]
}

/** What refuses changes of one column, with the key of the first row that it refuses. */
async function refusals(
  table: SqlTable,
  { name: column }: NamedColumn,
  changes: readonly ColumnChange[],
): Promise<SourceFinding[]> {
  let refusal = await table.tryOut(changes)
  if (refusal === null) return []
  let at = ''
  for (const change of changes) {
    const alone = await table.tryOut([change])
    if (alone === null) continue
    refusal = alone
    at = ` (row ${printable(keyText(change.key))})`
    break
  }
  const { kind, reason } = refusal
  return [{ severity: 'error', kind, column, reason: `column ${printable(column)}${at}: ${reason}` }]
}

async function warnings(
  table: SqlTable,
  { name: column, column: stored }: NamedColumn,
): Promise<SourceFinding[]> {
  const { triggers, generated } = await table.sideEffects()
  const warning = (kind: SourceFinding['kind'], text: string): SourceFinding => ({
    severity: 'warning',
    kind,
    column,
    reason: `column ${printable(column)}: ${text}`,
  })
  return [
    ...triggers.map((name) =>
      warning(
        'trigger',
        `trigger ${printable(name)} may run at each write: see that it keeps no plaintext elsewhere`,
      ),
    ),
    ...generated
      .filter(([, of]) => of === null || of === stored)
      .map(([name, of]) =>
        warning(
          'generated',
          `generated column ${printable(name)} ${of === null ? 'may be' : 'is'} made of it, and will be made of a token`,
        ),
      ),
  ]
}
