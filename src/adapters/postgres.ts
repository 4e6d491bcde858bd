/** The Postgres store: production. Exported as `drizzle-keystore/postgres`. */
import { type SQL, sql } from 'drizzle-orm'
import { sha256 } from '../aead.js'
import { invalidArgument } from '../errors.js'
import type { MigrateMode, MigrationReport } from '../migrator.js'
import type {
  CensusRow,
  KeyPage,
  KeyRecord,
  KeyRef,
  KeyStore,
  ShredOptions,
  ShredResult,
  WrapChange,
} from '../store.js'
import { encryptionKeysIn } from './derive-postgres.js'
import { type AnyPostgresDb, PostgresConnection, type PostgresSource } from './postgres-connection.js'
import {
  groupByUser,
  inLockOrder,
  inRounds,
  isReadable,
  newTombstone,
  readable,
  winnersOf,
} from './records.js'
import { DEFAULT_DEADLINE_MS } from './retry.js'

export type { MigrateMode, MigrationReport } from '../migrator.js'
export { encryptionKeys, encryptionKeysIn } from './derive-postgres.js'
export type { HostPostgresDb, PostgresSource } from './postgres-connection.js'

export interface PostgresKeyStoreOptions {
  /** The schema of the table and of our ledger, made if it is missing. Default `'public'`. */
  readonly schema?: string
  /** Name the prepared statements: faster on a direct connection, but a pooler in transaction mode fails. Default false. */
  readonly namedStatements?: boolean
  /** Default `'auto'`; inside a transaction `'off'`. */
  readonly migrate?: MigrateMode
  /** How long a call goes on trying after transient failures, in milliseconds. Default 10,000. */
  readonly deadlineMs?: number
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

export class PostgresKeyStore implements KeyStore {
  readonly transactional: boolean
  readonly #connection: PostgresConnection
  readonly #statements: Statements

  constructor(source: PostgresSource, options: PostgresKeyStoreOptions) {
    const { schema = 'public', namedStatements = false, migrate, deadlineMs = DEFAULT_DEADLINE_MS } = options
    if (typeof schema !== 'string' || schema === '')
      throw invalidArgument('schema must be a non-empty string')
    this.#connection = new PostgresConnection(source, { schema, migrate, deadlineMs })
    this.transactional = this.#connection.transactional
    this.#statements = prepareStatements(this.#connection.db, schema, namedStatements)
  }

  /** Connects and migrates. @returns what was migrated @throws ERR_STORE · ERR_SCHEMA · ERR_CLOSED */
  ready(): Promise<MigrationReport> {
    return this.#connection.ready()
  }

  async getActive(userIds: readonly string[]): Promise<Map<string, KeyRecord>> {
    const records = await this.#run('read keys', (s) => s.active.execute({ ids: [...new Set(userIds)] }))
    return new Map(records.map((record) => [record.userId, readable(record)]))
  }

  async getAll(userIds: readonly string[]): Promise<Map<string, KeyRecord[]>> {
    const records = await this.#run('read keys', (s) => s.all.execute({ ids: [...new Set(userIds)] }))
    return groupByUser(records.map(readable))
  }

  async insertIfAbsent(records: readonly KeyRecord[]): Promise<KeyRecord[]> {
    for (const round of inRounds(records)) {
      await this.#run('insert keys', (s) => s.insert.execute(columnsOf(round)))
    }
    // A statement of its own: its snapshot sees what another writer committed while ours waited for it.
    return winnersOf(records, await this.getAll(records.map(({ userId }) => userId)))
  }

  async replaceWrapped(changes: readonly WrapChange[]): Promise<KeyRef[]> {
    const ordered = inLockOrder(changes)
    return this.#run('replace wrapped keys', (s) =>
      s.replace.execute({
        ids: ordered.map(({ userId }) => userId),
        versions: ordered.map(({ version }) => version),
        from: ordered.map(({ from }) => hex(from)),
        encryptedKeys: ordered.map(({ encryptedKey }) => hex(encryptedKey)),
        kekIds: ordered.map(({ kekId }) => kekId),
        wrappedAt: ordered.map(({ wrappedAt }) => wrappedAt.toISOString()),
      }),
    )
  }

