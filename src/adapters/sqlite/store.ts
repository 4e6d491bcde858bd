/** The SQLite store on synchronous drivers, and the factory for all. Exported as `drizzle-keystore/sqlite`. */

import { type AsyncSqlite, type AsyncSqliteClient, asyncSqlite } from '../../drivers/async-sqlite.js'
import { assertDrizzleDb, isTransaction } from '../../drivers/drizzle-db.js'
import { assertUsableClient } from '../../drivers/host-client.js'
import { DEFAULT_DEADLINE_MS } from '../../drivers/retry.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { type SyncSqliteClient, syncSqlite } from '../../drivers/sync-sqlite.js'
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
import type { KeyRecord, KeyRef } from '../../table.js'
import { factoryOptions } from '../factory-options.js'
import { inTurns } from '../in-turns.js'
import { assertMigrateMode, type MigrationReport } from '../migrator.js'
import type { AsyncSqliteKeyStoreOptions, SqliteKeyStoreOptions } from '../options.js'
import {
  concernsTenant,
  distinctUserIds,
  groupByUser,
  inLockOrder,
  insertRounds,
  newTombstone,
  winnersOf,
} from '../records.js'
import { isReadable, requireReadable, type StoredRow } from '../stored-rows.js'
import { AsyncSqliteKeyStore, NOT_OUR_JOURNAL } from './async-store.js'
import { DEFAULT_POLL_MS, SqliteChanges } from './changes.js'
import { assertSqlitePath, SqliteConnection } from './connection.js'
import { SqliteErasure } from './erasure.js'
import { SqliteMaintenance } from './maintenance.js'
import type { OpenedFile } from './opened-file.js'
import { censusInParts } from './part-counts.js'
import { listInParts } from './part-pages.js'
import { erasedVersions } from './statements/decode.js'
import { readPage } from './statements/pages.js'
import { type SqliteStatements, selectActive, selectVersions } from './statements/prepare.js'
import { conditionalValues } from './statements/writes.js'
import { assertJournalMode } from './store-file.js'

export type { MigrateMode, MigrationReport } from '../migrator.js'
export type { AsyncSqliteKeyStoreOptions, SqliteKeyStoreOptions } from '../options.js'
export type { AsyncSqliteKeyStore } from './async-store.js'
export { encryptionKeys } from './schema.js'

/**
 * Where the store's database is. A `path` (or `:memory:`): the store makes the file and its folders, and has a connection of its
 * own. A `db`: the host application's drizzle db on better-sqlite3, node:sqlite or bun:sqlite, which the store does not close and no pragma
 * of which it changes.
 */
export type SqliteSource =
  | { readonly path: string }
  | { readonly db: HostSqliteDb | { readonly $client: SyncSqliteClient } }

/** The host application's drizzle db on an asynchronous driver, libsql or D1, which the store does not close. */
export interface AsyncSqliteSource {
  readonly db: AsyncHostSqliteDb | { readonly $client: AsyncSqliteClient }
}

/**
 * The part of a synchronous drizzle db that tells it from others. Typed structurally, as the client is. `$client` is there in every db that
 * `drizzle()` makes, but not in the type `BetterSQLite3Database`, which applications name.
 */
interface HostSqliteDb {
  readonly $client?: SyncSqliteClient
  run(...args: never[]): { readonly changes: number }
  all(...args: never[]): unknown
  transaction(...args: never[]): unknown
  /** What only a transaction has. */
  readonly rollback?: never
}

/** The same of a db on libsql or D1, which are told from others by what they return. */
interface AsyncHostSqliteDb {
  readonly $client?: AsyncSqliteClient
  run(
    ...args: never[]
  ): PromiseLike<{ readonly rowsAffected: number } | { readonly meta: { readonly changes: number } }>
  all(...args: never[]): unknown
  transaction(...args: never[]): unknown
  readonly rollback?: never
}

