/** Pieces of SQL that several statements share. `:name` stands for a placeholder, to which each run gives a value. */
import { type SQL, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/sqlite-proxy'
import { type KeyRecord, TENANT_KEK_IDS } from '../../../table.js'
import { isOfUser, encryptionKeys as keys } from '../schema.js'

/** Builds statements and runs none. Of Drizzle's databases only the proxy imports no driver. */
export function queryBuilder() {
  return drizzle(async () => ({ rows: [] }))
}

export type QueryBuilder = ReturnType<typeof queryBuilder>

/** A placeholder whose value the column encodes; it would not encode that of a bare `sql.placeholder`. */
export function encoded(column: keyof KeyRecord, placeholder: string = column): SQL {
  return sql`${sql.param(sql.placeholder(placeholder), keys[column])}`
}

/** One of our constants as it stands in a statement. */
export function text(constant: string): SQL {
  return sql.raw(`'${constant}'`)
}

export const isLive = sql`${keys.shreddedAt} is null`
/** The live rows in the index on KEK ids: those of users. */
export const isLiveOfUser = sql`${isLive} and ${isOfUser(keys.userId)}`
/** The rows under `:kekId`, which may be null. */
export const isUnderKek = sql`${keys.kekId} is ${sql.placeholder('kekId')}`
/** Users' rows under tenants' keys. */
export const isUnderTenant = sql`(${keys.kekId} >= ${text(TENANT_KEK_IDS.from)} and ${keys.kekId} < ${text(TENANT_KEK_IDS.below)})`
/** The rows of `:userId`. */
export const isUser = sql`${keys.userId} = ${sql.placeholder('userId')}`
/** The row of `:userId` and `:version`. */
export const isRef = sql`${isUser} and ${keys.version} = ${sql.placeholder('version')}`
/** The rows of the users in `:ids`, a JSON array. */
export const isOneOfUsers = sql`${keys.userId} in (select value from json_each(${sql.placeholder('ids')}))`