  async list({ after = BEFORE_ALL, limit, notKekId }: KeyPage): Promise<KeyRecord[]> {
    const records = await this.#run('list keys', (s) =>
      notKekId === undefined
        ? s.list.execute({ ...after, limit })
        : s.listNotKek.execute({ ...after, limit, kekId: notKekId }),
    )
    return records.map(readable)
  }

  async shred(userId: string, { forget }: ShredOptions): Promise<ShredResult> {
    const at = new Date()
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
    return { userId, versions: versions.sort((a, b) => a - b), kekIds: [...kekIds], at }
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

  close(): Promise<void> {
    return this.#connection.close()
  }

  #run<T>(action: string, work: (statements: Statements) => Promise<T>): Promise<T> {
    return this.#connection.run(action, () => work(this.#statements))
  }
}

const BEFORE_ALL: KeyRef = { userId: '', version: 0 }

/** Hexadecimal, because drivers differ in how they pass an array of bytes. */
function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

/** Rows as one array a column, for unnest. */
function columnsOf(records: readonly KeyRecord[]) {
  return {
    ids: records.map(({ userId }) => userId),
    versions: records.map(({ version }) => version),
    encryptedKeys: records.map(({ encryptedKey }) => hex(encryptedKey)),
    kekIds: records.map(({ kekId }) => kekId),
    createdAt: records.map(({ createdAt }) => createdAt.toISOString()),
    wrappedAt: records.map(({ wrappedAt }) => wrappedAt?.toISOString() ?? null),
    shreddedAt: records.map(({ shreddedAt }) => shreddedAt?.toISOString() ?? null),
  }
}

type Statements = ReturnType<typeof prepareStatements>

