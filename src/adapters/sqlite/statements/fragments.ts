/** Pieces of SQL that several statements share. `:name` stands for a placeholder, to which each run gives a value. */
import { type SQL, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/sqlite-proxy'
import type { KeyRecord } from '../../../table.js'
import { encryptionKeys as keys } from '../schema.js'

/** Builds statements and runs none. Of Drizzle's databases only the proxy imports no driver. */
export function queryBuilder() {
  return drizzle(async () => ({ rows: [] }))
}

export type QueryBuilder = ReturnType<typeof queryBuilder>

/** A placeholder whose value the column encodes; it would not encode that of a bare `sql.placeholder`. */
export function encoded(column: keyof KeyRecord, placeholder: string = column): SQL {
  return sql`${sql.param(sql.placeholder(placeholder), keys[column])}`
}

export const isLive = sql`${keys.shreddedAt} is null`
/** The rows of `:userId`. */
export const isUser = sql`${keys.userId} = ${sql.placeholder('userId')}`
/** The row of `:userId` and `:version`. */
export const isRef = sql`${isUser} and ${keys.version} = ${sql.placeholder('version')}`
/** The rows of the users in `:ids`, a JSON array. */
export const isOneOfUsers = sql`${keys.userId} in (select value from json_each(${sql.placeholder('ids')}))`
