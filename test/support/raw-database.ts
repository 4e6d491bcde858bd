/** SQL past the library: on one connection, in one go, or as the host's own database with a connection that stays open. */
import Database from 'better-sqlite3'
import pg from 'pg'
import { type Dialect, freshDatabase } from './databases.js'

export type RawRow = Record<string, unknown>

/** On Postgres `run` takes several statements; on SQLite too, if none returns rows. */
export interface RawConnection {
  run(sql: string): Promise<readonly RawRow[]>
  close(): Promise<void>
}

export async function connectRaw(dialect: Dialect, url: string): Promise<RawConnection> {
  if (dialect === 'sqlite') {
    const client = new Database(url)
    return { run: async (sql) => runOnSqlite(client, sql), close: async () => void client.close() }
  }
  const client = new pg.Client(url)
  await client.connect()
  return { run: async (sql) => (await client.query(sql)).rows, close: () => client.end() }
}

/** Runs SQL on a connection of its own. */
export async function runSql(dialect: Dialect, url: string, sql: string): Promise<readonly RawRow[]> {
  const connection = await connectRaw(dialect, url)
  try {
    return await connection.run(sql)
  } finally {
    await connection.close()
  }
}

/** Lets others read a table, and none write it. @returns a function that ends that */
export async function lockTable(dialect: Dialect, url: string, table: string): Promise<() => Promise<void>> {
  const connection = await connectRaw(dialect, url)
  // SQLite has locks of whole files only.
  await connection.run(
    dialect === 'sqlite' ? 'begin immediate' : `begin; lock table ${table} in exclusive mode`,
  )
  return () => connection.close()
}

export interface RawDatabase {
  readonly dialect: Dialect
  readonly url: string
  /** better-sqlite3's connection, or a pool of pg. */
  readonly client: Database.Database | pg.Pool
  /** Runs statements without parameters. @returns the rows of the last */
  query(sql: string): Promise<RawRow[]>
  /** Inserts rows, by the names of their columns. */
  insert(table: string, rows: readonly RawRow[]): Promise<void>
  close(): Promise<void>
}

/** A fresh database of the host's. */
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
      query: async (sql) => runOnSqlite(client, sql),
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

/** `prepare` takes one statement and gives rows, `exec` takes several and gives none. */
function runOnSqlite(client: Database.Database, sql: string): RawRow[] {
  if (/^\s*(select|explain|pragma \w+$)/i.test(sql)) return client.prepare(sql).all() as RawRow[]
  client.exec(sql)
  return []
}

function columnsOf(row: RawRow): { readonly columns: string; readonly values: unknown[] } {
  const columns = Object.keys(row).map((name) => `"${name.replaceAll('"', '""')}"`)
  return { columns: columns.join(', '), values: Object.values(row) }
}
