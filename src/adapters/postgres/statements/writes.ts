/**
 * Builds the statements that insert, change and remove rows. Many rows are given as one array for each column: see arrays.ts.
 *
 * A statement that changes several rows first locks them in the order of user id and version, as every writer does, so that no two
 * writers deadlock. Where the rows come from arrays, the subquery that locks them is "materialized". Else a planner that takes the
 * table for nearly empty, from old statistics, would lock all of the rows again for each row. And each row is looked up by itself
 * ({@link lockedRow}). Else a planner without statistics, as of a table that was just filled, expects a hundred rows for each ref of a table of
 * millions, since it does not know that the two columns of the primary key are unique together, and reads all of the table instead.
 */
import { type SQL, sql } from 'drizzle-orm'
import { castTo, EQUALS, GREATER, IS_DURABLE, MINUS } from '../catalog.js'
import { shownText } from './decode.js'
import { arrayOf, type Fragments, shortArrayOf, shortUserIds, unnested } from './fragments.js'

/**
 * Inserts rows whose ref is free, where no row of their user is a tombstone and the version before theirs is stored. Notifies
 * nobody: first versions need no notification.
 */
export function insertRows(fragments: Fragments) {
  const { userId, version } = fragments.keys
  return insertIf(fragments, isInsertable).returning({ userId, version })
}

/** {@link insertRows} with a notification for each later version. */
export function insertRowsAndNotify(fragments: Fragments) {
  const { userId, version } = fragments.keys
  const notified = fragments.notifyIf(sql`${version} ${GREATER} 1`)
  return insertIf(fragments, isInsertable).returning({ userId, version, notified })
}

/**
 * {@link insertRowsAndNotify}, each only while the row of its `:liveIds`, `:liveVersions` and `:liveCreatedAt` is live, if these are not null: see
 * {@link replaceWrappedKeysWhileLive}.
 */
export function insertRowsWhileLive(fragments: Fragments) {
  const { userId, version } = fragments.keys
  const { columns, arrays, locks, condition } = whileLive(fragments)
  const notified = fragments.notifyIf(sql`${version} ${GREATER} 1`)
  return insertIf(fragments, sql`${isInsertable} and ${condition}`, {
    locks,
    // The lock of a tenant's row comes before those of users' rows: nobody else takes them the other way round.
    after: sql`and (select pg_catalog.count(*) from living) is not null`,
    input: inputRowsOf(arrays, columns),
  }).returning({ userId, version, notified })
}

/** Inserts rows whose ref is free; live rows only where no row of their user is a tombstone. Returns a row for each that it inserts. */
export function restoreRows(fragments: Fragments) {
  const { keys, isLive, notifyIf } = fragments
  const notified = notifyIf(sql`${keys.version} ${GREATER} 1 or not ${isLive}`)
  // The refs would take as long to read as the rows take to write, and nearly always all of them were inserted.
  return insertIf(fragments, sql`input.shredded_at is not null or not ${isShredded}`).returning({ notified })
}

/** Inserts a tombstone if its user has no row. */
export function insertTombstone({ db, keys, notify }: Fragments) {
  return db
    .insert(keys)
    .select(sql`${inputRows} where ${IS_DURABLE}
      and not exists (select 1 from ${keys} k where k.user_id ${EQUALS} input.user_id)`)
    .onConflictDoNothing()
    .returning({ notified: notify })
}

/**
 * Replaces the wrapped keys of live rows whose bytes still equal those in `:from`, or already those in `:encryptedKeys`. Notifies of those
 * that `concernsTenant` of records.ts names.
 */
export function replaceWrappedKeys(fragments: Fragments) {
  return replaceIf(fragments, {
    columns: sql``,
    arrays: [],
    locks: sql``,
    condition: sql`true`,
    leaves: sql`false`,
  })
}

/**
 * {@link replaceWrappedKeys}, each only while the row of its `:liveIds`, `:liveVersions` and `:liveCreatedAt` is live, if these are not null. Those rows are
 * locked, before the others: they are tenants' own, which sort before users'. So a shred of them waits for this, or this sees its tombstones.
 */
