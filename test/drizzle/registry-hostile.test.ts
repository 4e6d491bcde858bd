/** What a schema forgets to register, and what the commands must not claim. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import Database from 'better-sqlite3'
import { sql as sqlOf } from 'drizzle-orm'
import { getTableConfig, SQLiteSyncDialect, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { describe, expect, it } from 'vitest'
import { encryptedText, tokenText } from '../../src/drizzle/postgres.js'
import { tokenCheck } from '../../src/drizzle/sqlite.js'
import type { VerifyReport } from '../../src/index.js'
import { commandStore } from '../support/command-store.js'
import { dialects } from '../support/databases.js'
import { rawDatabase } from '../support/raw-database.js'

describe.each(dialects)('with a schema on %s', (dialect) => {
  it('doctor names the encrypted columns and the tokens that no registry names, and a dry run claims nothing as done', async () => {
    const store = await commandStore(dialect)
    const app = await rawDatabase(dialect)
    try {
      await store.use(async () => undefined)
      await app.query('create table credentials (id integer primary key, user_id text, api_key text)')
      await app.query(`insert into credentials values (1, 'alice', 'secret'), (2, '', 'secret')`)
      await app.query('create table other (id integer primary key, note text, motto text)')
      await app.query(
        `insert into other values (1, 'v3:AAAAAQ${'A'.repeat(96)}', 'v3: the third'), (2, null, 'hello')`,
      )
      const core = dialect === 'sqlite' ? 'sqlite' : 'pg'
      mkdirSync(join(store.folder, 'node_modules'))
      symlinkSync(resolve('.'), join(store.folder, 'node_modules', 'drizzle-keystore'))
      symlinkSync(resolve('node_modules/drizzle-orm'), join(store.folder, 'node_modules', 'drizzle-orm'))
      writeFileSync(
        join(store.folder, 'schema.mjs'),
        `import { defineEncrypted } from 'drizzle-keystore/reencrypt'
         import { encryptedText } from 'drizzle-keystore/drizzle/${dialect}'
         import { integer, ${core}Table as table, text } from 'drizzle-orm/${core}-core'
         const columns = (context) => ({
           id: integer('id').primaryKey(),
           userId: text('user_id'),
           apiKey: encryptedText('api_key', { context }),
         })
         export const credentials = table('credentials', columns('credentials.api_key'))
         export const forgotten = table('forgotten', columns('forgotten.api_key'))
         export const other = table('other', { id: integer('id').primaryKey(), note: text('note'), motto: text('motto') })
         export const encrypted = defineEncrypted({ credentials })`,
      )
      const options = { env: { DATABASE_URL: app.url } }
      const { report } = store.json<VerifyReport>(['doctor', '--schema', 'schema.mjs'], options)
      expect(report.findings.filter(({ kind }) => kind === 'unregistered')).toEqual([
        expect.objectContaining({
          severity: 'warning',
          reason: expect.stringContaining('forgotten, column api_key'),
        }),
        expect.objectContaining({
          severity: 'warning',
          reason: expect.stringContaining('other, column note: 1 of 2 rows looked at hold tokens'),
        }),
      ])
      const { status, stdout } = store.run(
        ['reencrypt', '--schema', 'schema.mjs', '--plaintext', '--dry-run'],
        options,
      )
      expect(status).toBe(1)
      expect(stdout).toContain('would re-encrypt 1 value;')
      expect(stdout).toContain('1 value would be left in an old state.')
    } finally {
      await app.close()
      await store.remove()
    }
  })
})

it('tokenCheck on SQLite lets nothing in behind a NUL, where its functions stop looking', () => {
  const table = sqliteTable('credentials', { apiKey: text('api_key') }, ({ apiKey }) => [tokenCheck(apiKey)])
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

it('an encrypted column is no array, which no sweep would reach', () => {
  for (const column of [encryptedText('keys', { context: 'credentials.keys' }), tokenText('keys')])
    expect(() => column.array()).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
})
