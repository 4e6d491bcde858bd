/** drizzleSource: Drizzle tables as sources of values. */
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedText as pgEncryptedText } from '../../src/drizzle/postgres.js'
import { encryptedText } from '../../src/drizzle/sqlite.js'
import type { EnvelopeCrypto } from '../../src/index.js'
import { type DrizzleDb, type DrizzleTable, drizzleSource, reencrypt } from '../../src/reencrypt/index.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { type HostApp, hostApp } from '../support/host-app.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { versionOf } from '../support/tokens.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }

describe.each(dialects)('drizzleSource on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
  })
  afterEach(() => app.close())

  const sourceOf = (options: { pool?: boolean } = {}) =>
    drizzleSource(app.db, app.schema.secrets, {
      key: 'id',
      owner: 'ownerId',
      columns: ['note', 'made', 'data'],
      ...options,
    })

  it('sweeps encrypted columns under their own contexts, and the application reads what it wrote', async () => {
    const { db, schema, envelope, rows } = app
    const values = (ownerId: string) =>
      Array.from({ length: 20 }, (_, index) => ({
        id: index + (ownerId === 'bob' ? 100 : 0),
        ownerId,
        note: index % 4 === 0 ? null : `note ${index} of ${ownerId}`,
        data: { n: index },
      }))
    for (const ownerId of ['alice', 'bob'])
      await envelope.scope(ownerId, () => db.insert(schema.secrets).values(values(ownerId)))
    await envelope.rotateUserKey('alice')
    const report = await reencrypt({ envelope, source: sourceOf(), batchSize: 7 })
    expect(report).toMatchObject({
      complete: true,
      changed: 55,
      before: { oldVersion: 55, current: 55, empty: 10 },
      after: { current: 110, empty: 10 },
      failed: [],
      left: 0,
    })
    for (const token of await rows("select note from secrets where owner_id = 'alice' and note is not null"))
      expect(versionOf(String(token.note))).toBe(2)
    const read = await envelope.scope('alice', () =>
      db.query.secrets.findMany({ where: (row, { lt }) => lt(row.id, 100), orderBy: (row) => row.id }),
    )
    expect(read.map(({ id, note, made, data }) => ({ id, note, made, data }))).toEqual(
      values('alice').map(({ id, note, data }) => ({ id, note, made: 'made', data })),
    )
  })

  it('encrypts plaintext that is older than the encrypted columns, and that of the pool', async () => {
    const { schema, db, envelope, rows } = app
    // As before the migration that added the CHECK.
    await rows(
      dialect === 'sqlite'
        ? 'pragma ignore_check_constraints = on'
        : 'alter table secrets drop constraint note_token_check',
    )
    await rows(
      "insert into secrets (id, owner_id, note, data) values (1, 'alice', 'old note', '{\"n\":7}'), (2, null, 'of all', null)",
    )
    expect(await reencrypt({ envelope, source: sourceOf(), plaintext: true })).toMatchObject({
      changed: 2,
      left: 1,
      failed: [{ key: 2, owner: null, code: 'ERR_INVALID_ARGUMENT' }],
    })
    expect(await reencrypt({ envelope, source: sourceOf({ pool: true }), plaintext: true })).toMatchObject({
      changed: 1,
      after: { current: 3, empty: 3 },
      left: 0,
    })
    const [row] = await envelope.scope('alice', () =>
      db.query.secrets.findMany({ where: (row, { eq }) => eq(row.id, 1) }),
    )
    expect(row).toMatchObject({ note: 'old note', data: { n: 7 }, made: null })
    const [pooled] = await rows('select note from secrets where id = 2')
    expect(await envelope.pool.decrypt(String(pooled?.note), { column: 'secrets.note' })).toBe('of all')
    expect(Object.keys(schema.secrets)).toContain('note')
  })

  it('takes the context of tokens from the options, or from the sweep', async () => {
    const { db, schema, envelope, rows } = app
    const token = await envelope.encrypt('alice', 'x', { was: 'this' })
    await db.insert(schema.secrets).values({ id: 1, ownerId: 'alice', made: null, token })
    const source = drizzleSource(db, schema.secrets, { key: 'id', owner: 'ownerId', columns: ['token'] })
    expect(await errorOf(reencrypt({ envelope, source }))).toMatchObject(INVALID)
    expect(
      await reencrypt({ envelope, source, context: 'new', previousContexts: [{ was: 'this' }] }),
    ).toMatchObject({
      changed: 1,
      before: { oldContext: 1 },
    })
    const perRow = drizzleSource(db, schema.secrets, {
      key: 'id',
      owner: 'ownerId',
      columns: { token: ({ id, plain }) => ({ row: String(id), plain: String(plain) }) },
    })
    expect(await reencrypt({ envelope, source: perRow, previousContexts: ['new'] })).toMatchObject({
      changed: 1,
    })
    const [row] = await rows('select token from secrets')
    expect(await envelope.decrypt('alice', String(row?.token), { row: '1', plain: 'plain' })).toBe('x')
  })

  it('refuses wrong dbs, tables and properties', async () => {
    const { db, schema } = app
    const options = { key: 'id', owner: 'ownerId', columns: ['note'] }
    const wrong: unknown[][] = [
      [null, schema.secrets, options],
      [{}, schema.secrets, options],
      [{ $client: { execute: () => undefined } }, schema.secrets, options],
      [db, {}, options],
      [db, 'secrets', options],
      [db, schema.secrets, undefined],
      [db, schema.secrets, { ...options, key: 'ID' }],
      [db, schema.secrets, { ...options, key: [] }],
      [db, schema.secrets, { ...options, owner: 'owner_id' }],
      [db, schema.secrets, { ...options, owner: undefined }],
      [db, schema.secrets, { ...options, columns: [] }],
      [db, schema.secrets, { ...options, columns: ['api_key'] }],
      [db, schema.secrets, { ...options, columns: { note: { a: 7 } } }],
    ]
    for (const [given, table, settings] of wrong)
      expect(
        await errorOf(() => drizzleSource(given as never, table as never, settings as never)),
      ).toMatchObject(INVALID)
    // The database does not keep this key unique.
    const source = drizzleSource(db, schema.secrets, { key: 'ownerId', owner: null, columns: ['note'] })
    expect(await errorOf(reencrypt({ envelope: app.envelope, source }))).toMatchObject(INVALID)
  })
})

