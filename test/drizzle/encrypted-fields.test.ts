/** encryptedFields: what is stored, who can read it, and that the other fields stay what they are for SQL. */
import { eq, sql } from 'drizzle-orm'
import { pgTable } from 'drizzle-orm/pg-core'
import { sqliteTable } from 'drizzle-orm/sqlite-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedFields as onPostgres, tokenCheck as postgresCheck } from '../../src/drizzle/postgres.js'
import { encryptedFields as onSqlite, tokenCheck as sqliteCheck } from '../../src/drizzle/sqlite.js'
import { isUnreadable } from '../../src/index.js'
import type { Settings } from '../fixtures/fields-schema-postgres.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { type FieldsApp, fieldsApp } from '../support/fields-app.js'
import { everythingOf } from '../support/leaks.js'

const TOKEN = /^v3:[\w-]{102,}$/
const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }

const settings: Settings = {
  model: 'gpt',
  apiKey: 'sk-1',
  limit: 7,
  providers: { openai: { url: 'https://o', secret: 'o-1' }, 'a.b': { url: 'https://a', secret: 'a-1' } },
  hooks: [
    { url: 'https://1', secret: 'h-1' },
    { url: 'https://2', secret: '' },
  ],
  'dotted.name': 'dot-1',
}
const SECRETS = ['sk-1', 'o-1', 'a-1', 'h-1', 'dot-1']

