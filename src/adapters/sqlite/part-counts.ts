/**
 * Counts on drivers that keep the event loop from turning while they work, which is half a second for a million rows: part by part, with a
 * turn of the loop in between.
 */
import { isKeystoreError } from '../../errors.js'
import { nextTurn } from '../../event-loop.js'
import type { CensusOptions, CensusRow, DatedCensusRow } from '../../store.js'
import type { PlaceholderValues, Statement } from './statements/bind.js'
import { censusOf, countsByKek, datedCensusOf, namedKekIds } from './statements/decode.js'
import { sqliteQueries } from './statements/queries.js'

/** Runs a statement of the store on its connection. */
export type CountQuery = (
  statement: Statement,
  values?: PlaceholderValues,
) => Promise<readonly (readonly unknown[])[]>

/** They take a few milliseconds. */
const PART_ROWS = 5000

/** Like `KeyStore.census`. @throws ERR_STORE · ERR_CLOSED */
export function censusInParts(query: CountQuery, options: CensusOptions): Promise<CensusRow[]> {
  const { countRows, countRowsOfPart } = sqliteQueries()
  return countInParts(query, options, {
    whole: countRows,
    part: countRowsOfPart,
    decode: censusOf,
    add: (a, b) => ({ ...a, count: a.count + b.count }),
  })
}

/** Like `StoreMaintenance.datedCensus`. @throws ERR_STORE · ERR_CLOSED */
export function datedCensusInParts(query: CountQuery, options: CensusOptions): Promise<DatedCensusRow[]> {
  const { countRowsWithAges, countRowsOfPartWithAges } = sqliteQueries()
  return countInParts(query, options, {
    whole: countRowsWithAges,
    part: countRowsOfPartWithAges,
    decode: datedCensusOf,
    add: (a, b) => ({
      ...a,
      count: a.count + b.count,
      // A comparison with an invalid date is false.
      oldest: Number.isNaN(a.oldest.getTime()) || b.oldest < a.oldest ? b.oldest : a.oldest,
      newest: Number.isNaN(a.newest.getTime()) || b.newest > a.newest ? b.newest : a.newest,
    }),
  })
}

interface Count<Row> {
  readonly whole: Statement
  /** The last column is the last row number. */
  readonly part: Statement
  decode(rows: readonly (readonly unknown[])[]): Row[]
  /** One group of two parts. */
  add(a: Row, b: Row): Row
}

/** So often the parts are counted anew because the schema has changed; then the table is counted as a whole. */
const MAX_ATTEMPTS = 3

/**
 * The parts are not of one moment, but nobody is told that no row needs a master key while one does: a row that stands from the beginning to
 * the end is counted exactly once, as it was at some moment between them, because no UPDATE changes a row number. Inserted rows get numbers
 * behind all others, so they are counted if they come before the end. Only what rebuilds the table moves rows to other numbers, as tools for
 * migrations do and VACUUM may (sqlite.org/lang_vacuum.html). It changes `schema_version` too: then what was counted is forgotten.
 */
async function countInParts<Row extends CensusRow>(
  query: CountQuery,
  options: CensusOptions,
  { whole, part, decode, add }: Count<Row>,
): Promise<Row[]> {
  const named = namedKekIds(options)
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    const schema = await schemaVersion(query)
    const groups = new Map<string, Row>()
    const isCounted = await forEachPart(query, part, named, (rows) => {
      for (const row of decode(rows)) {
        const { kekId, version, shredded, ofTenants = false } = row
        const group = JSON.stringify([kekId, version, shredded, ofTenants])
        const before = groups.get(group)
        groups.set(group, before === undefined ? row : add(before, row))
      }
    })
    if (!isCounted) break
    if ((await schemaVersion(query)) === schema) return [...groups.values()]
  }
  return decode(await query(whole, { named }))
}

async function schemaVersion(query: CountQuery): Promise<unknown> {
  const [[version] = []] = await query(SCHEMA_VERSION)
  return version
}

const SCHEMA_VERSION: Statement = { sql: 'pragma schema_version', bind: () => [] }

/** @returns false if the table has no row numbers: a host's own may be WITHOUT ROWID (sqlite.org/withoutrowid.html) */
async function forEachPart(
  query: CountQuery,
  part: Statement,
  named: string,
  onPart: (rows: readonly (readonly unknown[])[]) => void,
): Promise<boolean> {
  for (let afterRow: bigint | null = null; ; await nextTurn()) {
    const values: PlaceholderValues = { named, afterRow: afterRow?.toString() ?? null, limit: PART_ROWS }
    const rows = await query(part, values).catch((error) => {
      if (isKeystoreError(error) && !error.retryable) return null
      throw error
    })
    if (rows === null) return false
    onPart(rows)
    const counted = censusOf(rows).reduce((sum, { count }) => sum + count, 0)
    if (counted < PART_ROWS) return true
    for (const row of rows) {
      const last = BigInt(String(row.at(-1)))
      if (afterRow === null || last > afterRow) afterRow = last
    }
  }
}

/** So many KEK ids, most of them of tenants, are asked about at once. */
const IDS = 1000
/** Of each of them so many rows are counted at first: together they take less than 20 ms. */
const FIRST_ROWS = 200

/** Like `StoreMaintenance.countUnder`. The count of each id is right by itself: they are not of one moment. @throws ERR_STORE · ERR_CLOSED */
export async function countUnderInParts(
  query: CountQuery,
  kekIds: readonly string[],
): Promise<Map<string, number>> {
  const { countUnderKeksToMost } = sqliteQueries()
  const counts = new Map<string, number>()
  const ids = [...new Set(kekIds)]
  for (let at = 0; at < ids.length; at += IDS) {
    if (at > 0) await nextTurn()
    const some = JSON.stringify(ids.slice(at, at + IDS))
    const counted = countsByKek(await query(countUnderKeksToMost, { ids: some, most: FIRST_ROWS }))
    for (const [kekId, first] of counted) {
      const count = first < FIRST_ROWS ? first : await countUnderOne(query, kekId)
      if (count > 0) counts.set(kekId, count)
    }
  }
  return counts
}

/** In the order of the users, in which a row does not move. */
async function countUnderOne(query: CountQuery, kekId: string): Promise<number> {
  const { selectUserBehind, countUsersBelow, countUsersFrom } = sqliteQueries()
  let count = 0
  for (let from: unknown = ''; ; await nextTurn()) {
    const [[below, type] = []] = await query(selectUserBehind, { kekId, from, offset: PART_ROWS })
    // What is no text comes behind all texts.
    const isLast = type !== 'text'
    const rows = await query(isLast ? countUsersFrom : countUsersBelow, { kekId, from, below })
    count += Number(rows[0]?.[0])
    if (isLast) return count
    from = below
  }
}
