/** A database of the host's, past Drizzle and past the library. */
import Database from 'better-sqlite3'
import pg from 'pg'
import { type Dialect, freshDatabase } from './databases.js'

export type RawRow = Record<string, unknown>

export interface RawDatabase {
  readonly dialect: Dialect
  readonly url: string
  /** better-sqlite3's connection, or a pool of pg. */
  readonly client: Database.Database | pg.Pool
  /** Runs statements without parameters; gives the rows of the last. */
  query(sql: string): Promise<RawRow[]>
  /** Inserts rows, by the names of their columns. */
  insert(table: string, rows: readonly RawRow[]): Promise<void>
  close(): Promise<void>
}

export async function rawDatabase(dialect: Dialect): Promise<RawDatabase> {
  const database = await freshDatabase(dialect)
  const { url } = database
  if (dialect === 'sqlite') {
    const client = new Database(url)
    client.pragma('journal_mode = WAL')
    return {
      dialect,
      url,
      client,
      async query(sql) {
        if (/^\s*(select|explain|pragma)/i.test(sql)) return client.prepare(sql).all() as RawRow[]
        client.exec(sql)
        return []
      },
      async insert(table, rows) {
        client.transaction(() => {
          for (const row of rows) {
            const { columns, values } = columnsOf(row)
            const marks = values.map(() => '?').join(', ')
            client.prepare(`insert into ${table} (${columns}) values (${marks})`).run(...values)
          }
        })()
      },
      async close() {
        client.close()
        await database.remove()
      },
    }
  }
  const client = new pg.Pool({ connectionString: url, max: 3 })
  return {
    dialect,
    url,
    client,
    query: async (sql) => (await client.query(sql)).rows,
    async insert(table, rows) {
      for (const row of rows) {
        const { columns, values } = columnsOf(row)
        const marks = values.map((_, index) => `$${index + 1}`).join(', ')
        await client.query(`insert into ${table} (${columns}) values (${marks})`, values)
      }
    },
    async close() {
      await client.end()
      await database.remove()
    },
  }
}

function columnsOf(row: RawRow): { readonly columns: string; readonly values: unknown[] } {
  const columns = Object.keys(row).map((name) => `"${name.replaceAll('"', '""')}"`)
  return { columns: columns.join(', '), values: Object.values(row) }
}
