/** Reads pages of rows. A page always ends, whatever is stored: its cursor is a row that was decoded without loss. */
import type { KeyPage } from '../../../store.js'
import type { KeyRecord, KeyRef } from '../../../table.js'
import { BEFORE_ALL_REFS, rowsBefore } from '../../records.js'
import { isReadable, requireReadable, type StoredRow } from '../../stored-rows.js'

type ReadRows = (page: { readonly after: KeyRef; readonly limit: number }) => Promise<StoredRow[]>

/**
 * Like `KeyStore.list`. Where a page has no record at all, it is read again with twice as many rows.
 *
 * @throws ERR_STORE with the ref of a row that cannot be read, if nobody is to be told of it
 */
export async function readPage(
  { after = BEFORE_ALL_REFS, before, limit, onUnreadable }: KeyPage,
  readRows: ReadRows,
): Promise<KeyRecord[]> {
  for (let wanted = limit; ; wanted *= 2) {
    const read = await readRows({ after, limit: wanted })
    const rows = rowsBefore(read, before)
    if (onUnreadable === undefined) return rows.map(requireReadable)
    const records = rows.filter(isReadable).slice(0, limit)
    const last = records.at(-1)
    const isEnd = rows.length < wanted
    if (last === undefined && !isEnd) continue
    // Rows after the last record are reported with the next page, which begins after the last record.
    const passed = last === undefined ? rows : rows.slice(0, rows.indexOf(last))
    for (const row of passed) if (!isReadable(row)) onUnreadable(row)
    return records
  }
}
