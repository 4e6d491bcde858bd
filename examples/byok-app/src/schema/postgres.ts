/** The tables on Postgres. sqlite.ts has the same ones, and the comments. */
import { encryptedText, tokenCheck, tokenText } from 'drizzle-keystore/drizzle/postgres'
import { bigint, boolean, index, integer, pgTable, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'

const time = (name: string) => timestamp(name, { withTimezone: true, precision: 3 })

// Better Auth's tables, by the names that its adapter looks for.

export const user = pgTable('user', {
  id: text('id').primaryKey(),
  name: text('name').notNull(),
  email: text('email').notNull().unique(),
  emailVerified: boolean('email_verified').notNull(),
  image: text('image'),
  createdAt: time('created_at').notNull(),
  updatedAt: time('updated_at').notNull(),
})

export const session = pgTable(
  'session',
  {
    id: text('id').primaryKey(),
    token: text('token').notNull().unique(),
    userId: text('user_id')
      .notNull()
      .references(() => user.id, { onDelete: 'cascade' }),
    expiresAt: time('expires_at').notNull(),
    ipAddress: text('ip_address'),
    userAgent: text('user_agent'),
    createdAt: time('created_at').notNull(),
    updatedAt: time('updated_at').notNull(),
  },
  (table) => [index('session_user_id').on(table.userId)],
)

/** The tokens of OAuth providers are encrypted by the adapter of drizzle-keystore, in plain text columns. */
export const account = pgTable(
  'account',
  {
    id: text('id').primaryKey(),
    accountId: text('account_id').notNull(),
    providerId: text('provider_id').notNull(),
    userId: text('user_id')
      .notNull()
      .references(() => user.id, { onDelete: 'cascade' }),
    accessToken: text('access_token'),
    refreshToken: text('refresh_token'),
    idToken: text('id_token'),
    accessTokenExpiresAt: time('access_token_expires_at'),
    refreshTokenExpiresAt: time('refresh_token_expires_at'),
    scope: text('scope'),
    password: text('password'),
    createdAt: time('created_at').notNull(),
    updatedAt: time('updated_at').notNull(),
  },
  (table) => [
    index('account_user_id').on(table.userId),
    tokenCheck(table.accessToken),
    tokenCheck(table.refreshToken),
    tokenCheck(table.idToken),
  ],
)

export const verification = pgTable(
  'verification',
  {
    id: text('id').primaryKey(),
    identifier: text('identifier').notNull(),
    value: text('value').notNull(),
    expiresAt: time('expires_at').notNull(),
    createdAt: time('created_at').notNull(),
    updatedAt: time('updated_at').notNull(),
  },
  (table) => [index('verification_identifier').on(table.identifier), tokenCheck(table.value)],
)

export const rateLimit = pgTable('rate_limit', {
  id: text('id').primaryKey(),
  key: text('key').notNull().unique(),
  count: integer('count').notNull(),
  lastRequest: bigint('last_request', { mode: 'number' }).notNull(),
})

// The application's own table.

export const apiKeys = pgTable(
  'api_key',
  {
    id: text('id').primaryKey(),
    userId: text('user_id')
      .notNull()
      .references(() => user.id, { onDelete: 'cascade' }),
    provider: text('provider').notNull(),
    label: encryptedText('label', { context: 'api_key.label', ownerColumn: 'userId' }).notNull(),
    lastFour: encryptedText('last_four', { context: 'api_key.last_four', ownerColumn: 'userId' }).notNull(),
    secret: tokenText('secret').notNull(),
    fingerprint: text('fingerprint').notNull(),
    createdAt: time('created_at').notNull(),
    replacedAt: time('replaced_at'),
    lastUsedAt: time('last_used_at'),
    lastResult: text('last_result'),
  },
  (table) => [
    uniqueIndex('api_key_once').on(table.userId, table.fingerprint),
    tokenCheck(table.label),
    tokenCheck(table.lastFour),
    tokenCheck(table.secret),
  ],
)
