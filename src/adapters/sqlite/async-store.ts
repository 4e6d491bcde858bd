/** The SQLite store on asynchronous drivers: libsql and D1. Its statements are those of the synchronous one. */
import type { AsyncSqlite, BoundStatement } from '../../drivers/async-sqlite.js'
import { DEFAULT_DEADLINE_MS } from '../../drivers/retry.js'
import { invalidArgument } from '../../errors.js'
import type {
  CensusOptions,
  CensusRow,
  KeyPage,
  KeyStore,
  NewKeyRecord,
  ShredOptions,
  ShredResult,
  StoreChange,
  StoreMaintenance,
  WrapChange,
} from '../../store.js'
import { compareRefs, type KeyRecord, type KeyRef } from '../../table.js'
import { Listeners } from '../listeners.js'
import type { MigrationReport } from '../migrator.js'
import type { SqliteKeyStoreOptions } from '../options.js'
import {
  activeOf,
  distinctUserIds,
  groupByUser,
  inLockOrder,
  insertRounds,
  newTombstone,
  winnersOf,
} from '../records.js'
import { isReadable, requireReadable } from '../stored-rows.js'
import { AsyncSqliteConnection } from './async-connection.js'
import { AsyncSqliteMaintenance, SILENT_DRIVERS } from './async-maintenance.js'
import { boundTo, countQuery, decodeRows, readAsyncPage, versionsOf } from './async-statements.js'
import { instantToText } from './instant.js'
import { censusInParts } from './part-counts.js'
import { listInParts } from './part-pages.js'
import { censusOf, erasedVersions, namedKekIds } from './statements/decode.js'
import { sqliteQueries } from './statements/queries.js'
import { conditionalValues } from './statements/writes.js'

/** Statements in one batch. D1 counts each as a query, of which an invocation of a Worker has 1,000. */
const BATCH_STATEMENTS = 500

/** Of the option `journalMode`, where the store has not opened the file. */
export const NOT_OUR_JOURNAL =
  "journalMode is for files that the store opens: the host's connection sets its own"

export class AsyncSqliteKeyStore implements KeyStore {
  /** A batch is a transaction of its own: no caller can have one open around it. */
  readonly transactional = false
  readonly maintenance: StoreMaintenance
  readonly #connection: AsyncSqliteConnection
  readonly #maintenance: AsyncSqliteMaintenance
  readonly #listeners: Listeners

