/** Prepares statements on a synchronous driver. */
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import type { StoredRow } from '../../stored-rows.js'
import type { PlaceholderValues, RowsStatement, Statement } from './bind.js'
import { decodeRow, type RawRow } from './decode.js'

export interface DirectStatement {
  run(values: PlaceholderValues): { readonly changes: number }
  /** The rows of a statement that selects all columns. */
  all(values: PlaceholderValues): StoredRow[]
  /** The rows of any statement, as arrays. */
  rows(values?: PlaceholderValues): readonly (readonly unknown[])[]
}

export interface DirectRowsStatement {
  readonly rows: number
  /** @param rows as many as {@link DirectRowsStatement.rows} says */
  run(rows: readonly PlaceholderValues[]): { readonly changes: number }
}

export function prepareRowsDirect(
  client: SqliteClient,
  { sql, rows, bind }: RowsStatement,
): DirectRowsStatement {
  const statement = client.prepare(sql)
  return { rows, run: (values) => statement.run(...bind(values)) }
}

export function prepareDirect(client: SqliteClient, { sql, bind }: Statement): DirectStatement {
  const statement = client.prepare(sql)
  // The host may have made bigints the default of its connection.
  if (statement.reader) statement.raw().safeIntegers(false)
  return {
    run: (values) => statement.run(...bind(values)),
    all: (values) => (statement.all(...bind(values)) as RawRow[]).map(decodeRow),
    rows: (values = {}) => statement.all(...bind(values)) as unknown[][],
  }
}
