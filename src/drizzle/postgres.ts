/** Encrypted columns for Drizzle tables on Postgres. Exported as `drizzle-keystore/drizzle/postgres`. */
import { sql } from 'drizzle-orm'
import { type AnyPgColumn, type CheckBuilder, check, customType, PgDialect } from 'drizzle-orm/pg-core'
import type { Token } from '../format/token.js'
import { guardedBuilder } from './column-guard.js'
import {
  type ColumnCodec,
  driverFunctions,
  type EncryptedColumnOptions,
  jsonCodec,
  type TokenCheckOptions,
  textCodec,
  tokenCheckName,
  tokenCodec,
  tokenShapes,
} from './encrypted-column.js'
import type { FingerprintColumnOptions } from './fingerprint-column.js'
import { fingerprintBuilder } from './fingerprint-rule.js'

export type { EncryptedColumnOptions, TokenCheckOptions } from './encrypted-column.js'
export type { FingerprintColumnOptions } from './fingerprint-column.js'
export { fingerprintMatches } from './fingerprint-rule.js'

/**
 * A text column that is stored encrypted: the application sees the plaintext, the database a token. Inside `envelope.scope(userId, …)`
 * writes encrypt and reads decrypt, synchronously. Outside a scope both throw ERR_NO_SCOPE. Reading another user's row throws
 * ERR_DECRYPTION_FAILED. Null and undefined are stored as they are.
 *
 * Encrypted values cannot be compared: `eq` and other operators throw ERR_INVALID_ARGUMENT, and so do `.default()`, `.unique()` and
 * `.primaryKey()`.
 *
 * @throws ERR_INVALID_ARGUMENT without a context
 * @example
 * const credentials = pgTable('credentials', {
 *   id: text('id').primaryKey(),
 *   apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
 * })
 * const rows = await envelope.scope('alice', () => db.select().from(credentials))
 */
export function encryptedText(name: string, options: EncryptedColumnOptions): ColumnBuilder<string> {
  return column(name, textCodec(options))
}

/** Like {@link encryptedText}, for any value that JSON can express. `null` is stored as SQL's NULL. */
export function encryptedJson<T>(name: string, options: EncryptedColumnOptions): ColumnBuilder<T> {
  return column(name, jsonCodec<T>(options))
}

/**
 * A column of tokens that the application encrypts and decrypts itself. Needs no scope. Writing or reading a value that is not a whole
 * token throws ERR_NOT_ENCRYPTED or ERR_MALFORMED_TOKEN.
 */
export function tokenText(name: string): ColumnBuilder<Token> {
  return column<Token>(name, tokenCodec)
}

/**
 * A text column with the fingerprints of another column, by which its values can be found and kept unique. It fills itself when that column is
 * written in a scope: null for null. {@link fingerprintMatches} compares it. `.unique()` refuses the same value twice for one user; with a
 * column of the pool's, twice for all. Fingerprints show which rows of one user have equal values: docs/COLUMNS.md, "Fingerprints".
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const credentials = pgTable('credentials', {
 *   id: text('id').primaryKey(),
 *   apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
 *   apiKeyFingerprint: fingerprintText('api_key_fingerprint', { of: 'apiKey' }),
 * })
 */
export function fingerprintText(name: string, options: FingerprintColumnOptions): FingerprintBuilder {
  const define = (toDriver: (value: string) => string) =>
    customType<{ data: string; driverData: string }>({ dataType: () => 'text', toDriver })(name)
  return fingerprintBuilder(define, options, PgDialect.prototype) as FingerprintBuilder
}

/** An insert needs no value of it. */
type FingerprintBuilder = ReturnType<ColumnBuilder<string>['$defaultFn']>

/** By Drizzle's own function: the inferred type would be that of 0.45, also in an application with 1.0. */
type ColumnBuilder<Value> = ReturnType<ReturnType<typeof customType<{ data: Value; driverData: string }>>>

function column<Value>(name: string, codec: ColumnCodec<Value>): ColumnBuilder<Value> {
  const define = customType<{ data: Value; driverData: string }>({
    dataType: () => 'text',
    ...driverFunctions(codec),
  })
  return guardedBuilder(define(name), codec)
}

/**
 * A CHECK constraint that lets a column hold tokens only, also when SQL writes to the table without this library.
 *
 * @example
 * pgTable('credentials', { … }, (table) => [tokenCheck(table.apiKey)])
 */
export function tokenCheck(column: AnyPgColumn, options: TokenCheckOptions = {}): CheckBuilder {
  const shapes = tokenShapes(options).map(({ prefix, minLength, alphabet }) => {
    return sql`${column} ~ ${sql.raw(`'^${prefix}[${alphabet}]{${minLength - prefix.length},}$'`)}`
  })
  return check(tokenCheckName(column.name), sql.join(shapes, sql` or `))
}
