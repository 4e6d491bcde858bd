/** What the Postgres store sends. */
import { type SQL, sql } from 'drizzle-orm'
import { sha256 } from '../../format/aead.js'
import type { WrapChange } from '../../store.js'
import type { KeyRecord } from '../../table.js'
import { activeOf } from '../records.js'
import type { AnyPostgresDb } from './connection.js'
import { encryptionKeysIn } from './schema.js'

export type PostgresStatements = ReturnType<typeof prepareStatements>

export function prepareStatements(db: AnyPostgresDb, schema: string, named: boolean) {
  const keys = encryptionKeysIn(schema)
  // One pool may serve several schemas, and pg wants a name to have one text.
  const prefix = `keystore_${shortHash(schema)}`
  const name = (statement: string) => (named ? `${prefix}_${statement}` : '')

  const array = (column: string, type = 'text') => sql`${sql.placeholder(column)}::${sql.raw(type)}[]`
  /**
   * An array that the planner takes for a short one, so that it looks each row up by the primary key. It would rather read
   * a table of 100,000 rows as a whole for each 1000 of them, and a larger one too while its statistics are out of date.
   */
  const short = (column: string, type?: string) => sql`(select ${array(column, type)})`
  const ids = array('ids')
  // "any" of a bare subquery would compare with its rows; of a value it takes the array.
  const shortIds = sql`(${short('ids')})::text[]`
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

  const input = sql`unnest(${ids}, ${array('versions', 'int')}, ${array('encryptedKeys')}, ${array('kekIds')},
      ${array('createdAt', 'timestamptz')}, ${array('wrappedAt', 'timestamptz')}, ${array('shreddedAt', 'timestamptz')})
    as input(user_id, version, encrypted_key, kek_id, created_at, wrapped_at, shredded_at)`
  const values = sql`select input.user_id, input.version, decode(input.encrypted_key, 'hex'), input.kek_id,
    input.created_at, input.wrapped_at, input.shredded_at from ${input}`
  /** Rows of some refs, locked in the order in which everybody locks. */
  const lockedRefs = sql`with locked as materialized (
      select k.user_id, k.version from unnest(${short('ids')}, ${short('versions', 'int')}) as ref(user_id, version)
      join ${keys} k on k.user_id = ref.user_id and k.version = ref.version order by k.user_id, k.version for update of k)
    select user_id, version from locked`

  // Locks what its users have before it looks: a shred then waits for this insert, or this insert sees the tombstone.
  const inserting = (condition: SQL) =>
    db
      .insert(keys)
      .select(
        sql`with standing as materialized (select k.user_id, k.version, k.shredded_at from ${keys} k
            where k.user_id = any(${shortIds}) order by k.user_id, k.version for update)
          ${values} where ${condition} order by input.user_id collate "C", input.version`,
      )
      .onConflictDoNothing()
  const isShredded = sql`exists (select 1 from standing s where s.user_id = input.user_id and s.shredded_at is not null)`
  const insertable = sql`not ${isShredded} and (input.version = 1 or exists (
    select 1 from standing s where s.user_id = input.user_id and s.version = input.version - 1))`
  const finite = (aggregate: SQL) =>
    sql<Date | null>`${aggregate}(${keys.createdAt}) filter (where isfinite(${keys.createdAt}))`.mapWith(
      keys.createdAt,
    )
  /** In the statement that changes the row, so that who listens is told once it is committed, and only then. */
  const tell = sql<string>`pg_notify(${sql.raw(`'${channelOf(schema)}'`)}, json_build_array(${keys.userId})::text)`
  const tellIf = (condition: SQL) => sql<string | null>`case when ${condition} then ${tell} end`

  return {
    ofUser: db.select().from(keys).where(isUser).orderBy(keys.version).prepare(name('of_user')),
    ofUsers: db
      .select()
      .from(keys)
      .where(sql`${keys.userId} = any(${shortIds})`)
      .orderBy(keys.userId, keys.version)
      .prepare(name('of_users')),
    activeOfUsers: selectFrom(
      sql`unnest(${ids}) u(id) cross join lateral (select * from ${keys} where ${keys.userId} = u.id
        order by ${live}, ${keys.version} desc limit 1) k`,
    ).prepare(name('active_of_users')),
    insert: inserting(insertable)
      .returning({ userId: keys.userId, version: keys.version })
      .prepare(name('insert')),
    insertAndTell: inserting(insertable)
      .returning({ userId: keys.userId, version: keys.version, told: tellIf(sql`${keys.version} > 1`) })
      .prepare(name('insert_and_tell')),
    restore: inserting(sql`input.shredded_at is not null or not ${isShredded}`)
      .returning({ told: tellIf(sql`${keys.version} > 1 or not ${live}`) })
      .prepare(name('restore')),
    insertTombstone: db
      .insert(keys)
      .select(sql`${values} where not exists (select 1 from ${keys} k where k.user_id = input.user_id)`)
      .onConflictDoNothing()
      .returning({ told: tell })
      .prepare(name('insert_tombstone')),
    replace: db
      .update(keys)
      .set({
        encryptedKey: sql`decode(input.encrypted_key, 'hex')`,
        kekId: sql`input.kek_id`,
        wrappedAt: sql`input.wrapped_at`,
      })
      .from(
        // Materialized: a planner whose statistics are of a table that was nearly empty would lock all of them again for each row.
        sql`(with locked as materialized (
            select input.* from unnest(${short('ids')}, ${short('versions', 'int')}, ${short('from')}, ${short('encryptedKeys')},
                ${short('kekIds')}, ${short('wrappedAt', 'timestamptz')})
              as input(user_id, version, old_key, encrypted_key, kek_id, wrapped_at)
            join ${keys} k on k.user_id = input.user_id and k.version = input.version
            order by k.user_id, k.version for update of k)
          select * from locked) input`,
      )
      .where(
        sql`${keys.userId} = input.user_id and ${keys.version} = input.version
          and ${keys.encryptedKey} = decode(input.old_key, 'hex') and ${live}`,
      )
      .returning({ userId: keys.userId, version: keys.version })
      .prepare(name('replace')),
    list: page(afterRef).prepare(name('list')),
    // "coalesce" hides what the planner believes to be rare from it, when its statistics are out of date: it would read and
    // sort all live rows at each page, instead of going on in the primary key.
    listNotKek: page(
      sql`${afterRef} and coalesce(${live} and ${keys.kekId} is distinct from ${sql.placeholder('kekId')}, false)`,
    ).prepare(name('list_not_kek')),
    shred: db
      .update(keys)
      .set({ encryptedKey: sql`''::bytea`, shreddedAt: sql`${sql.placeholder('shreddedAt')}::timestamptz` })
      .where(
        sql`${isUser} and ${keys.version} in (select k.version from ${keys} k
          where k.user_id = ${sql.placeholder('userId')} order by k.version for update) and ${live}`,
      )
      .returning({ version: keys.version, kekId: keys.kekId, told: tell })
      .prepare(name('shred')),
    isLive: db
      .select({ live: sql<boolean>`exists (select 1 from ${keys} where ${isUser} and ${live})` })
      .from(sql`(values (1)) one`)
      .prepare(name('is_live')),
    remove: db
      .delete(keys)
      .where(sql`(${keys.userId}, ${keys.version}) in (${lockedRefs})`)
      .returning({ told: tell })
      .prepare(name('remove')),
    removeTombstones: db
      .delete(keys)
      .where(sql`${isUser} and not ${live}`)
      .returning({ told: tell })
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
    datedCensus: db
      .select({
        kekId: keys.kekId,
        version: keys.version,
        shredded: sql<boolean>`${keys.shreddedAt} is not null`,
        count: sql<number>`count(*)::int`,
        oldest: finite(sql`min`),
        newest: finite(sql`max`),
      })
      .from(keys)
      .groupBy(keys.kekId, keys.version, sql`${keys.shreddedAt} is not null`)
      .prepare(name('dated_census')),
  }
}

