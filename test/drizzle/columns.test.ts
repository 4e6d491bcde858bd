/** Encrypted columns in a host application's tables: what is stored, who can read it, and what is refused. */
import { readFileSync } from 'node:fs'
import { and, eq, getTableColumns, inArray, isNull, ne, sql } from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Token } from '../../src/index.js'
import { dialects } from '../support/databases.js'
import { columnErrorOf, errorOf } from '../support/errors.js'
import { type HostApp, hostApp } from '../support/host-app.js'

const NO_SCOPE = { code: 'ERR_NO_SCOPE' }
const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }
const FAILED = { code: 'ERR_DECRYPTION_FAILED' }

describe.each(dialects)('encrypted columns on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
  })
  afterEach(() => app.close())

  const add = (ownerId: string, id: number, note: string | null = `note of ${ownerId}`) =>
    app.envelope.scope(ownerId, () => app.db.insert(app.schema.secrets).values({ id, ownerId, note }))

  it('write tokens and read plaintext inside a scope', async () => {
    const { db, schema, envelope, rows } = app
    const data = { n: 1, list: ['ä', '😀'] }
    const token = await envelope.encrypt('alice', 'mine', { any: 'thing' })
    const written = await envelope.scope('alice', () =>
      db.insert(schema.secrets).values({ id: 1, ownerId: 'alice', note: 'hush', data, token }).returning(),
    )
    expect(written).toEqual([
      { id: 1, ownerId: 'alice', note: 'hush', made: 'made', data, token, plain: 'plain' },
    ])
    const [stored] = await rows('select note, made, data, token from secrets')
    expect(Object.keys(stored ?? {})).toHaveLength(4)
    for (const value of Object.values(stored ?? {})) expect(value).toMatch(/^v3:[\w-]{102,}$/)
    expect(await envelope.decrypt('alice', String(stored?.note), { column: 'secrets.note' })).toBe('hush')
    expect(await envelope.scope('alice', () => db.select().from(schema.secrets))).toEqual(written)
  })

  it('throw ERR_NO_SCOPE outside a scope, for reading and writing; a column of tokens needs no scope', async () => {
    const { db, schema, envelope } = app
    await add('alice', 1)
    expect(await columnErrorOf(() => db.select().from(schema.secrets))).toMatchObject(NO_SCOPE)
    expect(
      await columnErrorOf(() => db.insert(schema.secrets).values({ id: 2, note: 'hush' })),
    ).toMatchObject(NO_SCOPE)
    expect(await columnErrorOf(() => db.update(schema.secrets).set({ data: { n: 2 } }))).toMatchObject(
      NO_SCOPE,
    )
    const token = await envelope.encrypt('alice', 'x')
    await db.update(schema.secrets).set({ token })
    expect(await db.select({ token: schema.secrets.token }).from(schema.secrets)).toEqual([{ token }])
  })

  it('fail on a row of another user', async () => {
    const { db, schema, envelope } = app
    await add('alice', 1)
    await add('bob', 2)
    expect(
      await columnErrorOf(() => envelope.scope('bob', () => db.select().from(schema.secrets))),
    ).toMatchObject(FAILED)
    const ofBob = await envelope.scope('bob', () =>
      db.select().from(schema.secrets).where(eq(schema.secrets.ownerId, 'bob')),
    )
    expect(ofBob.map(({ note }) => note)).toEqual(['note of bob'])
  })

  it('bind a value to its column: in another column it does not open', async () => {
    const { db, schema, envelope, rows } = app
    await add('alice', 1)
    await rows('update secrets set made = note')
    const read = () =>
      envelope.scope('alice', () => db.select({ made: schema.secrets.made }).from(schema.secrets))
    expect(await columnErrorOf(read)).toMatchObject(FAILED)
  })

  it('pass null and undefined in both directions, also through placeholders', async () => {
    const { db, schema, envelope } = app
    await add('alice', 1, null)
    const { secrets } = schema
    const statement = db
      .insert(secrets)
      .values({ id: sql.placeholder('id'), note: sql.placeholder('note'), made: sql.placeholder('made') })
      .prepare('with_null')
    await envelope.scope('alice', () => statement.execute({ id: 2, note: null, made: null }))
    await envelope.scope('alice', () => db.update(secrets).set({ note: undefined, data: null, plain: 'p' }))
    const read = await envelope.scope('alice', () => db.select().from(secrets).where(isNull(secrets.note)))
    expect(read.map(({ id, note, data, token }) => ({ id, note, data, token }))).toEqual([
      { id: 1, note: null, data: null, token: null },
      { id: 2, note: null, data: null, token: null },
    ])
  })

  it('encrypt the placeholders of a prepared statement for the user in whose scope it is executed', async () => {
    const { db, schema, envelope } = app
    const { secrets } = schema
    const insert = db
      .insert(secrets)
      .values({
        id: sql.placeholder('id'),
        ownerId: sql.placeholder('owner'),
        note: sql.placeholder('note'),
        made: null,
      })
      .prepare('insert_note')
    for (const [id, owner] of [
      [1, 'alice'],
      [2, 'bob'],
      [3, 'alice'],
    ] as const)
      await envelope.scope(owner, () => insert.execute({ id, owner, note: `${owner} ${id}` }))
    const select = db
      .select()
      .from(secrets)
      .where(eq(secrets.ownerId, sql.placeholder('owner')))
      .prepare('select_note')
    const ofAlice = await envelope.scope('alice', () => select.execute({ owner: 'alice' }))
    expect(ofAlice.map(({ note }) => note)).toEqual(['alice 1', 'alice 3'])
    expect(await columnErrorOf(() => insert.execute({ id: 4, owner: 'bob', note: 'x' }))).toMatchObject(
      NO_SCOPE,
    )
  })

  it('encrypt a constant of a prepared statement for the first user alone, and refuse it outside a scope', async () => {
    const { db, schema, envelope } = app
    const prepare = (id: number) =>
      db.insert(schema.secrets).values({ id, note: 'constant' }).prepare(`constant_${id}`)
    const ofAlice = await envelope.scope('alice', async () => prepare(1))
    await envelope.scope('bob', () => ofAlice.execute())
    const read = () => db.select().from(schema.secrets)
    expect(await columnErrorOf(() => envelope.scope('bob', read))).toMatchObject(FAILED)
    // node-postgres encodes when it executes, better-sqlite3 when it prepares: both are refused.
    expect(await columnErrorOf(async () => await prepare(2).execute())).toMatchObject(NO_SCOPE)
  })

  it('store a row of Bob’s that is inserted in Alice’s scope under her key, as docs/COLUMNS.md warns', async () => {
    const { db, schema, envelope } = app
    await envelope.scope('alice', () =>
      db.insert(schema.secrets).values({ id: 1, ownerId: 'bob', note: 'of bob' }),
    )
    const read = () => db.select().from(schema.secrets).where(eq(schema.secrets.ownerId, 'bob'))
    expect(await columnErrorOf(() => envelope.scope('bob', read))).toMatchObject(FAILED)
    expect(await envelope.scope('alice', read)).toMatchObject([{ note: 'of bob' }])
    const guide = readFileSync('docs/COLUMNS.md', 'utf8')
    const [mistakes = ''] = /^Three mistakes cannot be detected:\n(.*?)^## /ms.exec(guide)?.slice(1) ?? []
    expect(mistakes.match(/^- \*\*[^*]+\*\*/gm)).toEqual([
      '- **A comparison with a placeholder**',
      '- **A constant in a prepared statement**',
      '- **A row of another user**',
    ])
  })

  it('refuse every comparison, which would match nothing', async () => {
    const { db, schema, envelope } = app
    await add('alice', 1)
    const { secrets } = schema
    const compared = [
      () => db.select().from(secrets).where(eq(secrets.note, 'note of alice')),
      () => db.select().from(secrets).where(ne(secrets.note, 'x')),
      () =>
        db
          .select()
          .from(secrets)
          .where(inArray(secrets.note, ['x', 'y'])),
      () =>
        db
          .select()
          .from(secrets)
          .where(and(eq(secrets.id, 1), eq(secrets.data, { n: 1 }))),
      () => db.update(secrets).set({ plain: 'x' }).where(eq(secrets.note, 'x')),
      () => db.delete(secrets).where(eq(secrets.note, 'x')),
      () => db.query.secrets.findMany({ where: (t, operators) => operators.eq(t.note, 'x') }),
      () => db.query.secrets.findMany({ where: eq(secrets.note, 'x') }),
    ]
    for (const [index, query] of compared.entries()) {
      const error = await columnErrorOf(() => envelope.scope<unknown>('alice', query))
      expect(error, `condition ${index}`).toMatchObject(REFUSED)
      expect(error.message).toContain('fingerprint')
    }
    const token = (await app.rows('select note from secrets'))[0]?.note as Token
    await db.update(secrets).set({ token })
    expect(await db.select({ id: secrets.id }).from(secrets).where(eq(secrets.token, token))).toEqual([
      { id: 1 },
    ])
  })

  // Drizzle has no hook to refuse these comparisons: docs/COLUMNS.md says so.
  it('match nothing when they are compared with a placeholder or taken from getTableColumns', async () => {
    const { db, schema, envelope } = app
    await add('alice', 1)
    const { secrets } = schema
    const { note } = getTableColumns(secrets)
    const found = await envelope.scope('alice', async () => [
      await db
        .select()
        .from(secrets)
        .where(eq(secrets.note, sql.placeholder('note')))
        .prepare('')
        .execute({ note: 'note of alice' }),
      await db.select().from(secrets).where(eq(note, 'note of alice')),
    ])
    expect(found).toEqual([[], []])
  })

  it('work in joins, aliases, subqueries, partial selects, sql expressions and relational queries', async () => {
    const { db, schema, envelope } = app
    await add('alice', 1)
    await add('bob', 2)
    const { owners, secrets } = schema
    const found = await envelope.scope('alice', async () => {
      const joined = await db
        .select({ owner: owners.id, note: secrets.note })
        .from(owners)
        .innerJoin(secrets, eq(secrets.ownerId, owners.id))
        .where(eq(owners.id, 'alice'))
      const sub = db.select().from(secrets).where(eq(secrets.ownerId, 'alice')).as('sub')
      const [inSub] = await db.select({ note: sub.note }).from(sub)
      const [raw] = await db.select({ raw: sql<string>`${secrets.note}` }).from(secrets)
      const [mapped] = await db
        .select({ note: sql`${secrets.note}`.mapWith(secrets.note) })
        .from(secrets)
        .where(eq(secrets.ownerId, 'alice'))
      const related = await db.query.owners.findFirst({
        where: (t, operators) => operators.eq(t.id, 'alice'),
        with: { secrets: { columns: { note: true, made: true } } },
      })
      return { joined, inSub, raw, mapped, related }
    })
    expect(found).toMatchObject({
      joined: [{ owner: 'alice', note: 'note of alice' }],
      inSub: { note: 'note of alice' },
      raw: { raw: expect.stringMatching(/^v3:/) },
      mapped: { note: 'note of alice' },
      related: { id: 'alice', secrets: [{ note: 'note of alice', made: 'made' }] },
    })
  })

  it('are encrypted on conflict, too', async () => {
    const { db, schema, envelope, rows } = app
    await add('alice', 1)
    await envelope.scope('alice', () =>
      db
        .insert(schema.secrets)
        .values({ id: 1, ownerId: 'alice', note: 'ignored' })
        .onConflictDoUpdate({ target: schema.secrets.id, set: { note: 'newer' } }),
    )
    expect(JSON.stringify(await rows('select * from secrets'))).not.toMatch(/newer|ignored/)
    const [row] = await envelope.scope('alice', () => db.select().from(schema.secrets))
    expect(row?.note).toBe('newer')
  })

  it('keep out plaintext written by SQL past them, by a CHECK', async () => {
    await add('alice', 1)
    const { rows } = app
    for (const value of [
      'hush',
      'v3:',
      'v3:short',
      `v3:${'A'.repeat(101)}`,
      `v3:${'A'.repeat(101)}!`,
      `v2:${'A'.repeat(60)}`,
    ]) {
      const error = await errorOf(rows(`update secrets set note = '${value}'`))
      expect(String(error)).toMatch(/check/i)
    }
    await rows(`update secrets set note = 'v3:${'A'.repeat(102)}'`)
    await rows('update secrets set note = null')
    // The column of tokens was declared with both formats.
    await rows(`update secrets set token = 'v2:${'A'.repeat(60)}'`)
    expect(String(await errorOf(rows(`update secrets set token = 'v1:${'A'.repeat(60)}'`)))).toMatch(/check/i)
  })

  it('keep 60 concurrent scopes on a small pool apart', async () => {
    const { db, schema, envelope } = app
    const { owners, secrets } = schema
    const users = Array.from({ length: 60 }, (_, i) => `user ${i}`)
    await db.insert(owners).values(users.map((id) => ({ id })))
    await Promise.all(
      users.map((ownerId, i) =>
        envelope.scope(ownerId, async () => {
          await db.insert(secrets).values({ id: i, ownerId, note: `secret ${i}` })
          const [row] = await db.select().from(secrets).where(eq(secrets.ownerId, ownerId))
          expect(row?.note).toBe(`secret ${i}`)
          await db
            .update(secrets)
            .set({ note: `changed ${i}` })
            .where(eq(secrets.id, i))
          const read = await db.query.secrets.findFirst({ where: (t, operators) => operators.eq(t.id, i) })
          expect(read?.note).toBe(`changed ${i}`)
        }),
      ),
    )
    const stored = await app.rows('select note from secrets')
    expect(stored).toHaveLength(60)
    for (const { note } of stored) expect(note).toMatch(/^v3:/)
  })

  it('work in transactions, and a rollback takes the row with it', async () => {
    const { db, schema, envelope } = app
    await envelope.scope('alice', async (alice) => {
      const values = { id: 1, ownerId: 'alice', note: 'inside' }
      if (dialect === 'postgres') {
        await db.transaction(async (tx) => {
          await tx.insert(schema.secrets).values(values)
          expect((await tx.select().from(schema.secrets))[0]?.note).toBe('inside')
        })
        const rolledBack = db.transaction(async (tx) => {
          await tx.insert(schema.secrets).values({ ...values, id: 2 })
          throw new Error('no')
        })
        await expect(rolledBack).rejects.toThrow('no')
      } else {
        const sync = db as unknown as SyncDb
        sync.transaction((tx) => {
          tx.insert(schema.secrets).values(values).run()
          expect(tx.select().from(schema.secrets).all()[0]?.note).toBe('inside')
          expect(alice.decrypt(alice.encrypt('x'))).toBe('x')
        })
        const rollBack = () =>
          sync.transaction((tx) => {
            tx.insert(schema.secrets)
              .values({ ...values, id: 2 })
              .run()
            throw new Error('no')
          })
        expect(rollBack).toThrow('no')
      }
      expect(
        await db.select({ id: schema.secrets.id, note: schema.secrets.note }).from(schema.secrets),
      ).toEqual([{ id: 1, note: 'inside' }])
    })
  })

  it('of tokens refuse all other values, without showing them', async () => {
    const { db, schema, rows } = app
    await add('alice', 1)
    for (const [value, code] of [
      ['hush', 'ERR_NOT_ENCRYPTED'],
      ['v3:hush', 'ERR_MALFORMED_TOKEN'],
      [7, 'ERR_NOT_ENCRYPTED'],
    ] as const) {
      const error = await columnErrorOf(() =>
        db.update(schema.secrets).set({ token: value as unknown as Token }),
      )
      expect(error).toMatchObject({ code })
      expect(error.message).not.toContain('hush')
    }
    await rows('create table copied as select id, note as token from secrets')
    await rows("update copied set token = 'hush'")
    const read = () => db.select({ token: sql`token`.mapWith(schema.secrets.token) }).from(sql`copied`)
    expect(await columnErrorOf(read)).toMatchObject({ code: 'ERR_NOT_ENCRYPTED' })
  })

  it('of JSON refuse values that JSON cannot express, and stored text that is no JSON', async () => {
    const { db, schema, envelope, rows } = app
    const write = (data: unknown) => () =>
      envelope.scope('alice', () => db.insert(schema.secrets).values({ id: 1, data: data as { n: number } }))
    const circle: { self?: unknown } = {}
    circle.self = circle
    for (const value of [() => 'hush', Symbol('hush'), 1n, circle]) {
      const error = await columnErrorOf(write(value))
      expect(error).toMatchObject(REFUSED)
      expect(error.message).not.toContain('hush')
    }
    await add('alice', 1)
    const text = await envelope.encrypt('alice', 'no { json', { column: 'secrets.data' })
    await rows(`update secrets set data = '${text}'`)
    expect(
      await columnErrorOf(() => envelope.scope('alice', () => db.select().from(schema.secrets))),
    ).toMatchObject(FAILED)
  })
})

interface SyncDb {
  transaction(work: (tx: SyncTransaction) => void): void
}

interface SyncTransaction {
  insert(table: unknown): { values(values: object): { run(): void } }
  select(): { from(table: unknown): { all(): { note: string }[] } }
}
