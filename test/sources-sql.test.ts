/** Tables as sources of values: which rows they give, in which order, and what they replace. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  openKeyStore,
  type SqlRow,
  type SqlSource,
  type SqlSourceOptions,
  sqlSource,
} from '../src/adapters/open.js'
import {
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  type ReencryptOptions,
  reencrypt,
  type ValueCell,
} from '../src/index.js'
import { dialects, isChosen } from './support/databases.js'
import { withLongestStall } from './support/event-loop.js'
import { everythingOf } from './support/leaks.js'
import { type RawDatabase, rawDatabase } from './support/raw-database.js'
import { errorOf } from './support/services.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const CONTEXT = 'credentials.api_key'

describe.each(dialects)('sqlSource on %s', (dialect) => {
  let host: RawDatabase
  let envelope: EnvelopeCrypto
  let opened: SqlSource[]
  const quote = (name: string) => `"${name.replaceAll('"', '""')}"`
  const placeOfText = dialect === 'postgres' ? 'text collate "en-x-icu"' : 'text'

  beforeEach(async () => {
    host = await rawDatabase(dialect)
    opened = []
    envelope = await EnvelopeCrypto.open({
      store: await openKeyStore(host.url),
      masterKeys: localMasterKey(generateMasterKey()),
    })
  })
  afterEach(async () => {
    for (const source of opened) await source.close()
    await envelope.close()
    await host.close()
  })

  async function sourceOf(options: Partial<SqlSourceOptions> = {}): Promise<SqlSource> {
    const source = await sqlSource(host.url, {
      table: 'credentials',
      key: 'id',
      owner: 'user_id',
      column: 'api_key',
      ...options,
    } as SqlSourceOptions)
    opened.push(source)
    return source
  }
  const sweep = (source: SqlSource, options: Partial<ReencryptOptions<SqlRow>> = {}) =>
    reencrypt({ envelope, source, context: CONTEXT, plaintext: true, batchSize: 7, ...options })
  async function cellsOf(source: SqlSource, limit = 7): Promise<ValueCell[]> {
    const cells: ValueCell[] = []
    for await (const page of source.pages({ limit })) cells.push(...(page as ValueCell[]))
    return cells
  }
  const create = (keyType = 'integer primary key', more = '') =>
    host.query(`create table credentials (id ${keyType}, user_id text, api_key text${more})`)
  const decrypt = (userId: unknown, token: unknown, context: Record<string, string> = { column: CONTEXT }) =>
    envelope.decrypt(String(userId), String(token), context)

  /** Sweeps plaintext under keys of one type, and expects each row to hold its own. */
  async function expectSwept(ids: readonly unknown[], key: string | readonly string[] = 'id') {
    const names = typeof key === 'string' ? [key] : key
    const rows = ids.map((id, index) => ({
      ...Object.fromEntries(names.map((name, at) => [name, names.length === 1 ? id : (id as unknown[])[at]])),
      user_id: `user-${index % 5}`,
      api_key: `secret ${index}`,
    }))
    await host.insert('credentials', rows)
    // As text: what JavaScript makes of them is what is tested.
    const textOf = (name: string) => (dialect === 'sqlite' ? `quote(${name})` : `${name}::text`)
    const texts = names.map(textOf).join(" || '/' || ")
    const read = () => host.query(`select ${texts} as place, user_id, api_key from credentials`)
    const before = new Map((await read()).map(({ place, api_key }) => [place, api_key]))
    const source = await sourceOf({ key })
    expect(await cellsOf(source)).toHaveLength(ids.length)
    expect(await sweep(source)).toMatchObject({
      complete: true,
      changed: ids.length,
      skipped: 0,
      failed: [],
      left: 0,
    })
    const after = await read()
    expect(after).toHaveLength(ids.length)
    for (const { place, user_id, api_key } of after) {
      expect(await decrypt(user_id, api_key)).toBe(before.get(place))
    }
    expect(await sweep(source)).toMatchObject({ changed: 0, before: { current: ids.length } })
  }

  it('sweeps a table by integer keys, with gaps and negative ones', async () => {
    await create()
    await expectSwept(Array.from({ length: 30 }, (_, index) => index * 3 - 10))
    const [cell] = await cellsOf(await sourceOf())
    expect(cell).toMatchObject({ key: -10, column: 'api_key', owner: 'user-0' })
  })

  it('by integers beyond what a number holds', async () => {
    await create(dialect === 'postgres' ? 'bigint primary key' : 'integer primary key')
    const first = 9_007_199_254_740_993n
    await expectSwept(Array.from({ length: 20 }, (_, index) => first + BigInt(index)))
    expect((await cellsOf(await sourceOf()))[0]?.key).toBe(first)
  })

  it('by text keys in the order of the column’s own collation', async () => {
    await create(`${placeOfText} primary key`)
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

  it('by composite keys', async () => {
    await create('integer', ', tenant text, primary key (tenant, id)')
    const pairs = ['b', 'a', 'c'].flatMap((tenant) => Array.from({ length: 8 }, (_, id) => [tenant, id]))
    await expectSwept(pairs, ['tenant', 'id'])
    expect((await cellsOf(await sourceOf({ key: ['tenant', 'id'] })))[0]?.key).toEqual(['a', 0])
  })

  it.runIf(dialect === 'postgres')(
    'by uuid, numeric, timestamptz, varchar, enum and domain keys',
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
      await host.query(`create type "Odd mood" as enum ('bad', 'ok', 'it''s')`)
      await host.query('create domain positive as integer check (value > 0)')
      for (const [type, ids] of Object.entries(types)) {
        await create(`${type} primary key`)
        await expectSwept(ids)
        await host.query('drop table credentials')
      }
    },
  )

  it.runIf(dialect === 'sqlite')(
    'by rowid, by real numbers, and by keys of several types in one column',
    async () => {
      await host.query('create table credentials (user_id text, api_key text)')
      await host.insert(
        'credentials',
        Array.from({ length: 20 }, () => ({ user_id: 'alice', api_key: 'x' })),
      )
      expect(await sweep(await sourceOf({ key: 'rowid' }))).toMatchObject({ changed: 20, left: 0 })
      await host.query('drop table credentials')
      await create('primary key')
      await expectSwept([1, 2.5, -3, '1', '2', 'x', 10, '10'])
    },
  )

  it('by any unique key, not by one that is not, nor by one that is null', async () => {
    await create('integer', ', email text not null, part text')
    await host.query('create unique index by_email on credentials (email)')
    await host.query("create unique index by_part on credentials (part) where part <> 'x'")
    await host.insert('credentials', [{ id: 1, email: 'a@x', user_id: 'alice', api_key: 's' }])
    expect(await sweep(await sourceOf({ key: 'email' }))).toMatchObject({ changed: 1 })
    for (const key of ['id', 'part']) expect(await errorOf(sourceOf({ key }))).toMatchObject(INVALID)
    await host.query('create unique index by_id on credentials (id)')
    await sourceOf({ key: 'id' })
    await host.insert('credentials', [{ id: null, email: 'b@x', user_id: 'alice', api_key: 's' }])
    expect((await errorOf(sourceOf({ key: 'id' }))).message).toContain('null')
  })

  it('quotes every name, whatever is in it', async () => {
    const names = { table: 'cre"den; drop', key: 'i d', owner: 'us"er', column: `a'pi` }
    await host.query(
      `create table ${quote(names.table)} (${quote(names.key)} integer primary key, ${quote(names.owner)} text, ${quote(names.column)} text)`,
    )
    await host.insert(quote(names.table), [{ [names.key]: 1, [names.owner]: 'alice', [names.column]: 'x' }])
    expect(await sweep(await sourceOf(names))).toMatchObject({ changed: 1, left: 0 })
    const [row] = await host.query(`select * from ${quote(names.table)}`)
    expect(await decrypt('alice', row?.[names.column])).toBe('x')
  })

  it.runIf(dialect === 'postgres')('finds a table of another schema', async () => {
    await host.query('create schema "my app"')
    await host.query('create table "my app".credentials (id uuid primary key, user_id text, api_key text)')
    await host.insert('"my app".credentials', [{ id: crypto.randomUUID(), user_id: 'alice', api_key: 'x' }])
    expect(await errorOf(sourceOf())).toMatchObject(INVALID)
    expect(await sweep(await sourceOf({ schema: 'my app' }))).toMatchObject({ changed: 1 })
  })

  it('sweeps several columns, each under its own context, made of the row', async () => {
    await create('integer primary key', ', note text, tenant text')
    await host.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'k1', note: 'n1', tenant: 't' },
      { id: 2, user_id: 'bob', api_key: null, note: 'n2', tenant: 'u' },
    ])
    const { column: _, ...rest } = { column: undefined, key: 'id' }
    const source = await sqlSource(host.url, {
      table: 'credentials',
      owner: 'user_id',
      ...rest,
      columns: { api_key: 'keys', note: (row) => ({ tenant: String(row.tenant), row: String(row.id) }) },
    })
    opened.push(source)
    expect(await source.count?.()).toBe(4)
    expect(await sweep(source)).toMatchObject({ changed: 3, after: { current: 3, empty: 1 } })
    const rows = await host.query('select * from credentials order by id')
    expect(await decrypt('alice', rows[0]?.api_key, { column: 'keys' })).toBe('k1')
    expect(await decrypt('alice', rows[0]?.note, { tenant: 't', row: '1' })).toBe('n1')
    expect(await decrypt('bob', rows[1]?.note, { tenant: 'u', row: '2' })).toBe('n2')
    expect(rows[1]?.api_key).toBeNull()
  })

  it('takes a number as an owner, null as the shared pool, and a table of the pool alone', async () => {
    await host.query('create table credentials (id integer primary key, user_id bigint, api_key text)')
    await host.insert('credentials', [
      { id: 1, user_id: 42, api_key: 'of 42' },
      { id: 2, user_id: null, api_key: 'of the pool' },
    ])
    expect(await sweep(await sourceOf())).toMatchObject({ changed: 2 })
    const [first, second] = await host.query('select * from credentials order by id')
    expect(await decrypt('42', first?.api_key)).toBe('of 42')
    expect(await envelope.pool.decrypt(String(second?.api_key), { column: CONTEXT })).toBe('of the pool')
    expect(await sweep(await sourceOf({ owner: null }))).toMatchObject({
      changed: 0,
      before: { current: 1, unopenable: 1 },
    })
  })

  it('replaces only what still stands, of the same owner, letter for letter', async () => {
    const collation = dialect === 'sqlite' ? 'text collate nocase' : 'text'
    await host.query(`create table credentials (id integer primary key, user_id text, api_key ${collation})`)
    await host.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'same' },
      { id: 2, user_id: 'alice', api_key: 'Other' },
      { id: 3, user_id: 'bob', api_key: 'same' },
      { id: 4, user_id: null, api_key: 'same' },
    ])
    const source = await sourceOf()
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
    const rows = await host.query('select api_key from credentials order by id')
    expect(rows.map((row) => row.api_key)).toEqual(['new', 'Other', 'same', 'new'])
  })

  it('reads pages through the key’s index, without sorting', async () => {
    await create(`${placeOfText} primary key`)
    const fill =
      dialect === 'sqlite'
        ? "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) insert into credentials select 'k' || i, 'alice', null from n"
        : "insert into credentials select 'k' || i, 'alice', null from generate_series(1, 20000) i; analyze credentials"
    await host.query(fill)
    const sent = await sentBy(host, async (source) => {
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

  it('does not find what is not there, and says what', async () => {
    await create()
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
    if (dialect === 'postgres') await host.query('alter table credentials add column data jsonb')
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
      expect(await errorOf(sqlSource(host.url, given as never)), JSON.stringify(options)).toMatchObject(
        INVALID,
      )
    }
    await host.query('create view looked_at as select * from credentials')
    expect(await errorOf(sourceOf({ table: 'looked_at' }))).toMatchObject(INVALID)
  })

  it('shows no value and no password in errors', async () => {
    await create('integer primary key', ", check (api_key not like 'v3%')")
    await host.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'sk-planted' }])
    const source = await sourceOf()
    const error = await errorOf(sweep(source))
    expect(error).toMatchObject({ code: 'ERR_STORE' })
    expect(everythingOf(error)).not.toMatch(/sk-planted|v3:/)
    await source.close()
    opened.pop()
    await host.query('drop table credentials')
    const gone = await errorOf(sourceOf())
    expect(everythingOf(gone)).not.toContain(new URL(host.url, 'file:').password || 'sk-planted')
  })

  it('keeps going behind a lock that others hold, and never blocks the event loop', async () => {
    await create()
    await host.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'x' }])
    const source = await sourceOf()
    await envelope.user('alice')
    const release = await lock(host)
    const { result, stallMs } = await withLongestStall(async () => {
      const sweeping = sweep(source)
      await sleep(300)
      await release()
      return sweeping
    })
    expect(result).toMatchObject({ changed: 1 })
    expect(stallMs).toBeLessThan(200)
  })
})

