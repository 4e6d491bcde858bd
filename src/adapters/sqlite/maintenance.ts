/** What the operator's commands do with a SQLite store. */
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { isKeystoreError } from '../../errors.js'
import type {
  CensusOptions,
  DatedCensusRow,
  ErasureState,
  SampledRef,
  StoreFinding,
  StoreMaintenance,
} from '../../store.js'
import type { KeyRecord } from '../../table.js'
import { distinctUserIds, groupByUser, outdatesCaches, tombstonesFirst, winnersOf } from '../records.js'
import { requireReadable } from '../stored-rows.js'
import type { SqliteChanges } from './changes.js'
import type { SqliteConnection } from './connection.js'
import type { SqliteErasure } from './erasure.js'
import { inspectSqlite } from './inspect.js'
import { countUnderInParts, datedCensusInParts } from './part-counts.js'
import type { Statement } from './statements/bind.js'
import { sampledRefs } from './statements/decode.js'
import { type DirectStatement, prepareDirect } from './statements/direct.js'
import { type SqliteStatements, selectVersions } from './statements/prepare.js'
import { sqliteQueries } from './statements/queries.js'
import { rowNumbers } from './statements/row-numbers.js'

export class SqliteMaintenance implements StoreMaintenance {
  readonly #connection: SqliteConnection
  readonly #changes: SqliteChanges
  readonly #erasure: SqliteErasure

  constructor(connection: SqliteConnection, changes: SqliteChanges, erasure: SqliteErasure) {
    this.#connection = connection
    this.#changes = changes
    this.#erasure = erasure
  }

  async restore(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const { inserted, maybe, stored } = await this.#connection.write('restore keys', (s) => {
      const rounds = tombstonesFirst(records).map((rows) => insertAll(s, rows))
      const inserted = new Set(rounds.flatMap((round) => round.inserted))
      // A row that was inserted is stored as it is given.
      const others = inserted.size === records.length ? [] : records.filter((record) => !inserted.has(record))
      const maybe = rounds.flatMap((round) => round.maybe)
      return { inserted, maybe, stored: selectVersions(s, distinctUserIds(others)) }
    })
    this.#changes.publish([...inserted, ...maybe].filter(outdatesCaches).map(({ userId }) => userId))
    return winnersOf(records, groupByUser(stored.map(requireReadable)), inserted)
  }

  async inspect(): Promise<StoreFinding[]> {
    try {
      return await this.#connection.withClient('inspect the database', (client) =>
        inspectSqlite(client, this.#connection),
      )
    } catch (error) {
      if (!isKeystoreError(error) || error.code !== 'ERR_SCHEMA') throw error
      return [{ severity: 'error', kind: 'schemaVersion', reason: error.message }]
    }
  }

  finishErasure(): Promise<Required<ErasureState>> {
    return this.#erasure.finish()
  }

  async datedCensus(options: CensusOptions = {}): Promise<DatedCensusRow[]> {
    return datedCensusInParts((...query) => this.#connection.query('count keys', ...query), options)
  }

  async countUnder(kekIds: readonly string[]): Promise<Map<string, number>> {
    return countUnderInParts((...query) => this.#connection.query('count keys', ...query), kekIds)
  }

  async sampleRefs(limit: number): Promise<SampledRef[]> {
    const { selectRowNumbers, selectRefsAt } = sqliteQueries()
    return this.#connection.withClient('sample keys', (client) => {
      const numbers = preparedIfPossible(client, selectRowNumbers)?.rows()
      if (numbers === undefined) return []
      return sampledRefs(prepareDirect(client, selectRefsAt).rows(rowNumbers(numbers, limit)))
    })
  }
}

/** Null where the table has no row numbers: a host's own may be WITHOUT ROWID (sqlite.org/withoutrowid.html). */
function preparedIfPossible(client: SqliteClient, query: Statement): DirectStatement | null {
  try {
    return prepareDirect(client, query)
  } catch {
    return null
  }
}

interface Inserted {
  readonly inserted: KeyRecord[]
  /** Of statements that left some of their rows out: it is not known which. To read their users' keys again is no harm. */
  readonly maybe: KeyRecord[]
}

/** @param rows all live, or all tombstones */
function insertAll({ restoreRow, restoreRows }: SqliteStatements, rows: readonly KeyRecord[]): Inserted {
  const inserted: KeyRecord[] = []
  const maybe: KeyRecord[] = []
  let at = 0
  for (; at + restoreRows.rows <= rows.length; at += restoreRows.rows) {
    const some = rows.slice(at, at + restoreRows.rows)
    const { changes } = restoreRows.run(some)
    if (changes === some.length) inserted.push(...some)
    else if (changes > 0) maybe.push(...some)
  }
  for (const record of rows.slice(at)) if (restoreRow.run(record).changes === 1) inserted.push(record)
  return { inserted, maybe }
}
