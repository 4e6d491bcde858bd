/** Columns of fingerprints: how they fill themselves, what they refuse, and how their values are found. */

import { eq, getTableColumns, isNull, sql } from 'drizzle-orm'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import { alias, integer as pgInteger, pgTable } from 'drizzle-orm/pg-core'
import { integer, alias as sqliteAlias, sqliteTable } from 'drizzle-orm/sqlite-core'
import { createInsertSchema, createSelectSchema } from 'drizzle-zod'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import * as postgresColumns from '../../src/drizzle/postgres.js'
import * as sqliteColumns from '../../src/drizzle/sqlite.js'
import { defineEncrypted, reencrypt, type ValueSource } from '../../src/reencrypt/index.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { EMAIL, type LoginsApp, loginsApp, PIN } from '../support/logins.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const { fingerprintMatches } = postgresColumns

const postgres = { ...postgresColumns, table: pgTable, integer: pgInteger }
const sqlite = {
  ...sqliteColumns,
  table: sqliteTable as unknown as typeof pgTable,
  integer: integer as unknown as typeof pgInteger,
}

describe.each(dialects)('columns of fingerprints on %s', (dialect) => {
  let app: LoginsApp
  beforeEach(async () => {
    app = await loginsApp(dialect)
  })
  afterEach(() => app.close())

  const asAlice = <T>(work: () => PromiseLike<T>) => app.envelope.scope('alice', async () => await work())
  const insert = (...values: (typeof app.logins.$inferInsert)[]) =>
    asAlice(() => app.db.insert(app.logins).values(values))
  const stored = async () =>
    (await app.rows('select id, email_fp, pin_fp from logins order by id')).map(
      ({ id, email_fp, pin_fp }) => [id, email_fp, pin_fp] as const,
    )
  const emailPrint = (email: string, userId = 'alice') => app.envelope.fingerprint(userId, email, EMAIL)
  const pinPrint = (pin: string) => app.envelope.fingerprint('alice', pin, PIN)
  const login = { userId: 'alice' }

  it('fill themselves on insert, before or after their column, and hold null for null', async () => {
    await insert(
      { ...login, id: 1, email: ' Alice@Example.org', pin: '1234' },
      { ...login, id: 2, email: null, pin: '1234' },
      { ...login, id: 3 },
    )
    expect(await stored()).toEqual([
      [1, await emailPrint('alice@example.org'), await pinPrint('1234')],
      [2, null, await pinPrint('1234')],
      [3, null, null],
    ])
    expect((await stored())[0]?.[1]).toMatch(/^f1:[\w-]{43}$/)
    expect((await stored())[0]?.[2]).toMatch(/^f1:[\w-]{2}$/)
  })

  it('follow an update of their column, and stay when it is not touched', async () => {
    await insert({ ...login, id: 1, email: 'a@b.c', pin: '1' })
    const before = await stored()
    await asAlice(() => app.db.update(app.logins).set({ plain: 'x' }))
    expect(await stored()).toEqual(before)
    await app.db.update(app.logins).set({ plain: 'outside a scope' })
    expect(await stored()).toEqual(before)
    await asAlice(() => app.db.update(app.logins).set({ email: 'new@b.c' }))
    expect(await stored()).toEqual([[1, await emailPrint('new@b.c'), await pinPrint('1')]])
    await asAlice(() => app.db.update(app.logins).set({ email: null, pin: '2' }))
    expect(await stored()).toEqual([[1, null, await pinPrint('2')]])
  })

  it('follow upserts, with the values of the update or those of the insert', async () => {
    const { logins, db } = app
    await insert({ ...login, id: 1, email: 'a@b.c', pin: '1' })
    const upsert = (email: string, set: Record<string, unknown>) =>
      asAlice(() =>
        db
          .insert(logins)
          .values({ ...login, id: 1, email })
          .onConflictDoUpdate({ target: logins.id, set }),
      )
    await upsert('ignored@b.c', { email: 'set@b.c' })
    expect(await stored()).toEqual([[1, await emailPrint('set@b.c'), await pinPrint('1')]])
    await upsert('excluded@b.c', { email: sql`excluded.email`, emailFingerprint: sql`excluded.email_fp` })
    expect(await stored()).toEqual([[1, await emailPrint('excluded@b.c'), await pinPrint('1')]])
    await upsert('other@b.c', { plain: 'only this' })
    expect(await stored()).toEqual([[1, await emailPrint('excluded@b.c'), await pinPrint('1')]])
    expect(await errorOf(upsert('x@b.c', { email: sql`excluded.email` }))).toMatchObject(INVALID)
  })

  it('take the value of each execution of a prepared statement', async () => {
    const prepared = app.db
      .insert(app.logins)
      .values({ ...login, id: sql.placeholder('id'), email: sql.placeholder('email') })
      .prepare('insert_login')
    await asAlice(() => prepared.execute({ id: 1, email: 'one@b.c' }))
    await asAlice(() => prepared.execute({ id: 2, email: null }))
    await app.envelope.scope('bob', () => prepared.execute({ id: 3, email: 'one@b.c' }))
    expect(await stored()).toEqual([
      [1, await emailPrint('one@b.c'), null],
      [2, null, null],
      [3, await emailPrint('one@b.c', 'bob'), null],
    ])
    const update = app.db
      .update(app.logins)
      .set({ email: sql.placeholder('email') as never })
      .where(eq(app.logins.id, 1))
      .prepare('update_login')
    await asAlice(() => update.execute({ email: 'two@b.c' }))
    expect((await stored())[0]?.[1]).toBe(await emailPrint('two@b.c'))
  })

  it('refuse an expression for their column, a value of their own, and a write outside a scope', async () => {
    const { logins, db } = app
    const mistakes: (() => PromiseLike<unknown>)[] = [
      () => db.insert(logins).values({ ...login, id: 1, email: sql`'x'` as never }),
      () => db.update(logins).set({ email: sql`plain` as never }),
      () => db.insert(logins).values({ ...login, id: 1, emailFingerprint: 'hush' }),
      () => db.update(logins).set({ emailFingerprint: 'hush' }),
      () => db.update(logins).set({ emailFingerprint: null }),
      () => db.update(logins).set({ emailFingerprint: sql`null` as never }),
      () => db.select().from(logins).where(eq(logins.emailFingerprint, 'hush')),
      () =>
        db
          .select()
          .from(logins)
          .where(eq(logins.emailFingerprint, `f1:${'A'.repeat(8)}`)),
    ]
    for (const mistake of mistakes) {
      const error = await errorOf(asAlice(mistake))
      expect(error).toMatchObject(INVALID)
      expect(error.message).not.toContain('hush')
    }
    const outside = [
      async () => await db.insert(logins).values({ ...login, id: 1, email: 'a@b.c' }),
      async () => fingerprintMatches(logins.emailFingerprint, 'a@b.c'),
    ]
    for (const write of outside) expect(await errorOf(write)).toMatchObject({ code: 'ERR_NO_SCOPE' })
    expect(await stored()).toEqual([])
  })

  it('are written again with the rest of a selected row, and made anew', async () => {
    await insert({ ...login, id: 1, email: 'a@b.c' })
    const [row] = await asAlice(() => app.db.select().from(app.logins))
    if (row === undefined) throw new Error('no row')
    await app.rows("update logins set email_fp = 'f1:stale'")
    await asAlice(() => app.db.update(app.logins).set({ ...row, email: 'b@b.c' }))
    expect((await stored())[0]?.[1]).toBe(await emailPrint('b@b.c'))
    await asAlice(() => app.db.delete(app.logins))
    await asAlice(() => app.db.insert(app.logins).values(row))
    expect((await stored())[0]?.[1]).toBe(await emailPrint('a@b.c'))
  })

  it('are copied by insert … select, as their values are', async () => {
    await insert({ ...login, id: 1, pin: '1' })
    const { logins, db } = app
    const { emailFingerprint, userId, email, pin, pinFingerprint, plain } = logins
    const copied = {
      emailFingerprint,
      id: sql<number>`2`.as('id'),
      userId,
      email,
      pin,
      pinFingerprint,
      plain,
    }
    await db.insert(logins).select(db.select(copied).from(logins) as never)
    expect((await stored()).map(([, , print]) => print)).toEqual([await pinPrint('1'), await pinPrint('1')])
  })

  it('find values: normalized, of this user only, in joins and under aliases', async () => {
    const { logins, db } = app
    await insert(
      { ...login, id: 1, email: 'Alice@Example.org' },
      { ...login, id: 2, email: 'other@b.c' },
      { ...login, id: 3 },
    )
    await app.envelope.scope('bob', () =>
      db.insert(logins).values({ id: 4, userId: 'bob', email: 'alice@example.org' }),
    )
    const find = (email: string) =>
      asAlice(() =>
        db.select({ id: logins.id }).from(logins).where(fingerprintMatches(logins.emailFingerprint, email)),
      )
    expect(await find(' ALICE@example.ORG ')).toEqual([{ id: 1 }])
    expect(await find('nobody@b.c')).toEqual([])
    const other = (dialect === 'sqlite'
      ? sqliteAlias(logins as never, 'other')
      : alias(logins, 'other')) as unknown as typeof logins
    expect(
      await asAlice(() =>
        db
          .select({ id: other.id })
          .from(logins)
          .innerJoin(other, eq(logins.userId, other.userId))
          .where(fingerprintMatches(other.emailFingerprint, 'other@b.c')),
      ),
    ).toEqual([{ id: 2 }, { id: 2 }, { id: 2 }])
    const [first] = await asAlice(() => db.select().from(logins).where(eq(logins.id, 1)))
    expect(
      await db
        .select({ id: logins.id })
        .from(logins)
        .where(eq(logins.emailFingerprint, first?.emailFingerprint as string)),
    ).toEqual([{ id: 1 }])
    expect(await db.select({ id: logins.id }).from(logins).where(isNull(logins.emailFingerprint))).toEqual([
      { id: 3 },
    ])
    expect(await errorOf(asAlice(async () => fingerprintMatches(logins.email, 'x')))).toMatchObject(INVALID)
  })

  it('find values under every live version, and can be unique for each user', async () => {
    const { logins, db } = app
    await insert({ ...login, id: 1, email: 'a@b.c' })
    await app.envelope.scope('bob', () => db.insert(logins).values({ id: 2, userId: 'bob', email: 'a@b.c' }))
    expect(await errorOf(insert({ ...login, id: 3, email: 'A@b.c' }))).toBeInstanceOf(Error)
    await app.rotate('alice')
    await app.rotate('alice')
    await app.prune('alice')
    await insert({ ...login, id: 4, email: 'after@b.c' })
    const after = (await stored()).at(-1)?.[1]
    expect(after).toMatch(/^f2:3:[\w-]{43}$/)
    expect(after).toBe(await emailPrint('after@b.c'))
    await app.rotate('alice')
    // As the sweep writes it ahead of a prune.
    const [, newest] = await app.envelope.fingerprints('alice', 'a@b.c', EMAIL)
    await app.rows(`update logins set email_fp = '${newest}' where id = 1`)
    for (const [id, email] of [
      [1, 'a@b.c'],
      [4, 'after@b.c'],
    ] as const)
      expect(
        await asAlice(() =>
          db.select({ id: logins.id }).from(logins).where(fingerprintMatches(logins.emailFingerprint, email)),
        ),
      ).toEqual([{ id }])
  })

  it('with bits find more than they should, which the plaintext tells apart', async () => {
    const pins = Array.from({ length: 300 }, (_, index) => String(1000 + index))
    await insert(...pins.map((pin, id) => ({ ...login, id, pin })))
    const { logins, db } = app
    const found = await asAlice(() =>
      db.select().from(logins).where(fingerprintMatches(logins.pinFingerprint, '1234')),
    )
    expect(found.map(({ pin }) => pin)).toContain('1234')
    // 300 values in 256 buckets.
    expect(new Set((await stored()).map(([, , print]) => print)).size).toBeLessThan(257)
    expect(found.length).toBeLessThan(20)
  })
})

