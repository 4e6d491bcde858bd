/** Makes a table a source of values for the sweep. */
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'
import type { ContextOf } from '../format/context.js'
import { FieldCells } from './field-cells.js'
import type { FieldPath } from './field-path.js'
import { foresee } from './foresee.js'
import { type OwnerOf, ownerFrom } from './owner.js'
import type { ColumnChange, SqlTable, TableRow } from './table.js'
import {
  type FingerprintRole,
  keyText,
  type ValueCell,
  type ValueChange,
  type ValueSource,
  valueRefKey,
} from './value-source.js'

/** A column with values. */
interface ViewColumn<Row> {
  /** What the caller calls it, and the sweep's report. */
  readonly name: string
  /** What the database calls it. */
  readonly column: string
  readonly context: ContextOf<Row> | undefined
  /** Of a JSON column: the paths of the fields that are its values. It has a context then. */
  readonly fields?: readonly FieldPath[] | undefined
  /** Whether the plaintexts are JSON. */
  readonly isJson?: boolean
}

/** A column with fingerprints. `of` is the name of the column with their values. */
export interface ViewFingerprint extends FingerprintRole {
  readonly name: string
  readonly column: string
}

/** How the caller sees the table's rows. */
export interface TableView<Row> {
  readonly columns: readonly ViewColumn<Row>[]
  readonly fingerprints?: readonly ViewFingerprint[]
  /** Whether values whose owner is null belong to the shared pool. */
  readonly pool: boolean
  /** Tells the owner, with a shape that has `ownerOfRow`. */
  readonly ownerOf?: OwnerOf<Row> | undefined
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
  // What the rows being swept have as owner in the database, where the application makes another one of it.
  const owners = new Map<string, string | null>()
  const withStoredOwner = <Change extends ColumnChange>(change: Change): Change[] => {
    if (view.ownerOf === undefined) return [change]
    const owner = owners.get(keyText(change.key))
    return owner === undefined ? [] : [{ ...change, owner }]
  }
  const replace = async (changes: readonly ColumnChange[]) => {
    const replaced = await table.replace(changes.flatMap(withStoredOwner))
    return replaced.map(({ key, column }) => ({ key, column: viewNames.get(column) ?? column }))
  }
  const inDatabase = (change: ValueChange): ValueChange => ({ ...change, column: columnOf(change.column) })
  const fields = new FieldCells()
  const hasFields = view.columns.some(({ fields }) => fields !== undefined)
  return {
    pool: view.pool,
    keepsTwoPages: true,
    async *pages({ limit, order }) {
      let before: readonly TableRow[] = []
      for await (const rows of table.pages(limit, order)) {
        fields.beginPage()
        if (view.ownerOf !== undefined) for (const { key, owner } of rows) owners.set(keyText(key), owner)
        const cells: ValueCell<Row>[] = []
        for (const row of rows) {
          if (isTurnDueInLoop(CALLS)) await nextTurn()
          for (const cell of cellsOf(row, view, fields)) cells.push(cell)
        }
        yield cells
        // The sweep has written them when it asks for the page after the next.
        if (view.ownerOf !== undefined) for (const { key } of before) owners.delete(keyText(key))
        before = rows
      }
    },
    async replace(changes) {
      if (!hasFields) {
        const asked = new Map<ColumnChange, ValueChange>()
        for (const change of changes)
          for (const stored of withStoredOwner(inDatabase(change))) asked.set(stored, change)
        return (await table.replace([...asked.keys()])).flatMap((stored) => asked.get(stored) ?? [])
      }
      const wholes = new Map(
        fields.wholeChanges(changes).map((whole) => [valueRefKey(whole.change), whole] as const),
      )
      const replaced = await replace(Array.from(wholes.values(), ({ change }) => inDatabase(change)))
      return replaced.flatMap((ref) => wholes.get(valueRefKey(ref))?.parts ?? [])
    },
    async foresee(changes) {
      const wholes = fields.wholeChanges(changes)
      const [name] = wholes.map(({ change }) => change.column)
      if (name === undefined) return []
      const storedChange = (change: ValueChange) => withStoredOwner(inDatabase(change))
      const fieldAlone = (part: ValueChange) =>
        fields.wholeChanges([part]).flatMap(({ change }) => storedChange(change))
      const tried = wholes.flatMap(({ change, parts }) =>
        storedChange(change).map((change) => ({
          change,
          fieldsAlone: (limit: number) =>
            parts
              .slice(0, limit)
              .flatMap((part) => fieldAlone(part).map((change) => ({ name: part.column, change }))),
        })),
      )
      return foresee(table, { name, column: columnOf(name) }, tried)
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

/** The values and fingerprints of a row. */
export function cellsOf<Row>(
  { key, values, ...found }: TableRow,
  { columns, fingerprints = [], rowOf, ownerOf }: TableView<Row>,
  fieldCells = new FieldCells(),
): ValueCell<Row>[] {
  const row = rowOf(values)
  const { owner, defect } =
    ownerOf === undefined || found.defect !== undefined ? found : ownerFrom(ownerOf, row)
  // One literal, so that all cells have one shape: what reads them is several times as fast.
  const cellOf = (
    { name, column }: { readonly name: string; readonly column: string },
    context?: ContextOf<Row>,
    isJson = false,
    fingerprint?: FingerprintRole,
  ): ValueCell<Row> => {
    const value = values[column] as ValueCell['value']
    return { key, column: name, owner, value, row, defect, context, isJson, fingerprint }
  }
  const cells: ValueCell<Row>[] = []
  for (const column of columns) {
    const { context, isJson = false, fields } = column
    if (fields === undefined || context === undefined) cells.push(cellOf(column, context, isJson))
    else for (const cell of fieldCells.of(cellOf(column), fields, context)) cells.push(cell)
  }
  for (const column of fingerprints) cells.push(cellOf(column, undefined, false, column))
  return cells
}
