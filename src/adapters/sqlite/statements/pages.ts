/** Reads pages of rows. A page always ends, whatever is stored: its cursor is a row that was decoded without loss. */
import type { Query } from 'drizzle-orm'
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import { mayBeInexact } from '../../../drivers/sqlite-text.js'
import type { KeyPage, UnreadableRow } from '../../../store.js'
import type { KeyRecord } from '../../../table.js'
import { isReadable, requireReadable, type StoredRow } from '../../stored-rows.js'
import { decodeWithBytes, type RawRow } from './decode.js'
import { encoderOf, type PlaceholderValues, prepareDirect } from './direct.js'
import { queryBuilder } from './fragments.js'
import { selectPage, selectRowsWithBytes } from './reads.js'

/** Of a page: whether it is the first, and whether it leaves out rows under one KEK id. */
type Kind = `${'first' | 'next'}${'' | 'NotUnderKek'}`

export type PageStatements = ReturnType<typeof preparePages>

export function preparePages(client: SqliteClient) {
  const db = queryBuilder(client)
  const kinds: readonly Kind[] = ['first', 'firstNotUnderKek', 'next', 'nextNotUnderKek']
  const optionsOf = (kind: Kind) => ({ first: kind.startsWith('first'), notUnderKek: kind.endsWith('Kek') })
  const preparedBy = <T>(prepare: (kind: Kind) => T) =>
    Object.fromEntries(kinds.map((kind) => [kind, prepare(kind)])) as Record<Kind, T>
  return {
    pages: preparedBy((kind) => prepareDirect(client, selectPage(db, optionsOf(kind)))),
    rows: preparedBy((kind) => prepareRows(client, selectRowsWithBytes(db, optionsOf(kind)))),
  }
}

/** Like `KeyStore.list`. @throws ERR_STORE with the ref of a row that cannot be read, if nobody is to be told of it */
export function readPage(
  { pages, rows }: PageStatements,
  { after, limit, notKekId, onUnreadable }: KeyPage,
): KeyRecord[] {
  const kind: Kind = `${after === undefined ? 'first' : 'next'}${notKekId === undefined ? '' : 'NotUnderKek'}`
  const values = { ...after, limit, kekId: notKekId }
  const page = pages[kind].all(values)
  if (page.every(isPlain)) return page
  return readCarefully(rows[kind](values), limit, onUnreadable)
}

/** Whether a row is a record for certain, and its id and KEK id are as they are stored. */
function isPlain(row: StoredRow): row is KeyRecord {
  return isReadable(row) && !mayBeInexact(row.userId) && !mayBeInexact(row.kekId ?? '')
}

/**
 * Takes records until there are as many as wanted. Rows between them that are none are reported. Those after the last record are not: the
 * next page begins with them, since it begins after the last record.
 */
function readCarefully(
  rows: Iterable<StoredRow>,
  limit: number,
  onUnreadable: ((row: UnreadableRow) => void) | undefined,
): KeyRecord[] {
  const records: KeyRecord[] = []
  let unreadable: UnreadableRow[] = []
  for (const row of rows) {
    if (isReadable(row)) {
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
function prepareRows(client: SqliteClient, query: { toSQL(): Query }) {
  const { sql: text, params } = query.toSQL()
  // Versions may be larger than numbers are exact.
  const statement = client.prepare(text).raw().safeIntegers()
  const encoders = params.map(encoderOf)
  return function* (values: PlaceholderValues): Generator<StoredRow, void, undefined> {
    const encoding = String(client.pragma('encoding', { simple: true }))
    for (const row of statement.iterate(...encoders.map((encoder) => encoder(values)))) {
      const [userId, kekId, id, version, ...columns] = row as [
        Uint8Array | null,
        Uint8Array | null,
        ...RawRow,
      ]
      const exact =
        typeof version === 'bigint' && BigInt(Number(version)) === version ? Number(version) : version
      yield decodeWithBytes([id, exact, ...columns], { userId, kekId, encoding })
    }
  }
}
