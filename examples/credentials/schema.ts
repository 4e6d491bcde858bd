// For Postgres change the imports: pgTable from 'drizzle-orm/pg-core', and 'drizzle-keystore/drizzle/postgres'.
import { encryptedText, tokenCheck } from 'drizzle-keystore/drizzle/sqlite'
import { sqliteTable as table, text, uniqueIndex } from 'drizzle-orm/sqlite-core'

export const users = table('users', { id: text('id').primaryKey(), name: text('name').notNull() })

export const credentials = table(
  'credentials',
  {
    id: text('id').primaryKey(),
    userId: text('user_id').references(() => users.id),
    apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
    fingerprint: text('fingerprint').notNull(),
  },
  (t) => [
    uniqueIndex('credentials_fingerprint').on(t.userId, t.fingerprint), // a user has each key once
    tokenCheck(t.apiKey), // SQL that goes past the column cannot store plaintext either
  ],
)
