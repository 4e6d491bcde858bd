/** The SQLite store, on better-sqlite3: embedded, the default. Exported as `drizzle-keystore/sqlite`. */

import { DEFAULT_DEADLINE_MS } from '../../drivers/retry.js'
import type { SqliteClient } from '../../drivers/sqlite-client.js'
import { invalidArgument } from '../../errors.js'
import type {
  CensusRow,
  KeyPage,
  KeyStore,
  ShredOptions,
  ShredResult,
  StoreChange,
  StoreMaintenance,
  WrapChange,
} from '../../store.js'
import { isTombstone, type KeyRecord, type KeyRef } from '../../table.js'
import type { MigrateMode, MigrationReport } from '../migrator.js'
import {
  groupByUser,
  inLockOrder,
  inRounds,
  isReadable,
  newTombstone,
  readable,
  usersOf,
  winnersOf,
} from '../records.js'
import { DEFAULT_POLL_MS, SqliteChanges } from './changes.js'
import { assertSqlitePath, SqliteConnection } from './connection.js'
import { SqliteErasure } from './erasure.js'
import { SqliteMaintenance } from './maintenance.js'
import { activeRowsOf, rowsOf } from './statements.js'

export type { MigrateMode, MigrationReport } from '../migrator.js'
export { encryptionKeys } from './schema.js'

/**
 * A path (or `:memory:`), whose file, folders and connection are ours, or the host's own drizzle db on better-sqlite3, which
 * we neither close nor change a pragma of.
 */
export type SqliteSource = { readonly path: string } | { readonly db: { readonly $client: SqliteClient } }

export interface SqliteKeyStoreOptions {
  /** Default `'auto'`. */
  readonly migrate?: MigrateMode
  /** Take over a file of the Python reference. Default false. */
  readonly adopt?: boolean
  /** How long a call waits for another writer's lock, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number
  /** How often the database is asked whether others have written, while somebody listens, in milliseconds. Default 1000. */
  readonly pollMs?: number
}

/**
 * Opens at first use; {@link SqliteKeyStore.ready} does it at once. Options may stand in either object.
 *
 * A shred reports its bytes as gone (`erased: 'file'`) where every writer of the file was a store of ours on a path: a host's
 * connection without `secure_delete` leaves bytes in the file's free space, which `maintenance.finishErasure()` clears.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const store = sqliteKeyStore({ path: 'data/keystore.db' })
 * const shared = sqliteKeyStore({ db: drizzle(new Database('app.db')) })
 */
export function sqliteKeyStore(
  source: SqliteSource & SqliteKeyStoreOptions,
  options: SqliteKeyStoreOptions = {},
): SqliteKeyStore {
  // Whoever puts an option beside the path means it: ignored, it would be a silent default.
  return new SqliteKeyStore(source, { ...source, ...options })
}

export class SqliteKeyStore implements KeyStore {
  /** SQLite transactions are synchronous, so that no caller can have one open while it awaits us. */
  readonly transactional = false
  readonly maintenance: StoreMaintenance
  readonly #connection: SqliteConnection
  readonly #changes: SqliteChanges
  readonly #erasure: SqliteErasure

