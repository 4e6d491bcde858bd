/** Columns that are told their owner column, in prepared statements: each execution is checked, wherever it was prepared. */
import { eq, sql } from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { dialects } from '../support/databases.js'
import { columnErrorOf } from '../support/errors.js'
import { type HostApp, hostApp } from '../support/host-app.js'

const WRONG = { code: 'ERR_WRONG_OWNER' }

describe.each(dialects)('prepared statements on a column that is told its owner, on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
  })
  afterEach(() => app.close())

  const as = <T>(userId: string, work: () => PromiseLike<T>) => app.envelope.scope(userId, work)
  const stored = () => app.rows('select id, owner_id, api_key, data from vault order by id')

  it('checks each execution of a prepared statement', async () => {
    const { db, schema } = app
    const { vault } = schema
    const every = db
      .insert(vault)
      .values({
        id: sql.placeholder('id'),
        ownerId: sql.placeholder('owner'),
        apiKey: sql.placeholder('apiKey'),
        data: sql.placeholder('data'),
      })
      .prepare('every_value')
    const row = (id: number, owner: string) => ({ id, owner, apiKey: `sk-${id}`, data: { n: id } })
    await as('alice', () => every.execute(row(1, 'alice')))
    await as('bob', () => every.execute(row(2, 'bob')))
    expect(await columnErrorOf(() => as('bob', () => every.execute(row(3, 'alice'))))).toMatchObject(WRONG)
    for (const values of [
      { apiKey: 'sk', data: null },
      { apiKey: null, data: { n: 1 } },
    ])
      expect(
        await columnErrorOf(() => as('bob', () => every.execute({ id: 3, owner: 'alice', ...values }))),
      ).toMatchObject(WRONG)
    await as('alice', () => every.execute(row(3, 'alice')))
    // Nothing of the execution before counts, which was Alice's.
    await as('bob', () => every.execute({ id: 4, owner: 'bob', apiKey: null, data: null }))
    await as('bob', () => every.execute({ id: 6, owner: 'alice', apiKey: null, data: null }))
    await as('bob', () => every.execute(row(5, 'bob')))
    expect((await stored()).map(({ id, owner_id }) => [id, owner_id])).toEqual([
      [1, 'alice'],
      [2, 'bob'],
      [3, 'alice'],
      [4, 'bob'],
      [5, 'bob'],
      [6, 'alice'],
    ])
    const read = (user: string) =>
      as(user, () => db.select().from(vault).where(eq(vault.ownerId, user)).orderBy(vault.id))
    expect(await read('bob')).toMatchObject([
      { apiKey: 'sk-2' },
      { apiKey: null },
      { apiKey: 'sk-5', data: { n: 5 } },
    ])
    expect(await read('alice')).toMatchObject([{ apiKey: 'sk-1' }, { apiKey: 'sk-3' }, { apiKey: null }])
  })

  it('checks a constant of a prepared statement against the placeholder of each execution, and the other way around', async () => {
    const { db, schema } = app
    const { vault } = schema
    const constantValue = await as('alice', async () =>
      db
        .insert(vault)
        .values({ id: sql.placeholder('id'), ownerId: sql.placeholder('owner'), apiKey: 'sk-constant' })
        .prepare('constant_value'),
    )
    await as('alice', () => constantValue.execute({ id: 1, owner: 'alice' }))
    await as('alice', () => constantValue.execute({ id: 2, owner: 'alice' }))
    expect(
      await columnErrorOf(() => as('alice', () => constantValue.execute({ id: 3, owner: 'bob' }))),
    ).toMatchObject(WRONG)
    const constantOwner = db
      .insert(vault)
      .values({ id: sql.placeholder('id'), ownerId: 'alice', apiKey: sql.placeholder('apiKey') })
      .prepare('constant_owner')
    await as('alice', () => constantOwner.execute({ id: 4, apiKey: 'sk-4' }))
    expect(
      await columnErrorOf(() => as('bob', () => constantOwner.execute({ id: 5, apiKey: 'sk-5' }))),
    ).toMatchObject(WRONG)
    await as('bob', () => constantOwner.execute({ id: 6, apiKey: null }))
    expect((await stored()).map(({ id }) => id)).toEqual([1, 2, 4, 6])
  })

  it('checks each execution of a prepared upsert, wherever it was prepared', async () => {
    const { db, schema } = app
    const { vault } = schema
    const prepared = (name: string) =>
      db
        .insert(vault)
        .values({
          id: sql.placeholder('id'),
          ownerId: sql.placeholder('owner'),
          apiKey: sql.placeholder('apiKey'),
        })
        .onConflictDoUpdate({ target: vault.id, set: { apiKey: sql`excluded.api_key` } })
        .prepare(name)
    const outside = prepared('outside')
    const inside = await as('alice', async () => prepared('inside'))
    for (const [at, upsert] of [outside, inside].entries()) {
      const [ofAlice, ofBob] = [10 * at + 1, 10 * at + 2]
      for (const apiKey of ['inserted', 'updated']) {
        await as('alice', () => upsert.execute({ id: ofAlice, owner: 'alice', apiKey }))
        await as('bob', () => upsert.execute({ id: ofBob, owner: 'bob', apiKey }))
      }
      const before = await stored()
      await expect(
        as('bob', async () => await upsert.execute({ id: ofAlice, owner: 'bob', apiKey: 'sk-bob' })),
      ).rejects.toThrow()
      expect(await stored()).toEqual(before)
      const rows = await as('bob', () => db.select().from(vault).where(eq(vault.id, ofBob)))
      expect(rows).toMatchObject([{ apiKey: 'updated' }])
    }
  })

  it('keeps nothing of an execution that failed midway', async () => {
    const { db, schema } = app
    const { vault } = schema
    const insert = db
      .insert(vault)
      .values({
        id: sql.placeholder('id'),
        ownerId: sql.placeholder('owner'),
        apiKey: sql.placeholder('apiKey'),
      })
      .prepare('fails_midway')
    // It lacks the owner, which is encoded after the value.
    await expect(as('alice', async () => await insert.execute({ id: 1, apiKey: 'sk-1' }))).rejects.toThrow()
    await as('bob', () => insert.execute({ id: 2, owner: 'bob', apiKey: null }))
    expect(await stored()).toMatchObject([{ id: 2, owner_id: 'bob' }])
  })
})
