/** The Postgres store. Exported as `drizzle-keystore/postgres`. */
import { sql } from 'drizzle-orm'
import type { Deadline } from '../../drivers/deadline.js'
import { DEFAULT_DEADLINE_MS } from '../../drivers/retry.js'
import { invalidArgument } from '../../errors.js'
import type {
  CensusOptions,
  CensusRow,
  KeyPage,
  KeyStore,
  NewKeyRecord,
  SampleOptions,
  ShredOptions,
  ShredResult,
  StoreChange,
  StoreMaintenance,
  WrapChange,
} from '../../store.js'
import { type KeyRecord, type KeyRef, refKey } from '../../table.js'
import { kindOf } from '../../validate.js'
import { FINISH_ERASURE, pendingErasure } from '../erasure.js'
import { factoryOptions } from '../factory-options.js'
import { inTurns } from '../in-turns.js'
import { assertMigrateMode, type MigrationReport } from '../migrator.js'
import type { PostgresKeyStoreOptions } from '../options.js'
import {
  activeOf,
  distinctUserIds,
  groupByUser,
  inLockOrder,
  insertRounds,
  newTombstone,
  winnersOf,
} from '../records.js'
import { isReadable, requireReadable, type StoredRow, storedRow } from '../stored-rows.js'
import { PostgresChanges } from './changes.js'
import { listenTarget, PostgresConnection, type RunOptions } from './connection.js'
import { sampleKeks } from './kek-samples.js'
import { PostgresMaintenance } from './maintenance.js'
import type { PostgresSource } from './source.js'
import { changeArrays, liveArrays, namedKekIds, recordArrays, refArrays } from './statements/arrays.js'
import { censusRow, decodeRow, isTextRefused, type RowWithBytes } from './statements/decode.js'
import { readPage } from './statements/pages.js'
import { channelOf, type PostgresStatements, selectActive, selectVersions } from './statements/prepare.js'

export type { MigrateMode, MigrationReport } from '../migrator.js'
export type { PostgresKeyStoreOptions } from '../options.js'
export { encryptionKeys, encryptionKeysIn } from './schema.js'
export type { HostPostgresDb, PostgresSource } from './source.js'

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
  const own = factoryOptions('postgres', source, options)
  return new PostgresKeyStore(own.source, own.options)
}

const NOT_NOTIFYING = 'Notifications are switched off (notify: false), so that nothing is announced'

const NO_ROWS: ReadonlyMap<string, readonly KeyRecord[]> = new Map()

export class PostgresKeyStore implements KeyStore {
  readonly transactional: boolean
  readonly maintenance: StoreMaintenance
  readonly #connection: PostgresConnection
  readonly #statements: PostgresStatements
  readonly #changes: PostgresChanges
  readonly #schema: string

