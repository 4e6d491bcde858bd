/** The SQLite table, derived from table.ts. Exported as `drizzle-keystore/schema/sqlite`. */
import { type SQL, type SQLWrapper, sql } from 'drizzle-orm'
import { check, customType, index, integer, primaryKey, sqliteTable } from 'drizzle-orm/sqlite-core'
import {
  encryptionKeysDeclaration as declaration,
  MAX_KEY_VERSION,
  type NotNull,
  type WithDefault,
} from '../../table.js'
import { instantFromText, instantToText } from './instant.js'

/** BLOB. Copies what it reads: the driver's buffer is not ours to keep. */
const bytes = customType<{ data: Uint8Array; driverData: Uint8Array }>({
  dataType: () => 'blob',
  fromDriver: (value) => new Uint8Array(value),
  toDriver: (value) => Buffer.from(value.buffer, value.byteOffset, value.byteLength),
})

/** Not Drizzle's own `text`, whose type 0.45 and 1.0 write in different ways. */
const plainText = customType<{ data: string; driverData: string }>({ dataType: () => 'text' })

/** TEXT, ISO 8601 UTC. */
const instant = customType<{ data: Date; driverData: string | null }>({
  dataType: () => 'text',
  fromDriver: (value) => instantFromText(value ?? ''),
  // Drizzle passes the null of a placeholder too, although its type excludes it.
  toDriver: (value: Date | null) => value && instantToText(value),
})

type Column<Data, Driver> = ReturnType<ReturnType<typeof customType<{ data: Data; driverData: Driver }>>>

type ColumnBuilders = {
  userId: NotNull<Column<string, string>>
  version: WithDefault<NotNull<ReturnType<typeof integer>>>
  encryptedKey: NotNull<Column<Uint8Array, Uint8Array>>
  kekId: Column<string, string>
  createdAt: NotNull<Column<Date, string | null>>
  wrappedAt: Column<Date, string | null>
  shreddedAt: Column<Date, string | null>
}

const { columns } = declaration

/** Whether a row is a user's or the pool's, and not a tenant's own. The same text in the index and in statements that are to use it. */
export function isOfUser(userId: SQLWrapper): SQL {
  return sql`(${userId} < char(1) or ${userId} >= char(2))`
}

/**
 * The table `encryption_keys` for SQLite. List it in your own drizzle schema only if your own migrations make the table; then
 * open the store with `migrate: 'off'`.
 */
export const encryptionKeys: ReturnType<typeof sqliteTable<typeof declaration.name, ColumnBuilders>> =
  sqliteTable(
    declaration.name,
    {
      userId: plainText(columns.userId.name).notNull(),
      version: integer(columns.version.name).notNull().default(columns.version.default),
      encryptedKey: bytes(columns.encryptedKey.name).notNull(),
      kekId: plainText(columns.kekId.name),
      createdAt: instant(columns.createdAt.name).notNull(),
      wrappedAt: instant(columns.wrappedAt.name),
      shreddedAt: instant(columns.shreddedAt.name),
    },
    (table) => [
      primaryKey({ name: declaration.primaryKey.name, columns: [table.userId, table.version] }),
      index(declaration.kekIndex.name)
        .on(table.kekId, table.userId, table.version)
        .where(sql`${table.shreddedAt} is null and ${isOfUser(table.userId)}`),
      // SQLite stores any type in any column; these checks allow only ours (sqlite.org/flextypegood.html).
      check(
        declaration.versionCheck,
        sql`typeof(${table.version}) = 'integer' and ${table.version} between 1 and ${sql.raw(String(MAX_KEY_VERSION))}`,
      ),
      check(declaration.userIdCheck, sql`typeof(${table.userId}) = 'text'`),
      check('encryption_keys_encrypted_key_check', sql`typeof(${table.encryptedKey}) = 'blob'`),
      check('encryption_keys_kek_id_check', sql`typeof(${table.kekId}) in ('text', 'null')`),
      check('encryption_keys_created_at_check', sql`typeof(${table.createdAt}) = 'text'`),
      check('encryption_keys_wrapped_at_check', sql`typeof(${table.wrappedAt}) in ('text', 'null')`),
      check('encryption_keys_shredded_at_check', sql`typeof(${table.shreddedAt}) in ('text', 'null')`),
    ],
  )
