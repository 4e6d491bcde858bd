/** Encrypted columns for Drizzle tables on SQLite. Exported as `drizzle-keystore/drizzle/sqlite`. */
import { sql } from 'drizzle-orm'
import {
  type AnySQLiteColumn,
  type CheckBuilder,
  check,
  customType,
  SQLiteDialect,
  text,
} from 'drizzle-orm/sqlite-core'
import type { Token } from '../format/token.js'
import { guardedBuilder } from './column-guard.js'
import {
  type AnyCodec,
  bytesCodec,
  type ColumnArguments,
  driverFunctions,
  type EncryptedColumnOptions,
  jsonCodec,
  nameAndOptions,
  type TokenCheckOptions,
  textCodec,
  tokenCheckName,
  tokenCodec,
  tokenShapes,
} from './encrypted-column.js'
import { type EncryptedFieldsOptions, fieldsCodec } from './encrypted-fields.js'
import type { FingerprintColumnOptions } from './fingerprint-column.js'
import { fingerprintBuilder } from './fingerprint-rule.js'
import { ownerGuard } from './owner-column.js'
import { guardQueries } from './query-guard.js'
import { watchWrites } from './written-row.js'

export type { ColumnArguments, EncryptedColumnOptions, TokenCheckOptions } from './encrypted-column.js'
export type { EncryptedFieldsOptions } from './encrypted-fields.js'
export type { FingerprintColumnOptions } from './fingerprint-column.js'
export { fingerprintMatches } from './fingerprint-rule.js'

/**
 * A text column that is stored encrypted: the application sees the plaintext, the database a token. Inside `envelope.scope(userId, …)`
 * writes encrypt and reads decrypt, synchronously; with `owner: 'pool'`, inside `envelope.pool.scope(…)`. Outside a scope both throw
 * ERR_NO_SCOPE. Reading another user's row throws ERR_DECRYPTION_FAILED, unless the scope's `onUnreadable` says otherwise. With `ownerColumn`,
 * writing another user's row throws ERR_WRONG_OWNER. Null and undefined are stored as they are.
 *
 * Without a name, the column is called as its property, through the `casing` of Drizzle.
 *
 * Encrypted values cannot be compared: `eq` and other operators throw ERR_INVALID_ARGUMENT, and so do `.default()`, `.unique()` and
 * `.primaryKey()`.
 *
 * @throws ERR_INVALID_ARGUMENT without a context
 * @example
 * const credentials = sqliteTable('credentials', {
 *   id: text('id').primaryKey(),
 *   apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
 * })
 * const rows = await envelope.scope('alice', () => db.select().from(credentials))
 */
export function encryptedText(...given: ColumnArguments<EncryptedColumnOptions>): ColumnBuilder<string> {
  const [name, options] = nameAndOptions(given)
  return column(name, textCodec(options))
}

/** Like {@link encryptedText}, for any value that JSON can express. `null` is stored as SQL's NULL. */
export function encryptedJson<T>(...given: ColumnArguments<EncryptedColumnOptions>): ColumnBuilder<T> {
  const [name, options] = nameAndOptions(given)
  return column(name, jsonCodec<T>(options))
}

/** Like {@link encryptedText}, for bytes. */
export function encryptedBytes(...given: ColumnArguments<EncryptedColumnOptions>): ColumnBuilder<Uint8Array> {
  const [name, options] = nameAndOptions(given)
  return column(name, bytesCodec(options))
}

/**
 * A JSON column some fields of which are stored encrypted: the others stay readable, and SQL can query them. Fields are strings, null or absent;
 * each is a token of its own, bound to its place in the value. Scopes, owners and errors are as with {@link encryptedText}.
 *
 * @throws ERR_INVALID_ARGUMENT without a context, or without paths
 * @example
 * const integrations = sqliteTable('integrations', {
 *   id: text('id').primaryKey(),
 *   settings: encryptedFields<{ model: string; apiKey: string | null }>('settings', {
 *     context: 'integrations.settings',
 *     paths: ['apiKey'],
 *   }),
 * })
 */
