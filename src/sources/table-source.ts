/** Makes a table a source of values for the sweep. */
import type { ContextOf } from '../format/context.js'
import type { SqlTable, TableRow } from './table.js'
import type { ValueCell, ValueSource } from './value-source.js'

/** A column with values. */
interface ViewColumn<Row> {
  /** What the caller calls it, and the sweep's report. */
  readonly name: string
  /** What the database calls it. */
  readonly column: string
  readonly context: ContextOf<Row> | undefined
}

/** How the caller sees the table's rows. */
interface TableView<Row> {
  readonly columns: readonly ViewColumn<Row>[]
  /** Whether values whose owner is null belong to the shared pool. */
  readonly pool: boolean
  /** Makes what context functions and legacy readers are given. */
  rowOf(values: TableRow['values']): Row
  /** Closes the connection, if it is the source's own. */
  close?(): Promise<void>
}

export function tableSource<Row>(table: SqlTable, view: TableView<Row>): ValueSource<Row> {
  const columnOf = new Map(view.columns.map(({ name, column }) => [name, column]))
  const nameOf = new Map(view.columns.map(({ name, column }) => [column, name]))
  return {
    pool: view.pool,
    async *pages({ limit }) {
      for await (const rows of table.pages(limit)) yield rows.flatMap((row) => cellsOf(row, view))
    },
    async replace(changes) {
      const replaced = await table.replace(
        changes.map((change) => ({ ...change, column: columnOf.get(change.column) ?? change.column })),
      )
      return replaced.map(({ key, column }) => ({ key, column: nameOf.get(column) ?? column }))
    },
    count: async () => (await table.countRows()) * view.columns.length,
    close: async () => view.close?.(),
  }
}

function cellsOf<Row>(
  { key, owner, values, defect }: TableRow,
  { columns, rowOf }: TableView<Row>,
): ValueCell<Row>[] {
  const row = rowOf(values)
  return columns.map(({ name, column, context }) => ({
    key,
    column: name,
    owner,
    value: values[column] as ValueCell['value'],
    context,
    row,
    defect,
  }))
}
