/** drizzle-kit on a host's schema with encrypted columns; what their builders refuse; the example application on both dialects. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import * as onPostgres from '../../src/drizzle/postgres.js'
import * as onSqlite from '../../src/drizzle/sqlite.js'
import { generateMasterKey } from '../../src/index.js'
import { type Dialect, dialects, freshDatabase } from '../support/databases.js'
import { generateSql } from '../support/host-app.js'
import { hostProject } from '../support/host-project.js'

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

describe.each(dialects)('examples/credentials on %s', (dialect) => {
  it('is 60 lines at most and runs; only imports and URL differ', async () => {
    const database = await freshDatabase(dialect)
    const sources = Object.fromEntries(
      ['schema.ts', 'app.ts'].map((name) => [
        name,
        forDialect(dialect, readFileSync(`examples/credentials/${name}`, 'utf8')),
      ]),
    )
    expect(Object.values(sources).join('').split('\n').length).toBeLessThanOrEqual(60)
    const project = hostProject(sources)
    try {
      await apply(dialect, database.url, generateSql(dialect, join(project.path, 'schema.ts')))
      const output = execFileSync(process.execPath, ['app.js'], {
        cwd: project.path,
        encoding: 'utf8',
        env: { ...process.env, APP_URL: database.url, API_KEY_MASTER_KEY: generateMasterKey() },
      })
      expect(output).toBe("a1 sk-alice\nBob's row in Alice's scope: ERR_DECRYPTION_FAILED\n")
    } finally {
      project.remove()
      await database.remove()
    }
  })
})

/** What the comments of the example say to change. */
function forDialect(dialect: Dialect, source: string): string {
  if (dialect === 'sqlite') return source
  return source
    .replace("from 'drizzle-keystore/drizzle/sqlite'", "from 'drizzle-keystore/drizzle/postgres'")
    .replace(
      "sqliteTable as table, text, uniqueIndex } from 'drizzle-orm/sqlite-core'",
      "pgTable as table, text, uniqueIndex } from 'drizzle-orm/pg-core'",
    )
    .replace("from 'drizzle-orm/better-sqlite3'", "from 'drizzle-orm/node-postgres'")
}

async function apply(dialect: Dialect, url: string, statements: readonly string[]): Promise<void> {
  if (dialect === 'sqlite') {
    const client = new Database(url)
    for (const statement of statements) client.exec(statement)
    client.close()
    return
  }
  const client = new pg.Client(url)
  await client.connect()
  for (const statement of statements) await client.query(statement)
  await client.end()
}