  constructor(source: PostgresSource, options: PostgresKeyStoreOptions) {
    const { schema = 'public', namedStatements = false, migrate, deadlineMs = DEFAULT_DEADLINE_MS } = options
    const { notify = true } = options
    assertMigrateMode(migrate)
    if (typeof schema !== 'string' || schema === '')
      throw invalidArgument('schema must be a non-empty string')
    if (typeof notify !== 'boolean') throw invalidArgument(`notify must be a boolean, got ${kindOf(notify)}`)
    const connection = new PostgresConnection(source, { schema, migrate, deadlineMs })
    const channel = channelOf(schema)
    this.#connection = connection
    this.#schema = schema
    this.transactional = connection.transactional
    this.#statements = connection.prepare({ named: namedStatements, notify })
    this.#changes = new PostgresChanges({
      channel,
      target: notify ? listenTarget(source, options.listenUrl, connection) : NOT_NOTIFYING,
      timeoutMs: deadlineMs,
      notify: async (payload) => {
        await connection.queryUnprepared(sql`select pg_catalog.pg_notify(${channel}, ${payload})`)
      },
    })
    this.maintenance = new PostgresMaintenance(connection, this.#statements, schema)
  }

  /** Connects to the database and migrates it. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const deadline = this.#connection.newDeadline()
    const records = await this.#readInTurns(userIds, selectActive, deadline)
    const versions = groupByUser(records)
    return new Map([...versions].flatMap(([userId, all]) => activeOf(all).map((active) => [userId, active])))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    return this.#versionsOf(userIds, this.#connection.newDeadline())
  }

  async insertIfAbsent(records: readonly NewKeyRecord[]): Promise<KeyRecord[]> {
    const deadline = this.#connection.newDeadline()
    const inserted = new Set<KeyRecord>()
    for (const round of insertRounds(records)) {
      // Nobody need be notified of a first version: no cache has an older one.
      const mints = round.every(({ version }) => version === 1)
      const rows = await inTurns<NewKeyRecord, KeyRef>(round, (part) =>
        this.#run(
          'insert keys',
          (s) =>
            part.some(isConditional)
              ? s.insertRowsWhileLive.execute({ ...recordArrays(part), ...liveArrays(part) })
              : (mints ? s.insertRows : s.insertRowsAndNotify).execute(recordArrays(part)),
          { deadline },
        ),
      )
      const refs = new Set(rows.map(refKey))
      for (const record of round) if (refs.has(refKey(record))) inserted.add(record)
    }
    // An inserted row is its own winner. The winners of the others are read by a statement of its own: its snapshot includes what
    // another writer committed while our insert waited for it.
    const others = records.filter((record) => !inserted.has(record))
    const stored = others.length === 0 ? NO_ROWS : await this.#versionsOf(distinctUserIds(others), deadline)
    return winnersOf(records, stored, inserted)
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    const ordered = inLockOrder(changes)
    const changed = await this.#run('replace wrapped keys', (s) =>
      ordered.some(isConditional)
        ? s.replaceWrappedKeysWhileLive.execute({ ...changeArrays(ordered), ...liveArrays(ordered) })
        : s.replaceWrappedKeys.execute(changeArrays(ordered)),
    )
    return changed.map(({ userId, version }) => ({ userId, version }))
  }

  list(page: KeyPage): Promise<KeyRecord[]> {
    const named = page.notKekId ?? page.kekId
    const kind = pageKindOf(page)
    const { before } = page
    const bound = before && { beforeUserId: before.userId, beforeVersion: before.version }
    return readPage(page, ({ after, limit }) => {
      const values = { ...after, ...bound, limit, ...(typeof named === 'string' ? { kekId: named } : {}) }
      return this.#read(
        'list keys',
        (s) =>
          bound && (kind === 'UnderKek' || kind === 'WithoutKek')
            ? s[`selectPage${kind}Before`].execute(values)
            : s[`selectPage${kind}`].execute(values),
        (s) => s[`selectPage${kind}WithBytes`].execute(values),
        // There may be any number of rows before the first that is wanted; under one KEK id of dead entries of the index.
        { mayTakeLong: named !== undefined },
      )
    })
  }

  async shred(userId: string, { forget, at = new Date() }: ShredOptions): Promise<ShredResult> {
    const deadline = this.#connection.newDeadline()
    const run = <T>(work: (s: PostgresStatements, failures: number) => Promise<T>) =>
      this.#run('shred keys', work, { deadline })
    /** The KEK ids of the versions that were erased. */
    const erased = new Map<number, string | null>()
    let isAnswerLost = false
    for (let live = true; live; ) {
      const answered = await run((s, failures) => {
        isAnswerLost ||= failures > 0
        return s.shredRows.execute({ userId, shreddedAt: at.toISOString() })
      })
      // What an attempt has erased whose answer was lost, only the rows can tell.
      const found = isAnswerLost ? await run((s) => s.selectVersionsOfUser.execute({ userId })) : []
      for (const { version, kekId } of [...answered, ...found.filter((row) => isErasedAt(row, at))])
        erased.set(version, kekId)
      if (!forget) await run((s) => s.insertTombstone.execute(recordArrays([newTombstone(userId, at)])))
      // A racing insert may have committed after the snapshot of the update: only another statement sees it.
      const [looked] = await run((s) => s.selectHasLiveRow.execute({ userId }))
      live = looked?.live === true
    }
    if (forget) await run((s) => s.removeTombstones.execute({ userId }))
    return {
      userId,
      versions: [...erased.keys()].sort((a, b) => a - b),
      kekIds: [...new Set(erased.values())],
      at: new Date(at),
      ...pendingErasure(
        `Postgres keeps the old bytes until the table is rewritten: ${FINISH_ERASURE}; its write-ahead log, replicas and ` +
          'backups keep them until they expire',
      ),
    }
  }

  async remove(refs: readonly KeyRef[]): Promise<number> {
    const deadline = this.#connection.newDeadline()
    const columns = refArrays(inLockOrder(refs))
    const run = (work: (s: PostgresStatements, failures: number) => Promise<KeyRef[]>) =>
      this.#run('remove keys', work, { deadline })
    const stored = await run((s) => s.selectRefs.execute(columns))
    let isAnswerLost = false
    const removed = await run((s, failures) => {
      isAnswerLost = failures > 0
      return s.removeRows.execute(columns)
    })
    return isAnswerLost ? new Set([...stored, ...removed].map(refKey)).size : removed.length
  }

  async sampleByKek(limit: number, { kekIds, onUnsearched }: SampleOptions = {}): Promise<KeyRecord[]> {
    if (onUnsearched !== undefined && this.#connection.canRunBriefly) {
      const sampling = { limit, schema: this.#schema, kekIds, onUnsearched }
      const rows = await sampleKeks(this.#connection, this.#connection.sampleQueries(), sampling)
      if (rows !== null) return rows
    }
    const rows = await this.#read(
      'sample keys',
      (s) => s.selectSample.execute({ limit }),
      (s) => s.selectSampleWithBytes.execute({ limit }),
      // Applications that start wait for this.
      { mayTakeLong: 'ifAtWork' },
    )
    return rows.filter(isReadable)
  }

  async census(options: CensusOptions = {}): Promise<CensusRow[]> {
    const named = namedKekIds(options)
    const rows = await this.#run('count keys', (s) => s.countRows.execute({ named }), { mayTakeLong: true })
    return rows.map(censusRow)
  }

  /**
   * Listens on a connection of its own, or through the host's postgres-js or PGlite, and reconnects after an outage. Where it cannot
   * listen, the listener is called with `silent`.
   *
   * @throws ERR_CLOSED
   */
  changes(listener: (change: StoreChange) => void): () => void {
    this.#connection.assertOpen()
    return this.#changes.subscribe(listener)
  }

  /** Ends within 5 s, whatever the server does. Calls that are under way have 2 s to end; then they are ERR_CLOSED. */
  async close(): Promise<void> {
    await Promise.all([this.#changes.close(), this.#connection.close()])
  }

  async #versionsOf(userIds: readonly string[], deadline: Deadline): Promise<Map<string, KeyRecord[]>> {
    return groupByUser(await this.#readInTurns(userIds, selectVersions, deadline))
  }

  /** All rows of one user are of one snapshot. */
  #readInTurns(
    userIds: readonly string[],
    select: (statements: PostgresStatements, userIds: readonly string[]) => Promise<KeyRecord[]>,
    deadline: Deadline,
  ): Promise<KeyRecord[]> {
    return inTurns([...new Set(userIds)], async (ids) => {
      const rows = await this.#read(
        'read keys',
        (s) => select(s, ids),
        (s) => s.selectVersionsWithBytes.execute({ ids: [...ids] }),
        { deadline },
      )
      return rows.map(requireReadable)
    })
  }

  /** Reads rows. If Postgres refuses to send a text of them, or a version is not exact as a number, reads them again as bytes. */
  async #read(
    action: string,
    read: (statements: PostgresStatements) => Promise<KeyRecord[]>,
    readBytes: (statements: PostgresStatements) => Promise<RowWithBytes[]>,
    options?: RunOptions,
  ): Promise<StoredRow[]> {
    const records = await this.#run(action, read, options).catch((error) => {
      if (isTextRefused(error)) return null
      throw error
    })
    if (records?.every(({ version }) => Number.isSafeInteger(version))) return records.map(storedRow)
    return (await this.#run(action, readBytes, options)).map(decodeRow)
  }

  #run<T>(
    action: string,
    work: (statements: PostgresStatements, failures: number) => Promise<T>,
    options?: RunOptions,
  ): Promise<T> {
    return this.#connection.run(action, (failures) => work(this.#statements, failures), options)
  }
}

/** Whether a shred of this time erased the row. A tombstone that it inserted for a user without rows was made at that time too. */
function isErasedAt(row: KeyRecord, at: Date): boolean {
  return row.shreddedAt?.getTime() === at.getTime() && row.createdAt.getTime() !== at.getTime()
}

/** Which rows a page has, as the names of its statements say it. */
function pageKindOf({ notKekId, kekId }: KeyPage): '' | 'NotUnderKek' | 'UnderKek' | 'WithoutKek' {
  if (notKekId !== undefined) return 'NotUnderKek'
  if (kekId === undefined) return ''
  return kekId === null ? 'WithoutKek' : 'UnderKek'
}

function isConditional({ whileLive }: Pick<WrapChange, 'whileLive'>): boolean {
  return whileLive !== undefined
}