describe.each(dialects)('fingerprints of a column of the pool on %s', (dialect) => {
  const columns = (dialect === 'sqlite' ? sqlite : postgres) as typeof postgres
  const keys = columns.table('pool_keys', {
    id: columns.integer('id').primaryKey(),
    key: columns.encryptedText('key', { context: 'pool_keys.key', owner: 'pool' }),
    print: columns.fingerprintText('print', { of: 'key' }).unique(),
  })

  it('are under the pool’s key, unique for all users, and need the pool’s scope', async () => {
    const { db, rows, envelope, close } = await loginsApp(dialect)
    await rows('create table pool_keys (id integer primary key, key text, print text unique)')
    const insert = (id: number) => db.insert(keys).values({ id, key: 'sk-1' })
    await envelope.scope('alice', () => envelope.pool.scope(async () => await insert(1)))
    const print = await envelope.pool.fingerprint('sk-1', { name: 'pool_keys.key' })
    expect(await rows('select print from pool_keys')).toEqual([{ print }])
    expect(await errorOf(envelope.pool.scope(async () => await insert(2)))).toBeInstanceOf(Error)
    const find = () => db.select({ id: keys.id }).from(keys).where(fingerprintMatches(keys.print, 'sk-1'))
    expect(await envelope.pool.scope(async () => await find())).toEqual([{ id: 1 }])
    expect(await errorOf(envelope.scope('alice', async () => await find()))).toMatchObject({
      code: 'ERR_NO_SCOPE',
    })
    await close()
  })
})

