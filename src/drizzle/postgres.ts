/** Encrypted columns for Drizzle tables on Postgres. Exported as `drizzle-keystore/drizzle/postgres`. */
import { sql } from 'drizzle-orm'
import {
  type AnyPgColumn,
  type CheckBuilder,
  check,
  customType,
  jsonb,
  PgDialect,
  pgTable,
  text,
} from 'drizzle-orm/pg-core'
import { invalidArgument } from '../errors.js'
import type { Token } from '../format/token.js'
import { ownOptions } from '../validate.js'
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
 * const credentials = pgTable('credentials', {
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
 * @param options `type` is the column's type, `'jsonb'` by default
 * @throws ERR_INVALID_ARGUMENT without a context, or without paths
 * @example
 * const integrations = pgTable('integrations', {
 *   id: text('id').primaryKey(),
 *   settings: encryptedFields<{ model: string; apiKey: string | null }>('settings', {
 *     context: 'integrations.settings',
 *     paths: ['apiKey'],
 *   }),
 * })
 */
export function encryptedFields<T>(
  ...given: ColumnArguments<EncryptedFieldsOptions<T> & { readonly type?: 'json' | 'jsonb' }>
): ColumnBuilder<T> {
  const [name, options] = nameAndOptions(given)
  const { type = 'jsonb', ...others } = ownOptions(options ?? {})
  if (type !== 'json' && type !== 'jsonb') throw invalidArgument("type must be 'json' or 'jsonb'")
  return column(name, fieldsCodec<T>(others), type)
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
 * const credentials = pgTable('credentials', {
 *   id: text('id').primaryKey(),
 *   apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
 *   apiKeyFingerprint: fingerprintText('api_key_fingerprint', { of: 'apiKey' }),
 * })
 */
export function fingerprintText(...given: ColumnArguments<FingerprintColumnOptions>): FingerprintBuilder {
  const [name, options] = nameAndOptions(given)
  const define = (toDriver: (value: string) => string) =>
    customType<{ data: string; driverData: string }>({ dataType: () => 'text', toDriver })(name)
  return fingerprintBuilder(define, options, text(), PgDialect.prototype) as FingerprintBuilder
}

/** An insert needs no value of it. */
type FingerprintBuilder = ReturnType<ColumnBuilder<string>['$defaultFn']>

/** By Drizzle's own function: the inferred type would be that of 0.45, also in an application with 1.0. */
type ColumnBuilder<Value> = ReturnType<ReturnType<typeof customType<{ data: Value; driverData: string }>>>

/** Columns of Drizzle's own with such values. */
const OWN = {
  text: () => text(),
  token: () => text(),
  json: () => jsonb(),
  bytes: () => null,
  fields: () => jsonb(),
}

function column<Value>(
  name: string,
  codec: AnyCodec<Value>,
  type: 'text' | 'json' | 'jsonb' = 'text',
): ColumnBuilder<Value> {
  const define = customType<{ data: Value; driverData: string }>({
    dataType: () => type,
    ...(type === 'text' ? driverFunctions(codec) : jsonFunctions(codec, type)),
  })
  if (codec.mark.kind !== 'token') {
    guardQueries(PgDialect.prototype)
    watchWrites(PgDialect.prototype)
  }
  return guardedBuilder(define(name), codec, OWN[codec.mark.kind](), ownerGuard(codec))
}

/**
 * {@link driverFunctions} of a JSON column. From 1.0 on, Drizzle has a codec for each driver, which makes the driver's parameter of a value: node-postgres
 * needs text, and postgres-js would write text as a JSON string. In 0.45 all of them take text.
 */
function jsonFunctions<Value>(codec: AnyCodec<Value>, type: 'json' | 'jsonb') {
  const functions = driverFunctions(codec)
  if (!('codec' in pgTable('', { json: jsonb() }).json)) return functions
  const toDriver = (value: Value) => JSON.parse(functions.toDriver(value) ?? 'null') as string
  return { ...functions, toDriver, codec: type }
}

/**
 * A CHECK constraint that lets a column hold tokens only, also when SQL writes to the table without this library.
 *
 * @example
 * pgTable('credentials', { … }, (table) => [tokenCheck(table.apiKey)])
 */
export function tokenCheck(column: AnyPgColumn, options: TokenCheckOptions = {}): CheckBuilder {
  const shapes = tokenShapes(column, options).map(({ prefix, minLength, alphabet }) => {
    return sql`${column} ~ ${sql.raw(`'^${prefix}[${alphabet}]{${minLength - prefix.length},}$'`)}`
  })
  return check(tokenCheckName(column.name), sql.join(shapes, sql` or `))
}
