/** Encrypted columns for Drizzle tables on Postgres. Exported as `drizzle-keystore/drizzle/postgres`. */
import { sql } from 'drizzle-orm'
import { type AnyPgColumn, type CheckBuilder, check, customType } from 'drizzle-orm/pg-core'
import type { Token } from '../format/token.js'
import { guarded } from './column-guard.js'
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

export type { EncryptedColumnOptions, TokenCheckOptions } from './encrypted-column.js'

/**
 * A column whose type is the plaintext and whose stored value is a token. Inside `envelope.scope(userId, …)` writes encrypt and reads
 * decrypt, synchronously; outside both throw ERR_NO_SCOPE. A row of another user fails to decrypt: ERR_DECRYPTION_FAILED. Null and
 * undefined pass.
 *
 * Encrypted values cannot be compared: `eq` and its like throw ERR_INVALID_ARGUMENT, as do `.default()`, `.unique()` and `.primaryKey()`.
 *
 * @throws ERR_INVALID_ARGUMENT without a context
 * @example
 * const credentials = pgTable('credentials', {
 *   id: text('id').primaryKey(),
 *   apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
 * })
 * const rows = await envelope.scope('alice', () => db.select().from(credentials))
 */
export function encryptedText(name: string, options: EncryptedColumnOptions) {
  return column(name, textCodec(options))
}

/** {@link encryptedText} for anything that JSON can express. A value that is `null` is stored as SQL's NULL. */
export function encryptedJson<T>(name: string, options: EncryptedColumnOptions) {
  return column(name, jsonCodec<T>(options))
}

/**
 * A column of tokens that the application encrypts and decrypts itself. Needs no scope; refuses anything that is not a whole token, on
 * the way in and on the way out.
 */
export function tokenText(name: string) {
  return column<Token>(name, tokenCodec)
}

function column<Value>(name: string, codec: ColumnCodec<Value>) {
  const define = customType<{ data: Value; driverData: string }>({
    dataType: () => 'text',
    ...driverFunctions(codec),
  })
  return guarded(define(name), codec)
}

/**
 * A CHECK constraint for the table: SQL that goes past the column cannot store plaintext either.
 *
 * @example
 * pgTable('credentials', { … }, (table) => [tokenCheck(table.apiKey)])
 */
export function tokenCheck(column: AnyPgColumn, options: TokenCheckOptions = {}): CheckBuilder {
  const shapes = tokenShapes(options).map(({ prefix, leastLength, alphabet }) => {
    return sql`${column} ~ ${sql.raw(`'^${prefix}[${alphabet}]{${leastLength - prefix.length},}$'`)}`
  })
  return check(tokenCheckName(column.name), sql.join(shapes, sql` or `))
}
