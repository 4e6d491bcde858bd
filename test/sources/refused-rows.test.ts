/** A row whose new value the database refuses names itself, and the others are written. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { SqlRow, SqlSourceOptions } from '../../src/reencrypt/index.js'
import { Tally } from '../../src/reencrypt/tally.js'
import { dialects } from '../support/databases.js'
import { everythingOf } from '../support/leaks.js'
import { freshSqlSources, type SqlSourceTest } from '../support/sql-sources.js'

describe.each(dialects)('rows that are refused on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
  })
  afterEach(() => test.remove())

  const fill = (count: number) =>
    test.host.insert(
      'credentials',
      Array.from({ length: count }, (_, id) => ({
        id,
        user_id: 'alice',
        api_key: `sk-${id}`,
        other: `o-${id}`,
      })),
    )
  const columns = { column: undefined, columns: { api_key: 'c.a', other: 'c.o' } }
  const source = () => test.sourceOf(columns as Partial<SqlSourceOptions>)
  const sweep = async (batchSize = 20) => test.sweep(await source(), { batchSize })
  const plaintexts = async (column: 'api_key' | 'other') =>
    (await test.host.query('select * from credentials order by id'))
      .filter((row) => !String((row as SqlRow)[column]).startsWith('v3:'))
      .map(({ id }) => Number(id))

  it('by a CHECK', async () => {
    await test.create(
      undefined,
      ", other text, constraint odd check (id not in (3, 25) or api_key like 'sk-%')",
    )
    await fill(50)
    for (const changed of [98, 0]) {
      const report = await sweep()
      expect(report).toMatchObject({ complete: true, changed, skipped: 0, left: 2, failedCount: 2 })
      expect(report.failed).toMatchObject([
        { key: 3, column: 'api_key', owner: 'alice', code: 'ERR_STORE' },
        { key: 25, column: 'api_key', code: 'ERR_STORE' },
      ])
      expect(report.failed[0]?.reason).toMatch(/odd|CHECK/)
      expect(everythingOf(report)).not.toContain('sk-3')
    }
    expect(await plaintexts('api_key')).toEqual([3, 25])
    expect(await plaintexts('other')).toEqual([])
  })

  it('by a trigger, in the column that is written last', async () => {
    await test.create(undefined, ', other text')
    await test.host.query(
      dialect === 'sqlite'
        ? "create trigger guard before update of other on credentials when old.id = 3 begin select raise(abort, 'secret of row'); end"
        : `create function guard() returns trigger language plpgsql as $$ begin
             if old.id = 3 and new.other <> old.other then raise exception 'secret of %', new.other; end if; return new; end $$;
           create trigger guard before update on credentials for each row execute function guard()`,
    )
    await fill(10)
    const report = await sweep()
    expect(report).toMatchObject({ complete: true, changed: 19, skipped: 0, left: 1, failedCount: 1 })
    expect(report.failed).toMatchObject([{ key: 3, column: 'other', code: 'ERR_STORE' }])
    expect(everythingOf(report)).not.toMatch(/secret of|o-3/)
    expect(await plaintexts('other')).toEqual([3])
    expect(await plaintexts('api_key')).toEqual([])
  })
})

it('a thousand refused rows and none that was written end the sweep', () => {
  const tally = new Tally([])
  const error = new Error('refused')
  const refuse = () => tally.refuse({ key: 1, column: 'api_key', owner: null }, error)
  for (let row = 1; row < 1000; row += 1) refuse()
  expect(refuse).toThrow(error)
  tally.change('plaintext')
  expect(refuse).not.toThrow()
})