export function replaceWrappedKeysWhileLive(fragments: Fragments) {
  return replaceIf(fragments, { ...whileLive(fragments), leaves: sql`input.live_user_id is not null` })
}

/** Locks the rows of `:liveIds` and asks whether they are live. */
function whileLive({ keys }: Fragments): Omit<Replacing, 'leaves'> {
  const [ids, versions] = [shortArrayOf('liveIds'), shortArrayOf('liveVersions', 'integer[]')]
  const times = shortArrayOf('liveCreatedAt', 'timestamptz[]')
  return {
    columns: sql`, live_user_id, live_version, live_created_at`,
    arrays: [ids, versions, times],
    locks: sql`living as materialized (
          select k.* from (
              select input.* from (select distinct user_id, version from ${unnested(ids, versions)} as ref(user_id, version)) input
              ${BY_REF}) input
          ${lockedRow(keys, sql`share`)}),`,
    condition: sql`(input.live_user_id is null or exists (select 1 from living l where l.user_id ${EQUALS} input.live_user_id
          and l.version ${EQUALS} input.live_version and l.created_at ${EQUALS} input.live_created_at and l.shredded_at is null))`,
  }
}

/** The order of all writers. */
const BY_REF = sql`order by input.user_id collate pg_catalog."C", input.version`

/** Joins to each row of `input`, in its order, the row `k` of its ref, and locks it. */
function lockedRow(keys: Fragments['keys'], strength: SQL): SQL {
  return sql`cross join lateral (select k.user_id, k.version, k.created_at, k.shredded_at from ${keys} k
            where k.user_id ${EQUALS} input.user_id and k.version ${EQUALS} input.version limit 1 for ${strength}) k`
}

interface Replacing {
  /** Further columns of the input, and their arrays. */
  readonly columns: SQL
  readonly arrays: readonly SQL[]
  /** Locks that are taken first: a common table expression. */
  readonly locks: SQL
  readonly condition: SQL
  /** Whether a row leaves its tenant's key. */
  readonly leaves: SQL
}

function replaceIf(
  { db, keys, isLive, isOfUser, isUnderTenant, notifyIf }: Fragments,
  { columns, arrays, locks, condition, leaves }: Replacing,
) {
  const changes = unnested(
    shortArrayOf('ids'),
    shortArrayOf('versions', 'integer[]'),
    shortArrayOf('from'),
    shortArrayOf('encryptedKeys'),
    shortArrayOf('kekIds'),
    shortArrayOf('wrappedAt', 'timestamptz[]'),
    ...arrays,
  )
  return db
    .update(keys)
    .set({
      encryptedKey: sql`pg_catalog.decode(input.encrypted_key, 'hex')`,
      kekId: sql`input.kek_id`,
      wrappedAt: sql`input.wrapped_at`,
    })
    .from(
      sql`(with ${locks} locked as materialized (
          select input.* from (select input.* from ${changes}
            as input(user_id, version, old_key, encrypted_key, kek_id, wrapped_at${columns})
            where ${condition} ${BY_REF}) input
          ${lockedRow(keys, sql`update`)})
        select * from locked) input`,
    )
    .where(
      sql`${keys.userId} ${EQUALS} input.user_id and ${keys.version} ${EQUALS} input.version
        and ${keys.encryptedKey} ${EQUALS} any (array[pg_catalog.decode(input.old_key, 'hex'), pg_catalog.decode(input.encrypted_key, 'hex')])
        and ${isLive} and ${IS_DURABLE}`,
    )
    .returning({
      userId: keys.userId,
      version: keys.version,
      notified: notifyIf(sql`not ${isOfUser} or ${isUnderTenant} or ${leaves}`),
    })
}