  /** @param own whether `close` closes the database @throws ERR_INVALID_ARGUMENT */
  constructor(db: AsyncSqlite, options: SqliteKeyStoreOptions, own = false) {
    const { migrate = 'auto', adopt, pollMs, journalMode, deadlineMs = DEFAULT_DEADLINE_MS } = options
    if (adopt === true)
      throw invalidArgument(
        'adopt is for files: adopt the file with sqliteKeyStore({ path, adopt: true }) first',
      )
    if (pollMs !== undefined) throw invalidArgument(`pollMs is for files: ${SILENT_DRIVERS[db.kind]}`)
    if (journalMode !== undefined) throw invalidArgument(NOT_OUR_JOURNAL)
    this.#connection = new AsyncSqliteConnection(db, { migrate, deadlineMs, own })
    this.#maintenance = new AsyncSqliteMaintenance(this.#connection)
    this.maintenance = this.#maintenance
    const silent = { silent: SILENT_DRIVERS[db.kind] }
    this.#listeners = new Listeners({
      start: () => process.nextTick(() => this.#listeners.publish(silent)),
      stop: () => undefined,
    })
  }

  /** Migrates the database. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  async ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const { selectActiveOfUsers } = sqliteQueries()
    const [userId] = userIds
    if (userId !== undefined && userIds.length === 1) {
      const versions = (await this.getAll(userIds)).get(userId) ?? []
      return new Map(activeOf(versions).map((record) => [record.userId, record]))
    }
    const statement = boundTo(selectActiveOfUsers, { ids: JSON.stringify(userIds) })
    const rows = decodeRows(await this.#connection.read('read keys', statement))
    return new Map(rows.map(requireReadable).map((record) => [record.userId, record]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    const [statement] = versionsOf(userIds)
    await this.#connection.ready()
    if (statement === undefined) return new Map()
    const rows = decodeRows(await this.#connection.read('read keys', statement))
    return groupByUser(rows.map(requireReadable))
  }

  async insertIfAbsent(records: readonly NewKeyRecord[]): Promise<KeyRecord[]> {
    const { insertRow } = sqliteQueries()
    const inserts = insertRounds(records)
      .flat()
      .map((record) => boundTo(insertRow, conditionalValues(record)))
    const stored = await this.#inBatches('insert keys', inserts, versionsOf(distinctUserIds(records)))
    return winnersOf(records, groupByUser(decodeRows(stored.rows).map(requireReadable)))
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    const { replaceWrappedKey } = sqliteQueries()
    const ordered = inLockOrder(changes)
    const updates = ordered.map((change) => boundTo(replaceWrappedKey, conditionalValues(change)))
    const { changed } = await this.#inBatches('replace wrapped keys', updates)
    return ordered
      .filter((_, index) => changed[index] === 1)
      .map(({ userId, version }) => ({ userId, version }))
  }

  async list(page: KeyPage): Promise<KeyRecord[]> {
    const read = (page: KeyPage) => readAsyncPage(this.#connection, page)
    if (page.notKekId === undefined || this.#connection.place === 'server') return read(page)
    return listInParts(page, {
      read,
      query: (...query) => this.#connection.read('list keys', boundTo(...query)),
    })
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const { shredRows, insertTombstone, removeRowsOfUser } = sqliteQueries()
    const shred = boundTo(shredRows, { userId, shreddedAt: at })
    const tombstone = boundTo(insertTombstone, { ...newTombstone(userId, at) })
    const { results, repeated } = await this.#connection.write('shred keys', [
      shred,
      ...(forget ? [] : [tombstone]),
      ...versionsOf([userId]),
    ])
    const rows = results.at(-1)?.rows ?? []
    // If the answer to an earlier attempt was lost, the tombstones of that time are this call's.
    const time = instantToText(at)
    const ours = rows.filter((row) => row[6] === time).map(([, version, , kekId]) => [version, kekId])
    const erased = [...(repeated ? ours : (results[0]?.rows ?? []))]
    if (forget) {
      // In a transaction of its own: had it removed the rows before an answer was lost, nothing would tell which they were.
      const removal = await this.#connection.write('remove keys', [
        shred,
        boundTo(removeRowsOfUser, { userId }),
      ])
      erased.push(...(removal.results[0]?.rows ?? []))
    }
    return { userId, ...erasedVersions(erased), at: new Date(at), ...(await this.#maintenance.afterShred()) }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    const { removeRow } = sqliteQueries()
    const ordered = inLockOrder(refs)
    // The rows that there are now tell how many were removed, if an answer is lost.
    const standing = await this.getAll(distinctUserIds(ordered))
    const present = ordered.filter((ref) =>
      standing.get(ref.userId)?.some((record) => compareRefs(record, ref) === 0),
    )
    const removals = present.map(({ userId, version }) => boundTo(removeRow, { userId, version }))
    const { changed, repeated } = await this.#inBatches('remove keys', removals)
    return repeated ? present.length : changed.filter((count) => count === 1).length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const { selectKekIds, selectSampleOfKek } = sqliteQueries()
    const kekIds = await this.#connection.read('sample keys', boundTo(selectKekIds))
    const statements = [...kekIds.map(([kekId]) => kekId), null].map((kekId) =>
      boundTo(selectSampleOfKek, { kekId, limit }),
    )
    // No batch, which would take the lock for writing.
    const samples = await Promise.all(
      statements.map((statement) => this.#connection.read('sample keys', statement)),
    )
    return decodeRows(samples.flat()).filter(isReadable)
  }

  async census(options: CensusOptions = {}): Promise<CensusRow[]> {
    if (this.#connection.place !== 'server') return censusInParts(countQuery(this.#connection), options)
    const statement = boundTo(sqliteQueries().countRows, { named: namedKekIds(options) })
    return censusOf(await this.#connection.read('count keys', statement))
  }

  /**
   * Calls `listener` once, with `silent`: these drivers do not tell of changes.
   *
   * @throws ERR_CLOSED
   */
  changes(listener: (change: StoreChange) => void): () => void {
    this.#connection.assertOpen()
    return this.#listeners.add(listener)
  }

  close(): Promise<void> {
    this.#listeners.clear()
    return this.#connection.close()
  }

  /** Runs any number of statements, some hundred in one transaction. @param last runs in the last one */
  async #inBatches(
    action: string,
    statements: readonly BoundStatement[],
    last: readonly BoundStatement[] = [],
  ) {
    const changed: number[] = []
    let rows: readonly (readonly unknown[])[] = []
    let repeated = false
    for (let start = 0; start === 0 || start < statements.length; start += BATCH_STATEMENTS) {
      const some = statements.slice(start, start + BATCH_STATEMENTS)
      const isLast = start + BATCH_STATEMENTS >= statements.length
      const batch = await this.#connection.write(action, isLast ? [...some, ...last] : some)
      changed.push(...batch.results.slice(0, some.length).map(({ changes }) => changes))
      rows = batch.results.slice(some.length).flatMap((result) => result.rows)
      repeated ||= batch.repeated
    }
    return { changed, rows, repeated }
  }
}