describe.each(dialects)('encryptedFields on %s', (dialect) => {
  let app: FieldsApp
  beforeEach(async () => {
    app = await fieldsApp(dialect)
  })
  afterEach(() => app.close())

  const add = (userId: string, id: number, value: Settings | null = settings) =>
    app.envelope.scope(userId, () =>
      app.db.insert(app.schema.integrations).values({ id, userId, settings: value }),
    )
  const read = (userId: string, ...options: Parameters<FieldsApp['envelope']['scope']>[2][]) =>
    app.envelope.scope(
      userId,
      () => app.db.select({ settings: app.schema.integrations.settings }).from(app.schema.integrations),
      ...options,
    )
  const stored = async (): Promise<Settings> => {
    const [row] = await app.rows('select settings::text as settings from integrations order by id')
    return JSON.parse(String(row?.settings))
  }
  const extras = () => app.rows('select extra::text as extra from integrations order by id')
  /** Stores JSON past the column. */
  const store = (json: string) => app.rows('update integrations set settings = $1::jsonb', json)
  /** The error of a column, which Drizzle wraps. */
  async function columnErrorOf(work: PromiseLike<unknown>) {
    let error: unknown = await errorOf((async () => await work)())
    while (error instanceof Error && !('code' in error) && error.cause) error = error.cause
    return error
  }

  it('asks whose row it is only for values that have a secret in them, which defaults do not', async () => {
    const { db, schema, envelope } = app
    const { integrations } = schema
    // An admin's work, outside of any scope: left to the default, and given without a secret.
    await db.insert(integrations).values([
      { id: 1, userId: 'alice' },
      { id: 2, userId: 'alice', extra: { theme: 'light' } },
    ])
    await db.insert(integrations).values({ id: 3, userId: 'alice' })
    const themes = [{ theme: 'dark' }, { theme: 'light' }, { theme: 'dark' }]
    expect((await extras()).map(({ extra }) => JSON.parse(String(extra)))).toEqual(themes)
    await db
      .update(integrations)
      .set({ extra: { theme: 'grey' } })
      .where(eq(integrations.id, 2))
    const asBob = (work: () => PromiseLike<unknown>) => columnErrorOf(envelope.scope('bob', work))
    const secret = { theme: 'x', password: 'p-1' } as never
    expect(
      await asBob(() => db.insert(integrations).values({ id: 4, userId: 'alice', extra: secret })),
    ).toMatchObject({ code: 'ERR_WRONG_OWNER' })
    await envelope.scope('alice', async () => {
      await db.update(integrations).set({ extra: secret }).where(eq(integrations.id, 2))
    })
    expect(String((await extras())[1]?.extra)).toMatch(/"password": ?"v3:/)
  })

  it('store a token at each path, and the rest as it is', async () => {
    await add('alice', 1)
    const { apiKey, providers, hooks, 'dotted.name': dotted, ...others } = await stored()
    expect(others).toEqual({ model: 'gpt', limit: 7 })
    const tokens = [
      apiKey,
      dotted,
      ...Object.values(providers ?? {}).map(({ secret }) => secret),
      ...(hooks ?? []).map(({ secret }) => secret),
    ]
    expect(tokens).toHaveLength(6)
    for (const token of tokens) expect(token).toMatch(TOKEN)
    expect(Object.keys(providers ?? {}).sort()).toEqual(['a.b', 'openai'])
    expect((hooks ?? []).map(({ url }) => url)).toEqual(['https://1', 'https://2'])
    const text = JSON.stringify(await stored())
    for (const secret of SECRETS) expect(text).not.toContain(`"${secret}"`)
    expect(await read('alice')).toEqual([{ settings }])
  })

  it('bind each value to its place, by a context that the application can give itself', async () => {
    await add('alice', 1)
    const { apiKey, providers, hooks } = await stored()
    const open = (token: unknown, path: string) =>
      app.envelope.decrypt('alice', String(token), { column: 'integrations.settings', path })
    expect(await open(apiKey, 'apiKey')).toBe('sk-1')
    expect(await open(providers?.['a.b']?.secret, String.raw`providers.a\.b.secret`)).toBe('a-1')
    expect(await open(hooks?.[1]?.secret, 'hooks.*.secret')).toBe('')
  })

  it.each([
    ['two fields', (s: Settings) => ({ ...s, apiKey: s['dotted.name'], 'dotted.name': s.apiKey })],
    [
      'two properties of an object',
      (s: Settings) => ({ ...s, providers: { openai: s.providers?.['a.b'], 'a.b': s.providers?.openai } }),
    ],
  ])('do not open once %s were exchanged', async (_, exchange) => {
    await add('alice', 1)
    await store(JSON.stringify(exchange(await stored())))
    expect(await columnErrorOf(read('alice'))).toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
  })

  it('keep null, absent fields, null columns and fields of other types of value', async () => {
    const values: (Settings | null)[] = [
      null,
      { model: 'x' },
      { model: 'x', apiKey: null, providers: {}, hooks: [] },
      { model: 'x', providers: { a: { url: 'u', secret: null } } },
    ]
    for (const [id, value] of values.entries()) await add('alice', id, value)
    expect(await read('alice')).toEqual(values.map((settings) => ({ settings })))
    await add('alice', 10, {
      model: 'x',
      providers: [{ url: 'u', secret: 'in an array' }] as unknown as NonNullable<Settings['providers']>,
    })
    expect((await read('alice')).at(-1)?.settings).toMatchObject({ providers: [{ secret: 'in an array' }] })
    await add('alice', 11, false as never)
    expect((await read('alice')).at(-1)).toEqual({ settings: false })
  })

  it('refuse a value of another shape than their paths have, which would hide a secret', async () => {
    for (const value of [
      'sk-hidden',
      7,
      [{ apiKey: 'sk-hidden' }],
      { model: 'x', providers: 'sk-hidden' },
      { model: 'x', providers: { openai: 'sk-hidden' } },
      { model: 'x', providers: { openai: [{ secret: 'sk-hidden' }] } },
      { model: 'x', hooks: ['sk-hidden'] },
    ]) {
      const error = await columnErrorOf(add('alice', 1, value as never))
      expect(error, JSON.stringify(value)).toMatchObject(REFUSED)
      expect(String(error)).toMatch(/must be an object/)
      // Names of properties where a path has `*` are the application's data, too.
      expect(String(error)).not.toMatch(/sk-hidden|openai/)
    }
    expect(await app.rows('select id from integrations')).toEqual([])
  })

  it('refuse a marker in an encrypted field and beside it, and keep what is stored', async () => {
    const { envelope, db, schema } = app
    await add('alice', 1)
    const damaged = { ...(await stored()), apiKey: `${(await stored()).apiKey?.slice(0, -5)}AAAAA` }
    await store(JSON.stringify(damaged))
    const [row] = await read('alice', { onUnreadable: 'marker' })
    const marker = row?.settings?.apiKey
    expect(isUnreadable(marker)).toBe(true)
    for (const value of [
      row?.settings,
      { ...settings, apiKey: null, model: marker },
      marker,
      JSON.parse(JSON.stringify(row?.settings)),
    ]) {
      const update = envelope.scope('alice', () =>
        db.update(schema.integrations).set({ settings: value as never }),
      )
      const error = await columnErrorOf(update)
      expect(error).toMatchObject(REFUSED)
      expect(String(error)).toMatch(/leave the column out/)
    }
    expect(await stored()).toEqual(damaged)
  })

  it('let SQL query and change the other fields', async () => {
    const { db, schema, envelope } = app
    const { settings: column, id } = schema.integrations
    await add('alice', 1)
    await add('alice', 2, { model: 'other', limit: 2, apiKey: 'sk-2' })
    const model =
      dialect === 'sqlite'
        ? sql<string>`json_extract(${column}, '$.model')`
        : sql<string>`${column} ->> 'model'`
    // ->> is in both dialects.
    const limit = sql<number>`cast(${column} ->> 'limit' as integer)`
    expect(await db.select({ id, model, limit }).from(schema.integrations).where(eq(model, 'gpt'))).toEqual([
      { id: 1, model: 'gpt', limit: 7 },
    ])
    expect(await db.select({ id }).from(schema.integrations).where(sql`${limit} < 5`).orderBy(limit)).toEqual(
      [{ id: 2 }],
    )
    const greatest = sql<number>`max(cast(${column} ->> 'limit' as integer))`
    const count = sql<number>`cast(count(distinct ${column} ->> 'model') as integer)`
    expect(await db.select({ greatest, count }).from(schema.integrations)).toEqual([
      { greatest: 7, count: 2 },
    ])
    expect(
      await db.select({ id }).from(schema.integrations).orderBy(sql`${column} ->> 'model' desc`),
    ).toEqual([{ id: 2 }, { id: 1 }])
    expect(await columnErrorOf(db.select().from(schema.integrations).orderBy(column))).toMatchObject(REFUSED)
    const set =
      dialect === 'sqlite'
        ? sql`json_set(${column}, '$.model', 'new')`
        : sql`jsonb_set(${column}, '{model}', '"new"')`
    await db.update(schema.integrations).set({ settings: set })
    expect((await read('alice')).map(({ settings }) => settings?.model)).toEqual(['new', 'new'])
    const [found] = await envelope.scope('alice', () =>
      db.select().from(schema.integrations).where(eq(model, 'new')).orderBy(id),
    )
    expect(found?.settings).toEqual({ ...settings, model: 'new' })
  })

  it('work in relational queries, prepared statements, updates and upserts', async () => {
    const { db, schema, envelope } = app
    await db.insert(schema.users).values({ id: 'alice' })
    await add('alice', 1)
    const [user] = await envelope.scope('alice', () =>
      db.query.users.findMany({ with: { integrations: true } }),
    )
    expect(user?.integrations[0]?.settings).toEqual(settings)
    const next = { model: 'next', apiKey: 'sk-2' }
    await envelope.scope('alice', () => db.update(schema.integrations).set({ settings: next }))
    expect(await read('alice')).toEqual([{ settings: next }])
    await envelope.scope('alice', () =>
      db
        .insert(schema.integrations)
        .values({ id: 1, userId: 'alice', settings })
        .onConflictDoUpdate({
          target: schema.integrations.id,
          set: { settings: { ...next, apiKey: 'sk-3' } },
        }),
    )
    const query = db
      .select()
      .from(schema.integrations)
      .where(eq(schema.integrations.id, sql.placeholder('id')))
    const prepared =
      dialect === 'sqlite' ? (query as never as { prepare(): typeof query }).prepare() : query.prepare('one')
    const rows = await envelope.scope('alice', () =>
      (prepared as { execute(values: object): PromiseLike<unknown> }).execute({ id: 1 }),
    )
    expect(JSON.stringify(rows)).toContain('sk-3')
  })

  it('hold no secret outside a scope, in errors, or for another user; without a secret they need no scope', async () => {
    const { db, schema } = app
    const insert = db.insert(schema.integrations).values({ id: 1, settings })
    const errors = [await columnErrorOf(insert)]
    expect(errors[0]).toMatchObject({ code: 'ERR_NO_SCOPE' })
    await db.insert(schema.integrations).values({ id: 2, settings: { model: 'plain' } })
    expect(await db.select().from(schema.integrations)).toEqual([
      { id: 2, userId: null, settings: { model: 'plain' }, extra: { theme: 'dark' } },
    ])
    await add('alice', 1)
    errors.push(await columnErrorOf(read('bob')))
    expect(errors[1]).toMatchObject({
      code: 'ERR_DECRYPTION_FAILED',
      message: expect.stringMatching(/"integrations\.settings\.[\w.*\\]+"/),
    })
    errors.push(await columnErrorOf(add('alice', 3, { ...settings, apiKey: 5 as never })))
    expect(errors[2]).toMatchObject({
      ...REFUSED,
      message: expect.stringContaining('"integrations.settings.apiKey" must be a string'),
    })
    errors.push(await columnErrorOf(add('alice', 3, { ...settings, apiKey: { deep: 'sk-1' } as never })))
    errors.push(
      await columnErrorOf(add('alice', 3, { ...settings, apiKey: (await stored()).apiKey as never })),
    )
    for (const error of errors) {
      expect(error).toMatchObject({ code: expect.any(String) })
      for (const secret of SECRETS) expect(everythingOf(error)).not.toContain(secret)
    }
    expect(errors.slice(3)).toEqual([expect.objectContaining(REFUSED), expect.objectContaining(REFUSED)])
  })

  it('leave the decision about one unreadable field to the scope, and the others readable', async () => {
    await add('alice', 1)
    const { apiKey: _, ...others } = await stored()
    const left = { ...others, apiKey: 'left over', 'dotted.name': 5 }
    await store(JSON.stringify(left))
    expect(await columnErrorOf(read('alice'))).toMatchObject({ code: 'ERR_NOT_ENCRYPTED' })
    expect((await read('alice', { onUnreadable: 'null' }))[0]?.settings).toEqual({
      ...settings,
      apiKey: null,
      'dotted.name': null,
    })
    const [row] = await read('alice', { onUnreadable: 'marker' })
    expect(isUnreadable(row?.settings?.apiKey)).toBe(true)
    expect(row?.settings?.apiKey).toMatchObject({ column: 'integrations.settings.apiKey' })
    const seen: unknown[] = []
    const onUnreadable = ({ column, leftover }: { column: string | null; leftover: string | null }) => {
      seen.push([column, leftover])
      return 'kept'
    }
    expect((await read('alice', { onUnreadable }))[0]?.settings).toMatchObject({ apiKey: 'kept' })
    expect(seen).toContainEqual(['integrations.settings.apiKey', 'left over'])
  })

  it("hold the pool's secrets in the pool's scope", async () => {
    const { db, schema, envelope } = app
    const value = { password: 'everybody' }
    await envelope.pool.scope(() => db.insert(schema.shared).values({ id: 1, settings: value }))
    expect(await envelope.pool.scope(() => db.select().from(schema.shared))).toEqual([
      { id: 1, settings: value },
    ])
    expect(await columnErrorOf(envelope.scope('alice', () => db.select().from(schema.shared)))).toMatchObject(
      {
        code: 'ERR_NO_SCOPE',
      },
    )
  })

  it('hold what JavaScript makes strange: toJSON, __proto__, and objects that they do not change', async () => {
    const written = Object.freeze({ model: 'x', toJSON: () => ({ model: 'y', apiKey: 'sk-9' }) })
    await add('alice', 1, written)
    expect((await stored()).apiKey).toMatch(TOKEN)
    const strange = JSON.parse('{"model":"x","providers":{"__proto__":{"url":"u","secret":"p-1"}}}')
    await add('alice', 2, strange)
    const [, row] = await read('alice')
    expect(JSON.stringify(row?.settings?.providers)).toBe('{"__proto__":{"url":"u","secret":"p-1"}}')
    expect({}).not.toHaveProperty('secret')
    await add('alice', 3, Object.freeze({ ...settings }))
  })

  it('refuse comparisons, unique keys and defaults with a secret; other defaults are fine', async () => {
    const { db, schema } = app
    expect(
      await columnErrorOf(
        (async () =>
          db.select().from(schema.integrations).where(eq(schema.integrations.settings, settings)))(),
      ),
    ).toMatchObject(REFUSED)
    const make = dialect === 'sqlite' ? onSqlite : onPostgres
    const builder = () => make<Settings>('s', { context: 'x', paths: ['apiKey'] })
    expect(() => builder().unique()).toThrow(expect.objectContaining(REFUSED))
    expect(() => builder().default(settings as never)).toThrow(expect.objectContaining(REFUSED))
    expect(() => builder().default({ model: 'x', apiKey: null } as never)).not.toThrow()
    const [{ extra } = { extra: null }] = await app.envelope.scope('alice', () =>
      db.insert(schema.integrations).values({ id: 1, userId: 'alice' }).returning(),
    )
    expect(extra).toEqual({ theme: 'dark' })
  })
})

describe('encryptedFields', () => {
  it.each([
    ['no options', undefined],
    ['no context', { paths: ['a'] }],
    ['no paths', { context: 'x' }],
    ['an empty list', { context: 'x', paths: [] }],
    ['paths that are no list', { context: 'x', paths: 'a' }],
    ['an empty path', { context: 'x', paths: [''] }],
    ['an empty name', { context: 'x', paths: ['a..b'] }],
    ['an empty list of names', { context: 'x', paths: [[]] }],
    ['a name that is no text', { context: 'x', paths: [['a', 1]] }],
    ['a path twice', { context: 'x', paths: ['a.b', ['a', 'b']] }],
    ['a path into another', { context: 'x', paths: ['a', 'a.b'] }],
    ['a path that * reaches too', { context: 'x', paths: ['a.b.c', 'a.*.c'] }],
    ['a context with the name of its own', { context: { path: 'x' }, paths: ['a'] }],
  ])('refuses %s', (_, options) => {
    for (const make of [onSqlite, onPostgres])
      expect(() => make('s', options as never)).toThrow(expect.objectContaining(REFUSED))
  })

  it('refuses a tokenCheck, which would admit no JSON', () => {
    const columnOf = (table: object) => (table as { s: never }).s
    const options = { context: 'x', paths: ['a'] }
    expect(() => sqliteCheck(columnOf(sqliteTable('t', { s: onSqlite('s', options) })))).toThrow(
      expect.objectContaining(REFUSED),
    )
    expect(() => postgresCheck(columnOf(pgTable('t', { s: onPostgres('s', options) })))).toThrow(
      expect.objectContaining(REFUSED),
    )
  })

  it('refuses another type than those of JSON on Postgres', () => {
    expect(() => onPostgres('s', { context: 'x', paths: ['a'], type: 'text' as never })).toThrow(
      expect.objectContaining(REFUSED),
    )
    expect(onPostgres('s', { context: 'x', paths: ['a.b', 'a.c', '*.d'] })).toBeDefined()
  })
})
