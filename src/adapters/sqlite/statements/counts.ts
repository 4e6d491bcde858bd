/** Builds the statements that count rows, and the one that lists the KEK ids in use. */
import { type SQL, sql } from 'drizzle-orm'
import { MANY_TENANTS } from '../../../store.js'
import { TENANT_KEK_IDS } from '../../../table.js'
import { isOfUser, encryptionKeys as keys } from '../schema.js'
import { isLiveOfUser, isUnderKek, isUnderTenant, type QueryBuilder, text } from './fragments.js'

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
  return db
    .select({ ...countColumns, ...ages() })
    .from(keys)
    .groupBy(...groups)
}

/** {@link countRows} of {@link aPart}, with the last row number of each group. */
export function countRowsOfPart(db: QueryBuilder) {
  return db
    .select({ ...partCountColumns, lastRow })
    .from(aPart)
    .groupBy(...groups)
}

/** {@link countRowsWithAges} of {@link aPart}, with the last row number of each group. */
export function countRowsOfPartWithAges(db: QueryBuilder) {
  return db
    .select({ ...partCountColumns, ...ages(), lastRow })
    .from(aPart)
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

/** For each of the KEK ids in `:ids` how many live rows of users are under it, but not more than `:most`. */
export function countUnderKeksToMost(db: QueryBuilder) {
  const rows = sql`(select 1 from ${keys} where ${isLiveOfUser} and ${keys.kekId} = json_each.value limit ${sql.placeholder('most')})`
  return db
    .select({
      kekId: sql<string>`value`.as('kek_id'),
      count: sql<number>`(select count(*) from ${rows})`.as('count'),
    })
    .from(sql`json_each(${sql.placeholder('ids')})`)
}

/** The user, as bytes with the type of the id, that is `:offset` users behind `:from` among the live ones under `:kekId`. */
export function selectUserBehind(db: QueryBuilder) {
  const users = sql`(select distinct ${keys.userId} as user_id from ${keys} where ${isLiveFrom}
    order by ${keys.userId} limit 1 offset ${sql.placeholder('offset')})`
  return db
    .select({
      bytes: sql<Uint8Array>`cast(user_id as blob)`.as('bytes'),
      type: sql<string>`typeof(user_id)`.as('type'),
    })
    .from(users)
}

/** How many live rows of users are under `:kekId`, from the user `:from` on and before the user `:below`. */
export function countUsersBelow(db: QueryBuilder) {
  const isBelow = sql`${keys.userId} < cast(${sql.placeholder('below')} as text)`
  return countLive(db, sql`${isLiveFrom} and ${isBelow}`)
}

/** {@link countUsersBelow} to the last user. */
export function countUsersFrom(db: QueryBuilder) {
  return countLive(db, isLiveFrom)
}

function countLive(db: QueryBuilder, where: SQL) {
  return db
    .select({ count: sql<number>`count(*)`.as('count') })
    .from(keys)
    .where(where)
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
/** The id is given as the bytes of a text, which may be no UTF-8. */
const isLiveFrom = sql`${isLiveOfUser} and ${isUnderKek} and ${keys.userId} >= cast(${sql.placeholder('from')} as text)`
const groups = [sql`counted_kek_id`, keys.version, sql`shredded`, sql`of_tenants`] as const

function ages() {
  return {
    oldestMs: sql<number | null>`min(${createdMs})`,
    newestMs: sql<number | null>`max(${createdMs})`,
  }
}

const { userId, version, kekId, createdAt, shreddedAt } = keys
const partColumns = sql.join(
  [userId, version, kekId, createdAt, shreddedAt].map(
    (column) => sql`${column} as ${sql.identifier(column.name)}`,
  ),
  sql`, `,
)
const ROW_NUMBER_BEFORE_ALL = '-9223372036854775808'
/**
 * The first `:limit` rows behind the row number `:afterRow`, null for the beginning. Row numbers are given and taken as text, since they may be
 * larger than numbers are exact. A table of the host's may have none.
 */
const aPart = sql`(select rowid as row_number, ${partColumns} from ${keys}
  where rowid > ifnull(cast(${sql.placeholder('afterRow')} as integer), ${sql.raw(ROW_NUMBER_BEFORE_ALL)})
  order by rowid limit ${sql.placeholder('limit')}) as ${keys}`
/** Drizzle takes no columns of a table that is not in the query itself. */
const partCountColumns = { ...countColumns, version: sql<number>`${keys.version}`.as('counted_version') }
const lastRow = sql<string>`cast(max(row_number) as text)`.as('last_row')

/** Null unless the text is a time with an offset. SQLite alone would take a time without one for UTC, and the text "now" for now. */
const createdMs = sql`case when ${keys.createdAt} glob '????-??-??[T ]??:??:*'
    and (${keys.createdAt} glob '*Z' or ${keys.createdAt} glob '*[+-]??:??')
  then cast(round(unixepoch(${keys.createdAt}, 'subsec') * 1000) as integer) end`
