/** A table with columns of fingerprints, on a database of its own with a service beside it, in either dialect. */
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import pg from 'pg'
import { openKeyStore } from '../../src/adapters/open.js'
import * as pgColumns from '../../src/drizzle/postgres.js'
import * as sqliteColumns from '../../src/drizzle/sqlite.js'
import { type EnvelopeCrypto, type KeyStore, pruneRetired } from '../../src/index.js'
import { versionsOf } from '../../src/lifecycle/long-work.js'
import { type Dialect, freshDatabase } from './databases.js'
import { freshService } from './fresh-store.js'

/** The fingerprint of `email` stands before it, that of `pin` after it. */
const pgLogins = pgCore.pgTable('logins', {
  emailFingerprint: pgColumns
    .fingerprintText('email_fp', { of: 'email', normalize: ['trim', 'lowercase'] })
    .unique(),
  id: pgCore.integer('id').primaryKey(),
  userId: pgCore.text('user_id').notNull(),
  email: pgColumns.encryptedText('email', { context: 'logins.email' }),
  pin: pgColumns.encryptedText('pin', { context: { table: 'logins', column: 'pin' } }),
  pinFingerprint: pgColumns.fingerprintText('pin_fp', { of: 'pin', name: 'logins.pin', bits: 8 }),
  plain: pgCore.text('plain'),
})
const sqliteLogins = sqliteCore.sqliteTable('logins', {
  emailFingerprint: sqliteColumns
    .fingerprintText('email_fp', { of: 'email', normalize: ['trim', 'lowercase'] })
    .unique(),
  id: sqliteCore.integer('id').primaryKey(),
  userId: sqliteCore.text('user_id').notNull(),
  email: sqliteColumns.encryptedText('email', { context: 'logins.email' }),
  pin: sqliteColumns.encryptedText('pin', { context: { table: 'logins', column: 'pin' } }),
  pinFingerprint: sqliteColumns.fingerprintText('pin_fp', { of: 'pin', name: 'logins.pin', bits: 8 }),
  plain: sqliteCore.text('plain'),
})

const DDL =
  'create table logins (email_fp text unique, id integer primary key, user_id text not null, email text, pin text, pin_fp text, plain text)'

/** The options of the two fingerprint columns, for `envelope.fingerprint`. */
export const EMAIL = { name: 'logins.email', normalize: ['trim', 'lowercase'] } as const
export const PIN = { name: 'logins.pin', bits: 8 } as const

export interface LoginsApp {
  readonly url: string
  readonly db: ReturnType<typeof drizzlePostgres>
  /** Of `db`: better-sqlite3's database, or pg's pool. */
  readonly client: unknown
  readonly logins: typeof pgLogins
  readonly envelope: EnvelopeCrypto
  /** Of the service, through a connection of its own. */
  readonly store: KeyStore
  /** Runs SQL past Drizzle. */
  rows(sql: string): Promise<Record<string, unknown>[]>
  /** Makes a new version of a user's key. */
  rotate(userId: string): Promise<void>
  /** Removes all versions but the newest. The service knows it when this resolves. */
  prune(userId: string): Promise<void>
  close(): Promise<void>
}

export async function loginsApp(dialect: Dialect): Promise<LoginsApp> {
  const database = await freshDatabase(dialect)
  const { url } = database
  const envelope = await freshService(url, { cache: false })
  const store = await openKeyStore(url)
  const { db, client, logins, rows, closeHost } = hostOf(dialect, url)
  await rows(DDL)
  return {
    url,
    db,
    client,
    logins,
    envelope,
    store,
    rows,
    async rotate(userId) {
      await envelope.rotateUserKey(userId)
    },
    async prune(userId) {
      const newest = (await versionsOf(store, userId)).at(-1)?.version ?? 0
      await pruneRetired({
        store,
        userId,
        beforeVersion: newest,
        tokensReencrypted: true,
        includeFirst: true,
      })
    },
    async close() {
      await envelope.close()
      await store.close()
      await closeHost()
      await database.remove()
    },
  }
}

function hostOf(dialect: Dialect, url: string) {
  if (dialect === 'sqlite') {
    const client = new Database(url)
    return {
      client,
      db: drizzleSqlite({ client }) as unknown as LoginsApp['db'],
      logins: sqliteLogins as unknown as typeof pgLogins,
      async rows(sql: string) {
        const statement = client.prepare(sql)
        if (statement.reader) return statement.all() as Record<string, unknown>[]
        statement.run()
        return []
      },
      closeHost: async () => void client.close(),
    }
  }
  const pool = new pg.Pool({ connectionString: url, max: 3 })
  return {
    client: pool,
    db: drizzlePostgres({ client: pool }),
    logins: pgLogins,
    rows: async (sql: string): Promise<Record<string, unknown>[]> => (await pool.query(sql)).rows,
    closeHost: () => pool.end(),
  }
}
