/**
 * Pages of the rows that are not under one KEK id, on drivers that keep the event loop from turning while they work. There may be few of them
 * or none, and no index leads to them: a statement that looks for them passes all others, which takes more than a second for a million.
 */
import { isExactText } from '../../drivers/sqlite-text.js'
import { nextTurn } from '../../event-loop.js'
import type { KeyPage } from '../../store.js'
import { compareRefs, type KeyRecord, type KeyRef } from '../../table.js'
import type { PlaceholderValues, Statement } from './statements/bind.js'
import { sqliteQueries } from './statements/queries.js'

interface PartReader {
  /** Runs a statement of the store on its connection. */
  query(statement: Statement, values: PlaceholderValues): Promise<readonly (readonly unknown[])[]>
  /** Like `KeyStore.list`, in one step. */
  read(page: KeyPage): Promise<KeyRecord[]>
}

/** They take a few milliseconds. */
const PART_ROWS = 5000

/** Like `KeyStore.list`, with a turn of the loop wherever some thousand rows were passed. A page may be shorter than its limit, and is empty at the end only. */
export async function listInParts(page: KeyPage, { query, read }: PartReader): Promise<KeyRecord[]> {
  for (let part = page; ; await nextTurn()) {
    const last = await refBehind(query, part.after)
    const before = last === null ? null : { userId: last.userId, version: last.version + 1 }
    if (last === null || before === null || (page.before && compareRefs(page.before, before) <= 0))
      return read(part)
    const records = await read({ ...part, before })
    // Rows that are none, behind the last record, are told of with the next page, which begins there.
    if (records.length > 0) return records
    part = { ...page, after: last }
  }
}

/** The last row of the next part. Null: there are fewer rows, or none was found behind which a page can begin. */
async function refBehind(query: PartReader['query'], after: KeyRef | undefined): Promise<KeyRef | null> {
  const { selectFirstRefBehind, selectRefBehind } = sqliteQueries()
  const statement = after === undefined ? selectFirstRefBehind : selectRefBehind
  // A row that is no ref must not make all rows behind it one part: a shorter part ends at another row.
  for (let rows = PART_ROWS; rows > 0; rows = Math.floor(rows / 2)) {
    const [row] = await query(statement, { ...after, offset: rows - 1 })
    if (row === undefined) return null
    const [bytes, userId, version] = row
    const isRef =
      typeof userId === 'string' && Number.isSafeInteger(version) && isExactText(userId, bytes, 'UTF-8')
    if (isRef) return { userId, version: version as number }
  }
  return null
}
