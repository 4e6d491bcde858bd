/** Makes a table a source of values for the sweep. */
import type { ContextOf } from '../format/context.js'
import { FieldCells, originKey } from './field-cells.js'
import type { FieldPath } from './field-path.js'
import type { ColumnChange, SqlTable, TableRow } from './table.js'
import type { FingerprintRole, ValueCell, ValueSource } from './value-source.js'

/** A column with values. */
interface ViewColumn<Row> {
  /** What the caller calls it, and the sweep's report. */
  readonly name: string
  /** What the database calls it. */
  readonly column: string
  readonly context: ContextOf<Row> | undefined
  /** Of a JSON column: the paths of the fields that are its values. It has a context then. */
  readonly fields?: readonly FieldPath[] | undefined
}

/** A column with fingerprints. `of` is the name of the column with their values. */
export interface ViewFingerprint extends FingerprintRole {
  readonly name: string
  readonly column: string
}

/** How the caller sees the table's rows. */
interface TableView<Row> {
  readonly columns: readonly ViewColumn<Row>[]
  readonly fingerprints?: readonly ViewFingerprint[]
  /** Whether values whose owner is null belong to the shared pool. */
  readonly pool: boolean
  /** Makes what context functions and legacy readers are given. */
  rowOf(values: TableRow['values']): Row
  /** Closes the connection, if it is the source's own. */
  close?(): Promise<void>
}

export function tableSource<Row>(table: SqlTable, view: TableView<Row>): ValueSource<Row> {
  const { fingerprints = [] } = view
  const all = [...view.columns, ...fingerprints]
  const columnNames = new Map(all.map(({ name, column }) => [name, column]))
  const viewNames = new Map(all.map(({ name, column }) => [column, name]))
  const columnOf = (name: string) => columnNames.get(name) ?? name
  const fields = new FieldCells()
  const replace = async (changes: readonly ColumnChange[]) =>
    (await table.replace(changes)).map(({ key, column }) => ({
      key,
      column: viewNames.get(column) ?? column,
    }))
  return {
    pool: view.pool,
    async *pages({ limit }) {
      for await (const rows of table.pages(limit)) {
        fields.clear()
        yield rows.flatMap((row) => cellsOf(row, view, fields))
      }
    },
    async replace(changes) {
      const wholes = new Map(
        fields.wholeChanges(changes).map((whole) => [originKey(whole.change), whole] as const),
      )
      const replaced = await replace(
        Array.from(wholes.values(), ({ change }) => ({ ...change, column: columnOf(change.column) })),
      )
      return replaced.flatMap((ref) => wholes.get(originKey(ref))?.parts ?? [])
    },
    replaceFingerprints: (changes) =>
      replace(
        changes.map(({ column, of, ...change }) => {
          const beside = { ...of, column: columnOf(of.column) }
          return { ...change, column: columnOf(column), of: beside }
        }),
      ),
    count: async () => (await table.countRows()) * all.length,
    close: async () => view.close?.(),
  }
}

function cellsOf<Row>(
  { key, owner, values, defect }: TableRow,
  { columns, fingerprints = [], rowOf }: TableView<Row>,
  fieldCells: FieldCells,
): ValueCell<Row>[] {
  const row = rowOf(values)
  const cellOf = ({ name, column }: { readonly name: string; readonly column: string }) => {
    const value = values[column] as ValueCell['value']
    return { key, column: name, owner, value, row, defect }
  }
  return [
    ...columns.flatMap((column) => {
      const { context, fields } = column
      if (fields !== undefined && context !== undefined) return fieldCells.of(cellOf(column), fields, context)
      return [{ ...cellOf(column), context }]
    }),
    ...fingerprints.map((column) => ({ ...cellOf(column), fingerprint: column })),
  ]
}