export function encryptedFields<T>(...given: ColumnArguments<EncryptedFieldsOptions<T>>): ColumnBuilder<T> {
  const [name, options] = nameAndOptions(given)
  return column(name, fieldsCodec(options))
}

/**
 * A column of tokens that the application encrypts and decrypts itself. Needs no scope. Writing or reading a value that is not a whole
 * token throws ERR_NOT_ENCRYPTED or ERR_MALFORMED_TOKEN.
 */
export function tokenText(name = ''): ColumnBuilder<Token> {
  return column<Token>(name, tokenCodec)
}

/**
 * A text column with the fingerprints of another column, by which its values can be found and kept unique. It fills itself when that column is
 * written in a scope: null for null. {@link fingerprintMatches} compares it. `.unique()` refuses the same value twice for one user; with a
 * column of the pool's, twice for all. Fingerprints show which rows of one user have equal values: docs/COLUMNS.md, "Fingerprints".
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const credentials = sqliteTable('credentials', {
 *   id: text('id').primaryKey(),
 *   apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
 *   apiKeyFingerprint: fingerprintText('api_key_fingerprint', { of: 'apiKey' }),
 * })
 */
export function fingerprintText(...given: ColumnArguments<FingerprintColumnOptions>): FingerprintBuilder {
  const [name, options] = nameAndOptions(given)
  const define = (toDriver: (value: string) => string) =>
    customType<{ data: string; driverData: string }>({ dataType: () => 'text', toDriver })(name)
  return fingerprintBuilder(define, options, text(), SQLiteDialect.prototype) as FingerprintBuilder
}

/** An insert needs no value of it. */
type FingerprintBuilder = ReturnType<ColumnBuilder<string>['$defaultFn']>

/** By Drizzle's own function: the inferred type would be that of 0.45, also in an application with 1.0. */
type ColumnBuilder<Value> = ReturnType<ReturnType<typeof customType<{ data: Value; driverData: string }>>>

/** Columns of Drizzle's own with such values. */
const OWN = {
  text: () => text(),
  token: () => text(),
  json: () => text('', { mode: 'json' }),
  bytes: () => null,
  fields: () => text('', { mode: 'json' }),
}

function column<Value>(name: string, codec: AnyCodec<Value>): ColumnBuilder<Value> {
  const define = customType<{ data: Value; driverData: string }>({
    dataType: () => 'text',
    ...driverFunctions(codec),
  })
  if (codec.mark.kind !== 'token') {
    guardQueries(SQLiteDialect.prototype)
    watchWrites(SQLiteDialect.prototype)
  }
  return guardedBuilder(define(name), codec, OWN[codec.mark.kind](), ownerGuard(codec))
}

/**
 * A CHECK constraint that lets a column hold tokens only, also when SQL writes to the table without this library.
 *
 * @example
 * sqliteTable('credentials', { … }, (table) => [tokenCheck(table.apiKey)])
 */
export function tokenCheck(column: AnySQLiteColumn, options: TokenCheckOptions = {}): CheckBuilder {
  const shapes = tokenShapes(column, options).map(({ prefix, minLength, alphabet }) => {
    const foreign = sql.raw(`'*[^${alphabet}]*'`)
    return sql`(${column} glob ${sql.raw(`'${prefix}*'`)} and length(${column}) >= ${sql.raw(String(minLength))} and substr(${column}, ${sql.raw(String(prefix.length + 1))}) not glob ${foreign})`
  })
  // SQLite's glob and length() stop at the first NUL, so text after one would not be checked.
  const isWhole = sql`typeof(${column}) = 'text' and instr(${column}, char(0)) = 0`
  return check(
    tokenCheckName(column.name),
    sql`${column} is null or (${isWhole} and (${sql.join(shapes, sql` or `)}))`,
  )
}
