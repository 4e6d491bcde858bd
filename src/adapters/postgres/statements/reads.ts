/** Builds the statements that select rows. `:name` stands for a placeholder. */
import { type SQL, sql } from 'drizzle-orm'
import { DIFFERS, EQUALS, GREATER, NOT_LESS } from '../catalog.js'
import { arrayOf, type Fragments, shortArrayOf, shortUserIds, unnested } from './fragments.js'

/** Every row of `:userId`, by version. */
export function selectVersionsOfUser({ db, keys, isUser }: Fragments) {
  return db.select().from(keys).where(isUser).orderBy(keys.version)
}

/** Every row of the users in `:ids`, by user and version. */
export function selectVersionsOfUsers({ db, keys }: Fragments) {
  return db
    .select()
    .from(keys)
    .where(sql`${keys.userId} ${EQUALS} any(${shortUserIds})`)
    .orderBy(keys.userId, keys.version)
}

/** The active row of each user in `:ids`: a tombstone if there is any, else the highest version. */
export function selectActiveOfUsers({ keys, isLive, selectFrom }: Fragments) {
  return selectFrom(
    sql`${unnested(arrayOf('ids'))} u(id) cross join lateral (select * from ${keys} where ${keys.userId} ${EQUALS} u.id
      order by ${isLive}, ${keys.version} desc limit 1) k`,
  )
}

/** {@link selectVersionsOfUsers}, with the stored bytes. */
export function selectVersionsWithBytes({ keys, selectBytesFrom }: Fragments) {
  return selectBytesFrom(sql`${keys}`)
    .where(sql`${keys.userId} ${EQUALS} any(${shortUserIds})`)
    .orderBy(keys.userId, keys.version)
}

/** Up to `:limit` rows after the ref of `:userId` and `:version`. */
export function selectPage(fragments: Fragments) {
  return pageOf(fragments, isAfterRef(fragments))
}

/** The same, of live rows that are not under `:kekId`. */
export function selectPageNotUnderKek(fragments: Fragments) {
  return pageOf(fragments, isAfterRefNotUnderKek(fragments))
}

/** {@link selectPage}, with the stored bytes. */
export function selectPageWithBytes(fragments: Fragments) {
  return pageWithBytesOf(fragments, isAfterRef(fragments))
}

/** {@link selectPageNotUnderKek}, with the stored bytes. */
export function selectPageNotUnderKekWithBytes(fragments: Fragments) {
  return pageWithBytesOf(fragments, isAfterRefNotUnderKek(fragments))
}

/** Up to `:limit` live rows of each KEK id, null included. */
export function selectSample(fragments: Fragments) {
  return fragments.selectFrom(samplesOf(fragments))
}

/** {@link selectSample}, with the stored bytes. */
export function selectSampleWithBytes(fragments: Fragments) {
  return fragments.selectBytesFrom(samplesOf(fragments))
}

function samplesOf({ keys, isLive }: Fragments): SQL {
  const limit = sql`${sql.placeholder('limit')}::int`
  // Jumps from one KEK id to the next. "order by kek_id limit" leaves the planner only the partial index. With a comparison for
  // equality, and statistics that are out of date, it would scan the table for the first rows that match.
  return sql`(with recursive kek(id) as (
        (select kek_id from ${keys} where ${isLive} and kek_id is not null order by kek_id limit 1)
        union all
        select (select kek_id from ${keys} where ${isLive} and kek_id ${GREATER} kek.id order by kek_id limit 1)
          from kek where kek.id is not null
      )
      select row.* from kek cross join lateral (
        select * from ${keys} where ${isLive} and kek_id ${NOT_LESS} kek.id order by kek_id limit ${limit}
      ) row where kek.id is not null and row.kek_id ${EQUALS} kek.id
      union all
      (select * from ${keys} where ${isLive} and kek_id is null order by kek_id limit ${limit})) sample`
}

/** Whether `:userId` has a live row. */
export function selectHasLiveRow({ db, keys, isUser, isLive }: Fragments) {
  return db
    .select({ live: sql<boolean>`exists (select 1 from ${keys} where ${isUser} and ${isLive})` })
    .from(sql`(values (1)) one`)
}

/** Those of the refs in `:ids` and `:versions` that are stored. */
export function selectRefs({ db, keys }: Fragments) {
  const refs = unnested(shortArrayOf('ids'), shortArrayOf('versions', 'integer[]'))
  return db
    .select({ userId: keys.userId, version: keys.version })
    .from(keys)
    .innerJoin(
      sql`${refs} as ref(user_id, version)`,
      sql`${keys.userId} ${EQUALS} ref.user_id and ${keys.version} ${EQUALS} ref.version`,
    )
}

function isAfterRef({ keys }: Fragments): SQL {
  return sql`(${keys.userId}, ${keys.version}) ${GREATER} (${sql.placeholder('userId')}, ${sql.placeholder('version')}::int)`
}

function isAfterRefNotUnderKek(fragments: Fragments): SQL {
  const { keys, isLive } = fragments
  const isUnderOther = sql`${isLive} and (${keys.kekId} is null or ${keys.kekId} ${DIFFERS} ${sql.placeholder('kekId')})`
  // "coalesce" hides the condition from the planner. With statistics that are out of date it may believe the condition to be rare,
  // and then reads and sorts all live rows for each page instead of following the primary key.
  return sql`${isAfterRef(fragments)} and coalesce(${isUnderOther}, false)`
}

function pageWithBytesOf({ keys, selectBytesFrom }: Fragments, where: SQL) {
  return selectBytesFrom(sql`${keys}`)
    .where(where)
    .orderBy(keys.userId, keys.version)
    .limit(sql.placeholder('limit'))
}

function pageOf({ db, keys }: Fragments, where: SQL) {
  return db
    .select()
    .from(keys)
    .where(where)
    .orderBy(keys.userId, keys.version)
    .limit(sql.placeholder('limit'))
}
