/** Runs the statements of the SQLite store through an asynchronous driver. */
import type { BoundStatement } from '../../drivers/async-sqlite.js'
import type { KeyPage } from '../../store.js'
import type { KeyRecord } from '../../table.js'
import { rowsBefore } from '../records.js'
import { isReadable, type StoredRow } from '../stored-rows.js'
import type { AsyncSqliteConnection } from './async-connection.js'
import type { CountQuery } from './part-counts.js'
import type { PlaceholderValues, Statement } from './statements/bind.js'
import { decodeRow, type RawRow } from './statements/decode.js'
import { decodeRowWithBytes, isPlain, pageOf, type RowWithBytes, readCarefully } from './statements/pages.js'
import { sqliteQueries } from './statements/queries.js'

export function boundTo({ sql, bind }: Statement, values: PlaceholderValues = {}): BoundStatement {
  return { sql, params: bind(values) }
}

/** A server needs none: it counts by itself, and each part would be a round trip. */
export function countQuery(connection: AsyncSqliteConnection): CountQuery {
  return (statement, values) => connection.read('count keys', boundTo(statement, values))
}

/** @param rows with all columns of the table */
export function decodeRows(rows: readonly (readonly unknown[])[]): StoredRow[] {
  return rows.map((row) => decodeRow(row as RawRow))
}

/** The statement that selects every row of some users; none for no users. */
export function versionsOf(userIds: readonly string[]): BoundStatement[] {
  const { selectVersionsOfUser, selectVersionsOfUsers } = sqliteQueries()
  const [userId] = userIds
  if (userId === undefined) return []
  return userIds.length === 1
    ? [boundTo(selectVersionsOfUser, { userId })]
    : [boundTo(selectVersionsOfUsers, { ids: JSON.stringify(userIds) })]
}

/** Like `KeyStore.list`. */
export async function readAsyncPage(connection: AsyncSqliteConnection, page: KeyPage): Promise<KeyRecord[]> {
  const { pages, rows } = sqliteQueries()
  const { kind, values } = pageOf(page)
  const found = decodeRows(await connection.read('list keys', boundTo(pages[kind], values)))
  if (found.every(isPlain)) return [...rowsBefore(found, page.before)]
  // Reads on until there are enough records between the rows that are none.
  for (let limit = page.limit + MORE_ROWS; ; limit *= 2) {
    const read = await connection.read('list keys', boundTo(rows[kind], { ...values, limit }))
    const stored = read.map((row) => decodeRowWithBytes(row as RowWithBytes, ENCODING))
    const isEnough = stored.filter(isReadable).length >= page.limit || stored.length < limit
    if (isEnough || page.onUnreadable === undefined) return readCarefully(stored, page)
  }
}

const MORE_ROWS = 100
/** Of every database that these drivers make. */
const ENCODING = 'UTF-8'
