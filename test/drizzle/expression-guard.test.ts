/** Expressions in place of a value: what would store plaintext is refused, and what copies tokens is not. */
import { eq, sql } from 'drizzle-orm'
import { alias, integer as pgInteger, pgTable, text as pgText, pgView } from 'drizzle-orm/pg-core'
import { integer, alias as sqliteAlias, sqliteTable, sqliteView, text } from 'drizzle-orm/sqlite-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import * as onPostgres from '../../src/drizzle/postgres.js'
import * as onSqlite from '../../src/drizzle/sqlite.js'
import { dialects } from '../support/databases.js'
import { columnErrorOf } from '../support/errors.js'
import { type HostApp, hostApp } from '../support/host-app.js'

const KEY = { context: 'keys.k' }
const FIELDS = { context: 'keys.f', paths: ['apiKey'] as const }

const onEither = {
  postgres() {
    const table = (name: string) =>
      pgTable(name, {
        id: pgInteger('id').primaryKey(),
        k: onPostgres.encryptedText('k', KEY),
        f: onPostgres.encryptedFields<{ apiKey?: string; m: number }>('f', { ...FIELDS, type: 'jsonb' }),
        token: onPostgres.tokenText('token'),
        note: pgText('note'),
      })
    const keys = table('keys')
    return {
      keys,
      archive: table('archive'),
      aliased: alias(keys, 'other'),
      view: pgView('all_keys').as((db) => db.select().from(keys)),
    }
  },
  sqlite() {
    const table = (name: string) =>
      sqliteTable(name, {
        id: integer('id').primaryKey(),
        k: onSqlite.encryptedText('k', KEY),
        f: onSqlite.encryptedFields<{ apiKey?: string; m: number }>('f', FIELDS),
        token: onSqlite.tokenText('token'),
        note: text('note'),
      })
    const keys = table('keys')
    return {
      keys,
      archive: table('archive'),
      aliased: sqliteAlias(keys, 'other'),
      view: sqliteView('all_keys').as((db) => db.select().from(keys)),
    } as never
  },
}

