/** A fresh database of either dialect, looked at past the application. */
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import Sqlite from 'better-sqlite3'
import pg from 'pg'
import { inject } from 'vitest'

export type Dialect = 'sqlite' | 'postgres'
export const dialects: readonly Dialect[] = ['sqlite', 'postgres']

export interface TestDatabase {
  readonly url: string
  /** Runs SQL past the application. `$1` and so on in both dialects. */
  run(sql: string, ...values: (string | number | null)[]): Promise<Record<string, unknown>[]>
  /** Everything that is stored: the bytes of all files, or all rows of all tables. */
  content(): Promise<string>
  /** Keeps everybody else from writing keys. @returns lets them write again */
  holdWrites(): Promise<() => Promise<void>>
  remove(): Promise<void>
}

export function freshDatabase(dialect: Dialect, folder: string): Promise<TestDatabase> {
  return dialect === 'sqlite' ? freshSqlite(join(folder, 'data', 'app.db')) : freshPostgres()
}

async function freshSqlite(path: string): Promise<TestDatabase> {
  return {
    url: path,
    async run(sql, ...values) {
      const client = new Sqlite(path)
      // As the application's own connection: the store finds copies of rows in unused space, and receipts would say so.
      client.pragma('secure_delete = ON')
      try {
        const statement = client.prepare(sql.replaceAll(/\$(\d+)/g, '?$1'))
        const named = Object.fromEntries(values.map((value, at) => [at + 1, value]))
        const given = values.length === 0 ? [] : [named]
        if (statement.reader) return statement.all(...given) as Record<string, unknown>[]
        statement.run(...given)
        return []
      } finally {
        client.close()
      }
    },
    async content() {
      const files = readdirSync(dirname(path)).filter((name) => name.startsWith('app.db'))
      return files.map((name) => readFileSync(join(dirname(path), name), 'latin1')).join('\n')
    },
    async holdWrites() {
      const client = new Sqlite(path)
      client.exec('begin immediate')
      return async () => void client.close()
    },
    async remove() {},
  }
}

async function freshPostgres(): Promise<TestDatabase> {
  const serverUrl = inject('postgresUrl')
  const name = `byok_${randomBytes(6).toString('hex')}`
  const onServer = async (sql: string) => {
    const client = new pg.Client(serverUrl)
    await client.connect()
    await client.query(sql).finally(() => client.end())
  }
  await onServer(`create database ${name}`)
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  const run: TestDatabase['run'] = async (sql, ...values) => {
    const client = new pg.Client(url.href)
    await client.connect()
    try {
      return (await client.query(sql, values)).rows
    } finally {
      await client.end()
    }
  }
  return {
    url: url.href,
    run,
    async content() {
      const tables = await run(
        "select table_schema as schema, table_name as name from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema')",
      )
      const rows = []
      for (const { schema, name } of tables)
        rows.push(...(await run(`select t::text from "${schema}"."${name}" t`)))
      return JSON.stringify(rows)
    },
    async holdWrites() {
      const client = new pg.Client(url.href)
      await client.connect()
      await client.query('begin')
      await client.query('lock table encryption_keys in exclusive mode')
      return () => client.end()
    },
    remove: () => onServer(`drop database ${name} with (force)`),
  }
}