/**
 * Makes a store on a SQLite database. It opens at first use; {@link SqliteKeyStore.ready} opens it at once. Options may be in
 * either argument; the second wins.
 *
 * A shred's `erased: 'file'` holds if every writer of the file was a store on a path. A host's connection without `secure_delete`
 * leaves erased bytes in the file's free space, which `maintenance.finishErasure()` removes.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const store = sqliteKeyStore({ path: 'data/keystore.db' })
 * const shared = sqliteKeyStore({ db: drizzle(new Database('app.db')) })
 */
export function sqliteKeyStore(
  source: SqliteSource & SqliteKeyStoreOptions,
  options?: SqliteKeyStoreOptions,
): SqliteKeyStore
/**
 * Makes a store on libsql or D1. Each write is one batch, which is one transaction. These drivers do not tell of changes by others: a cache
 * keeps keys for a short time only. A shred is `erased: 'pending'`, and says what is left to do.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const store = sqliteKeyStore({ db: drizzle(env.DB) })
 */
export function sqliteKeyStore(
  source: AsyncSqliteSource & AsyncSqliteKeyStoreOptions,
  options?: AsyncSqliteKeyStoreOptions,
): AsyncSqliteKeyStore
export function sqliteKeyStore(
  source: (SqliteSource | AsyncSqliteSource) & SqliteKeyStoreOptions,
  options: SqliteKeyStoreOptions = {},
): SqliteKeyStore | AsyncSqliteKeyStore {
  const { source: own, options: all } = factoryOptions('sqlite', source, options)
  const client = clientOf(own)
  return typeof client === 'string' || !('kind' in client)
    ? new SqliteKeyStore(client, all)
    : new AsyncSqliteKeyStore(client, all)
}

export class SqliteKeyStore implements KeyStore {
  /** SQLite transactions are synchronous: no caller can have one open while it awaits this store. */
  readonly transactional = false
  readonly maintenance: StoreMaintenance
  readonly #connection: SqliteConnection
  readonly #changes: SqliteChanges
  readonly #erasure: SqliteErasure

  /** @param source a path, or the host's connection */
  constructor(source: string | SqliteClient, options: SqliteKeyStoreOptions) {
    const {
      migrate = 'auto',
      adopt = false,
      deadlineMs = DEFAULT_DEADLINE_MS,
      pollMs = DEFAULT_POLL_MS,
      journalMode,
    } = options
    assertMigrateMode(migrate)
    assertJournalMode(journalMode)
    if (typeof source !== 'string' && journalMode !== undefined) throw invalidArgument(NOT_OUR_JOURNAL)
    this.#changes = new SqliteChanges(pollMs)
    const onReady = (client: SqliteClient, file: OpenedFile | null) => this.#changes.attach(client, file)
    const opening = { migrate, adopt, deadlineMs, journalMode: journalMode ?? 'wal', onReady }
    this.#connection = new SqliteConnection(source, opening)
    this.#erasure = new SqliteErasure(this.#connection, deadlineMs)
    this.maintenance = new SqliteMaintenance(this.#connection, this.#changes, this.#erasure)
  }

  /** Opens the database and migrates it. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const records = await this.#readInTurns(userIds, selectActive)
    return new Map(records.map((record) => [record.userId, record]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    return groupByUser(await this.#readInTurns(userIds, selectVersions))
  }

  /** All rows of one user are of one snapshot. */
  #readInTurns(
    userIds: readonly string[],
    select: (statements: SqliteStatements, userIds: readonly string[]) => StoredRow[],
    remainingMs = this.#connection.newDeadline(),
  ): Promise<KeyRecord[]> {
    return inTurns([...new Set(userIds)], async (part) => {
      const rows = await this.#connection.read('read keys', (s) => select(s, part), remainingMs())
      return rows.map(requireReadable)
    })
  }

