/** Columns that are told their owner column: whose rows a scope may write, by every way of writing. */
import { eq, sql } from 'drizzle-orm'
import * as pgCore from 'drizzle-orm/pg-core'
import { integer as pgInteger, pgTable, customType as pgType, uuid } from 'drizzle-orm/pg-core'
import { integer, sqliteTable, customType as sqliteType, text } from 'drizzle-orm/sqlite-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedText as postgresText } from '../../src/drizzle/postgres.js'
import { encryptedText as sqliteText } from '../../src/drizzle/sqlite.js'
import { dialects } from '../support/databases.js'
import { columnErrorOf, errorOf } from '../support/errors.js'
import { type HostApp, hostApp } from '../support/host-app.js'

const WRONG = { code: 'ERR_WRONG_OWNER' }
/** 0.45 shows an encoder the null of a placeholder, 1.0 does not. */
const NULLS_ARE_SEEN = !('snakeCase' in pgCore)
const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }

describe.each(dialects)('a column that is told its owner on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
  })
  afterEach(() => app.close())

  const as = <T>(userId: string, work: () => PromiseLike<T>) => app.envelope.scope(userId, work)
  const stored = () => app.rows('select id, owner_id, api_key, data from vault order by id')

  it('writes the rows of the scope’s user, one and many, and reads them back', async () => {
    const { db, schema } = app
    const values = [
      { id: 1, ownerId: 'alice', apiKey: 'sk-1', data: { n: 1 } },
      { id: 2, ownerId: 'alice', apiKey: null },
      { id: 3, ownerId: 'alice', data: { n: 3 } },
    ]
    const returned = await as('alice', () => db.insert(schema.vault).values(values).returning())
    expect(returned).toMatchObject(values)
    expect(await as('alice', () => db.select().from(schema.vault))).toEqual(returned)
    for (const { api_key, data } of await stored())
      for (const token of [api_key, data]) if (token !== null) expect(token).toMatch(/^v3:/)
  })

  it('refuses another user’s row, before or after its owner and anywhere in a batch, and writes nothing of it', async () => {
    const { db, schema } = app
    const rows = [
      [{ id: 1, ownerId: 'alice', apiKey: 'sk-alice' }],
      [{ id: 1, ownerId: 'alice', data: { n: 1 } }],
      [
        { id: 1, ownerId: 'bob', apiKey: 'sk-bob' },
        { id: 2, ownerId: 'alice', apiKey: 'sk-alice' },
      ],
      [{ id: 1, ownerId: null as never, apiKey: 'sk-nobody' }],
    ]
    for (const values of rows) {
      const error = await columnErrorOf(() => as('bob', () => db.insert(schema.vault).values(values)))
      expect(error).toMatchObject(WRONG)
      expect(error.message).toMatch(/"vault\.(api_key|data)"/)
      expect(error.message).not.toMatch(/sk-/)
    }
    // No value of hers is encrypted.
    await as('bob', () => db.insert(schema.vault).values({ id: 5, ownerId: 'alice', apiKey: null }))
    expect((await stored()).map(({ id }) => id)).toEqual([5])
  })

  it('refuses rows whose owner it cannot see', async () => {
    const { db, schema } = app
    const { vault } = schema
    await as('alice', () => db.insert(vault).values({ id: 1, ownerId: 'alice', apiKey: 'sk-1' }))
    const { apiKey, id: _, ownerId, data, file, shared, sharedFile } = vault
    const queries = [
      () => db.insert(vault).values({ id: 2, apiKey: 'sk' } as never),
      () => db.insert(vault).values({ id: 2, ownerId: sql`'bob'`, apiKey: 'sk' }),
      () => db.update(vault).set({ ownerId: sql`'bob'`, apiKey: 'sk' }),
      () => db.update(vault).set({ ownerId: sql`'bob'` }),
      () =>
        db
          .insert(vault)
          .values({ id: 1, ownerId: 'bob', apiKey: 'sk' })
          .onConflictDoUpdate({
            target: vault.id,
            set: { ownerId: sql`excluded.owner_id`, apiKey: sql`excluded.api_key` },
          }),
      () =>
        db
          .insert(vault)
          .select(
            db
              .select({ apiKey, id: sql`2`.as('id'), ownerId, data, file, shared, sharedFile })
              .from(vault) as never,
          ),
      () => db.insert(vault).values({ id: 2, ownerId: { id: 'bob' } as never, apiKey: 'sk' }),
    ]
    const errors = []
    for (const query of queries) errors.push(await columnErrorOf(() => as<unknown>('bob', query)))
    expect(errors).toMatchObject([REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, WRONG])
    expect(await stored()).toHaveLength(1)
  })

  it('checks updates and upserts that set the owner, or move a row to another user', async () => {
    const { db, schema } = app
    const { vault } = schema
    const insert = (id: number, set: object) =>
      db
        .insert(vault)
        .values({ id, ownerId: 'bob', apiKey: 'sk-bob' })
        .onConflictDoUpdate({ target: vault.id, set: set as never })
    await as('bob', () => insert(1, { apiKey: 'unused' }))
    for (const set of [{ ownerId: 'alice', apiKey: 'sk' }, { ownerId: 'alice' }]) {
      expect(await columnErrorOf(() => as('bob', () => db.update(vault).set(set)))).toMatchObject(WRONG)
      expect(await columnErrorOf(() => as('bob', () => insert(1, set)))).toMatchObject(WRONG)
    }
    expect(await columnErrorOf(() => db.update(vault).set({ ownerId: 'alice' }))).toMatchObject({
      code: 'ERR_NO_SCOPE',
    })
    await as('bob', () => insert(1, { apiKey: 'upserted' }))
    await as('bob', () => db.update(vault).set({ data: { n: 2 } }))
    await as('bob', () => db.update(vault).set({ ownerId: 'bob', data: { n: 3 } }))
    const [row] = await as('bob', () => db.select().from(vault).where(eq(vault.id, 1)))
    expect(row).toMatchObject({ ownerId: 'bob', apiKey: 'upserted', data: { n: 3 } })
  })

  it('has the database refuse updates and upserts that come to another user’s row', async () => {
    const { db, schema } = app
    const { vault } = schema
    const values = (id: number, ownerId: string) => ({ id, ownerId, apiKey: `sk-${id}`, data: { n: id } })
    await as('alice', () => db.insert(vault).values([values(1, 'alice'), values(2, 'alice')]))
    await as('bob', () => db.insert(vault).values(values(3, 'bob')))
    const before = await stored()
    const upsert = (set: object) =>
      db
        .insert(vault)
        .values({ id: 1, ownerId: 'bob', apiKey: 'sk-bob', data: { n: 9 } })
        .onConflictDoUpdate({ target: vault.id, set: set as never })
    const update = db
      .update(vault)
      .set({ apiKey: sql.placeholder('apiKey') as never, data: sql.placeholder('data') as never })
      .where(eq(vault.id, sql.placeholder('id')))
      .prepare('update_vault')
    const take = db
      .update(vault)
      .set({ ownerId: sql.placeholder('owner') as never, apiKey: sql.placeholder('apiKey') as never })
      .where(eq(vault.id, sql.placeholder('id')))
      .prepare('take_vault')
    const queries = [
      () => db.update(vault).set({ apiKey: 'sk-bob' }),
      () =>
        db
          .update(vault)
          .set({ apiKey: 'sk-bob', data: { n: 9 } })
          .where(eq(vault.id, 1)),
      // A row of hers does not become his.
      () => db.update(vault).set({ ownerId: 'bob' }),
      () => db.update(vault).set({ ownerId: 'bob', apiKey: 'sk-bob' }).where(eq(vault.id, 1)),
      () => db.update(vault).set({ ownerId: 'bob', apiKey: null, data: null }),
      () => upsert({ ownerId: 'bob' }),
      () => upsert({ ownerId: 'bob', apiKey: 'sk-bob', data: { n: 9 } }),
      () => upsert({ ownerId: 'bob', apiKey: sql`excluded.api_key`, data: sql`excluded.data` }),
      () => take.execute({ id: 1, owner: 'bob', apiKey: 'sk-bob' }),
      () => take.execute({ id: 1, owner: 'bob', apiKey: null }),
      // Nor is it emptied.
      () => db.update(vault).set({ apiKey: null }),
      () => db.update(vault).set({ data: sql`null` }).where(eq(vault.id, 1)),
      () => upsert({ apiKey: null }),
      ...(NULLS_ARE_SEEN ? [() => update.execute({ id: 1, apiKey: null, data: null })] : []),
      () => upsert({ apiKey: 'sk-bob' }),
      () => upsert({ apiKey: sql`excluded.api_key` }),
      () => update.execute({ id: 1, apiKey: 'sk-bob', data: null }),
    ]
    for (const [index, query] of queries.entries()) {
      let error: unknown = await errorOf(as<unknown>('bob', query))
      while (error instanceof Error && error.cause instanceof Error) error = error.cause
      expect(String(error), `query ${index}`).toMatch(/not.null.*owner_id|owner_id.*not.null/i)
      expect(await stored()).toEqual(before)
    }
    await as('bob', () =>
      db
        .update(vault)
        .set({ apiKey: 'changed', data: { n: 9 } })
        .where(eq(vault.id, 3)),
    )
    await as('alice', () => update.execute({ id: 1, apiKey: 'changed', data: { n: 9 } }))
    await as('alice', () => update.execute({ id: 2, apiKey: null, data: { n: 9 } }))
    const read = (user: string) =>
      as(user, () => db.select().from(vault).where(eq(vault.ownerId, user)).orderBy(vault.id))
    expect(await read('bob')).toMatchObject([{ id: 3, ownerId: 'bob', apiKey: 'changed', data: { n: 9 } }])
    expect(await read('alice')).toMatchObject([
      { id: 1, apiKey: 'changed', data: { n: 9 } },
      { id: 2, apiKey: null, data: { n: 9 } },
    ])
    expect(
      await columnErrorOf(() => as('bob', () => take.execute({ id: 1, owner: 'alice', apiKey: 'sk-bob' }))),
    ).toMatchObject(WRONG)
    await as('alice', () => take.execute({ id: 1, owner: 'alice', apiKey: 'taken' }))
    await as('bob', () => db.update(vault).set({ ownerId: 'bob', data: null }).where(eq(vault.id, 3)))
    await as('bob', () => db.update(vault).set({ apiKey: null }).where(eq(vault.id, 3)))
    expect(await read('bob')).toMatchObject([{ id: 3, ownerId: 'bob', apiKey: null, data: null }])
    expect(await read('alice')).toMatchObject([{ apiKey: 'taken' }, { data: { n: 9 } }])
    // Nothing is encrypted, so it needs no scope.
    await db.update(vault).set({ apiKey: sql`null`, data: null })
    expect(await read('alice')).toMatchObject([{ apiKey: null }, { apiKey: null }])
  })

  it('takes no id for another that the database calls equal, and follows a type of the application’s own', async () => {
    const { db } = app
    const id = '0a1b2c3d-0000-4000-8000-00000000abcd'
    const options = { context: 'cased.body', ownerColumn: 'userId' }
    const mapping = {
      toDriver: (value: string) => `user_${value}`,
      fromDriver: (value: string) => value.slice(5),
    }
    await app.rows(
      dialect === 'postgres'
        ? 'create table cased (id integer primary key, user_id uuid not null, body text)'
        : 'create table cased (id integer primary key, user_id text collate nocase not null, body text)',
    )
    await app.rows('create table mapped (id integer primary key, user_id text not null, body text)')
    const tables =
      dialect === 'postgres'
        ? [
            pgTable('cased', {
              id: pgInteger('id').primaryKey(),
              userId: uuid('user_id').notNull(),
              body: postgresText('body', options),
            }),
            pgTable('mapped', {
              id: pgInteger('id').primaryKey(),
              userId: pgType<{ data: string; driverData: string }>({ dataType: () => 'text', ...mapping })(
                'user_id',
              ).notNull(),
              body: postgresText('body', options),
            }),
          ]
        : ([
            sqliteTable('cased', {
              id: integer('id').primaryKey(),
              userId: text('user_id').notNull(),
              body: sqliteText('body', options),
            }),
            sqliteTable('mapped', {
              id: integer('id').primaryKey(),
              userId: sqliteType<{ data: string; driverData: string }>({
                dataType: () => 'text',
                ...mapping,
              })('user_id').notNull(),
              body: sqliteText('body', options),
            }),
          ] as never)
    for (const table of tables) {
      await as(id, () => db.insert(table).values({ id: 1, userId: id, body: 'inserted' }))
      const other = table === tables[0] ? id.toUpperCase() : 'bob'
      for (const set of [{ body: 'x' }, { body: 'x', userId: other }, { userId: other }, { body: null }])
        await expect(as(other, async () => await db.update(table).set(set))).rejects.toThrow()
      await as(id, () => db.update(table).set({ body: 'updated' }))
      await as(id, () => db.update(table).set({ body: 'updated', userId: id }))
      expect(await as(id, () => db.select().from(table))).toEqual([{ id: 1, userId: id, body: 'updated' }])
    }
  })

  it('refuses to encode past its table, and comparisons as ever', async () => {
    const { db, schema } = app
    const { vault } = schema
    await as('alice', () => db.insert(vault).values({ id: 1, ownerId: 'alice', apiKey: 'sk-1' }))
    const past = [
      () => db.execute(sql`update vault set api_key = ${sql.param('x', columnsOf(vault).apiKey as never)}`),
      () => db.select().from(vault).where(eq(vault.apiKey, 'sk-1')),
    ]
    if (dialect === 'sqlite')
      past[0] = () =>
        db.update(vault).set({ apiKey: sql`${sql.param('x', columnsOf(vault).apiKey as never)}` }) as never
    for (const query of past)
      expect(await columnErrorOf(() => as<unknown>('alice', query))).toMatchObject(REFUSED)
  })

  it('works in transactions', async () => {
    const { db, schema } = app
    const { vault } = schema
    const inTransaction = (ownerId: string) =>
      as('alice', async () =>
        db.transaction(((tx: typeof db) => {
          const insert = tx.insert(vault).values({ id: 1, ownerId, apiKey: 'in a transaction' })
          return dialect === 'postgres' ? insert : void (insert as unknown as { run(): void }).run()
        }) as never),
      )
    expect(await columnErrorOf(() => inTransaction('bob'))).toMatchObject(WRONG)
    await inTransaction('alice')
  })

  it('takes a number for its decimal digits, and an owner that a function of the schema gives', async () => {
    const { db } = app
    await app.rows('create table notes (id integer primary key, user_id integer not null, body text)')
    let current = 7
    const options = { context: 'notes.body', ownerColumn: 'userId' }
    const owner = () => current++
    const notes =
      dialect === 'postgres'
        ? pgTable('notes', {
            body: postgresText('body', options),
            id: pgInteger('id').primaryKey(),
            userId: pgInteger('user_id').notNull().$defaultFn(owner),
          })
        : (sqliteTable('notes', {
            body: sqliteText('body', options),
            id: integer('id').primaryKey(),
            userId: integer('user_id').notNull().$defaultFn(owner),
          }) as never)
    await as('7', () => db.insert(notes).values({ id: 1, body: 'of 7' }))
    await as('8', () => db.insert(notes).values({ id: 2, body: 'of 8' }))
    expect(
      await columnErrorOf(() => as('8', () => db.insert(notes).values({ id: 3, body: 'x' }))),
    ).toMatchObject(WRONG)
    expect(await app.rows('select id, user_id from notes order by id')).toEqual([
      { id: 1, user_id: 7 },
      { id: 2, user_id: 8 },
    ])
  })
})

const columnsOf = (table: object) =>
  (table as { readonly [key: symbol]: Readonly<Record<string, unknown>> })[
    Symbol.for('drizzle:Columns')
  ] as Readonly<Record<string, unknown>>

it('options that contradict each other are refused', () => {
  for (const make of [sqliteText, postgresText]) {
    for (const options of [
      { owner: 'userId' },
      { owner: null },
      { owner: 'pool', ownerColumn: 'userId' },
      { ownerColumn: 7 },
    ])
      expect(() => make('c', { context: 't.c', ...options } as never)).toThrow(
        expect.objectContaining(REFUSED),
      )
  }
})