describe.each(dialects)('an unnamed column of fingerprints on %s', (dialect) => {
  const columns = (dialect === 'sqlite' ? sqlite : postgres) as typeof postgres
  const keys = columns.table('unnamed_keys', {
    id: columns.integer().primaryKey(),
    owner: columns.integer(),
    secret: columns.encryptedText({ context: 'keys.secret' }),
    print: columns.fingerprintText({ of: 'secret' }).notNull(),
  })

  it('is called as its property, when it is written, found and swept', async () => {
    const { db, rows, envelope, close } = await loginsApp(dialect)
    await rows(
      'create table unnamed_keys (id integer primary key, owner integer, secret text, print text not null)',
    )
    await envelope.scope('7', async () => await db.insert(keys).values({ id: 1, owner: 7, secret: 'sk-1' }))
    const print = await envelope.fingerprint('7', 'sk-1', { name: 'keys.secret' })
    const stored = () => rows('select print from unnamed_keys')
    expect(await stored()).toEqual([{ print }])
    const find = async () =>
      await db.select({ id: keys.id }).from(keys).where(fingerprintMatches(keys.print, 'sk-1'))
    expect(await envelope.scope('7', find)).toEqual([{ id: 1 }])
    await rows("update unnamed_keys set print = 'stale'")
    const [source] = defineEncrypted({ keys }).sources(db).values()
    const report = await reencrypt({ envelope, source: source as ValueSource<never> })
    expect(report).toMatchObject({ changed: 1, left: 0 })
    expect(await stored()).toEqual([{ print }])
    await close()
  })

  it('refuses an insert that no rule has seen, as of another copy of drizzle-orm', () => {
    const { print } = getTableColumns(keys)
    const unfilled = print.defaultFn?.()
    expect(() => print.mapToDriverValue(unfilled)).toThrow(/two copies of drizzle-orm/)
  })

  it('has a type in validators, and is optional when a row is inserted', () => {
    expect(createInsertSchema(keys).safeParse({ id: 1, secret: 'x' }).success).toBe(true)
    expect(createInsertSchema(keys).safeParse({ id: 1, secret: 'x', print: 123 }).success).toBe(false)
    expect(createSelectSchema(keys).safeParse({ id: 1, owner: 1, secret: 'x' }).success).toBe(false)
  })
})

