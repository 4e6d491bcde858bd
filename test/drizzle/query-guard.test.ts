/** Queries that sort, group, aggregate or take distinct values by an encrypted column: refused, as the order of tokens says nothing. */
import {
  aliasedTable,
  asc,
  avg,
  count,
  countDistinct,
  desc,
  eq,
  getTableColumns,
  isNull,
  max,
  min,
  sql,
  sum,
} from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { type HostApp, hostApp } from '../support/host-app.js'

describe.each(dialects)('queries on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
    const { db, envelope, schema } = app
    const values = ['b', 'a', null].map((note, id) => ({ id, ownerId: 'alice', note }))
    await envelope.scope('alice', () => db.insert(schema.secrets).values(values))
  })
  afterEach(() => app.close())

  const asAlice = <T>(query: () => PromiseLike<T>) => app.envelope.scope('alice', async () => await query())
  async function errorOfQuery(query: () => PromiseLike<unknown>) {
    let error: unknown = await errorOf(asAlice(query))
    while (error instanceof Error && !('code' in error) && error.cause) error = error.cause
    return error
  }

  it('refuse to sort by an encrypted column, in every spelling', async () => {
    const { db, schema } = app
    const { secrets, owners } = schema
    const other = aliasedTable(secrets, 'other')
    const sub = db.select().from(secrets).as('sub')
    const { note: listed } = getTableColumns(secrets)
    const queries = [
      () => db.select().from(secrets).orderBy(secrets.note),
      () => db.select().from(secrets).orderBy(secrets.id, desc(secrets.note)),
      () => db.select().from(secrets).orderBy(listed),
      () => db.select().from(secrets).orderBy(asc(secrets.data)),
      () =>
        db
          .select({ note: secrets.note })
          .from(secrets)
          .orderBy((t) => t.note),
      () => db.select().from(secrets).orderBy(sql`${secrets.note} desc nulls last`),
      () =>
        db
          .select({ n: sql`${secrets.note}`.as('n') })
          .from(secrets)
          .orderBy(({ n }) => n),
      () => db.select({ id: other.id }).from(other).orderBy(other.note),
      () => db.select({ id: sub.id }).from(sub).orderBy(sub.note),
      () =>
        db
          .select({ id: secrets.id })
          .from(secrets)
          .unionAll(db.select({ id: secrets.id }).from(secrets))
          .orderBy(secrets.note),
      () =>
        db
          .select()
          .from(owners)
          .where(
            eq(owners.id, db.select({ id: secrets.ownerId }).from(secrets).orderBy(secrets.note).limit(1)),
          ),
      () => db.query.secrets.findMany({ orderBy: (t, operators) => operators.desc(t.note) }),
      () => db.query.secrets.findMany({ orderBy: (t) => [t.note] }),
      () =>
        db.query.owners.findMany({
          with: { secrets: { orderBy: (t, operators) => operators.asc(t.note), limit: 1 } },
        }),
    ]
    for (const [index, query] of queries.entries()) {
      const error = await errorOfQuery(query)
      expect(error, `query ${index}`).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect((error as Error).message).toContain('Sort the rows')
    }
  })

  it('refuse groups, distinct values and set operations of them, and say what to do', async () => {
    const { db, schema } = app
    const { secrets } = schema
    const notes = () => db.select({ note: secrets.note }).from(secrets)
    const queries: (() => PromiseLike<unknown>)[] = [
      () => db.select({ n: count() }).from(secrets).groupBy(secrets.note),
      () => db.select({ n: count() }).from(secrets).groupBy(secrets.ownerId, secrets.note),
      () => db.selectDistinct({ note: secrets.note }).from(secrets),
      () => db.selectDistinct({ of: { owner: secrets.ownerId, note: secrets.note } }).from(secrets),
      () => db.select({ n: countDistinct(secrets.note) }).from(secrets),
      () => db.select({ n: sql`count(distinct ${secrets.note})` }).from(secrets),
      () => notes().union(notes()),
      () => notes().intersect(notes()),
      () => notes().except(notes()),
    ]
    if (dialect === 'postgres')
      queries.push(() => db.selectDistinctOn([secrets.note], { note: secrets.note }).from(secrets))
    for (const [index, query] of queries.entries()) {
      const error = await errorOfQuery(query)
      expect(error, `query ${index}`).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect((error as Error).message).toMatch(/fingerprint.*primary key/i)
    }
  })

  it('refuse aggregates of them', async () => {
    const { db, schema } = app
    const { secrets } = schema
    for (const aggregate of [max, min, sum, avg]) {
      const error = await errorOfQuery(() => db.select({ of: aggregate(secrets.note) }).from(secrets))
      expect(error).toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringContaining('aggregated'),
      })
    }
    const having = () =>
      db.select({ n: count() }).from(secrets).groupBy(secrets.ownerId).having(sql`max(${secrets.note}) > 'a'`)
    expect(await errorOfQuery(having)).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })

  it('work if the encrypted column tells no rows apart, and with columns of tokens', async () => {
    const { db, schema } = app
    const { secrets, owners } = schema
    const byId = { id: secrets.id, note: secrets.note }
    const sorted = [
      { id: 0, note: 'b' },
      { id: 1, note: 'a' },
      { id: 2, note: null },
    ]
    // A join that makes copies of each row.
    const copies = () =>
      db.selectDistinct(byId).from(secrets).innerJoin(owners, sql`true`).orderBy(secrets.id)
    expect(await asAlice(copies)).toEqual(sorted)
    const grouped = () =>
      db
        .select({ ...byId, n: count() })
        .from(secrets)
        .innerJoin(owners, sql`true`)
        .groupBy(secrets.id, secrets.note)
        .orderBy(secrets.id)
    expect(await asAlice(grouped)).toEqual(sorted.map((row) => ({ ...row, n: 2 })))
    const both = () => db.select(byId).from(secrets).union(db.select(byId).from(secrets)).orderBy(secrets.id)
    expect(await asAlice(both)).toEqual(sorted)
    const absentFirst = () =>
      db
        .select({ id: secrets.id })
        .from(secrets)
        .orderBy(desc(isNull(secrets.note)), secrets.id)
    expect(await asAlice(absentFirst)).toEqual([{ id: 2 }, { id: 0 }, { id: 1 }])
    expect(await db.select({ n: count(secrets.note) }).from(secrets)).toEqual([{ n: 2 }])
    expect(await db.select({ token: max(secrets.token) }).from(secrets)).toEqual([{ token: null }])
  })
})
