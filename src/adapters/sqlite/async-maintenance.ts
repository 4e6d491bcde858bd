/** What the operator's commands do with a store on an asynchronous SQLite driver. */
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
import { ERASED, FINISH_ERASURE, pendingErasure } from '../erasure.js'
import { distinctUserIds, groupByUser, tombstonesFirst, winnersOf } from '../records.js'
import { requireReadable } from '../stored-rows.js'
import type { AsyncSqliteConnection } from './async-connection.js'
import { checkAsyncSqlite } from './async-migrate.js'
import { boundTo, countQuery, decodeRows, versionsOf } from './async-statements.js'
import { copiedByTriggers, selectTriggers } from './copiers.js'
import { countUnderInParts, datedCensusInParts } from './part-counts.js'
import { countsByKek, datedCensusOf, namedKekIds, sampledRefs } from './statements/decode.js'
import { sqliteQueries } from './statements/queries.js'
import { rowNumbers } from './statements/row-numbers.js'

/** Why a store on each driver is not told of what other processes change. */
export const SILENT_DRIVERS = {
  libsql:
    'libsql does not tell of changes by other connections: keys are read again when their time in the cache is over',
  d1: 'D1 does not tell of changes by other isolates: keys are read again when their time in the cache is over',
}

const SERVER_KEEPS = {
  libsql:
    "Erased keys may stay in the server's files and in its backups until these expire (point-in-time restore)",
  d1: 'Erased keys stay in the history of D1 for up to 30 days (Time Travel), and cannot be removed from there',
}

export class AsyncSqliteMaintenance implements StoreMaintenance {
  readonly #connection: AsyncSqliteConnection

  constructor(connection: AsyncSqliteConnection) {
    this.#connection = connection
  }

  async restore(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const { restoreRow } = sqliteQueries()
    const inserts = tombstonesFirst(records)
      .flat()
      .map((record) => boundTo(restoreRow, { ...record }))
    const { results } = await this.#connection.write('restore keys', [
      ...inserts,
      ...versionsOf(distinctUserIds(records)),
    ])
    const stored = decodeRows(results.slice(inserts.length).flatMap(({ rows }) => rows))
    return winnersOf(records, groupByUser(stored.map(requireReadable)))
  }

  async inspect(): Promise<StoreFinding[]> {
    const { kind, migrate } = this.#connection
    // Of the drivers: nobody can change it.
    const findings = [SILENT_DRIVERS[kind], this.#whatRemains().pending].flatMap((reason): StoreFinding[] =>
      reason === null ? [] : [{ severity: 'note', kind: 'setting', reason }],
    )
    try {
      const copies = await this.#copies()
      if (copies !== null) findings.push({ severity: 'warning', kind: 'copies', reason: copies })
      await this.#connection.use('inspect the database', (db) => checkAsyncSqlite(db, migrate))
    } catch (error) {
      if (!isKeystoreError(error) || error.code !== 'ERR_SCHEMA') throw error
      findings.push({ severity: 'error', kind: 'schemaVersion', reason: error.message })
    }
    return findings
  }

  /** The state after a shred. Never throws. */
  async afterShred(): Promise<Required<ErasureState>> {
    const { pending } = this.#whatRemains()
    const copies = await this.#copies().catch(() => null)
    const reasons = [pending, copies].filter((reason) => reason !== null)
    return reasons.length === 0 ? ERASED : pendingErasure(reasons.join('. '))
  }

  /** Rewrites a file without its free space. A server's files are out of reach. */
  async finishErasure(): Promise<Required<ErasureState>> {
    await this.#connection.ready()
    if (this.#connection.place !== 'file') return this.afterShred()
    const [busy] = await this.#connection.use('rewrite the file', async (db) => {
      await db.run({ sql: 'vacuum', params: [] })
      const { rows } = await db.run({ sql: 'pragma wal_checkpoint(TRUNCATE)', params: [] })
      return rows[0] ?? []
    })
    if (Number(busy) === 1)
      return pendingErasure(
        `Another connection reads the write-ahead log, which cannot be emptied: ${FINISH_ERASURE}`,
      )
    const copies = await this.#copies()
    return copies === null ? ERASED : pendingErasure(copies)
  }

  async datedCensus(options: CensusOptions = {}): Promise<DatedCensusRow[]> {
    if (this.#connection.place !== 'server') return datedCensusInParts(countQuery(this.#connection), options)
    const statement = boundTo(sqliteQueries().countRowsWithAges, { named: namedKekIds(options) })
    return datedCensusOf(await this.#connection.read('count keys', statement))
  }

  async countUnder(kekIds: readonly string[]): Promise<Map<string, number>> {
    if (this.#connection.place !== 'server') return countUnderInParts(countQuery(this.#connection), kekIds)
    const statement = boundTo(sqliteQueries().countUnderKeks, { ids: JSON.stringify(kekIds) })
    return countsByKek(await this.#connection.read('count keys', statement))
  }

  async sampleRefs(limit: number): Promise<SampledRef[]> {
    const { selectRowNumbers, selectRefsAt } = sqliteQueries()
    const numbers = await this.#connection.read('sample keys', boundTo(selectRowNumbers)).catch((error) => {
      // A host's own table may be WITHOUT ROWID.
      if (isKeystoreError(error) && !error.retryable) return []
      throw error
    })
    const statement = boundTo(selectRefsAt, rowNumbers(numbers, limit))
    return numbers.length === 0 ? [] : sampledRefs(await this.#connection.read('sample keys', statement))
  }

  #whatRemains(): Required<ErasureState> {
    const { kind, place } = this.#connection
    if (place === 'memory') return ERASED
    return pendingErasure(
      place === 'file'
        ? `The driver's connections leave erased keys in free space of the file and in its write-ahead log: ${FINISH_ERASURE}`
        : SERVER_KEEPS[kind],
    )
  }

  async #copies(): Promise<string | null> {
    const rows = await this.#connection.read('look for triggers', selectTriggers())
    return copiedByTriggers(rows.map(([name, sql]) => ({ name: String(name), sql: String(sql) })))
  }
}