  constructor(source: SqliteSource, options: SqliteKeyStoreOptions) {
    const {
      migrate = 'auto',
      adopt = false,
      deadlineMs = DEFAULT_DEADLINE_MS,
      pollMs = DEFAULT_POLL_MS,
    } = options
    this.#changes = new SqliteChanges(pollMs)
    const onReady = (client: SqliteClient) => this.#changes.attach(client)
    this.#connection = new SqliteConnection(clientOf(source), { migrate, adopt, deadlineMs, onReady })
    this.#erasure = new SqliteErasure(this.#connection, deadlineMs)
    this.maintenance = new SqliteMaintenance(this.#connection, this.#changes, this.#erasure)
  }

  /** Opens and migrates. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const records = await this.#connection.read('read keys', (s) => activeRowsOf(s, userIds))
    return new Map(records.map((record) => [record.userId, readable(record)]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    const records = await this.#connection.read('read keys', (s) => rowsOf(s, userIds))
    return groupByUser(records.map(readable))
  }

  async insertIfAbsent(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const { inserted, stored } = await this.#connection.write('insert keys', (s) => {
      const inserted = new Set(
        inRounds(records)
          .flat()
          .filter((record) => s.insert.run({ ...record }).changes === 1),
      )
      // What went in is what is stored: only the others have a winner that we do not know.
      const others = records.filter((record) => !inserted.has(record))
      return { inserted, stored: rowsOf(s, usersOf(others)) }
    })
    this.#changes.tell(usersOf([...inserted].filter(({ version }) => version > 1)))
    return winnersOf(records, groupByUser(stored.map(readable)), inserted)
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    return this.#connection.write('replace wrapped keys', (s) => {
      const changed = inLockOrder(changes).filter((change) => s.replace.run({ ...change }).changes === 1)
      return changed.map(({ userId, version }) => ({ userId, version }))
    })
  }

  async list({ after = BEFORE_ALL, limit, notKekId }: KeyPage): Promise<KeyRecord[]> {
    const records = await this.#connection.read('list keys', (s) =>
      notKekId === undefined
        ? s.list.all({ ...after, limit })
        : s.listNotKek.all({ ...after, limit, kekId: notKekId }),
    )
    return records.map(readable)
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const { live, changed } = await this.#connection.write('shred keys', (s) => {
      const rows = rowsOf(s, [userId])
      const erased = s.shred.run({ userId, shreddedAt: at }).changes
      const other = forget ? s.removeUser.run({ userId }) : s.insertTombstone.run(newTombstone(userId, at))
      return { live: rows.filter((row) => !isTombstone(row)), changed: erased + other.changes > 0 }
    })
    if (changed) this.#changes.tell([userId])
    const kekIds = [...new Set(live.map(({ kekId }) => kekId))]
    const state = await this.#erasure.afterShred()
    return { userId, versions: live.map(({ version }) => version), kekIds, at: new Date(at), ...state }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    const removed = await this.#connection.write('remove keys', (s) =>
      inLockOrder(refs).filter(({ userId, version }) => s.remove.run({ userId, version }).changes === 1),
    )
    this.#changes.tell(removed.map(({ userId }) => userId))
    return removed.length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const records = await this.#connection.read('sample keys', (s) => {
      const withId = s.kekIds.all().flatMap(({ kekId }) => s.sampleOfKek.all({ kekId, limit }))
      return [...withId, ...s.sampleWithoutKek.all({ limit })]
    })
    return records.filter(isReadable)
  }

  async census(): Promise<CensusRow[]> {
    const rows = await this.#connection.read('count keys', (s) => s.census.all())
    return rows.map((row) => ({ ...row, shredded: row.shredded === 1 }))
  }

  /**
   * Exact for what is written through this connection; that another connection has committed is seen at the next look, but not
   * what, nor while the host is inside a transaction on its connection.
   *
   * @throws ERR_CLOSED
   */
  changes(listener: (change: StoreChange) => void): () => void {
    this.#connection.assertOpen()
    return this.#changes.listen(listener)
  }

  close(): Promise<void> {
    this.#changes.close()
    return this.#connection.close()
  }
}

const BEFORE_ALL: KeyRef = { userId: '', version: 0 }

function clientOf(source: SqliteSource): string | SqliteClient {
  if (typeof source !== 'object' || source === null)
    throw invalidArgument('source must be { path } or { db }')
  if ('db' in source) {
    if (typeof source.db?.$client?.prepare !== 'function') {
      throw invalidArgument(
        'db must be a drizzle db on better-sqlite3; for a transaction, mint before you begin it',
      )
    }
    return source.db.$client
  }
  assertSqlitePath(source.path)
  return source.path
}
