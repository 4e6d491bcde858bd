/** The Postgres store. Exported as `drizzle-keystore/postgres`. */
import { sql } from 'drizzle-orm'
import { DEFAULT_DEADLINE_MS } from '../../drivers/retry.js'
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
import { type KeyRecord, type KeyRef, refKey } from '../../table.js'
import { ownOptions } from '../../validate.js'
import { FINISH_ERASURE, pendingErasure } from '../erasure.js'
import type { MigrationReport } from '../migrator.js'
import type { PostgresKeyStoreOptions } from '../options.js'
import {
  BEFORE_ALL_REFS,
  distinctUserIds,
  groupByUser,
  hasValidTimes,
  inLockOrder,
  insertRounds,
  newTombstone,
  requireValidTimes,
  winnersOf,
} from '../records.js'
import { PostgresChanges } from './changes.js'
import { listenTarget, PostgresConnection, type PostgresSource } from './connection.js'
import { PostgresMaintenance } from './maintenance.js'
import { changeArrays, recordArrays, refArrays } from './statements/arrays.js'
import {
  channelOf,
  type PostgresStatements,
  prepareStatements,
  selectActive,
  selectVersions,
} from './statements/prepare.js'

export type { MigrateMode, MigrationReport } from '../migrator.js'
export type { PostgresKeyStoreOptions } from '../options.js'
export type { HostPostgresDb, PostgresSource } from './connection.js'
export { encryptionKeys, encryptionKeysIn } from './schema.js'

/**
 * Makes a store on a Postgres database. It connects at first use; {@link PostgresKeyStore.ready} connects at once. Options may be in
 * either argument; the second wins.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const store = postgresKeyStore({ url: 'postgres://…' }, { schema: 'keystore' })
 * await db.transaction(async (tx) => {
 *   const store = postgresKeyStore({ db: tx, transactional: true })
 * })
 */
export function postgresKeyStore(
  source: PostgresSource & PostgresKeyStoreOptions,
  options: PostgresKeyStoreOptions = {},
): PostgresKeyStore {
  // An option beside the url counts too: ignoring it would silently mean its default.
  const own = ownOptions(source, 'source ({ url }, { pool } or { db })')
  return new PostgresKeyStore(own, ownOptions({ ...own, ...ownOptions(options) }))
}

const NO_ROWS: ReadonlyMap<string, readonly KeyRecord[]> = new Map()

export class PostgresKeyStore implements KeyStore {
  readonly transactional: boolean
  readonly maintenance: StoreMaintenance
  readonly #connection: PostgresConnection
  readonly #statements: PostgresStatements
  readonly #changes: PostgresChanges

  constructor(source: PostgresSource, options: PostgresKeyStoreOptions) {
    const { schema = 'public', namedStatements = false, migrate, deadlineMs = DEFAULT_DEADLINE_MS } = options
    if (typeof schema !== 'string' || schema === '')
      throw invalidArgument('schema must be a non-empty string')
    const connection = new PostgresConnection(source, { schema, migrate, deadlineMs })
    const channel = channelOf(schema)
    this.#connection = connection
    this.transactional = connection.transactional
    this.#statements = prepareStatements(connection.db, schema, namedStatements)
    this.#changes = new PostgresChanges({
      channel,
      target: listenTarget(source, options.listenUrl, connection.transactional),
      notify: async (payload) => {
        await connection.db.execute(sql`select pg_notify(${channel}, ${payload})`)
      },
    })
    this.maintenance = new PostgresMaintenance(connection, this.#statements, schema)
  }

  /** Connects to the database and migrates it. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const records = await this.#run('read keys', (s) => selectActive(s, userIds))
    return new Map(records.map((record) => [record.userId, requireValidTimes(record)]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    const records = await this.#run('read keys', (s) => selectVersions(s, userIds))
    return groupByUser(records.map(requireValidTimes))
  }

  async insertIfAbsent(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const inserted = new Set<KeyRecord>()
    for (const round of insertRounds(records)) {
      // Nobody need be notified of a first version: no cache has an older one.
      const mints = round.every(({ version }) => version === 1)
      const rows: KeyRef[] = await this.#run('insert keys', (s) =>
        (mints ? s.insertRows : s.insertRowsAndNotify).execute(recordArrays(round)),
      )
      const refs = new Set(rows.map(refKey))
      for (const record of round) if (refs.has(refKey(record))) inserted.add(record)
    }
    // An inserted row is its own winner. The winners of the others are read by a statement of its own: its snapshot includes what
    // another writer committed while our insert waited for it.
    const others = records.filter((record) => !inserted.has(record))
    const stored = others.length === 0 ? NO_ROWS : await this.getAll(distinctUserIds(others))
    return winnersOf(records, stored, inserted)
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    const columns = changeArrays(inLockOrder(changes))
    return this.#run('replace wrapped keys', (s) => s.replaceWrappedKeys.execute(columns))
  }

  async list({ after = BEFORE_ALL_REFS, limit, notKekId }: KeyPage): Promise<KeyRecord[]> {
    const records = await this.#run('list keys', (s) =>
      notKekId === undefined
        ? s.selectPage.execute({ ...after, limit })
        : s.selectPageNotUnderKek.execute({ ...after, limit, kekId: notKekId }),
    )
    return records.map(requireValidTimes)
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const versions: number[] = []
    const kekIds = new Set<string | null>()
    for (let live = true; live; ) {
      const erased = await this.#run('shred keys', (s) =>
        s.shredRows.execute({ userId, shreddedAt: at.toISOString() }),
      )
      for (const { version, kekId } of erased) {
        versions.push(version)
        kekIds.add(kekId)
      }
      if (!forget)
        await this.#run('shred keys', (s) =>
          s.insertTombstone.execute(recordArrays([newTombstone(userId, at)])),
        )
      // A racing insert may have committed after the snapshot of the update: only another statement sees it.
      const [found] = await this.#run('shred keys', (s) => s.selectHasLiveRow.execute({ userId }))
      live = found?.live === true
    }
    if (forget) await this.#run('shred keys', (s) => s.removeTombstones.execute({ userId }))
    return {
      userId,
      versions: versions.sort((a, b) => a - b),
      kekIds: [...kekIds],
      at: new Date(at),
      ...pendingErasure(
        `Postgres keeps the old bytes until the table is rewritten: ${FINISH_ERASURE}; its write-ahead log, replicas and ` +
          'backups keep them until they expire',
      ),
    }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    const ordered = inLockOrder(refs)
    const removed = await this.#run('remove keys', (s) => s.removeRows.execute(refArrays(ordered)))
    return removed.length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const records = await this.#run('sample keys', (s) => s.selectSample.execute({ limit }))
    return records.filter(hasValidTimes)
  }

  async census(): Promise<CensusRow[]> {
    return this.#run('count keys', (s) => s.countRows.execute())
  }

  /**
   * Listens on a connection of its own and reconnects after an outage. Where it cannot listen, the listener is called with `silent`.
   *
   * @throws ERR_CLOSED
   */
  changes(listener: (change: StoreChange) => void): () => void {
    this.#connection.assertOpen()
    return this.#changes.subscribe(listener)
  }

  async close(): Promise<void> {
    await this.#changes.close()
    await this.#connection.close()
  }

  #run<T>(action: string, work: (statements: PostgresStatements) => Promise<T>): Promise<T> {
    return this.#connection.run(action, () => work(this.#statements))
  }
}