  async insertIfAbsent(records: readonly NewKeyRecord[]): Promise<KeyRecord[]> {
    const remainingMs = this.#connection.newDeadline()
    const parts = await inTurns(insertRounds(records).flat(), async (part) => {
      const { inserted, stored } = await this.#connection.write(
        'insert keys',
        (s) => {
          const inserted = new Set(
            part.filter((record) => s.insertRow.run(conditionalValues(record)).changes === 1),
          )
          // An inserted row is its own winner. Only the others have one that must be read.
          const others = part.filter((record) => !inserted.has(record))
          return { inserted, stored: selectVersions(s, distinctUserIds(others)) }
        },
        remainingMs(),
      )
      this.#changes.publish(distinctUserIds([...inserted].filter(({ version }) => version > 1)))
      return [{ inserted, stored: stored.map(requireReadable) }]
    })
    const inserted = new Set(parts.flatMap((part) => [...part.inserted]))
    const stored = groupByUser(parts.flatMap((part) => part.stored))
    // A ref may be among the inputs twice: its row was inserted for one of them.
    const twice = records.filter((record) => !inserted.has(record) && !stored.has(record.userId))
    const more = await this.#readInTurns(distinctUserIds(twice), selectVersions, remainingMs)
    return winnersOf(records, new Map([...stored, ...groupByUser(more)]), inserted)
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    const changed = await this.#connection.write('replace wrapped keys', (s) =>
      inLockOrder(changes).filter(
        (change) => s.replaceWrappedKey.run(conditionalValues(change)).changes === 1,
      ),
    )
    this.#changes.publish(changed.filter(concernsTenant).map(({ userId }) => userId))
    return changed.map(({ userId, version }) => ({ userId, version }))
  }

  list(page: KeyPage): Promise<KeyRecord[]> {
    const read = (page: KeyPage) => this.#connection.read('list keys', (s) => readPage(s.pages, page))
    if (page.notKekId === undefined) return read(page)
    return listInParts(page, { read, query: (...query) => this.#connection.query('list keys', ...query) })
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const { erased, changed } = await this.#connection.write('shred keys', (s) => {
      const erased = s.shredRows.rows({ userId, shreddedAt: at })
      const other = forget
        ? s.removeRowsOfUser.run({ userId })
        : s.insertTombstone.run({ ...newTombstone(userId, at) })
      return { erased, changed: erased.length + other.changes > 0 }
    })
    if (changed) this.#changes.publish([userId], forget)
    const state = await this.#erasure.afterShred()
    return { userId, ...erasedVersions(erased), at: new Date(at), ...state }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    const removed = await this.#connection.write('remove keys', (s) =>
      inLockOrder(refs).filter(({ userId, version }) => s.removeRow.run({ userId, version }).changes === 1),
    )
    this.#changes.publish(removed.map(({ userId }) => userId))
    return removed.length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const records = await this.#connection.read('sample keys', (s) => {
      const kekIds = [...s.selectKekIds.rows().map(([kekId]) => kekId), null]
      return kekIds.flatMap((kekId) => s.selectSampleOfKek.all({ kekId, limit }))
    })
    return records.filter(isReadable)
  }

  async census(options: CensusOptions = {}): Promise<CensusRow[]> {
    return censusInParts((...query) => this.#connection.query('count keys', ...query), options)
  }

  /**
   * Publishes at once which users a write through this connection changed. A commit of another connection is found by polling,
   * which cannot tell what it changed, and pauses while the host's transaction is open on its connection.
   *
   * @throws ERR_CLOSED
   */
  changes(listener: (change: StoreChange) => void): () => void {
    this.#connection.assertOpen()
    return this.#changes.subscribe(listener)
  }

  close(): Promise<void> {
    this.#changes.close()
    return this.#connection.close()
  }
}

/** @throws ERR_INVALID_ARGUMENT */
function clientOf(source: SqliteSource | AsyncSqliteSource): string | SqliteClient | AsyncSqlite {
  if (typeof source !== 'object' || source === null)
    throw invalidArgument('source must be { path } or { db }')
  if (!('db' in source)) {
    assertSqlitePath(source.path)
    return source.path
  }
  assertDrizzleDb(source.db, 'sqlite')
  if (isTransaction(source.db))
    throw invalidArgument('db must be no transaction: mint before you begin it, or give the db itself')
  assertUsableClient('db', source.db.$client)
  const client = syncSqlite(source.db.$client) ?? asyncSqlite(source.db.$client)
  if (client === null)
    throw invalidArgument('db must be a drizzle db on better-sqlite3, node:sqlite, bun:sqlite, libsql or D1')
  return client
}
