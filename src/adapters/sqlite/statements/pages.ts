/** Reads pages of rows. A page always ends, whatever is stored: its cursor is a row that was decoded without loss. */
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import { mayBeInexact } from '../../../drivers/sqlite-text.js'
import type { KeyPage, UnreadableRow } from '../../../store.js'
import { compareRefs, type KeyRecord } from '../../../table.js'
import { rowsBefore } from '../../records.js'
import { isReadable, requireReadable, type StoredRow } from '../../stored-rows.js'
import type { PlaceholderValues, Statement } from './bind.js'
import { decodeWithBytes, type RawRow } from './decode.js'
import { prepareDirect } from './direct.js'
import { type PageKind, sqliteQueries } from './queries.js'

export type PageStatements = ReturnType<typeof preparePages>

export function preparePages(client: SqliteClient) {
  const { pages, rows } = sqliteQueries()
  const preparedBy = <T>(prepare: (kind: PageKind) => T) =>
    Object.fromEntries((Object.keys(pages) as PageKind[]).map((kind) => [kind, prepare(kind)])) as Record<
      PageKind,
      T
    >
  return {
    pages: preparedBy((kind) => prepareDirect(client, pages[kind])),
    rows: preparedBy((kind) => prepareRows(client, rows[kind])),
  }
}

/** Like `KeyStore.list`. @throws ERR_STORE with the ref of a row that cannot be read, if nobody is to be told of it */
export function readPage({ pages, rows }: PageStatements, page: KeyPage): KeyRecord[] {
  const { kind, values } = pageOf(page)
  const found = pages[kind].all(values)
  if (found.every(isPlain)) return [...rowsBefore(found, page.before)]
  return readCarefully(rows[kind]({ ...values, limit: -1 }), page)
}

/** Which statement reads a page, and with which values. */
export function pageOf(page: KeyPage): { kind: PageKind; values: PlaceholderValues } {
  const { after, before, limit, notKekId, kekId } = page
  const bounds = before === undefined ? '' : 'Before'
  const rows =
    notKekId !== undefined
      ? (`NotUnderKek${bounds}` as const)
      : kekId !== undefined
        ? (`UnderKek${bounds}` as const)
        : ''
  const place = after === undefined ? 'first' : 'next'
  const bound = { beforeUserId: before?.userId, beforeVersion: before?.version }
  return { kind: `${place}${rows}`, values: { ...after, ...bound, limit, kekId: notKekId ?? kekId } }
}

/** Whether a row is a record for certain, and its id and KEK id are as they are stored. */
export function isPlain(row: StoredRow): row is KeyRecord {
  return isReadable(row) && !mayBeInexact(row.userId) && !mayBeInexact(row.kekId ?? '')
}

/**
 * Takes records until there are as many as wanted. Rows between them that are none are reported. Those after the last record are not: the
 * next page begins with them, since it begins after the last record.
 */
export function readCarefully(
  rows: Iterable<StoredRow>,
  { before, limit, onUnreadable }: KeyPage,
): KeyRecord[] {
  const records: KeyRecord[] = []
  let unreadable: UnreadableRow[] = []
  for (const row of rows) {
    if (isReadable(row)) {
      if (before !== undefined && compareRefs(row, before) >= 0) break
      for (const between of unreadable) onUnreadable?.(between)
      unreadable = []
      records.push(row)
      if (records.length === limit) return records
    } else if (onUnreadable === undefined) requireReadable(row)
    else unreadable.push(row)
  }
  // An empty page is the end, so nobody asks for what comes after it.
  if (records.length === 0) for (const row of unreadable) onUnreadable?.(row)
  return records
}

/** Prepares a statement that gives one row after the other: all of one call are of one snapshot, and need no cursor. */
function prepareRows(client: SqliteClient, { sql, bind }: Statement) {
  // Versions may be larger than numbers are exact.
  const statement = client.prepare(sql).raw().safeIntegers()
  return function* (values: PlaceholderValues): Generator<StoredRow, void, undefined> {
    const encoding = String(client.pragma('encoding', { simple: true }))
    for (const row of statement.iterate(...bind(values)))
      yield decodeRowWithBytes(row as RowWithBytes, encoding)
  }
}

/** The columns of `selectRowsWithBytes`. */
export type RowWithBytes = readonly [userIdBytes: Uint8Array | null, kekIdBytes: Uint8Array | null, ...RawRow]

/** @param encoding of the database, as `pragma encoding` says */
export function decodeRowWithBytes(row: RowWithBytes, encoding: string): StoredRow {
  const [userId, kekId, id, version, ...columns] = row
  const exact = typeof version === 'bigint' && BigInt(Number(version)) === version ? Number(version) : version
  return decodeWithBytes([id, exact, ...columns], { userId, kekId, encoding })
}
