/** Builds the statements that count rows, and the one that lists the KEK ids in use. */
import { type SQL, sql } from 'drizzle-orm'
import { MANY_TENANTS } from '../../../store.js'
import { TENANT_KEK_IDS } from '../../../table.js'
import { isOfUser, encryptionKeys as keys } from '../schema.js'
import { isLiveOfUser, isUnderTenant, type QueryBuilder, text } from './fragments.js'

/**
 * The distinct KEK ids of users' live rows, without null and without tenants' keys. Jumps from one id to the next through the index: 0.3 ms
 * at 1,000,000 rows, where GROUP BY took 79.
 */
export function selectKekIds(db: QueryBuilder) {
  const isBelow = sql`${keys.kekId} < ${text(TENANT_KEK_IDS.from)}`
  const isAbove = sql`${keys.kekId} >= ${text(TENANT_KEK_IDS.below)}`
  return db.select({ kekId: sql<string>`id`.as('id') }).from(
    sql`(with recursive ${jumps('below', isBelow)}, ${jumps('above', isAbove)}
      select id from below where id is not null union all select id from above where id is not null)`,
  )
}

/** A recursive common table expression with each of the KEK ids in a range. */
function jumps(name: string, isInRange: SQL): SQL {
  const kek = sql.raw(name)
  const first = sql`select min(${keys.kekId}) from ${keys} where ${isLiveOfUser} and ${isInRange}`
  return sql`${kek}(id) as (${first} union all select (${first} and ${keys.kekId} > ${kek}.id) from ${kek} where ${kek}.id is not null)`
}

/** Counts by KEK id, version and tombstone, tenants' own rows apart. `:named` are the KEK ids that are named for those. */
export function countRows(db: QueryBuilder) {
  return db
    .select(countColumns)
    .from(keys)
    .groupBy(...groups)
}

/** {@link countRows} with the oldest and newest `created_at` of each group, in milliseconds. */
export function countRowsWithAges(db: QueryBuilder) {
  const ages = {
    oldestMs: sql<number | null>`min(${createdMs})`,
    newestMs: sql<number | null>`max(${createdMs})`,
  }
  return db
    .select({ ...countColumns, ...ages })
    .from(keys)
    .groupBy(...groups)
}

/** For each of the KEK ids in `:ids` how many live rows of users are under it; those without any are left out. */
export function countUnderKeks(db: QueryBuilder) {
  return db
    .select({ kekId: keys.kekId, count: sql<number>`count(*)` })
    .from(keys)
    .where(sql`${isLiveOfUser} and ${keys.kekId} in (select value from json_each(${sql.placeholder('ids')}))`)
    .groupBy(keys.kekId)
}

// Their number must not grow with that of tenants: each has keys of its own, and may have a root of its own.
const countedKekId = sql<string | null>`case
  when ${isOfUser(keys.userId)} then case when ${isUnderTenant} then ${text(MANY_TENANTS)} else ${keys.kekId} end
  when ${keys.kekId} is null or ${keys.kekId} in (select value from json_each(${sql.placeholder('named')})) then ${keys.kekId}
  else ${text(MANY_TENANTS)} end`
const countColumns = {
  kekId: countedKekId.as('counted_kek_id'),
  version: keys.version,
  shredded: sql<number>`${keys.shreddedAt} is not null`.as('shredded'),
  count: sql<number>`count(*)`,
  ofTenants: sql<number>`not ${isOfUser(keys.userId)}`.as('of_tenants'),
}
const groups = [sql`counted_kek_id`, keys.version, sql`shredded`, sql`of_tenants`] as const

/** Null unless the text is a time with an offset. SQLite alone would take a time without one for UTC, and the text "now" for now. */
const createdMs = sql`case when ${keys.createdAt} glob '????-??-??[T ]??:??:*'
    and (${keys.createdAt} glob '*Z' or ${keys.createdAt} glob '*[+-]??:??')
  then cast(round(unixepoch(${keys.createdAt}, 'subsec') * 1000) as integer) end`