function prepareStatements(db: AnyPostgresDb, schema: string, named: boolean) {
  const keys = encryptionKeysIn(schema)
  // One pool may serve several schemas, and pg wants a name to have one text.
  const prefix = `keystore_${sha256([schema]).toString('hex', 0, 4)}`
  const name = (statement: string) => (named ? `${prefix}_${statement}` : '')

  const ids = sql`${sql.placeholder('ids')}::text[]`
  const versions = sql`${sql.placeholder('versions')}::int[]`
  const live = sql`${keys.shreddedAt} is null`
  const isUser = sql`${keys.userId} = ${sql.placeholder('userId')}`
  const limit = sql`${sql.placeholder('limit')}::int`
  const afterRef = sql`(${keys.userId}, ${keys.version}) > (${sql.placeholder('userId')}, ${sql.placeholder('version')}::int)`
  // Drizzle takes columns only from a table that it knows to be part of the query.
  const field = <K extends keyof KeyRecord>(column: K) =>
    sql<KeyRecord[K]>`${sql.identifier(keys[column].name)}`.mapWith(
      (value) => keys[column].mapFromDriverValue(value) as KeyRecord[K],
    )
  const fields = {
    userId: field('userId'),
    version: field('version'),
    encryptedKey: field('encryptedKey'),
    kekId: field('kekId'),
    createdAt: field('createdAt'),
    wrappedAt: field('wrappedAt'),
    shreddedAt: field('shreddedAt'),
  }
  const selectFrom = (source: SQL) => db.select(fields).from(source)
  const page = (where: SQL) =>
    db.select().from(keys).where(where).orderBy(keys.userId, keys.version).limit(sql.placeholder('limit'))

  const input = sql`unnest(${ids}, ${versions}, ${array('encryptedKeys')}::text[], ${array('kekIds')}::text[],
      ${array('createdAt')}::timestamptz[], ${array('wrappedAt')}::timestamptz[], ${array('shreddedAt')}::timestamptz[])
    as input(user_id, version, encrypted_key, kek_id, created_at, wrapped_at, shredded_at)`
  const values = sql`select input.user_id, input.version, decode(input.encrypted_key, 'hex'), input.kek_id,
    input.created_at, input.wrapped_at, input.shredded_at from ${input}`
  /** Rows of some refs, locked in the order in which everybody locks. */
  const lockedRefs = sql`select k.user_id, k.version from unnest(${ids}, ${versions}) as ref(user_id, version)
    join ${keys} k on k.user_id = ref.user_id and k.version = ref.version order by k.user_id, k.version for update of k`

  return {
    all: db
      .select()
      .from(keys)
      .where(sql`${keys.userId} = any(${ids})`)
      .orderBy(keys.userId, keys.version)
      .prepare(name('all')),
    active: selectFrom(
      sql`unnest(${ids}) u(id) cross join lateral (select * from ${keys} where ${keys.userId} = u.id
        order by ${live}, ${keys.version} desc limit 1) k`,
    ).prepare(name('active')),
    // Locks what its users have before it looks: a shred then waits for this insert, or this insert sees the tombstone.
    insert: db
      .insert(keys)
      .select(
        sql`with standing as materialized (select k.user_id, k.version, k.shredded_at from ${keys} k
            where k.user_id = any(${ids}) order by k.user_id, k.version for update)
          ${values}
          where not exists (select 1 from standing s where s.user_id = input.user_id and s.shredded_at is not null)
            and (input.version = 1 or exists (
              select 1 from standing s where s.user_id = input.user_id and s.version = input.version - 1))
          order by input.user_id collate "C", input.version`,
      )
      .onConflictDoNothing()
      .prepare(name('insert')),
    insertTombstone: db
      .insert(keys)
      .select(sql`${values} where not exists (select 1 from ${keys} k where k.user_id = input.user_id)`)
      .onConflictDoNothing()
      .prepare(name('insert_tombstone')),
    replace: db
      .update(keys)
      .set({
        encryptedKey: sql`decode(input.encrypted_key, 'hex')`,
        kekId: sql`input.kek_id`,
        wrappedAt: sql`input.wrapped_at`,
      })
      .from(
        sql`(select input.* from unnest(${ids}, ${versions}, ${array('from')}::text[], ${array('encryptedKeys')}::text[],
              ${array('kekIds')}::text[], ${array('wrappedAt')}::timestamptz[])
            as input(user_id, version, old_key, encrypted_key, kek_id, wrapped_at)
          join ${keys} k on k.user_id = input.user_id and k.version = input.version
          order by k.user_id, k.version for update of k) input`,
      )
      .where(
        sql`${keys.userId} = input.user_id and ${keys.version} = input.version
          and ${keys.encryptedKey} = decode(input.old_key, 'hex') and ${live}`,
      )
      .returning({ userId: keys.userId, version: keys.version })
      .prepare(name('replace')),
    list: page(afterRef).prepare(name('list')),
    listNotKek: page(
      sql`${afterRef} and ${live} and ${keys.kekId} is distinct from ${sql.placeholder('kekId')}`,
    ).prepare(name('list_not_kek')),
    shred: db
      .update(keys)
      .set({ encryptedKey: sql`''::bytea`, shreddedAt: sql`${sql.placeholder('shreddedAt')}::timestamptz` })
      .where(
        sql`(${keys.userId}, ${keys.version}) in (select k.user_id, k.version from ${keys} k
          where k.user_id = ${sql.placeholder('userId')} order by k.version for update) and ${live}`,
      )
      .returning({ version: keys.version, kekId: keys.kekId })
      .prepare(name('shred')),
    isLive: db
      .select({ live: sql<boolean>`exists (select 1 from ${keys} where ${isUser} and ${live})` })
      .from(sql`(values (1)) one`)
      .prepare(name('is_live')),
    remove: db
      .delete(keys)
      .where(sql`(${keys.userId}, ${keys.version}) in (${lockedRefs})`)
      .returning({ version: keys.version })
      .prepare(name('remove')),
    removeTombstones: db
      .delete(keys)
      .where(sql`${isUser} and not ${live}`)
      .prepare(name('remove_tombstones')),
    // Jumps from one KEK id to the next. "order by kek_id limit" leaves the planner only the partial index: with an
    // equality, and statistics that are out of date, it would scan the table for the first rows that match.
    sample: selectFrom(
      sql`(with recursive kek(id) as (
          (select kek_id from ${keys} where ${live} and kek_id is not null order by kek_id limit 1)
          union all
          select (select kek_id from ${keys} where ${live} and kek_id > kek.id order by kek_id limit 1)
            from kek where kek.id is not null
        )
        select row.* from kek cross join lateral (
          select * from ${keys} where ${live} and kek_id >= kek.id order by kek_id limit ${limit}
        ) row where kek.id is not null and row.kek_id = kek.id
        union all
        (select * from ${keys} where ${live} and kek_id is null order by kek_id limit ${limit})) sample`,
    ).prepare(name('sample')),
    census: db
      .select({
        kekId: keys.kekId,
        version: keys.version,
        shredded: sql<boolean>`${keys.shreddedAt} is not null`,
        count: sql<number>`count(*)::int`,
      })
      .from(keys)
      .groupBy(keys.kekId, keys.version, sql`${keys.shreddedAt} is not null`)
      .prepare(name('census')),
  }
}

function array(column: string) {
  return sql.placeholder(column)
}