describe.each(dialects)('an expression for an encrypted column on %s', (dialect) => {
  let app: HostApp
  let tables: ReturnType<typeof onEither.postgres>
  beforeEach(async () => {
    app = await hostApp(dialect)
    tables = onEither[dialect]()
    const json = dialect === 'postgres' ? 'jsonb' : 'text'
    for (const name of ['keys', 'archive'])
      await app.rows(
        `create table ${name} (id integer primary key, k text, f ${json}, token text, note text)`,
      )
    await app.rows('create view all_keys as select * from keys')
    await inScope(() =>
      app.db.insert(tables.keys).values([
        { id: 1, k: 'sk-1', f: { apiKey: 'sk-f', m: 1 }, note: 'PLAIN' },
        { id: 2, k: 'sk-2', note: 'PLAIN' },
      ]),
    )
  })
  afterEach(() => app.close())

  const inScope = <T>(work: () => PromiseLike<T>) => app.envelope.scope('alice', work)
  const keysOf = (table: typeof tables.keys) =>
    inScope(() => app.db.select({ id: table.id, k: table.k, f: table.f }).from(table).orderBy(table.id))
  const stored = async () => {
    const rows = [
      ...(await app.rows('select k, f from keys')),
      ...(await app.rows('select k, f from archive')),
    ]
    return JSON.stringify(rows)
  }

  it('is refused if plaintext can be in it: a plain column, a parameter, a select', async () => {
    const { db } = app
    const { keys, archive } = tables
    const { id, f, token, note } = keys
    const plain = { id, k: note, f, token, note }
    const insert = (select: unknown) => db.insert(archive).select(select as never)
    const writes: (() => PromiseLike<unknown>)[] = [
      () => db.insert(archive).values({ id: 5, k: sql`${'PLAIN'}` }),
      () => db.insert(archive).values({ id: 5, k: sql`upper(${sql.param('PLAIN')})` }),
      () => db.insert(archive).values([{ id: 5 }, { id: 6, k: sql`${12}` }]),
      () => insert(db.select(plain).from(keys)),
      () => insert(db.select({ ...plain, k: sql`${note}`.as('k') }).from(keys)),
      () => insert(db.select({ ...plain, k: sql`${'PLAIN'}`.as('k') }).from(keys)),
      () => insert(db.select({ ...plain, k: keys.k, f: note }).from(keys)),
      () =>
        insert(
          db
            .select()
            .from(keys)
            .unionAll(db.select(plain as never).from(keys) as never),
        ),
      () => db.update(keys).set({ k: note }),
      () => db.update(keys).set({ f: note }),
      () => db.update(keys).set({ k: archive.note }).from(archive),
      () => db.update(keys).set({ k: sql`${'PLAIN'}` }),
      () => db.update(keys).set({ k: sql`coalesce(${keys.k}, ${note})` }),
      () => db.update(keys).set({ k: sql`case when ${id} = ${1} then ${'PLAIN'} else ${keys.k} end` }),
      () =>
        db
          .update(keys)
          .set({ k: sql`${sql.placeholder('k')}` })
          .prepare('expression')
          .execute({ k: 'PLAIN' }),
      () => db.update(keys).set({ k: sql`(${db.select({ note }).from(keys).limit(1)})` }),
      () =>
        db
          .insert(keys)
          .values({ id: 1 })
          .onConflictDoUpdate({ target: id, set: { k: sql`${'PLAIN'}` } }),
    ]
    for (const [index, write] of writes.entries()) {
      const error = await columnErrorOf(() => inScope(write))
      expect(error, `write ${index}`).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(error.message, `write ${index}`).toMatch(/"(k|f)" was to be written .*values\(\) or set\(\)/)
      expect(error.message).not.toContain('PLAIN')
    }
    expect(await stored()).not.toContain('PLAIN')
  })

  it('is written if it copies tokens, is null, or is of the row that an upsert was to insert', async () => {
    const { db } = app
    const { keys, archive, aliased, view } = tables
    const expected = await keysOf(keys)
    const recent = db.$with('recent').as(db.select().from(keys))
    for (const select of [
      db.select().from(keys),
      db.select().from(aliased),
      db.select().from(view),
      db.select().from(db.select().from(keys).as('inner')),
      db.with(recent).select().from(recent),
      db
        .select()
        .from(keys)
        .where(eq(keys.id, 1))
        .unionAll(db.select().from(keys).where(eq(keys.id, 2))),
    ]) {
      await inScope(() => db.insert(archive).select(select as never))
      expect(await keysOf(archive)).toEqual(expected)
      await db.delete(archive)
    }
    const written = await app.envelope.encrypt('alice', 'sk-own', { column: 'keys.k' })
    const sets = [
      { k: keys.k },
      { k: sql`${keys.k}` },
      { k: sql`case when ${keys.id} = ${1} then ${written} else ${keys.k} end` },
      { k: sql`(${db.select({ k: aliased.k }).from(aliased).where(eq(aliased.id, 2))})` },
      { k: sql.raw('k') },
      {
        f:
          dialect === 'sqlite'
            ? sql`json_set(${keys.f}, '$.m', ${2})`
            : sql`jsonb_set(${keys.f}, '{m}', ${'2'}::jsonb)`,
      },
      { k: sql`null` },
      { k: null },
    ]
    const seen = []
    for (const set of sets) {
      await inScope(() => db.update(keys).set(set).where(eq(keys.id, 1)))
      const [row] = await keysOf(keys)
      seen.push(row?.k ?? null, row?.f?.m)
    }
    expect(seen).toEqual(
      ['sk-1', 'sk-1', 'sk-own', 'sk-2', 'sk-2', 'sk-2', null, null].flatMap((k, at) => [k, at < 5 ? 1 : 2]),
    )
    for (const set of [
      { k: sql`excluded.k` },
      { k: sql.raw(`excluded.${keys.k.name}`) },
      { k: sql`excluded.${sql.identifier('k')}`, note: 'PLAIN' },
      { k: sql`case when ${keys.note} = ${'PLAIN'} then excluded.k else ${keys.k} end` },
    ]) {
      const k = `sk-${Math.random()}`
      await inScope(() => db.insert(keys).values({ id: 1, k }).onConflictDoUpdate({ target: keys.id, set }))
      expect((await keysOf(keys))[0]?.k).toBe(k)
    }
    expect(await stored()).not.toContain('PLAIN')
  })

  it('is refused in a default of the schema too, which a value is not', async () => {
    const { db } = app
    const made = (value: unknown) =>
      dialect === 'postgres'
        ? pgTable('keys', {
            id: pgInteger('id').primaryKey(),
            k: onPostgres.encryptedText('k', KEY).$defaultFn(() => value as never),
          })
        : (sqliteTable('keys', {
            id: integer('id').primaryKey(),
            k: onSqlite.encryptedText('k', KEY).$defaultFn(() => value as never),
          }) as never)
    await inScope(() => db.insert(made('sk-default')).values({ id: 7 }))
    expect((await keysOf(tables.keys)).at(-1)).toMatchObject({ id: 7, k: 'sk-default' })
    const error = await columnErrorOf(() => inScope(() => db.insert(made(sql`${'PLAIN'}`)).values({ id: 8 })))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })
})
