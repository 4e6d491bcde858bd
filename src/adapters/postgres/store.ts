/** The Postgres store: production. Exported as `drizzle-keystore/postgres`. */
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
import { FINISH_ERASURE, pendingErasure } from '../erasure.js'
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
import { PostgresChanges } from './changes.js'
import { listenTarget, PostgresConnection, type PostgresSource } from './connection.js'
import { PostgresMaintenance } from './maintenance.js'
import {
  activeRowsOf,
  channelOf,
  columnsOf,
  columnsOfChanges,
  type PostgresStatements,
  prepareStatements,
  rowsOf,
} from './statements.js'

export type { MigrateMode, MigrationReport } from '../migrator.js'
export type { HostPostgresDb, PostgresSource } from './connection.js'
export { encryptionKeys, encryptionKeysIn } from './schema.js'

export interface PostgresKeyStoreOptions {
  /** The schema of the table and of our ledger, made if it is missing. Default `'public'`. */
  readonly schema?: string
  /** Name the prepared statements: faster on a direct connection, but a pooler in transaction mode fails. Default false. */
  readonly namedStatements?: boolean
  /** Default `'auto'`; inside a transaction `'off'`. */
  readonly migrate?: MigrateMode
  /** How long a call goes on trying after transient failures, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number
  /**
   * Where `changes` listens for notifications: the URL of a direct connection, one that no pooler in transaction mode is in
   * the way of. Default: the url of the store itself, and nowhere for the host's pool or db. `false`: nowhere.
   */
  readonly listenUrl?: string | false
}

/**
 * Connects at first use; {@link PostgresKeyStore.ready} does it at once. Options may stand in either object.
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
  // Whoever puts an option beside the url means it: ignored, it would be a silent default.
  return new PostgresKeyStore(source, { ...source, ...options })
}

const NOTHING: ReadonlyMap<string, readonly KeyRecord[]> = new Map()

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

  /** Connects and migrates. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const records = await this.#run('read keys', (s) => activeRowsOf(s, userIds))
    return new Map(records.map((record) => [record.userId, readable(record)]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    const records = await this.#run('read keys', (s) => rowsOf(s, userIds))
    return groupByUser(records.map(readable))
  }

  async insertIfAbsent(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    const inserted = new Set<KeyRecord>()
    for (const round of inRounds(records)) {
      // Mints are told nobody.
      const mints = round.every(({ version }) => version === 1)
      const rows: KeyRef[] = await this.#run('insert keys', (s) =>
        (mints ? s.insert : s.insertAndTell).execute(columnsOf(round)),
      )
      const refs = new Set(rows.map(refKey))
      for (const record of round) if (refs.has(refKey(record))) inserted.add(record)
    }
    // What went in is what is stored: only the others have a winner that we do not know. A statement of its own: its snapshot sees
    // what another writer committed while ours waited for it.
    const others = records.filter((record) => !inserted.has(record))
    const stored = others.length === 0 ? NOTHING : await this.getAll(usersOf(others))
    return winnersOf(records, stored, inserted)
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    const columns = columnsOfChanges(inLockOrder(changes))
    return this.#run('replace wrapped keys', (s) => s.replace.execute(columns))
  }

  async list({ after = BEFORE_ALL, limit, notKekId }: KeyPage): Promise<KeyRecord[]> {
    const records = await this.#run('list keys', (s) =>
      notKekId === undefined
        ? s.list.execute({ ...after, limit })
        : s.listNotKek.execute({ ...after, limit, kekId: notKekId }),
    )
    return records.map(readable)
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const versions: number[] = []
    const kekIds = new Set<string | null>()
    for (let live = true; live; ) {
      const erased = await this.#run('shred keys', (s) =>
        s.shred.execute({ userId, shreddedAt: at.toISOString() }),
      )
      for (const { version, kekId } of erased) {
        versions.push(version)
        kekIds.add(kekId)
      }
      if (!forget)
        await this.#run('shred keys', (s) => s.insertTombstone.execute(columnsOf([newTombstone(userId, at)])))
      // A racing insert may have committed after the snapshot of the update: only a fresh look tells.
      const [found] = await this.#run('shred keys', (s) => s.isLive.execute({ userId }))
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
    const removed = await this.#run('remove keys', (s) =>
      s.remove.execute({
        ids: ordered.map(({ userId }) => userId),
        versions: ordered.map(({ version }) => version),
      }),
    )
    return removed.length
  }

  async sampleByKek(limit: number): Promise<KeyRecord[]> {
    const records = await this.#run('sample keys', (s) => s.sample.execute({ limit }))
    return records.filter(isReadable)
  }

  async census(): Promise<CensusRow[]> {
    return this.#run('count keys', (s) => s.census.execute())
  }

  /**
   * Listens on a connection of its own, which comes back by itself after an outage. Where it cannot, the listener is told so.
   *
   * @throws ERR_CLOSED
   */
  changes(listener: (change: StoreChange) => void): () => void {
    this.#connection.assertOpen()
    return this.#changes.listen(listener)
  }

  async close(): Promise<void> {
    await this.#changes.close()
    await this.#connection.close()
  }

  #run<T>(action: string, work: (statements: PostgresStatements) => Promise<T>): Promise<T> {
    return this.#connection.run(action, () => work(this.#statements))
  }
}

const BEFORE_ALL: KeyRef = { userId: '', version: 0 }
