/** sqlSource: every type of key works, every row is read once, and every name is quoted. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { freshSqlSources, INVALID, type SqlSourceTest } from '../support/sql-sources.js'

describe.each(dialects)('the keys of sqlSource on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
  })
  afterEach(() => test.remove())

  const quote = (name: string) => `"${name.replaceAll('"', '""')}"`
  const placeOfText = dialect === 'postgres' ? 'text collate "en-x-icu"' : 'text'

  /** Sweeps plaintext under keys of one type, and expects each row to hold its own. */
  async function expectSwept(ids: readonly unknown[], key: string | readonly string[] = 'id') {
    const names = typeof key === 'string' ? [key] : key
    const rows = ids.map((id, index) => ({
      ...Object.fromEntries(names.map((name, at) => [name, names.length === 1 ? id : (id as unknown[])[at]])),
      user_id: `user-${index % 5}`,
      api_key: `secret ${index}`,
    }))
    await test.host.insert('credentials', rows)
    // Keys are compared as the database's text: the test is whether JavaScript's values find their rows.
    const textOf = (name: string) => (dialect === 'sqlite' ? `quote(${name})` : `${name}::text`)
    const texts = names.map(textOf).join(" || '/' || ")
    const read = () => test.host.query(`select ${texts} as place, user_id, api_key from credentials`)
    const before = new Map((await read()).map(({ place, api_key }) => [place, api_key]))
    const source = await test.sourceOf({ key })
    expect(await test.cellsOf(source)).toHaveLength(ids.length)
    expect(await test.sweep(source)).toMatchObject({
      complete: true,
      changed: ids.length,
      skipped: 0,
      failed: [],
      left: 0,
    })
    const after = await read()
    expect(after).toHaveLength(ids.length)
    for (const { place, user_id, api_key } of after) {
      expect(await test.decrypt(user_id, api_key)).toBe(before.get(place))
    }
    expect(await test.sweep(source)).toMatchObject({ changed: 0, before: { current: ids.length } })
  }

  it('sweeps a table by integer keys, with gaps and negative ones', async () => {
    await test.create()
    await expectSwept(Array.from({ length: 30 }, (_, index) => index * 3 - 10))
    const [cell] = await test.cellsOf(await test.sourceOf())
    expect(cell).toMatchObject({ key: -10, column: 'api_key', owner: 'user-0' })
  })

  it('sweeps by integers that are too large for a number', async () => {
    await test.create(dialect === 'postgres' ? 'bigint primary key' : 'integer primary key')
    const first = 9_007_199_254_740_993n
    await expectSwept(Array.from({ length: 20 }, (_, index) => first + BigInt(index)))
    expect((await test.cellsOf(await test.sourceOf()))[0]?.key).toBe(first)
  })

  it('sweeps by text keys, in the order of the column’s collation', async () => {
    await test.create(`${placeOfText} primary key`)
    const words = [
      'a',
      'A',
      'á',
      'ä',
      'Z',
      'z',
      'ß',
      'ss',
      '😀',
      'ｆ',
      '',
      ' ',
      "it's",
      'x"y',
      '%',
      '_',
      '10',
      '9',
      '\\',
      '{a,b}',
    ]
    await expectSwept(words)
  })

  it('sweeps by composite keys', async () => {
    await test.create('integer', ', tenant text, primary key (tenant, id)')
    const pairs = ['b', 'a', 'c'].flatMap((tenant) => Array.from({ length: 8 }, (_, id) => [tenant, id]))
    await expectSwept(pairs, ['tenant', 'id'])
    expect((await test.cellsOf(await test.sourceOf({ key: ['tenant', 'id'] })))[0]?.key).toEqual(['a', 0])
  })

  it('sweeps by composite keys that have commas', async () => {
    await test.create('text', ', tenant text, primary key (tenant, id)')
    // Each pair of neighbours has the same parts if the comma between them is none of a part's.
    const pairs = ['x', 'y', 'z'].flatMap((name) => [
      [name, `${name},${name}`],
      [`${name},${name}`, name],
    ])
    await expectSwept(pairs, ['tenant', 'id'])
    // With pages of one row, each last row is such a neighbour.
    const source = await test.sourceOf({ key: ['tenant', 'id'] })
    expect((await test.cellsOf(source, 1)).map(({ key }) => key)).toEqual(pairs)
  })

  itIf(dialect === 'postgres', 'only on Postgres')(
    'sweeps by uuid, numeric, timestamptz, varchar, enum and domain keys',
    async () => {
      const uuids = Array.from({ length: 20 }, () => crypto.randomUUID())
      const instants = Array.from({ length: 20 }, (_, index) => `2026-01-01 00:00:00.0000${10 + index}+00`)
      const types: Record<string, readonly unknown[]> = {
        uuid: uuids,
        'numeric(30,3)': Array.from({ length: 20 }, (_, index) => `${index}00000000000000000000.001`),
        timestamptz: instants,
        'varchar(9)': ['b', 'B', 'a', 'A', 'ä', 'c c'],
        '"Odd mood"': ['ok', 'bad', "it's"],
        positive: [1, 2, 3],
      }
      await test.host.query(`create type "Odd mood" as enum ('bad', 'ok', 'it''s')`)
      await test.host.query('create domain positive as integer check (value > 0)')
      for (const [type, ids] of Object.entries(types)) {
        await test.create(`${type} primary key`)
        await expectSwept(ids)
        await test.host.query('drop table credentials')
      }
    },
  )

  itIf(dialect === 'sqlite', 'only on SQLite')(
    'sweeps by rowid, by real numbers, and by keys of several types in one column',
    async () => {
      await test.host.query('create table credentials (user_id text, api_key text)')
      await test.host.insert(
        'credentials',
        Array.from({ length: 20 }, () => ({ user_id: 'alice', api_key: 'x' })),
      )
      expect(await test.sweep(await test.sourceOf({ key: 'rowid' }))).toMatchObject({ changed: 20, left: 0 })
      await test.host.query('drop table credentials')
      await test.create('primary key')
      await expectSwept([1, 2.5, -3, '1', '2', 'x', 10, '10'])
    },
  )

  it('sweeps by any unique key, and refuses keys that are not unique or are null', async () => {
    await test.create('integer', ', email text not null, part text')
    await test.host.query('create unique index by_email on credentials (email)')
    await test.host.query("create unique index by_part on credentials (part) where part <> 'x'")
    await test.host.insert('credentials', [{ id: 1, email: 'a@x', user_id: 'alice', api_key: 's' }])
    expect(await test.sweep(await test.sourceOf({ key: 'email' }))).toMatchObject({ changed: 1 })
    for (const key of ['id', 'part']) expect(await errorOf(test.sourceOf({ key }))).toMatchObject(INVALID)
    await test.host.query('create unique index by_id on credentials (id)')
    await test.sourceOf({ key: 'id' })
    await test.host.insert('credentials', [{ id: null, email: 'b@x', user_id: 'alice', api_key: 's' }])
    expect((await errorOf(test.sourceOf({ key: 'id' }))).message).toContain('null')
  })

  it('quotes every name, whatever is in it', async () => {
    const names = { table: 'cre"den; drop', key: 'i d', owner: 'us"er', column: `a'pi` }
    await test.host.query(
      `create table ${quote(names.table)} (${quote(names.key)} integer primary key, ${quote(names.owner)} text, ${quote(names.column)} text)`,
    )
    await test.host.insert(quote(names.table), [
      { [names.key]: 1, [names.owner]: 'alice', [names.column]: 'x' },
    ])
    expect(await test.sweep(await test.sourceOf(names))).toMatchObject({ changed: 1, left: 0 })
    const [row] = await test.host.query(`select * from ${quote(names.table)}`)
    expect(await test.decrypt('alice', row?.[names.column])).toBe('x')
  })

  itIf(dialect === 'postgres', 'only on Postgres')('finds a table of another schema', async () => {
    await test.host.query('create schema "my app"')
    await test.host.query(
      'create table "my app".credentials (id uuid primary key, user_id text, api_key text)',
    )
    await test.host.insert('"my app".credentials', [
      { id: crypto.randomUUID(), user_id: 'alice', api_key: 'x' },
    ])
    expect(await errorOf(test.sourceOf())).toMatchObject(INVALID)
    expect(await test.sweep(await test.sourceOf({ schema: 'my app' }))).toMatchObject({ changed: 1 })
  })
})
