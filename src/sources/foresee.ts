/** What becomes of new values in a table, before they are written: what refuses them, and what they set off. */
import { printable } from '../errors.js'
import type { Refusal, SourceFinding } from './finding.js'
import type { ColumnChange, SqlTable } from './table.js'
import { keyText } from './value-source.js'

/** A column as the caller calls it, and as the database does. */
interface NamedColumn {
  readonly name: string
  readonly column: string
}

/** So many fields of a refused JSON are tried alone, to name the one that is refused. */
const MAX_TRIED_FIELDS = 20

/** A change of what a column holds. */
export interface TriedChange {
  readonly change: ColumnChange
  /** Of a JSON: changes of it in which one field alone is new, with the field's name. */
  fieldsAlone(limit: number): readonly { readonly name: string; readonly change: ColumnChange }[]
}

/** @param changes of this column, which are made and taken back */
export async function foresee(
  table: SqlTable,
  column: NamedColumn,
  changes: readonly TriedChange[],
): Promise<SourceFinding[]> {
  return [...(await refusals(table, column, changes)), ...(await warnings(table, column))]
}

/** What refuses changes of one column, with the key of the first row that it refuses. */
async function refusals(
  table: SqlTable,
  { name }: NamedColumn,
  changes: readonly TriedChange[],
): Promise<SourceFinding[]> {
  const refusal = await table.tryOut(changes.map(({ change }) => change))
  if (refusal === null) return []
  const finding = ({ kind, reason }: Refusal, column: string, at = ''): SourceFinding[] => [
    { severity: 'error', kind, column, reason: `column ${printable(column)}${at}: ${reason}` },
  ]
  for (const { change, fieldsAlone } of changes) {
    const alone = await table.tryOut([change])
    if (alone === null) continue
    const at = ` (row ${printable(keyText(change.key))})`
    for (const field of fieldsAlone(MAX_TRIED_FIELDS)) {
      const ofField = await table.tryOut([field.change])
      if (ofField !== null) return finding(ofField, field.name, at)
    }
    return finding(alone, name, at)
  }
  return finding(refusal, name)
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
