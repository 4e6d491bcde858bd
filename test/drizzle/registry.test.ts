/** defineEncrypted: the registry of encrypted columns. */
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import { describe, expect, it } from 'vitest'
import { tokenText as pgTokenText } from '../../src/drizzle/postgres.js'
import { isRegistry } from '../../src/drizzle/registry.js'
import { encryptedText } from '../../src/drizzle/sqlite.js'
import { defineEncrypted, reencrypt, type ValueSource } from '../../src/reencrypt/index.js'
import { freshService } from '../support/fresh-store.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }

describe('defineEncrypted', () => {
  const { integer, sqliteTable, text } = sqliteCore
  const credentials = sqliteTable('credentials', {
    id: integer('id').primaryKey(),
    userId: text('user_id').notNull(),
    apiKey: encryptedText('api_key', { context: 'credentials.api_key' }),
    note: encryptedText('note', { context: { of: 'note' } }),
    plain: text('plain'),
  })
  const sessions = pgCore.pgTable('sessions', {
    id: pgCore.uuid('id').primaryKey(),
    holder: pgCore.text('owner_id'),
    token: pgTokenText('token'),
  })

  it('finds encrypted columns, the primary key and the owner', () => {
    const registry = defineEncrypted({
      credentials,
      sessions: { table: sessions, columns: { token: 'sessions.token' } },
      pool: { table: credentials, owner: null, key: ['userId', 'id'], columns: { plain: null } },
    })
    expect([...registry].map(({ table: _, ...entry }) => entry)).toEqual([
      {
        name: 'credentials',
        key: ['id'],
        owner: 'userId',
        pool: false,
        columns: { apiKey: { column: 'credentials.api_key' }, note: { of: 'note' } },
      },
      { name: 'sessions', key: ['id'], owner: 'holder', pool: false, columns: { token: 'sessions.token' } },
      {
        name: 'pool',
        key: ['userId', 'id'],
        owner: null,
        pool: true,
        columns: { plain: null, apiKey: { column: 'credentials.api_key' }, note: { of: 'note' } },
      },
    ])
    expect(isRegistry(registry)).toBe(true)
    // A registry of another copy of this package.
    expect(isRegistry({ [Symbol.for('drizzle-keystore/registry')]: true })).toBe(true)
    for (const other of [null, {}, [], 'x', credentials]) expect(isRegistry(other)).toBe(false)
  })

  it.each([
    ['two owners', { userId: text('user_id'), owner: text('owner') }, 'whose'],
    ['no owner', {}, 'whose'],
  ])('asks for the owner if the table does not tell it: %s', (_, columns, word) => {
    const table = sqliteTable('t', {
      id: integer('id').primaryKey(),
      ...columns,
      c: encryptedText('c', { context: 'c' }),
    })
    expect(() => defineEncrypted({ t: table })).toThrow(word)
    expect([...defineEncrypted({ t: { table, owner: null } })]).toMatchObject([{ owner: null, pool: true }])
  })

  it('asks for a key and for the context of tokens, and refuses tables without encrypted columns', () => {
    const keyless = sqliteTable('t', { userId: text('user_id'), c: encryptedText('c', { context: 'c' }) })
    expect(() => defineEncrypted({ keyless })).toThrow('key')
    expect(() => defineEncrypted({ sessions })).toThrow('context of token')
    const plain = sqliteTable('t', { id: integer('id').primaryKey(), userId: text('user_id') })
    expect(() => defineEncrypted({ plain })).toThrow('no encrypted column')
    expect([...defineEncrypted({ c: { table: credentials, pool: true } })]).toMatchObject([
      { owner: 'userId', pool: true },
    ])
    const unclear = { table: credentials, pool: 'yes' as never }
    for (const wrong of [null, 'x', { a: null }, { a: {} }, { a: { table: {} } }, { unclear }])
      expect(() => defineEncrypted(wrong as never)).toThrow(expect.objectContaining(INVALID))
    expect(() =>
      defineEncrypted({ credentials: { table: credentials, columns: { nope: 'x' } as never } }),
    ).toThrow('nope')
  })

  it('takes columns of the pool apart from those of users, whose owner a column may tell', () => {
    const pooled = { key: encryptedText('k', { context: 'j.k', owner: 'pool' }) }
    const id = integer('id').primaryKey()
    const jwks = sqliteTable('jwks', { id, ...pooled })
    const mixed = sqliteTable('mixed', {
      id,
      ...pooled,
      userId: text('user_id'),
      ownerId: text('owner_id'),
      token: encryptedText('t', { context: 'm.t', ownerColumn: 'ownerId' }),
    })
    expect([...defineEncrypted({ jwks, mixed })].map(({ table: _, ...entry }) => entry)).toEqual([
      { name: 'jwks', key: ['id'], owner: null, pool: true, columns: { key: { column: 'j.k' } } },
      { name: 'mixed', key: ['id'], owner: 'ownerId', pool: false, columns: { token: { column: 'm.t' } } },
      { name: 'mixed (pool)', key: ['id'], owner: null, pool: true, columns: { key: { column: 'j.k' } } },
    ])
  })

  it('gives a source for each table', async () => {
    const client = new Database(':memory:')
    client.exec(`create table credentials (id integer primary key, user_id text not null, api_key text, note text, plain text);
      insert into credentials values (1, 'alice', 'k', 'n', 'p')`)
    const envelope = await freshService()
    const sources: Map<string, ValueSource<never>> = defineEncrypted({ credentials }).sources(
      drizzleSqlite({ client }),
    )
    expect([...sources.keys()]).toEqual(['credentials'])
    for (const source of sources.values())
      expect(await reencrypt({ envelope, source, plaintext: true })).toMatchObject({ changed: 2, left: 0 })
    const row = client.prepare('select * from credentials').get() as Record<string, string>
    expect(await envelope.decrypt('alice', row.note ?? '', { of: 'note' })).toBe('n')
    expect(row.plain).toBe('p')
    await envelope.close()
    client.close()
  })
})
