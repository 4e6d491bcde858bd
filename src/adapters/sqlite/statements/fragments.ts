/** Pieces of SQL that several statements share. `:name` stands for a placeholder, to which each run gives a value. */
import type { Database } from 'better-sqlite3'
import { type SQL, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import type { SqliteClient } from '../../../drivers/sqlite-client.js'
import type { KeyRecord } from '../../../table.js'
import { encryptionKeys as keys } from '../schema.js'

/** Builds statements. Not the host's db on the connection: its logger, if it has one, would print wrapped keys. */
export function queryBuilder(client: SqliteClient) {
  return drizzle({ client: client as Database })
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