/** Makes tombstones of the live rows of `:userId`. */
export function shredRows({ db, keys, isUser, isLive, notify }: Fragments) {
  const lockedVersions = sql`select k.version from ${keys} k
    where k.user_id ${EQUALS} ${sql.placeholder('userId')} order by k.version for update`
  return db
    .update(keys)
    .set({
      encryptedKey: sql`''${castTo('bytea')}`,
      shreddedAt: sql`${sql.placeholder('shreddedAt')}${castTo('timestamptz')}`,
    })
    .where(
      sql`${isUser} and ${keys.version} ${EQUALS} any (${lockedVersions}) and ${isLive} and ${IS_DURABLE}`,
    )
    .returning({ version: keys.version, kekId: shownText(keys.kekId), notified: notify })
}

/** Removes the rows of the refs in `:ids` and `:versions`. */
export function removeRows({ db, keys, notify }: Fragments) {
  const lockedRefs = sql`with locked as materialized (
      select k.user_id, k.version from (select input.* from ${unnested(shortArrayOf('ids'), shortArrayOf('versions', 'integer[]'))}
        as input(user_id, version) ${BY_REF}) input
      ${lockedRow(keys, sql`update`)})
    select user_id, version from locked`
  return db
    .delete(keys)
    .where(sql`(${keys.userId}, ${keys.version}) ${EQUALS} any (${lockedRefs}) and ${IS_DURABLE}`)
    .returning({ userId: keys.userId, version: keys.version, notified: notify })
}

/** Removes the tombstones of `:userId`, the last step of forgetting. */
export function removeTombstones({ db, keys, isUser, isLive, notifyForgotten }: Fragments) {
  return db
    .delete(keys)
    .where(sql`${isUser} and not ${isLive} and ${IS_DURABLE}`)
    .returning({ notified: notifyForgotten })
}

/** The rows to insert, from the arrays of `recordArrays`. @param columns further ones, for conditions, of `arrays` */
function inputRowsOf(arrays: readonly SQL[], columns: SQL): SQL {
  return sql`select input.user_id, input.version, pg_catalog.decode(input.encrypted_key, 'hex'), input.kek_id,
    input.created_at, input.wrapped_at, input.shredded_at
  from ${unnested(
    arrayOf('ids'),
    arrayOf('versions', 'integer[]'),
    arrayOf('encryptedKeys'),
    arrayOf('kekIds'),
    arrayOf('createdAt', 'timestamptz[]'),
    arrayOf('wrappedAt', 'timestamptz[]'),
    arrayOf('shreddedAt', 'timestamptz[]'),
    ...arrays,
  )}
    as input(user_id, version, encrypted_key, kek_id, created_at, wrapped_at, shredded_at${columns})`
}

const inputRows = inputRowsOf([], sql``)

/** Conditions of {@link insertIf}: `standing` are the rows that the users of the inserted rows already have. */
const isShredded = sql`exists (select 1 from standing s where s.user_id ${EQUALS} input.user_id and s.shredded_at is not null)`
const isNext = sql`exists (
  select 1 from standing s where s.user_id ${EQUALS} input.user_id and s.version ${EQUALS} (input.version ${MINUS} 1))`
const isInsertable = sql`not ${isShredded} and (input.version ${EQUALS} 1 or ${isNext})`

interface Inserting {
  /** Locks that are taken first: a common table expression, and a condition that waits for it. */
  readonly locks: SQL
  readonly after: SQL
  readonly input: SQL
}

const PLAIN: Inserting = { locks: sql``, after: sql``, input: inputRows }

/** Locks the rows that the users have before it reads them: either a shred waits for this insert, or this insert sees the tombstone. */
function insertIf({ db, keys }: Fragments, condition: SQL, { locks, after, input } = PLAIN) {
  return db
    .insert(keys)
    .select(
      sql`with ${locks} standing as materialized (select k.user_id, k.version, k.shredded_at from ${keys} k
          where k.user_id ${EQUALS} any(${shortUserIds}) ${after} order by k.user_id, k.version for update)
        ${input} where (${condition}) and ${IS_DURABLE}
        order by input.user_id collate pg_catalog."C", input.version`,
    )
    .onConflictDoNothing()
}
