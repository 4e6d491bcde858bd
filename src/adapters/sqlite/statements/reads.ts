/** Builds the statements that select rows. `:name` stands for a placeholder. */
import { and, type SQL, sql } from 'drizzle-orm'
import { isOfUser, encryptionKeys as keys } from '../schema.js'
import { isLive, isLiveOfUser, isOneOfUsers, isUnderKek, isUser, type QueryBuilder } from './fragments.js'

/** Every row of `:userId`, by version. */
export function selectVersionsOfUser(db: QueryBuilder) {
  return selectInOrder(db, isUser)
}

/** Every row of the users in `:ids`, by user and version. */
export function selectVersionsOfUsers(db: QueryBuilder) {
  return selectInOrder(db, isOneOfUsers)
}

/** The active row of each user in `:ids`: a tombstone if there is any, else the highest version. */
export function selectActiveOfUsers(db: QueryBuilder) {
  return select(
    db,
    sql`${isOneOfUsers} and ${keys.version} = (select k.version from ${keys} k
      where k.user_id = ${keys.userId} order by k.shredded_at is null, k.version desc limit 1)`,
  )
}

export interface PageOptions {
  /** Whether it is the first page. Others begin after the ref of `:userId` and `:version`. */
  readonly first: boolean
  /**
   * Which rows it has: all, live ones that are not under `:kekId`, or users' live ones that are, and of either perhaps only those before the ref
   * of `:beforeUserId` and `:beforeVersion`.
   */
  readonly rows: 'all' | 'notUnderKek' | 'notUnderKekBefore' | 'underKek' | 'underKekBefore'
}

/** Up to `:limit` rows, by user and version. */
export function selectPage(db: QueryBuilder, options: PageOptions) {
  return selectInOrder(db, isOnPage(options)).limit(sql.placeholder('limit'))
}

/** Up to `:limit` rows from a page on, each with the bytes of its user id and KEK id before its columns. No limit is -1. */
export function selectRowsWithBytes(db: QueryBuilder, options: PageOptions) {
  const { userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt } = keys
  return db
    .select({
      userIdBytes: sql<Uint8Array>`cast(${userId} as blob)`.as('user_id_bytes'),
      kekIdBytes: sql<Uint8Array | null>`cast(${kekId} as blob)`.as('kek_id_bytes'),
      ...{ userId, version, encryptedKey, kekId, createdAt, wrappedAt, shreddedAt },
    })
    .from(keys)
    .where(isOnPage(options))
    .orderBy(userId, version)
    .limit(sql.placeholder('limit'))
}

function isOnPage({ first, rows }: PageOptions): SQL | undefined {
  const conditions = {
    all: undefined,
    notUnderKek: sql`${isLive} and ${keys.kekId} is not ${sql.placeholder('kekId')}`,
    notUnderKekBefore: sql`${isBeforeRef} and ${isLive} and ${keys.kekId} is not ${sql.placeholder('kekId')}`,
    underKek: sql`${isLiveOfUser} and ${isUnderKek}`,
    underKekBefore: sql`${isBeforeRef} and ${isLiveOfUser} and ${isUnderKek}`,
  }
  return and(first ? undefined : isAfterRef, conditions[rows])
}

/**
 * The row that is `:offset` rows behind the ref of `:userId` and `:version`, or behind the beginning, with the bytes of its user id. None in a
 * database whose texts are UTF-16, see {@link selectRowNumbers}.
 */
export function selectRefBehind(db: QueryBuilder, { first }: Pick<PageOptions, 'first'>) {
  const { userId, version } = keys
  return db
    .select({ userIdBytes: sql<Uint8Array>`cast(${userId} as blob)`.as('user_id_bytes'), userId, version })
    .from(keys)
    .where(and(isUtf8, first ? undefined : isAfterRef))
    .orderBy(userId, version)
    .limit(1)
    .offset(sql.placeholder('offset'))
}

/** The row at or behind each row number in `:numbers`, a JSON array: users' live ones alone. */
export function selectRefsAt(db: QueryBuilder) {
  const at = sql`(select min(k.rowid) from ${keys} k where k.rowid >= json_each.value)`
  return db
    .select({ userId: keys.userId, version: keys.version, kekId: keys.kekId })
    .from(keys)
    .where(
      sql`rowid in (select ${at} from json_each(${sql.placeholder('numbers')})) and +${keys.shreddedAt} is null and ${isOfUser(sql`+${keys.userId}`)}`,
    )
    .orderBy(keys.userId, keys.version)
}

/** A cast to a blob gives the bytes in the encoding of the database (sqlite.org/lang_expr.html, "CAST expressions"). */
const isUtf8 = sql`cast('a' as blob) = x'61'`

/**
 * The first and the last row number. A table of the host's may have none. Null in a database whose texts are UTF-16 (`pragma encoding`): there
 * rows come in another order than refs compare, so that nothing can be cut at one.
 */
export function selectRowNumbers(db: QueryBuilder) {
  return db
    .select({
      first: sql<number>`(case when ${isUtf8} then (select min(rowid) from ${keys}) end)`.as('first'),
      last: sql<number>`(case when ${isUtf8} then (select max(rowid) from ${keys}) end)`.as('last'),
    })
    .from(sql`(select 1)`)
}

/** Up to `:limit` live rows of users under `:kekId`, which may be null. */
export function selectSampleOfKek(db: QueryBuilder) {
  return select(db, sql`${isUnderKek} and ${isLiveOfUser}`).limit(sql.placeholder('limit'))
}

const isBeforeRef = sql`(${keys.userId}, ${keys.version}) < (${sql.placeholder('beforeUserId')}, ${sql.placeholder('beforeVersion')})`
const isAfterRef = sql`(${keys.userId}, ${keys.version}) > (${sql.placeholder('userId')}, ${sql.placeholder('version')})`

function select(db: QueryBuilder, where: SQL | undefined) {
  return db.select().from(keys).where(where)
}

function selectInOrder(db: QueryBuilder, where: SQL | undefined) {
  return select(db, where).orderBy(keys.userId, keys.version)
}
