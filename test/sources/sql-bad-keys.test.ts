/** Rows of a host's table on SQLite whose key or owner cannot be read without loss: the sweep ends, names them, and sweeps the rest. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { isChosen } from '../support/databases.js'
import { CONTEXT, freshSqlSources, type SqlSourceTest } from '../support/sql-sources.js'

const BAD_KEYS = [
  [`cast(x'ff80' as text)`, `x'ff80'`],
  [`cast(x'ff81' as text)`, `x'ff81'`],
  [`cast(x'61eda080' as text)`, `x'61eda080'`],
  [`cast(x'80' as text)`, `x'80'`],
  [`x'00ff'`, `x'00ff'`],
  [`x'616c'`, `x'616c'`],
] as const

/** Keys that are good: U+FFFD itself, a NUL, large whole numbers, fractions. */
const GOOD_KEYS = [
  `char(65533)`,
  `'a' || char(0)`,
  `'a'`,
  `''`,
  `9007199254740993`,
  `-9007199254740993`,
  `0.5`,
]

describe.runIf(isChosen('sqlite'))('a sweep over keys of every kind on SQLite', () => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources('sqlite')
  })
  afterEach(() => test.remove())

  const insert = (key: string, owner = `'alice'`) =>
    test.host.query(`insert into credentials values (${key}, ${owner}, 'secret')`)

  it.each([1, 2, 1000])('by a key without a type, %d a page', async (batchSize) => {
    await test.create('blob primary key')
    for (const key of [...BAD_KEYS.map(([key]) => key), ...GOOD_KEYS]) await insert(key)
    const report = await test.sweep(await test.sourceOf(), { batchSize })
    expect(report).toMatchObject({
      changed: GOOD_KEYS.length,
      failedCount: BAD_KEYS.length,
      left: BAD_KEYS.length,
    })
    expect(report.failed.map(({ key }) => key).sort()).toEqual(BAD_KEYS.map(([, shown]) => shown).sort())
    const rows = await test.host.query(`select api_key from credentials where api_key <> 'secret'`)
    for (const { api_key } of rows) expect(await test.decrypt('alice', api_key)).toBe('secret')
  })

  it('by a key of two columns', async () => {
    await test.host.query(
      'create table credentials (id text, n integer, user_id text, api_key text, primary key (id, n))',
    )
    for (const [id] of BAD_KEYS.slice(0, 2))
      for (const n of [1, 2, 3])
        await test.host.query(`insert into credentials values (${id}, ${n}, 'alice', 'secret')`)
    await test.host.query(`insert into credentials values ('good', 1, 'alice', 'secret')`)
    const report = await test.sweep(await test.sourceOf({ key: ['id', 'n'] }), { batchSize: 2 })
    expect(report).toMatchObject({ changed: 1, failedCount: 6 })
  })

  it('and owners: bytes are nobody’s, and not those of the user whom they decode to', async () => {
    await test.create()
    await insert('1', `cast(x'ff' as text)`)
    await insert('2', `x'616c696365'`)
    await insert('3', `char(65533)`)
    const report = await test.sweep(await test.sourceOf())
    expect(report).toMatchObject({
      changed: 1,
      failed: [
        { key: 1, owner: `x'ff'`, reason: expect.stringContaining('owner') },
        { key: 2, owner: `x'616c696365'`, reason: expect.stringContaining('owner') },
      ],
    })
    const [row] = await test.host.query('select api_key from credentials where id = 3')
    expect(await test.decrypt('\ufffd', row?.api_key, { column: CONTEXT })).toBe('secret')
  })
})
