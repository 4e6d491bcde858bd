/** Encrypted columns without names, which Drizzle's `casing` names: in DDL, queries, the sweep and the registry. */
import type Database from 'better-sqlite3'
import { eq } from 'drizzle-orm'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { EnvelopeCrypto } from '../../src/index.js'
import { defineEncrypted, reencrypt } from '../../src/reencrypt/index.js'
import * as onPostgres from '../fixtures/cased-schema-postgres.js'
import * as onSqlite from '../fixtures/cased-schema-sqlite.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { generateSql } from '../support/host-app.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'

const NAMES = ['api_key', 'api_settings', 'backup_token']

describe.each(dialects)('unnamed columns with casing on %s', (dialect) => {
  let host: RawDatabase
  let envelope: EnvelopeCrypto
  beforeEach(async () => {
    host = await rawDatabase(dialect)
    envelope = await freshService()
  })
  afterEach(async () => {
    await envelope.close()
    await host.close()
  })
  const table = (dialect === 'sqlite' ? onSqlite : onPostgres).credentials as typeof onPostgres.credentials
  // On both dialects the same queries run.
  const dbOf = () =>
    (dialect === 'sqlite'
      ? drizzleSqlite({ client: host.client as Database.Database, casing: 'snake_case' })
      : drizzlePostgres({ client: host.client as pg.Pool, casing: 'snake_case' })) as ReturnType<
      typeof drizzlePostgres
    >

  it('have the names of the casing in DDL, checks included, in queries and in the sweep', async () => {
    const ddl = generateSql(dialect, `test/fixtures/cased-schema-${dialect}.ts`, { casing: 'snake_case' })
    for (const statement of ddl) await host.query(statement)
    const db = dbOf()
    const row = {
      rowId: 1,
      userId: 'alice',
      apiKey: 'sk-1',
      apiSettings: { modelName: 'm' },
      backupToken: await envelope.encrypt('alice', 'spare', { column: 'credentials.backup' }),
    }
    await envelope.scope('alice', () => db.insert(table).values(row))
    const keyFingerprint = await envelope.fingerprint('alice', 'sk-1', { name: 'credentials.api_key' })
    expect(await envelope.scope('alice', () => db.select().from(table))).toEqual([{ ...row, keyFingerprint }])
    expect(await host.query('select key_fingerprint from credentials')).toEqual([
      { key_fingerprint: keyFingerprint },
    ])
    const stored = async () => {
      const [found = {}] = await host.query(`select ${NAMES.join(', ')} from credentials`)
      return NAMES.map((name) => found[name])
    }
    const before = await stored()
    for (const value of before) expect(value).toMatch(/^v3:[\w-]{102,}$/)
    // The constraint is on the column that the casing names.
    expect(await errorOf(host.query("update credentials set api_key = 'plain'"))).not.toBeNull()
    expect(await errorOf(host.query("update credentials set backup_token = 'plain'"))).not.toBeNull()

    await envelope.rotateUserKey('alice')
    const registry = defineEncrypted({
      credentials: { table, columns: { backupToken: 'credentials.backup' } },
    })
    const source = registry.sources(db).get('credentials')
    if (source === undefined) throw new Error('no source')
    expect(await reencrypt({ envelope, source })).toMatchObject({ complete: true, changed: 3, left: 0 })
    expect(await stored()).not.toEqual(before)
    expect(await envelope.scope('alice', () => db.select().from(table))).toEqual([
      { ...row, keyFingerprint, backupToken: expect.stringMatching(/^v3:/) },
    ])
  })

  it('are guarded as named ones are', () => {
    const query = () => dbOf().select().from(table).where(eq(table.apiKey, 'x'))
    expect(() => query().toSQL()).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
  })
})
