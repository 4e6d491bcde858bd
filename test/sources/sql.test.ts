/** sqlSource: which values a table gives and replaces, which statements it sends, and what it refuses. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { reencrypt, type SqlSource, sqlSource } from '../../src/reencrypt/index.js'
import { PostgresTable } from '../../src/sources/postgres-table.js'
import { tableOn } from '../../src/sources/table-on.js'
import { tableSource } from '../../src/sources/table-source.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects, isChosen } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { withLongestStall } from '../support/event-loop.js'
import { freshService } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'
import { analyzeNearlyEmpty, recordedPool, rowsLocked } from '../support/query-plans.js'
import { lockTable, type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { CONTEXT, freshSqlSources, INVALID, type SqlSourceTest } from '../support/sql-sources.js'

describe.each(dialects)('sqlSource on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
  })
  afterEach(() => test.remove())

  const placeOfText = dialect === 'postgres' ? 'text collate "en-x-icu"' : 'text'

  it('sweeps several columns, each under its own context, made of the row', async () => {
    await test.create('integer primary key', ', note text, tenant text')
    await test.host.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'k1', note: 'n1', tenant: 't' },
      { id: 2, user_id: 'bob', api_key: null, note: 'n2', tenant: 'u' },
    ])
    const { column: _, ...rest } = { column: undefined, key: 'id' }
    const source = await sqlSource(test.host.url, {
      table: 'credentials',
      owner: 'user_id',
      ...rest,
      columns: { api_key: 'keys', note: (row) => ({ tenant: String(row.tenant), row: String(row.id) }) },
    })
    test.opened.push(source)
    expect(await source.count?.()).toBe(4)
    expect(await test.sweep(source)).toMatchObject({ changed: 3, after: { current: 3, empty: 1 } })
    const rows = await test.host.query('select * from credentials order by id')
    expect(await test.decrypt('alice', rows[0]?.api_key, { column: 'keys' })).toBe('k1')
    expect(await test.decrypt('alice', rows[0]?.note, { tenant: 't', row: '1' })).toBe('n1')
    expect(await test.decrypt('bob', rows[1]?.note, { tenant: 'u', row: '2' })).toBe('n2')
    expect(rows[1]?.api_key).toBeNull()
  })

  it('takes a number as an owner, null as the shared pool where told so, and a table of the pool alone', async () => {
    await test.host.query('create table credentials (id integer primary key, user_id bigint, api_key text)')
    await test.host.insert('credentials', [
      { id: 1, user_id: 42, api_key: 'of 42' },
      { id: 2, user_id: null, api_key: 'of the pool' },
    ])
    expect(await test.sweep(await test.sourceOf())).toMatchObject({
      changed: 1,
      left: 1,
      failed: [{ key: 2, owner: null, code: 'ERR_INVALID_ARGUMENT' }],
    })
    expect(await test.sweep(await test.sourceOf({ pool: true }))).toMatchObject({ changed: 1, left: 0 })
    const [first, second] = await test.host.query('select * from credentials order by id')
    expect(await test.decrypt('42', first?.api_key)).toBe('of 42')
    expect(await test.envelope.pool.decrypt(String(second?.api_key), { column: CONTEXT })).toBe('of the pool')
    expect(await test.sweep(await test.sourceOf({ owner: null }))).toMatchObject({
      changed: 0,
      before: { current: 1, unopenable: 1 },
    })
  })

  it('replaces a value only if it is unchanged letter by letter, and of the same owner', async () => {
    const collation = dialect === 'sqlite' ? 'text collate nocase' : 'text'
    await test.host.query(
      `create table credentials (id integer primary key, user_id text, api_key ${collation})`,
    )
    await test.host.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'same' },
      { id: 2, user_id: 'alice', api_key: 'Other' },
      { id: 3, user_id: 'bob', api_key: 'same' },
      { id: 4, user_id: null, api_key: 'same' },
    ])
    const source = await test.sourceOf()
    const change = { column: 'api_key', owner: 'alice' as string | null, from: 'same', to: 'new' }
    const replaced = await source.replace([
      { ...change, key: 3 },
      { ...change, key: 2, from: 'other' },
      { ...change, key: 1 },
      { ...change, key: 9 },
      { ...change, key: 4, owner: null },
    ])
    expect(replaced.map(({ key, column }) => [key, column]).sort()).toEqual([
      [1, 'api_key'],
      [4, 'api_key'],
    ])
    const rows = await test.host.query('select api_key from credentials order by id')
    expect(rows.map((row) => row.api_key)).toEqual(['new', 'Other', 'same', 'new'])
  })

  it('reads pages through the key’s index, without sorting', async () => {
    await test.create(`${placeOfText} primary key`)
    const fill =
      dialect === 'sqlite'
        ? "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) insert into credentials select 'k' || i, 'alice', null from n"
        : "insert into credentials select 'k' || i, 'alice', null from generate_series(1, 20000) i; analyze credentials"
    await test.host.query(fill)
    const sent = await sentBy(test.host, async (source) => {
      let pages = 0
      for await (const page of source.pages({ limit: 100 })) {
        pages += 1
        if (pages === 3) break
        expect(page).toHaveLength(100)
      }
      await source.replace([{ key: 'k77', column: 'api_key', owner: 'alice', from: 'x', to: 'y' }])
    })
    const selects = sent.filter(
      ({ sql }) => /limit/i.test(sql) && /select/i.test(sql) && !/update/i.test(sql),
    )
    expect(selects.length).toBeGreaterThanOrEqual(2)
    const updates = sent.filter(({ sql }) => /^update/i.test(sql))
    expect(updates).toHaveLength(1)
    for (const { plan } of [...selects, ...updates]) {
      expect(plan).not.toMatch(/Seq Scan|TEMP B-TREE|^SCAN credentials$/m)
      expect(plan).toMatch(/Index (Only )?Scan|USING (COVERING )?INDEX/)
    }
  })

  it('refuses tables, columns and keys that are not there', async () => {
    await test.create()
    const wrong: Partial<Record<string, unknown>>[] = [
      { table: 'nothing' },
      { column: 'nothing' },
      { column: 'id' },
      { column: 'user_id' },
      { owner: 'nothing' },
      { owner: undefined },
      { owner: '' },
      { key: 'nothing' },
      { key: [] },
      { key: '' },
      { table: '' },
      { column: undefined },
      { column: undefined, columns: {} },
      { column: undefined, columns: 'api_key' },
      { context: 7 },
      ...(dialect === 'sqlite' ? [{ schema: 'main' }] : [{ schema: 'nothing' }, { column: 'data' }]),
    ]
    if (dialect === 'postgres') await test.host.query('alter table credentials add column data jsonb')
    for (const options of wrong) {
      const given = Object.fromEntries(
        Object.entries({
          table: 'credentials',
          key: 'id',
          owner: 'user_id',
          column: 'api_key',
          ...options,
        }).filter(([name, value]) => !(name === 'column' && value === undefined && 'columns' in options)),
      )
      expect(await errorOf(sqlSource(test.host.url, given as never)), JSON.stringify(options)).toMatchObject(
        INVALID,
      )
    }
    await test.host.query('create view looked_at as select * from credentials')
    expect(await errorOf(test.sourceOf({ table: 'looked_at' }))).toMatchObject(INVALID)
  })

  it('shows no value and no password in errors', async () => {
    await test.create('integer primary key', ", check (api_key not like 'v3%')")
    await test.host.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'sk-planted' }])
    const source = await test.sourceOf()
    const report = await test.sweep(source)
    expect(report).toMatchObject({ changed: 0, failed: [{ key: 1, code: 'ERR_STORE' }] })
    expect(everythingOf(report)).not.toMatch(/sk-planted|v3:/)
    await source.close()
    test.opened.pop()
    await test.host.query('drop table credentials')
    const gone = await errorOf(test.sourceOf())
    expect(everythingOf(gone)).not.toContain(new URL(test.host.url, 'file:').password || 'sk-planted')
  })

  it('waits for a lock that others hold, without blocking the event loop', async () => {
    await test.create()
    await test.host.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'x' }])
    const source = await test.sourceOf()
    await test.envelope.user('alice')
    const release = await lockTable(dialect, test.host.url, 'credentials')
    const { result, stallMs } = await withLongestStall(async () => {
      const sweeping = test.sweep(source)
      await sleep(1000)
      await release()
      return sweeping
    })
    expect(result).toMatchObject({ changed: 1 })
    // Who waited for the lock in SQLite would stall for as long as it is held.
    expect(stallMs).toBeLessThan(700)
  })
})

describe.runIf(isChosen('sqlite'))('sqlSource on SQLite', () => {
  it('makes no file, and overwrites the plaintext that it replaces in the file', async () => {
    const host = await rawDatabase('sqlite')
    try {
      const missing = `${host.url}.missing`
      expect(
        await errorOf(sqlSource(missing, { table: 't', key: 'id', owner: null, column: 'c' })),
      ).toMatchObject({
        code: 'ERR_STORE',
      })
      expect(existsSync(missing)).toBe(false)

      const envelope = await freshService(host.url)
      await host.query('create table t (id integer primary key, c text)')
      const marker = `sk-${randomBytes(30).toString('hex')}`
      await host.insert('t', [{ id: 1, c: marker }])
      const source = await sqlSource(host.url, { table: 't', key: 'id', owner: null, column: 'c' })
      await reencrypt({ envelope, source, context: 't.c', plaintext: true })
      await source.close()
      await envelope.close()
      await host.query('pragma wal_checkpoint(truncate)')
      expect(readFileSync(host.url).includes(marker)).toBe(false)
    } finally {
      await host.close()
    }
  })
})

describe.runIf(isChosen('postgres'))('sqlSource on Postgres', () => {
  const cleanups = cleanUpAfterEach()

  it('locks each row once, even with the statistics of a nearly empty table', async () => {
    const { pool, sent } = recordedPool(await cleanups.database('postgres'))
    cleanups.add(() => pool.end())
    await pool.query({ text: 'create table secrets (id integer primary key, owner text, value text)' })
    const insert = (rows: number) =>
      pool.query({ text: `insert into secrets select i, 'alice', 'old' from generate_series(1, ${rows}) i` })
    await analyzeNearlyEmpty(pool, 'secrets', insert)
    await insert(300)
    const client = { query: (text: string, values: unknown[]) => pool.query({ text }, values) }
    const shape = { table: 'secrets', key: ['id'], owner: 'owner', columns: ['value'], wholeRows: false }
    const table = new PostgresTable(client as never, shape)
    const changes = Array.from({ length: 300 }, (_, i) => ({
      key: [i + 1],
      column: 'value',
      owner: 'alice',
      from: 'old',
      to: 'new',
    }))
    expect(await table.replace(changes as never)).toHaveLength(300)
    expect(
      await rowsLocked(
        pool,
        sent.findLast(({ text }) => text.startsWith('update')),
      ),
    ).toBe(300)
  })
})

interface Sent {
  readonly sql: string
  readonly plan: string
}

/** The statements that a source sends during `work`, each with its plan. */
async function sentBy(host: RawDatabase, work: (source: SqlSource) => Promise<void>): Promise<Sent[]> {
  const shape = {
    table: 'credentials',
    key: ['id'],
    owner: 'user_id',
    columns: ['api_key'],
    wholeRows: false,
  }
  const view = {
    columns: [{ name: 'api_key', column: 'api_key', context: CONTEXT }],
    pool: false,
    rowOf: (row: object) => row,
  }
  const sent: Sent[] = []
  if (host.dialect === 'sqlite') {
    const statements: string[] = []
    const client = new Database(host.url, { verbose: (sql) => statements.push(String(sql)) })
    await work(tableSource(tableOn(client, shape), view) as SqlSource)
    for (const sql of statements.filter(
      (sql) => /^(select|update)/i.test(sql) && sql.includes('credentials'),
    )) {
      const rows = client.prepare(`explain query plan ${sql}`).all() as { detail: string }[]
      sent.push({ sql, plan: rows.map(({ detail }) => detail).join('\n') })
    }
    client.close()
    return sent
  }
  const client = new pg.Client(host.url)
  await client.connect()
  const statements: [string, unknown[]][] = []
  const spying = {
    connect: () => undefined,
    query(text: string, values: unknown[] = []) {
      statements.push([text, values])
      return client.query(text, values)
    },
  }
  await work(tableSource(tableOn(spying, shape), view) as SqlSource)
  for (const [sql, values] of statements.filter(([sql]) => sql.includes('credentials'))) {
    const { rows } = await client.query(`explain ${sql}`, values)
    sent.push({ sql, plan: rows.map((row) => row['QUERY PLAN']).join('\n') })
  }
  await client.end()
  return sent
}
