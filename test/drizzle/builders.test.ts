/** The builders of encrypted columns: the SQL that drizzle-kit generates of them, and what they refuse. */
import Database from 'better-sqlite3'
import { sql as sqlOf } from 'drizzle-orm'
import { getTableConfig, SQLiteSyncDialect, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { describe, expect, it } from 'vitest'
import * as onPostgres from '../../src/drizzle/postgres.js'
import * as onSqlite from '../../src/drizzle/sqlite.js'
import { dialects } from '../support/databases.js'
import { generateSql } from '../support/host-app.js'

const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }

describe.each(dialects)('drizzle-kit on %s', (dialect) => {
  it('generates plain text columns and the checks', () => {
    const sql = generateSql(dialect, `test/fixtures/host-schema-${dialect}.ts`).join('\n')
    expect(sql).toMatch(/[`"]note[`"] text,/)
    expect(sql).toContain('note_token_check')
    expect(sql).toContain(dialect === 'sqlite' ? "glob 'v3:*'" : '^v3:[A-Za-z0-9_-]{102,}$')
    expect(sql.match(/DEFAULT/gi)).toHaveLength(1)
  })
})

describe.each([
  ['sqlite', onSqlite],
  ['postgres', onPostgres],
] as const)('the builders for %s', (_, { encryptedText, encryptedJson, tokenText, tokenCheck }) => {
  it('refuse a missing or malformed context', () => {
    for (const options of [undefined, {}, { context: 7 }, { context: { row: 1 } }, { context: 'a\ud800' }]) {
      expect(() => encryptedText('c', options as never)).toThrow(expect.objectContaining(REFUSED))
      expect(() => encryptedJson('c', options as never)).toThrow(expect.objectContaining(REFUSED))
    }
  })

  it('refuse a default, which would be plaintext in the schema, and uniqueness, which no token has', () => {
    const context = 't.c'
    for (const make of [
      () => encryptedText('c', { context }),
      () => encryptedJson<string>('c', { context }),
    ]) {
      expect(() => make().default('hush')).toThrow(/\$defaultFn/)
      expect(() => make().unique()).toThrow(/fingerprint/)
      expect(() => make().primaryKey()).toThrow(/fingerprint/)
    }
    expect(() => tokenText('c').unique()).not.toThrow()
  })

  it('refuse a check of no format', () => {
    for (const formats of [[], ['v4'], 'v3'])
      expect(() => tokenCheck({ name: 'c' } as never, { formats: formats as never })).toThrow(
        expect.objectContaining(REFUSED),
      )
  })
})

it('tokenCheck on SQLite refuses text after a NUL, which the functions of SQLite ignore', () => {
  const table = sqliteTable('credentials', { apiKey: text('api_key') }, ({ apiKey }) => [
    onSqlite.tokenCheck(apiKey),
  ])
  const client = new Database(':memory:')
  const [check] = getTableConfig(table).checks
  const { sql } = new SQLiteSyncDialect().sqlToQuery(check?.value ?? sqlOf`0`)
  client.exec(`create table credentials (api_key text, check (${sql}))`)
  const insert = client.prepare('insert into credentials values (?)')
  const token = `v3:${'A'.repeat(102)}`
  insert.run(token)
  expect(() => insert.run(`${token}\0plaintext`)).toThrow(/CHECK/)
  client.close()
})

it('an encrypted column cannot be an array, which no sweep would reach', () => {
  for (const column of [
    onPostgres.encryptedText('keys', { context: 'credentials.keys' }),
    onPostgres.tokenText('keys'),
  ])
    expect(() => column.array()).toThrow(expect.objectContaining(REFUSED))
})