describe.each(dialects)('an unnamed column of fingerprints with casing on %s', (dialect) => {
  const columns = (dialect === 'sqlite' ? sqlite : postgres) as typeof postgres
  const keys = columns.table('unnamed_keys', {
    id: columns.integer().primaryKey(),
    ownerId: columns.integer(),
    apiKey: columns.encryptedText({ context: 'keys.api_key' }),
    apiKeyPrint: columns.fingerprintText({ of: 'apiKey' }).notNull(),
  })

  itIf(!('snakeCase' in pgCore), 'drizzle-orm 1.0 has casing in the table, which casing.test.ts tries')(
    'is called as the casing says, when it is written, found and swept',
    async () => {
      const { client, rows, envelope, close } = await loginsApp(dialect)
      const casing = 'snake_case'
      const db =
        dialect === 'sqlite'
          ? drizzleSqlite({ client: client as never, casing })
          : drizzlePostgres({ client: client as never, casing })
      await rows(
        'create table unnamed_keys (id integer primary key, owner_id integer, api_key text, api_key_print text not null)',
      )
      const onDb = db as ReturnType<typeof drizzlePostgres>
      await envelope.scope(
        '7',
        async () => await onDb.insert(keys).values({ id: 1, ownerId: 7, apiKey: 'sk-1' }),
      )
      const print = await envelope.fingerprint('7', 'sk-1', { name: 'keys.api_key' })
      expect(await rows('select api_key_print from unnamed_keys')).toEqual([{ api_key_print: print }])
      const find = async () =>
        await onDb.select({ id: keys.id }).from(keys).where(fingerprintMatches(keys.apiKeyPrint, 'sk-1'))
      expect(await envelope.scope('7', find)).toEqual([{ id: 1 }])
      await rows("update unnamed_keys set api_key_print = 'stale'")
      const [source] = defineEncrypted({ keys }).sources(onDb).values()
      expect(await reencrypt({ envelope, source: source as ValueSource<never> })).toMatchObject({
        changed: 1,
        left: 0,
      })
      expect(await rows('select api_key_print from unnamed_keys')).toEqual([{ api_key_print: print }])
      await close()
    },
  )

  it('has a type in validators, and is optional when a row is inserted', () => {
    expect(createInsertSchema(keys).safeParse({ id: 1, apiKey: 'x' }).success).toBe(true)
    expect(createInsertSchema(keys).safeParse({ id: 1, apiKey: 'x', apiKeyPrint: 123 }).success).toBe(false)
    expect(createSelectSchema(keys).safeParse({ id: 1, ownerId: 1, apiKey: 'x' }).success).toBe(false)
  })
})