describe.each(dialects)('tables of many shapes on %s', (dialect) => {
  let host: RawDatabase
  let envelope: EnvelopeCrypto
  beforeEach(async () => {
    host = await rawDatabase(dialect)
    envelope = await freshService(host.url)
  })
  afterEach(async () => {
    await envelope.close()
    await host.close()
  })

  /** The same table in both dialects; its names come from the properties. */
  const cased: DrizzleTable =
    dialect === 'sqlite'
      ? sqliteCore.sqliteTable(
          'user keys',
          {
            tenantId: sqliteCore.text(),
            rowNumber: sqliteCore.integer({ mode: 'number' }),
            userId: sqliteCore.integer(),
            createdAt: sqliteCore.integer({ mode: 'timestamp_ms' }),
            apiKey: encryptedText('api_key', { context: 'keys' }),
          },
          (t) => [sqliteCore.primaryKey({ columns: [t.tenantId, t.rowNumber] })],
        )
      : pgCore.pgTable(
          'user keys',
          {
            tenantId: pgCore.uuid(),
            rowNumber: pgCore.bigint({ mode: 'bigint' }),
            userId: pgCore.integer(),
            createdAt: pgCore.timestamp({ withTimezone: true }),
            apiKey: pgEncryptedText('api_key', { context: 'keys' }),
          },
          (t) => [pgCore.primaryKey({ columns: [t.tenantId, t.rowNumber] })],
        )

  function dbOf(options: { readonly casing?: 'snake_case' } = {}): DrizzleDb {
    return dialect === 'sqlite'
      ? drizzleSqlite({ client: host.client as Database.Database, ...options })
      : drizzlePostgres({ client: host.client as pg.Pool, ...options })
  }

  it('finds columns by the casing of the db, takes composite keys, and gives contexts the row as Drizzle selects it', async () => {
    const [uuid, bigint, timestamp] =
      dialect === 'sqlite' ? ['text', 'integer', 'integer'] : ['uuid', 'bigint', 'timestamptz']
    await host.query(`create table "user keys" (tenant_id ${uuid} not null, row_number ${bigint} not null, user_id integer,
      created_at ${timestamp}, api_key text, primary key (tenant_id, row_number))`)
    const at = new Date('2026-01-02T03:04:05.678Z')
    const tenant = '0a0a0a0a-0000-4000-8000-000000000001'
    await host.insert('"user keys"', [
      {
        tenant_id: tenant,
        row_number: 7,
        user_id: 42,
        created_at: dialect === 'sqlite' ? at.getTime() : at,
        api_key: 'x',
      },
    ])
    const source = drizzleSource(dbOf({ casing: 'snake_case' }), cased, {
      key: ['tenantId', 'rowNumber'],
      owner: 'userId',
      columns: {
        apiKey: (row: { tenantId: string; rowNumber: unknown; createdAt: Date }) => ({
          row: `${row.tenantId}/${row.rowNumber}`,
          at: row.createdAt.toISOString(),
        }),
      },
    } as never)
    const report = await reencrypt({ envelope, source, plaintext: true })
    expect(report).toMatchObject({ changed: 1, left: 0 })
    const [row] = await host.query('select api_key from "user keys"')
    const context = { row: `${tenant}/7`, at: at.toISOString() }
    expect(await envelope.decrypt('42', String(row?.api_key), context)).toBe('x')
    const uncased = drizzleSource(dbOf(), cased, {
      key: 'rowNumber',
      owner: null,
      columns: ['apiKey'],
    } as never)
    expect(await errorOf(reencrypt({ envelope, source: uncased }))).toMatchObject(INVALID)
  })

  itIf(dialect === 'sqlite', 'only on SQLite')(
    'waits while the host is inside a transaction on the same connection',
    async () => {
      const client = host.client as Database.Database
      const table = sqliteCore.sqliteTable('t', {
        id: sqliteCore.integer('id').primaryKey(),
        secret: encryptedText('secret', { context: 't.secret' }),
      })
      client.exec("create table t (id integer primary key, secret text); insert into t values (1, 'x')")
      const source = drizzleSource(drizzleSqlite({ client }), table, {
        key: 'id',
        owner: null,
        columns: ['secret'],
      })
      client.exec('begin')
      // The keys are in memory: the file of the host is in a transaction.
      const elsewhere = await freshService()
      const sweeping = reencrypt({ envelope: elsewhere, source, plaintext: true })
      await new Promise((resolve) => setTimeout(resolve, 100))
      client.exec("insert into t values (2, 'y'); rollback")
      expect(await sweeping).toMatchObject({ complete: true, changed: 1, after: { current: 1 } })
      await elsewhere.close()
    },
  )

  itIf(dialect === 'sqlite', 'only on SQLite')(
    'reports a row if another column has a value that its type cannot read, and goes on',
    async () => {
      const client = host.client as Database.Database
      const table = sqliteCore.sqliteTable('t', {
        id: sqliteCore.integer('id').primaryKey(),
        settings: sqliteCore.text('settings', { mode: 'json' }),
        secret: encryptedText('secret', { context: 't.secret' }),
      })
      client.exec(`create table t (id integer primary key, settings text, secret text);
      insert into t values (1, '{"sk-planted', 'x'), (2, '{"a":"b"}', 'x')`)
      const source = drizzleSource(drizzleSqlite({ client }), table, {
        key: 'id',
        owner: null,
        columns: { secret: ({ settings }) => JSON.stringify(settings) },
      })
      const report = await reencrypt({ envelope, source, plaintext: true })
      expect(report).toMatchObject({ changed: 1, failed: [{ key: 1, code: 'ERR_INVALID_ARGUMENT' }] })
      expect(JSON.stringify(report)).not.toContain('sk-planted')
    },
  )
})
