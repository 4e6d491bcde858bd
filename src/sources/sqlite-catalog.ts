/** What SQLite's catalog says of a table of the host application: its columns, and the keys that order its rows. */

import type { SqliteRunner } from './sqlite-runner.js'
import {
  type Catalog,
  nullKeyError,
  quoteIdentifier,
  type SideEffects,
  type TableShape,
  tableNotFound,
} from './table.js'

/** Names of the row id, which a table has unless it is WITHOUT ROWID (sqlite.org/rowidtable.html). */
const ROW_IDS = ['rowid', '_rowid_', 'oid']

/** @throws ERR_INVALID_ARGUMENT if there is no such table */
export async function catalogOf(runner: SqliteRunner, { table, key }: TableShape): Promise<Catalog> {
  const query = (sql: string) => runner.query({ sql, params: [table] })
  const [found] = await query(
    "select type, wr from pragma_table_list where schema = 'main' and name = ? collate nocase",
  )
  const [type, withoutRowId] = found ?? []
  if (type !== 'table') throw tableNotFound(quoteIdentifier(table))
  const columns = (
    await query('select name, type, "notnull", pk from pragma_table_xinfo(?) where hidden <> 1')
  ).map(([name, type, notNull, pk]) => ({
    name: String(name),
    type: String(type),
    nullable: Number(notNull) === 0,
    isText: !/INT|REAL|FLOA|DOUB/i.test(String(type)),
    isPrimary: Number(pk) > 0,
  }))
  const uniqueKeys = await uniqueIndexes(runner, table)
  const primaryKey = columns.filter(({ isPrimary }) => isPrimary).map(({ name }) => name)
  if (primaryKey.length > 0) uniqueKeys.push(primaryKey)
  const isColumn = (id: string) => columns.some(({ name }) => name.toLowerCase() === id)
  const rowIds = ROW_IDS.filter((id) => key.includes(id) && Number(withoutRowId) === 0 && !isColumn(id))
  return {
    columns: [
      ...rowIds.map((name) => ({ name, type: 'INTEGER', nullable: false, isText: false })),
      ...columns,
    ],
    uniqueKeys: [...uniqueKeys, ...rowIds.map((name) => [name])],
  }
}

/** The columns of each unique index over whole rows that orders pages reliably. */
async function uniqueIndexes(runner: SqliteRunner, table: string): Promise<string[][]> {
  const indexes = await runner.query({
    sql: 'select name from pragma_index_list(?) where "unique" and not partial',
    params: [table],
  })
  const unique: string[][] = []
  for (const [index] of indexes) {
    const sql = 'select name, coll from pragma_index_xinfo(?) where "key"'
    const columns = await runner.query({ sql, params: [index] })
    if (await isReliable(runner, table, columns)) unique.push(columns.map(([name]) => String(name)))
  }
  return unique
}

async function isReliable(
  runner: SqliteRunner,
  table: string,
  columns: readonly (readonly unknown[])[],
): Promise<boolean> {
  for (const [name, collation] of columns) {
    // The name is null for an expression.
    if (typeof name !== 'string' || (await isFolded(runner, table, name, collation))) return false
  }
  return true
}

/** Whether a column's collation makes texts equal that the index tells apart: pages would skip all but one of those. */
async function isFolded(
  runner: SqliteRunner,
  table: string,
  column: string,
  indexCollation: unknown,
): Promise<boolean> {
  const letter = `select ${quoteIdentifier(column)} as x from ${quoteIdentifier(table)} where 0 union all select 'a'`
  const sql = `select x = 'A' as ignores_case, x = 'a ' as ignores_spaces from (${letter})`
  const [folds = []] = await runner.query({ sql, params: [] })
  return ['NOCASE', 'RTRIM'].some(
    (collation, index) => Number(folds[index]) === 1 && String(indexCollation).toUpperCase() !== collation,
  )
}

/**
 * SQLite allows nulls even in a primary key, unless it is declared NOT NULL (sqlite.org/lang_createtable.html).
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export async function assertNoNullKey(
  runner: SqliteRunner,
  shape: TableShape,
  { columns }: Catalog,
): Promise<void> {
  for (const name of shape.key.filter((name) => columns.find((column) => column.name === name)?.nullable)) {
    const sql = `select 1 from ${quoteIdentifier(shape.table)} where ${quoteIdentifier(name)} is null limit 1`
    if ((await runner.query({ sql, params: [] })).length > 0) throw nullKeyError(shape)
  }
}

/** The triggers that an update may set off, and the generated columns. */
export async function sideEffectsOf(runner: SqliteRunner, { table }: TableShape): Promise<SideEffects> {
  const triggers = await runner.query({
    sql: "select name, sql from sqlite_master where type = 'trigger' and tbl_name = ? collate nocase",
    params: [table],
  })
  const generated = await runner.query({
    sql: 'select name from pragma_table_xinfo(?) where hidden in (2, 3)',
    params: [table],
  })
  return {
    triggers: triggers.filter(([, sql]) => /\bupdate\b/i.test(String(sql))).map(([name]) => String(name)),
    generated: generated.map(([name]) => [String(name), null]),
  }
}

/** Whether a table has triggers of any kind. */
export async function hasTriggers(runner: SqliteRunner, { table }: TableShape): Promise<boolean> {
  const sql = "select 1 from sqlite_master where type = 'trigger' and tbl_name = ? collate nocase"
  return (await runner.query({ sql, params: [table] })).length > 0
}
