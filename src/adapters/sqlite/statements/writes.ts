/** Builds the statements that insert, change and remove rows. Placeholders (`:name`) for a whole row are named like its columns. */
import { type SQL, sql } from 'drizzle-orm'
import type { NewKeyRecord, WrapChange } from '../../../store.js'
import { encryptionKeys as keys } from '../schema.js'
import { encoded, isLive, isRef, isUser, type QueryBuilder } from './fragments.js'

/** Inserts a row if its ref is free, no row of its user is a tombstone, and the version before it is stored, while the row of `:liveUserId` is live. */
export function insertRow(db: QueryBuilder) {
  const isNext = sql`exists (select 1 ${fromUser} and ${keys.version} = ${encoded('version')} - 1)`
  return insertIf(db, sql`not ${isShredded} and (${encoded('version')} = 1 or ${isNext}) and ${isOtherLive}`)
}

/** Inserts a row if its ref is free; a live row only if no row of its user is a tombstone. */
export function restoreRow(db: QueryBuilder) {
  return insertIf(db, sql`${encoded('shreddedAt')} is not null or not ${isShredded}`)
}

/**
 * {@link restoreRow} for several rows, two thirds of whose time it takes. Live rows and tombstones must not be mixed: none of the rows is
 * stored yet when the tombstones are looked for.
 */
export function restoreRows(db: QueryBuilder, rows: number) {
  const values = sql.join(Array(rows).fill(sql`(${rowValues})`), sql`, `)
  const isAnyShredded = sql`exists (select 1 from ${keys} where ${keys.userId} = column1 and ${keys.shreddedAt} is not null)`
  return db
    .insert(keys)
    .select(sql`select * from (values ${values}) where column7 is not null or not ${isAnyShredded}`)
    .onConflictDoNothing()
}

/** Inserts a tombstone if its user has no row. */
export function insertTombstone(db: QueryBuilder) {
  return db.insert(keys).select(sql`${row} where not exists (select 1 ${fromUser})`)
}

/** Replaces the wrapped key of a live row that still holds `:from`, or already `:encryptedKey`, while the row of `:liveUserId` is live. */
export function replaceWrappedKey(db: QueryBuilder) {
  const isExpected = sql`${keys.encryptedKey} in (${encoded('encryptedKey', 'from')}, ${encoded('encryptedKey')})`
  return db
    .update(keys)
    .set({ encryptedKey: encoded('encryptedKey'), kekId: encoded('kekId'), wrappedAt: encoded('wrappedAt') })
    .where(sql`${isRef} and ${isExpected} and ${isLive} and ${isOtherLive}`)
}

/** Makes tombstones of the live rows of `:userId`. */
export function shredRows(db: QueryBuilder) {
  return db
    .update(keys)
    .set({ encryptedKey: sql`zeroblob(0)`, shreddedAt: encoded('shreddedAt') })
    .where(sql`${isUser} and ${isLive}`)
}

/** Removes the row of `:userId` and `:version`. */
export function removeRow(db: QueryBuilder) {
  return db.delete(keys).where(isRef)
}

/** Removes every row of `:userId`. */
export function removeRowsOfUser(db: QueryBuilder) {
  return db.delete(keys).where(isUser)
}

/** Whether the row of `:liveUserId`, `:liveVersion` and `:liveCreatedAt` is live, if these are not null. */
const isOtherLive = sql`(${sql.placeholder('liveUserId')} is null or exists (select 1 from ${keys} k
  where k.user_id = ${sql.placeholder('liveUserId')} and k.version = ${sql.placeholder('liveVersion')}
    and k.created_at = ${encoded('createdAt', 'liveCreatedAt')} and k.shredded_at is null))`

/** The placeholders of {@link replaceWrappedKey} and {@link insertRow}. */
export function conditionalValues<Row extends WrapChange | NewKeyRecord>({ whileLive, ...row }: Row) {
  const { userId = null, version = null, createdAt = null } = whileLive ?? {}
  return { ...row, liveUserId: userId, liveVersion: version, liveCreatedAt: createdAt }
}

const fromUser = sql`from ${keys} where ${isUser}`
const isShredded = sql`exists (select 1 ${fromUser} and ${keys.shreddedAt} is not null)`
const rowValues = sql`${encoded('userId')}, ${encoded('version')}, ${encoded('encryptedKey')}, ${encoded('kekId')},
  ${encoded('createdAt')}, ${encoded('wrappedAt')}, ${encoded('shreddedAt')}`
const row = sql`select ${rowValues}`

function insertIf(db: QueryBuilder, condition: SQL) {
  return db.insert(keys).select(sql`${row} where ${condition}`).onConflictDoNothing()
}
