/** A host application with JSON columns some fields of which are encrypted, on either dialect. */
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import type { EnvelopeCrypto } from '../../src/index.js'
import * as postgresSchema from '../fixtures/fields-schema-postgres.js'
import * as sqliteSchema from '../fixtures/fields-schema-sqlite.js'
import { type Dialect, freshDatabase } from './databases.js'
import { freshService } from './fresh-store.js'
import { generateSql } from './host-app.js'

export interface FieldsApp {
  /** On both dialects the same queries run: the type is that of Postgres. */
  readonly db: ReturnType<typeof drizzlePostgres<typeof postgresSchema>>
  readonly schema: typeof postgresSchema
  readonly envelope: EnvelopeCrypto
  readonly url: string
  /** Runs SQL past Drizzle. Postgres's JSON comes as text if it is cast. */
  rows(sql: string, ...params: unknown[]): Promise<Record<string, unknown>[]>
  close(): Promise<void>
}

/** What drizzle-kit has generated: it takes a second, and the result is the same each time. */
const generated: Partial<Record<Dialect, string[]>> = {}

export async function fieldsApp(dialect: Dialect): Promise<FieldsApp> {
  const database = await freshDatabase(dialect)
  const ddl = generated[dialect] ?? generateSql(dialect, `test/fixtures/fields-schema-${dialect}.ts`)
  generated[dialect] = ddl
  const envelope = await freshService(database.url)
  const common = { envelope, url: database.url }
  if (dialect === 'sqlite') {
    const client = new Database(database.url)
    for (const statement of ddl) client.exec(statement)
    return {
      ...common,
      db: drizzleSqlite({ client, schema: sqliteSchema }) as unknown as FieldsApp['db'],
      schema: sqliteSchema as unknown as typeof postgresSchema,
      async rows(sql, ...params) {
        const statement = client.prepare(sql.replaceAll(/\$\d/g, '?').replaceAll(/::\w+/g, ''))
        if (statement.reader) return statement.all(...params) as Record<string, unknown>[]
        statement.run(...params)
        return []
      },
      async close() {
        await envelope.close()
        client.close()
        await database.remove()
      },
    }
  }
  const pool = new pg.Pool({ connectionString: database.url, max: 3 })
  for (const statement of ddl) await pool.query(statement)
  return {
    ...common,
    db: drizzlePostgres({ client: pool, schema: postgresSchema }),
    schema: postgresSchema,
    rows: async (sql, ...params) => (await pool.query(sql, params)).rows,
    async close() {
      await envelope.close()
      await pool.end()
      await database.remove()
    },
  }
}