describe.each(dialects)('the declaration of a column of fingerprints on %s', (dialect) => {
  const columns = dialect === 'sqlite' ? (sqlite as unknown as typeof postgres) : postgres

  it('refuses what it cannot be', () => {
    const { fingerprintText } = columns
    for (const options of [
      undefined,
      {},
      { of: '' },
      { of: 7 },
      { of: 'a', bits: 0 },
      { of: 'a', bits: 257 },
      { of: 'a', bits: 1.5 },
      { of: 'a', normalize: 'upper' },
      { of: 'a', normalize: ['trim', 7] },
      { of: 'a', name: 7 },
      { of: 'a', normalise: 'trim' },
    ])
      expect(() => fingerprintText('x', options as never)).toThrow(expect.objectContaining(INVALID))
    const made = () => fingerprintText('x', { of: 'a', name: 'n' })
    for (const method of [
      'default',
      '$default',
      '$defaultFn',
      '$onUpdate',
      '$onUpdateFn',
      'primaryKey',
    ] as const)
      expect(() => (made()[method] as (value: unknown) => unknown)('x')).toThrow(
        expect.objectContaining(INVALID),
      )
    expect(() => fingerprintText('x', { of: 'a', bits: 16 }).unique()).toThrow(/different values share/)
  })

  it('needs a column of encryptedText, and a name where the context is none', () => {
    const { table, integer, encryptedText, encryptedJson, fingerprintText } = columns
    const define = (context: string | Record<string, string>, options: { of: string; name?: string }) =>
      defineEncrypted({
        t: table('t', {
          id: integer('id').primaryKey(),
          userId: integer('user_id'),
          secret: encryptedText('secret', { context }),
          json: encryptedJson('json', { context: 't.json' }),
          print: fingerprintText('print', options),
        }),
      })
    expect(() => define('t.secret', { of: 'secret' })).not.toThrow()
    expect(() => define({ table: 't', column: 's' }, { of: 'secret', name: 't.secret' })).not.toThrow()
    for (const [context, of] of [
      [{ table: 't', column: 's' }, 'secret'],
      ['t.secret', 'json'],
      ['t.secret', 'userId'],
      ['t.secret', 'nothing'],
      ['t.secret', 'print'],
    ] as const)
      expect(() => define(context, { of })).toThrow(expect.objectContaining(INVALID))
  })
})
