/** What a sweep leaves of plaintexts in the database's files, and that what docs/REENCRYPT.md says removes it. */
import { existsSync, readFileSync } from 'node:fs'
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { drizzleSource, reencrypt } from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { CONTEXT, freshSqlSources, type SqlSourceTest } from '../support/sql-sources.js'

const guide = readFileSync('docs/REENCRYPT.md', 'utf8')
const section = /^## Old plaintexts$.*?(?=^## )/ms.exec(guide)?.[0] ?? ''
/** The statements of the section for a database, in their order. */
const statements = (database: string) =>
  section
    .split('\n')
    .filter((line) => line.startsWith(`| ${database}`))
    .flatMap((line) => Array.from(line.matchAll(/`((?:VACUUM|PRAGMA)[^`]*)`/g), ([, sql = '']) => sql))

const SECRET = /sk-plain-\d/
const sqliteTable = sqliteCore.sqliteTable('credentials', {
  id: sqliteCore.integer('id').primaryKey(),
  userId: sqliteCore.text('user_id'),
  apiKey: sqliteCore.text('api_key'),
})
const pgTable = pgCore.pgTable('credentials', {
  id: pgCore.integer('id').primaryKey(),
  userId: pgCore.text('user_id'),
  apiKey: pgCore.text('api_key'),
})

describe.each(dialects)('after a sweep in code on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
    if (dialect === 'sqlite') await test.host.query('pragma journal_mode = wal')
    await test.create()
    await test.host.insert(
      'credentials',
      Array.from({ length: 200 }, (_, id) => ({
        id,
        user_id: 'alice',
        api_key: `sk-plain-${id} ${'x'.repeat(300)}`,
      })),
    )
  })
  afterEach(() => test.remove())

  /** The bytes that are stored of the table, as text. */
  async function files(): Promise<string> {
    const { host } = test
    if (dialect === 'sqlite')
      return [host.url, `${host.url}-wal`]
        .map((path) => (existsSync(path) ? readFileSync(path, 'latin1') : ''))
        .join()
    await host.query('checkpoint')
    const [row] = await host.query("select pg_read_binary_file(pg_relation_filepath('credentials')) as bytes")
    return Buffer.from(row?.bytes as Uint8Array).toString('latin1')
  }

  it('old plaintexts are in the files until the statements of the guide have run', async () => {
    const { host, envelope } = test
    // Other connections of this database would keep its WAL.
    const source =
      dialect === 'sqlite'
        ? drizzleSource(drizzleSqlite({ client: host.client as Database.Database }), sqliteTable, {
            key: 'id',
            owner: 'userId',
            columns: { apiKey: CONTEXT },
          })
        : drizzleSource(drizzlePostgres({ client: host.client as pg.Pool }), pgTable, {
            key: 'id',
            owner: 'userId',
            columns: { apiKey: CONTEXT },
          })
    const report = await reencrypt({ envelope, source: source as never, plaintext: true })
    expect(report).toMatchObject({ changed: 200, left: 0 })
    expect(await files()).toMatch(SECRET)
    const [first = '', ...others] = statements(dialect === 'sqlite' ? 'SQLite' : 'Postgres')
    expect([first, ...others].join()).toBe(
      dialect === 'sqlite'
        ? 'VACUUM,PRAGMA wal_checkpoint(TRUNCATE),PRAGMA secure_delete = ON'
        : 'VACUUM FULL credentials',
    )
    for (const statement of [first, ...others]) await host.query(statement)
    expect(await files()).not.toMatch(SECRET)
  })
})
