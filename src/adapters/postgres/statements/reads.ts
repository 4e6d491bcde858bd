/** Builds the statements that select rows. `:name` stands for a placeholder. */
import { type SQL, sql } from 'drizzle-orm'
import { castTo, DIFFERS, DIVIDED, EQUALS, GREATER, LESS, MODULO, NOT_GREATER } from '../catalog.js'
import { arrayOf, type Fragments, shortArrayOf, shortUserIds, unnested } from './fragments.js'
import { samplesOf } from './samples.js'

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

/** The same, of users' live rows under `:kekId`. */
export function selectPageUnderKek(fragments: Fragments) {
  return fragments.selectFrom(pageOfKek(fragments, isAfterRefUnderKek(fragments))).orderBy(...refOrder)
}

/** The same, of users' live rows without a KEK id. */
export function selectPageWithoutKek(fragments: Fragments) {
  return fragments.selectFrom(pageOfKek(fragments, isAfterRefWithoutKek(fragments))).orderBy(...refOrder)
}

/** {@link selectPageUnderKek}, of rows before the ref of `:beforeUserId` and `:beforeVersion`. */
export function selectPageUnderKekBefore(fragments: Fragments) {
  const { isLiveOfUser, kekIdByBytes } = fragments
  // Equality, since of comparisons of rows Postgres ends a scan by the first column alone. Were the primary key chosen, nothing behind the
  // ref would be read either.
  const isUnderKek = sql`${kekIdByBytes} ${EQUALS} ${sql.placeholder('kekId')}${castTo('text')}`
  const where = sql`${isLiveOfUser} and ${isUnderKek} and ${isAfterRef(fragments)} and ${isBeforeRef(fragments)}`
  return fragments.selectFrom(pageOfKek(fragments, where)).orderBy(...refOrder)
}

/** {@link selectPageWithoutKek}, of rows before the ref of `:beforeUserId` and `:beforeVersion`. */
export function selectPageWithoutKekBefore(fragments: Fragments) {
  const where = sql`${isAfterRefWithoutKek(fragments)} and ${isBeforeRef(fragments)}`
  return fragments.selectFrom(pageOfKek(fragments, where)).orderBy(...refOrder)
}

/** About `:limit` users' live rows at about equal distances, of a random `:percent` of the table's blocks. */
export function selectSampledRefs({ db, keys, isLiveOfUser }: Fragments) {
  const percent = sql`(${sql.placeholder('percent')}::real)`
  const nth = sql`(n ${MODULO} greatest(total ${DIVIDED} ${sql.placeholder('limit')}::bigint, 1)) ${EQUALS} 0`
  return db
    .select({
      userId: sql<string>`user_id`.as('sampled_user_id'),
      version: sql<number>`version`.as('sampled_version'),
      kekId: sql<string | null>`kek_id`.as('sampled_kek_id'),
    })
    .from(
      sql`(select ${keys.userId}, ${keys.version}, ${keys.kekId}, pg_catalog.count(*) over () as total,
        pg_catalog.row_number() over (order by ${keys.userId}, ${keys.version}) as n
        from ${keys} tablesample system ${percent} where ${isLiveOfUser}) sampled`,
    )
    .where(nth)
    .orderBy(sql`n`)
}

/** {@link selectPage}, with the stored bytes. */
export function selectPageWithBytes(fragments: Fragments) {
  return pageWithBytesOf(fragments, isAfterRef(fragments))
}

/** {@link selectPageNotUnderKek}, with the stored bytes. */
export function selectPageNotUnderKekWithBytes(fragments: Fragments) {
  return pageWithBytesOf(fragments, isAfterRefNotUnderKek(fragments))
}

/** {@link selectPageUnderKek}, with the stored bytes. */
export function selectPageUnderKekWithBytes(fragments: Fragments) {
  return fragments.selectBytesFrom(pageOfKek(fragments, isAfterRefUnderKek(fragments))).orderBy(...refOrder)
}

/** {@link selectPageWithoutKek}, with the stored bytes. */
export function selectPageWithoutKekWithBytes(fragments: Fragments) {
  return fragments.selectBytesFrom(pageOfKek(fragments, isAfterRefWithoutKek(fragments))).orderBy(...refOrder)
}

/** Up to `:limit` users' live rows of each KEK id but those of tenants' keys, null included. */
export function selectSample(fragments: Fragments) {
  return fragments.selectFrom(samplesOf(fragments, sql`${sql.placeholder('limit')}`))
}

/** {@link selectSample}, with the stored bytes. */
export function selectSampleWithBytes(fragments: Fragments) {
  return fragments.selectBytesFrom(samplesOf(fragments, sql`${sql.placeholder('limit')}`))
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

/** The comparison begins in the index where the page does. One for equality could be served by the primary key, past all other rows. */
function isAfterRefUnderKek({ keys, isLiveOfUser, kekIdByBytes }: Fragments): SQL {
  const kekId = sql`${sql.placeholder('kekId')}${castTo('text')}`
  const after = sql`(${kekId}, ${sql.placeholder('userId')}, ${sql.placeholder('version')}::int)`
  return sql`${isLiveOfUser} and (${kekIdByBytes}, ${keys.userId}, ${keys.version}) ${GREATER} ${after}
    and ${kekIdByBytes} ${NOT_GREATER} ${kekId}`
}

function isBeforeRef({ keys }: Fragments): SQL {
  return sql`(${keys.userId}, ${keys.version}) ${LESS} (${beforeRef})`
}

const beforeRef = sql`${sql.placeholder('beforeUserId')}, ${sql.placeholder('beforeVersion')}::int`

function isAfterRefWithoutKek(fragments: Fragments): SQL {
  return sql`${fragments.isLiveOfUser} and ${fragments.keys.kekId} is null and ${isAfterRef(fragments)}`
}

/**
 * Up to `:limit` rows in the order of the index on KEK ids. A subquery hides the limit from the planner, which then wants the first rows soon.
 * Else, with statistics that are out of date, it would read all rows under the KEK id and sort them for each page.
 */
function pageOfKek({ keys, kekIdByBytes }: Fragments, where: SQL): SQL {
  return sql`(select * from ${keys} where ${where} order by ${kekIdByBytes}, ${keys.userId}, ${keys.version}
    limit (select ${sql.placeholder('limit')}::int)) page`
}

const refOrder = [sql`user_id`, sql`version`] as const

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
