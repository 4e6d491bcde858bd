/** encryptedJson columns: the sweep leaves what is no JSON, which every read would fail on, and names it. */
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedJson as pgEncryptedJson } from '../../src/drizzle/postgres.js'
import { encryptedJson } from '../../src/drizzle/sqlite.js'
import { drizzleSource, type LegacyReader, reencrypt } from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { everythingOf } from '../support/leaks.js'
import { CONTEXT, freshSqlSources, type SqlSourceTest } from '../support/sql-sources.js'
import { ACCEPT_V2, v2Token } from '../support/tokens.js'

const pgTable = pgCore.pgTable('credentials', {
  id: pgCore.integer('id').primaryKey(),
  userId: pgCore.text('user_id'),
  apiKey: pgEncryptedJson<unknown>('api_key', { context: CONTEXT }),
})
const sqliteTable = sqliteCore.sqliteTable('credentials', {
  id: sqliteCore.integer('id').primaryKey(),
  userId: sqliteCore.text('user_id'),
  apiKey: encryptedJson<unknown>('api_key', { context: CONTEXT }),
})
const legacy: LegacyReader[] = [
  { name: 'old', test: (value) => value.startsWith('old:'), decrypt: (value) => value.slice(4) },
]

describe.each(dialects)('encryptedJson in the sweep on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect, { accept: ACCEPT_V2 })
    await test.create()
  })
  afterEach(() => test.remove())

  it('finds in a dry run that the column is of a type that holds no text, and says what to do', async () => {
    const { envelope, host } = test
    const [type, says] =
      dialect === 'sqlite' ? ['integer', 'in a migration of its own'] : ['jsonb', '"api_key"::text']
    await host.query('drop table credentials')
    await host.query(`create table credentials (id integer primary key, user_id text, api_key ${type})`)
    const db =
      dialect === 'sqlite'
        ? drizzleSqlite({ client: host.client as Database.Database })
        : (drizzlePostgres({ client: host.client as pg.Pool }) as never)
    const table = (dialect === 'sqlite' ? sqliteTable : pgTable) as typeof sqliteTable
    const source = drizzleSource(db, table, { key: 'id', owner: 'userId', columns: ['apiKey'] })
    const report = await reencrypt({ envelope, source, plaintext: true, dryRun: true })
    expect(report).toMatchObject({
      complete: false,
      findings: [
        { severity: 'error', kind: 'wrongType', column: 'api_key', reason: expect.stringContaining(says) },
      ],
    })
    await expect(reencrypt({ envelope, source, plaintext: true })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining(says),
    })
  })

  it('brings JSON to tokens, whatever held it, and leaves what is none', async () => {
    const { envelope, host } = test
    const table = (dialect === 'sqlite' ? sqliteTable : pgTable) as typeof sqliteTable
    const db =
      dialect === 'sqlite'
        ? drizzleSqlite({ client: host.client as Database.Database })
        : (drizzlePostgres({ client: host.client as pg.Pool }) as never)
    const of = { column: CONTEXT }
    const good: Record<string, string> = {
      '{"n":1}': '{"n":1}',
      '{}': '{}',
      'old:[2]': '[2]',
      [await envelope.encrypt('alice', '"three"', { column: 'earlier' })]: '"three"',
      [await v2Token(envelope, 'alice', '4')]: '4',
    }
    const bad = [
      'plain text',
      '',
      '{"n":1',
      'old:secret of old',
      await envelope.encrypt('alice', 'secret of current', of),
      await envelope.encrypt('alice', 'secret of context', { column: 'earlier' }),
      await v2Token(envelope, 'alice', 'secret of v2'),
    ]
    const values = [...Object.keys(good), ...bad]
    await host.insert(
      'credentials',
      values.map((api_key, id) => ({ id, user_id: 'alice', api_key })),
    )
    const source = drizzleSource(db, table, { key: 'id', owner: 'userId', columns: ['apiKey'] })
    const sweep = (dryRun: boolean) =>
      reencrypt({ envelope, source, plaintext: true, legacy, previousContexts: ['earlier'], dryRun })
    for (const dryRun of [true, false]) {
      const report = await sweep(dryRun)
      expect(report).toMatchObject({
        changed: Object.keys(good).length,
        left: bad.length,
        failedCount: bad.length,
      })
      expect(report.failed.map(({ key, code }) => [key, code])).toEqual(
        bad.map((_, index) => [Object.keys(good).length + index, 'ERR_INVALID_ARGUMENT']),
      )
      for (const { reason } of report.failed) expect(reason).toContain('encryptedJson')
      expect(everythingOf(report)).not.toContain('secret of')
    }
    const now = (await host.query('select api_key from credentials order by id')).map(
      ({ api_key }) => api_key,
    )
    expect(now.slice(Object.keys(good).length)).toEqual(bad)
    for (const [index, text] of Object.values(good).entries())
      expect(await envelope.decrypt('alice', String(now[index]), of)).toBe(text)
    // The application reads what was swept.
    const read = await envelope.scope('alice', () =>
      db.select().from(table).limit(Object.keys(good).length).orderBy(table.id),
    )
    expect(read.map(({ apiKey }) => JSON.stringify(apiKey))).toEqual(Object.values(good))
  })
})