describe.runIf(isChosen('sqlite'))('sqlSource on SQLite', () => {
  it('makes no file, and overwrites the plaintext that it replaces', async () => {
    const { existsSync, readFileSync } = await import('node:fs')
    const host = await rawDatabase('sqlite')
    try {
      const missing = `${host.url}.missing`
      expect(
        await errorOf(sqlSource(missing, { table: 't', key: 'id', owner: null, column: 'c' })),
      ).toMatchObject({
        code: 'ERR_STORE',
      })
      expect(existsSync(missing)).toBe(false)

      const store = await openKeyStore(host.url)
      const envelope = await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(generateMasterKey()) })
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

interface Sent {
  readonly sql: string
  readonly plan: string
}

/** What a source sends, with the plan of each statement. */
async function sentBy(host: RawDatabase, work: (source: SqlSource) => Promise<void>): Promise<Sent[]> {
  const { tableOn } = await import('../src/adapters/host-tables.js')
  const { tableSource } = await import('../src/adapters/table-source.js')
  const shape = {
    table: 'credentials',
    key: ['id'],
    owner: 'user_id',
    columns: ['api_key'],
    wholeRows: false,
  }
  const view = {
    columns: [{ name: 'api_key', column: 'api_key', context: CONTEXT }],
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

/** Keeps others from writing. @returns a function that ends that */
async function lock(host: RawDatabase): Promise<() => Promise<void>> {
  if (host.dialect === 'sqlite') {
    const client = new Database(host.url)
    client.exec('begin immediate')
    return async () => void client.close()
  }
  const client = new pg.Client(host.url)
  await client.connect()
  await client.query('begin')
  await client.query('lock table credentials in exclusive mode')
  return () => client.end()
}
