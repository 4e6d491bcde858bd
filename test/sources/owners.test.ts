/** Whose a value is: a column, or a function of the row, in every source of a table. */

import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedText as pgEncryptedText } from '../../src/drizzle/postgres.js'
import { encryptedText } from '../../src/drizzle/sqlite.js'
import {
  defineEncrypted,
  drizzleSource,
  type OwnerOf,
  reencrypt,
  type SqlRow,
  type ValueSource,
} from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { everythingOf } from '../support/leaks.js'
import { CONTEXT, freshSqlSources, type SqlSourceTest } from '../support/sql-sources.js'

const MORE = ', kind text, counter integer'
/** Users are in one column, teams in another, and the rest is the pool's. */
const ownerOf: OwnerOf<SqlRow> = ({ kind, user_id }) =>
  kind === 'user' ? String(user_id) : kind === 'team' ? `team:${user_id}` : null

const pgTable = pgCore.pgTable('credentials', {
  id: pgCore.integer('id').primaryKey(),
  userId: pgCore.text('user_id'),
  apiKey: pgEncryptedText('api_key', { context: CONTEXT }),
  kind: pgCore.text('kind'),
})
const sqliteTable = sqliteCore.sqliteTable('credentials', {
  id: sqliteCore.integer('id').primaryKey(),
  userId: sqliteCore.text('user_id'),
  apiKey: encryptedText('api_key', { context: CONTEXT }),
  kind: sqliteCore.text('kind'),
})
type Row = typeof sqliteTable.$inferSelect
const drizzleOwner: OwnerOf<Row> = ({ kind, userId }) =>
  kind === 'user' ? userId : kind === 'team' ? `team:${userId}` : null

describe.each(dialects)('on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
    await test.create(undefined, MORE)
  })
  afterEach(() => test.remove())

  const rows = [
    { id: 1, user_id: 'alice', kind: 'user', api_key: 'of alice' },
    { id: 2, user_id: 'red', kind: 'team', api_key: 'of red' },
    { id: 3, user_id: null, kind: 'shared', api_key: 'of the pool' },
    { id: 4, user_id: 'alice', kind: 'user', api_key: null },
  ]
  const fill = () => test.host.insert('credentials', rows)
  const stored = async () =>
    (await test.host.query('select api_key from credentials order by id')).map(({ api_key }) =>
      String(api_key),
    )

  /** The sources of a table whose owner is a function, by name. */
  async function sources(pool: boolean): Promise<[string, ValueSource<never>][]> {
    const client = test.host.client
    const db =
      dialect === 'sqlite'
        ? drizzleSqlite({ client: client as Database.Database })
        : drizzlePostgres({ client: client as pg.Pool })
    const table = (dialect === 'sqlite' ? sqliteTable : pgTable) as typeof sqliteTable
    const registry = defineEncrypted({ credentials: { table, owner: drizzleOwner, pool } })
    return [
      ['sqlSource', (await test.sourceOf({ owner: ownerOf, pool })) as never],
      [
        'drizzleSource',
        drizzleSource(db, table, { key: 'id', owner: drizzleOwner, columns: ['apiKey'], pool }) as never,
      ],
      ['defineEncrypted', registry.sources(db).get('credentials') as never],
    ]
  }

  it.each([0, 1, 2])(
    'a function of the row names users, and the pool only with pool: true (source %i)',
    async (index) => {
      await fill()
      const { envelope } = test
      const sweep = async (pool: boolean) => {
        const [, source] = (await sources(pool))[index] as [string, ValueSource<never>]
        return reencrypt({ envelope, source, context: CONTEXT, plaintext: true, batchSize: 2 })
      }
      const without = await sweep(false)
      expect(without).toMatchObject({
        changed: 2,
        left: 1,
        failedCount: 1,
        before: { plaintext: 3, empty: 1 },
      })
      expect(without.failed).toMatchObject([
        { key: 3, owner: null, code: 'ERR_INVALID_ARGUMENT', reason: expect.stringContaining('pool: true') },
      ])
      expect(await stored()).toContain('of the pool')
      expect(await sweep(true)).toMatchObject({ changed: 1, left: 0, after: { current: 3 } })
      const [alice, red, pool] = await stored()
      expect(await test.decrypt('alice', alice)).toBe('of alice')
      expect(await test.decrypt('team:red', red)).toBe('of red')
      expect(await envelope.pool.decrypt(String(pool), { column: CONTEXT })).toBe('of the pool')
    },
  )

  it.each<[string, () => unknown]>([
    [
      'throws',
      () => {
        throw new Error('of alice is the value')
      },
    ],
    ['returned undefined', () => undefined],
    ['returned an empty text', () => ''],
    ['returned an object', () => Promise.resolve('alice')],
    ['returned number', () => 1.5],
  ])('a function that %s fails its value alone', async (what, failing) => {
    await fill()
    const owner = ((row: SqlRow) => (row.id === 1 ? failing() : ownerOf(row))) as OwnerOf<SqlRow>
    const report = await test.sweep(await test.sourceOf({ owner, pool: true }))
    expect(report).toMatchObject({
      changed: 2,
      left: 1,
      failedCount: 1,
      failed: [{ key: 1, column: 'api_key', code: 'ERR_INVALID_ARGUMENT' }],
    })
    expect(report.failed[0]?.reason).toContain(what === 'throws' ? 'threw' : what)
    expect(everythingOf(report)).not.toContain('of alice is')
    expect((await stored())[0]).toBe('of alice')
  })

  it('takes whole numbers of a function for their digits', async () => {
    await fill()
    const owner: OwnerOf<SqlRow> = ({ id }) => (id === 1 ? 7 : 2n ** 60n)
    expect(await test.sweep(await test.sourceOf({ owner }))).toMatchObject({ changed: 3, left: 0 })
    const [first, second] = await stored()
    expect(await test.decrypt('7', first)).toBe('of alice')
    expect(await test.decrypt(String(2n ** 60n), second)).toBe('of red')
  })

  it('writes no token of a user whose row has become another’s meanwhile', async () => {
    await fill()
    let moved = false
    const owner: OwnerOf<SqlRow> = (row) => ownerOf(row)
    const source = await test.sourceOf({ owner, pool: true })
    const racing = {
      ...source,
      async replace(changes: Parameters<typeof source.replace>[0]) {
        if (!moved) await test.host.query("update credentials set user_id = 'bob' where id = 1")
        moved = true
        return source.replace(changes)
      },
    }
    expect(await test.sweep(racing)).toMatchObject({ complete: true, changed: 3, skipped: 1, left: 0 })
    const [first] = await stored()
    expect(await test.decrypt('bob', first)).toBe('of alice')
  })

  it('goes on, page by page, while other columns of the rows change', async () => {
    await test.host.insert(
      'credentials',
      Array.from({ length: 30 }, (_, id) => ({
        id,
        user_id: 'alice',
        kind: 'user',
        api_key: `key ${id}`,
        counter: 0,
      })),
    )
    const source = await test.sourceOf({ owner: ownerOf })
    let writes = 0
    const counting = {
      ...source,
      async replace(changes: Parameters<typeof source.replace>[0]) {
        writes += 1
        if (writes < 3)
          await test.host.query(`update credentials set counter = counter + 1 where id % 2 = ${writes % 2}`)
        return source.replace(changes)
      },
    }
    expect(await test.sweep(counting)).toMatchObject({ complete: true, changed: 30, left: 0 })
  })
})
