/** A database of Better Auth's, with a key store in it: what encryptedAdapter wraps, and what is stored below. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { BetterAuthOptions } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import type { EnvelopeCrypto, EnvelopeCryptoOptions } from '../../src/index.js'
import { type EncryptedAdapterOptions, encryptedAdapter } from '../../src/integrations/better-auth.js'
import { type BetterAuthTables, betterAuthTables } from './better-auth-tables.js'
import { type Dialect, freshDatabase } from './databases.js'
import { freshService } from './fresh-store.js'

export type DrizzleAdapter = ReturnType<typeof drizzleAdapter>

export interface AdapterChoices {
  readonly usePlural?: boolean
  readonly transaction?: boolean
}

export interface BetterAuthDatabase {
  readonly envelope: EnvelopeCrypto
  /** Makes Better Auth's tables anew. */
  migrate(options: BetterAuthOptions, choices?: AdapterChoices): Promise<void>
  /** The drizzle db, and the tables by the names that the adapter looks for. */
  drizzle(
    options: BetterAuthOptions,
    choices?: AdapterChoices,
  ): { db: never; schema: BetterAuthTables['schema'] }
  /** Better Auth's own adapter, which encrypts nothing. */
  adapter(options: BetterAuthOptions, choices?: AdapterChoices): DrizzleAdapter
  /** The same, encrypting. */
  encrypted(
    options: BetterAuthOptions,
    encryption?: Partial<EncryptedAdapterOptions>,
    choices?: AdapterChoices,
  ): DrizzleAdapter
  /** Runs SQL past all adapters. */
  rows(sql: string): Promise<Record<string, unknown>[]>
  /** Everything that is stored: the files on SQLite, all rows of all tables on Postgres. */
  content(): Promise<string>
  remove(): Promise<void>
}

export async function betterAuthDatabase(
  dialect: Dialect,
  options: Partial<EnvelopeCryptoOptions> = {},
): Promise<BetterAuthDatabase> {
  const database = await freshDatabase(dialect)
  const envelope = await freshService(database.url, options)
  const client = dialect === 'sqlite' ? openSqlite(database.url) : openPostgres(database.url)
  const tablesOf = (authOptions: BetterAuthOptions, { usePlural }: AdapterChoices = {}) =>
    betterAuthTables(dialect, authOptions, usePlural)
  const drizzle = (authOptions: BetterAuthOptions, choices?: AdapterChoices) => {
    const { schema } = tablesOf(authOptions, choices)
    return { db: client.drizzle(schema) as never, schema }
  }
  const adapter = (authOptions: BetterAuthOptions, choices: AdapterChoices = {}) => {
    const { db, schema } = drizzle(authOptions, choices)
    return drizzleAdapter(db, { provider: dialect === 'sqlite' ? 'sqlite' : 'pg', schema, ...choices })
  }
  return {
    envelope,
    drizzle,
    async migrate(authOptions, choices) {
      for (const statement of tablesOf(authOptions, choices).sql) await client.rows(statement)
    },
    adapter,
    encrypted: (authOptions, encryption = {}, choices = {}) =>
      encryptedAdapter(adapter(authOptions, choices), { envelope, plaintext: 'reject', ...encryption }),
    rows: client.rows,
    content: client.content,
    async remove() {
      await envelope.close()
      await client.close()
      await database.remove()
    },
  }
}

interface Client {
  drizzle(schema: Record<string, unknown>): unknown
  rows(sql: string): Promise<Record<string, unknown>[]>
  content(): Promise<string>
  close(): Promise<void>
}

function openSqlite(path: string): Client {
  const client = new Database(path)
  client.pragma('foreign_keys = on')
  return {
    drizzle: (schema) => drizzleSqlite({ client, schema }),
    async rows(sql) {
      const statement = client.prepare(sql)
      if (statement.reader) return statement.all() as Record<string, unknown>[]
      statement.run()
      return []
    },
    async content() {
      const folder = dirname(path)
      return readdirSync(folder)
        .map((file) => readFileSync(join(folder, file), 'latin1'))
        .join('\n')
    },
    close: async () => {
      client.close()
    },
  }
}

function openPostgres(url: string): Client {
  const pool = new pg.Pool({ connectionString: url, max: 3 })
  const rows = async (sql: string) => (await pool.query(sql)).rows as Record<string, unknown>[]
  return {
    drizzle: (schema) => drizzlePostgres({ client: pool, schema }),
    rows,
    async content() {
      const tables = await rows(
        `select quote_ident(schemaname) || '.' || quote_ident(tablename) as name from pg_tables where schemaname !~ '^(pg_|information)'`,
      )
      const all = await Promise.all(tables.map(({ name }) => rows(`select t::text as row from ${name} t`)))
      return JSON.stringify(all)
    },
    close: () => pool.end(),
  }
}
