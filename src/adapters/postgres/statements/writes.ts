/**
 * Builds the statements that insert, change and remove rows. Many rows are given as one array for each column: see arrays.ts.
 *
 * A statement that changes several rows first locks them in the order of user id and version, as every writer does, so that no two
 * writers deadlock. Where the rows come from arrays, the subquery that locks them is "materialized". Else a planner that takes the
 * table for nearly empty, from old statistics, would lock all of the rows again for each row.
 */
import { type SQL, sql } from 'drizzle-orm'
import { arrayOf, type Fragments, shortArrayOf, shortUserIds } from './fragments.js'

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
  const notified = fragments.notifyIf(sql`${version} > 1`)
  return insertIf(fragments, isInsertable).returning({ userId, version, notified })
}

/** Inserts rows whose ref is free; live rows only where no row of their user is a tombstone. */
export function restoreRows(fragments: Fragments) {
  const { keys, isLive, notifyIf } = fragments
  const notified = notifyIf(sql`${keys.version} > 1 or not ${isLive}`)
  return insertIf(fragments, sql`input.shredded_at is not null or not ${isShredded}`).returning({ notified })
}

/** Inserts a tombstone if its user has no row. */
export function insertTombstone({ db, keys, notify }: Fragments) {
  return db
    .insert(keys)
    .select(sql`${inputRows} where not exists (select 1 from ${keys} k where k.user_id = input.user_id)`)
    .onConflictDoNothing()
    .returning({ notified: notify })
}

/** Replaces the wrapped keys of live rows that still hold theirs of `:from`. */
export function replaceWrappedKeys({ db, keys, isLive }: Fragments) {
  return db
    .update(keys)
    .set({
      encryptedKey: sql`decode(input.encrypted_key, 'hex')`,
      kekId: sql`input.kek_id`,
      wrappedAt: sql`input.wrapped_at`,
    })
    .from(
      sql`(with locked as materialized (
          select input.* from unnest(${shortArrayOf('ids')}, ${shortArrayOf('versions', 'int')}, ${shortArrayOf('from')},
              ${shortArrayOf('encryptedKeys')}, ${shortArrayOf('kekIds')}, ${shortArrayOf('wrappedAt', 'timestamptz')})
            as input(user_id, version, old_key, encrypted_key, kek_id, wrapped_at)
          join ${keys} k on k.user_id = input.user_id and k.version = input.version
          order by k.user_id, k.version for update of k)
        select * from locked) input`,
    )
    .where(
      sql`${keys.userId} = input.user_id and ${keys.version} = input.version
        and ${keys.encryptedKey} = decode(input.old_key, 'hex') and ${isLive}`,
    )
    .returning({ userId: keys.userId, version: keys.version })
}

/** Makes tombstones of the live rows of `:userId`. */
export function shredRows({ db, keys, isUser, isLive, notify }: Fragments) {
  const lockedVersions = sql`select k.version from ${keys} k
    where k.user_id = ${sql.placeholder('userId')} order by k.version for update`
  return db
    .update(keys)
    .set({ encryptedKey: sql`''::bytea`, shreddedAt: sql`${sql.placeholder('shreddedAt')}::timestamptz` })
    .where(sql`${isUser} and ${keys.version} in (${lockedVersions}) and ${isLive}`)
    .returning({ version: keys.version, kekId: keys.kekId, notified: notify })
}

/** Removes the rows of the refs in `:ids` and `:versions`. */
export function removeRows({ db, keys, notify }: Fragments) {
  const lockedRefs = sql`with locked as materialized (
      select k.user_id, k.version from unnest(${shortArrayOf('ids')}, ${shortArrayOf('versions', 'int')}) as ref(user_id, version)
      join ${keys} k on k.user_id = ref.user_id and k.version = ref.version order by k.user_id, k.version for update of k)
    select user_id, version from locked`
  return db
    .delete(keys)
    .where(sql`(${keys.userId}, ${keys.version}) in (${lockedRefs})`)
    .returning({ notified: notify })
}

/** Removes the tombstones of `:userId`. */
export function removeTombstones({ db, keys, isUser, isLive, notify }: Fragments) {
  return db.delete(keys).where(sql`${isUser} and not ${isLive}`).returning({ notified: notify })
}

/** The rows to insert, from the arrays of `recordArrays`. */
const inputRows = sql`select input.user_id, input.version, decode(input.encrypted_key, 'hex'), input.kek_id,
    input.created_at, input.wrapped_at, input.shredded_at
  from unnest(${arrayOf('ids')}, ${arrayOf('versions', 'int')}, ${arrayOf('encryptedKeys')}, ${arrayOf('kekIds')},
      ${arrayOf('createdAt', 'timestamptz')}, ${arrayOf('wrappedAt', 'timestamptz')}, ${arrayOf('shreddedAt', 'timestamptz')})
    as input(user_id, version, encrypted_key, kek_id, created_at, wrapped_at, shredded_at)`

/** Conditions of {@link insertIf}: `standing` are the rows that the users of the inserted rows already have. */
const isShredded = sql`exists (select 1 from standing s where s.user_id = input.user_id and s.shredded_at is not null)`
const isNext = sql`exists (
  select 1 from standing s where s.user_id = input.user_id and s.version = input.version - 1)`
const isInsertable = sql`not ${isShredded} and (input.version = 1 or ${isNext})`

/** Locks the rows that the users have before it reads them: either a shred waits for this insert, or this insert sees the tombstone. */
function insertIf({ db, keys }: Fragments, condition: SQL) {
  return db
    .insert(keys)
    .select(
      sql`with standing as materialized (select k.user_id, k.version, k.shredded_at from ${keys} k
          where k.user_id = any(${shortUserIds}) order by k.user_id, k.version for update)
        ${inputRows} where ${condition} order by input.user_id collate "C", input.version`,
    )
    .onConflictDoNothing()
}