/** Every row of some users. Most often it is one who is asked for, by a query that is simple to plan. */
export function rowsOf(statements: PostgresStatements, userIds: readonly string[]): Promise<KeyRecord[]> {
  const [userId] = userIds
  if (userIds.length === 1) return statements.ofUser.execute({ userId })
  return statements.ofUsers.execute({ ids: [...new Set(userIds)] })
}

/** Of each user any tombstone there is, else the highest version. */
export async function activeRowsOf(
  statements: PostgresStatements,
  userIds: readonly string[],
): Promise<KeyRecord[]> {
  if (userIds.length === 1) return activeOf(await rowsOf(statements, userIds))
  return statements.activeOfUsers.execute({ ids: [...new Set(userIds)] })
}

/** Where the stores of one schema tell each other of their writes. */
export function channelOf(schema: string): string {
  return `drizzle_keystore_${shortHash(schema)}`
}

function shortHash(schema: string): string {
  return sha256([schema]).toString('hex', 0, 4)
}

/** Hexadecimal, because drivers differ in how they pass an array of bytes. */
function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

/** Rows as one array a column, for unnest. */
export function columnsOf(records: readonly KeyRecord[]) {
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

/** The same of changes. */
export function columnsOfChanges(changes: readonly WrapChange[]) {
  return {
    ids: changes.map(({ userId }) => userId),
    versions: changes.map(({ version }) => version),
    from: changes.map(({ from }) => hex(from)),
    encryptedKeys: changes.map(({ encryptedKey }) => hex(encryptedKey)),
    kekIds: changes.map(({ kekId }) => kekId),
    wrappedAt: changes.map(({ wrappedAt }) => wrappedAt.toISOString()),
  }
}
