/** The sweep of tables, values and owners with which a careless sweep would lose data or report what is untrue. */
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encryptedText } from '../../src/drizzle/postgres.js'
import { encryptWithKey } from '../../src/index.js'
import {
  drizzleSource,
  type ReencryptOptions,
  type ReencryptReport,
  reencrypt,
  type SqlRow,
  type SqlSourceOptions,
  sqlSource,
  type ValueSource,
} from '../../src/reencrypt/index.js'
import { asAdmin, type Dialect, dialects, isChosen } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { everythingOf } from '../support/leaks.js'
import { freshRole } from '../support/postgres-roles.js'
import { CONTEXT, freshSqlSources, INVALID, type SqlSourceTest } from '../support/sql-sources.js'
import { ACCEPT_V2 } from '../support/tokens.js'

const hostOn = (dialect: Dialect) => freshSqlSources(dialect, { accept: ACCEPT_V2 })

/** Sweeps the table `credentials` by a source that is closed afterwards. */
async function sweep(
  { host, sweep }: SqlSourceTest,
  options: Partial<ReencryptOptions<SqlRow>> = {},
  shape: Partial<SqlSourceOptions> = {},
  url = host.url,
): Promise<ReencryptReport> {
  const whole = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key', ...shape }
  const source = await sqlSource(url, whole as SqlSourceOptions)
  try {
    return await sweep(source, { batchSize: 2, ...options })
  } finally {
    await source.close()
  }
}

describe.each(dialects)('a sweep on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await hostOn(dialect)
    await test.create()
  })
  afterEach(() => test.remove())

  const stored = async () =>
    (await test.host.query('select api_key from credentials order by id')).map(({ api_key }) => api_key)
  const fill = (values: readonly (readonly [owner: string | null, value: string])[]) =>
    test.host.insert(
      'credentials',
      values.map(([user_id, api_key], id) => ({ id, user_id, api_key })),
    )

  it('does not take a token in white space or quotes for a plaintext', async () => {
    const { envelope } = test
    const v3 = await envelope.encrypt('alice', 'one', { column: CONTEXT })
    const v2 = encryptWithKey('two', await envelope.getOrCreateUserKey('alice'))
    const wrapped = [` ${v3}`, `\t${v2}\n`, JSON.stringify(v3), `\ufeff${v3}`, `'${v2}'`]
    await fill([...wrapped.map((value) => ['alice', value] as const), ['alice', `"no token, 'but quoted' "`]])
    for (const plaintext of [false, true]) {
      const report = await sweep(test, { plaintext })
      expect(report.before).toMatchObject({ unopenable: wrapped.length, plaintext: 1 })
      expect(report.failed.filter(({ code }) => code === 'ERR_MALFORMED_TOKEN')).toHaveLength(wrapped.length)
      expect(everythingOf(report)).not.toContain(v3.slice(3))
    }
    const now = await stored()
    expect(now.slice(0, -1)).toEqual(wrapped)
    expect(await envelope.decrypt('alice', String(now.at(-1)), { column: CONTEXT })).toBe(
      `"no token, 'but quoted' "`,
    )
  })

  it.each([
    ['key', 'owner', 'c0'],
    ['owner', 'key', 'old'],
    ['c1', 'c0', 'key'],
    ['input', 'k0', 'written'],
  ])(
    'reads all rows, once and in order, where columns are called %s, %s and %s',
    async (key, owner, column) => {
      const { host: db } = test
      const columns = `"${key}" integer primary key, "${owner}" text, "${column}" text`
      await db.query(`drop table credentials; create table credentials (${columns})`)
      await db.insert(
        'credentials',
        Array.from({ length: 25 }, (_, id) => ({ [key]: id, [owner]: 'alice', [column]: `secret ${id}` })),
      )
      const report = await sweep(test, {}, { key, owner, column })
      expect(report).toMatchObject({ complete: true, before: { plaintext: 25 }, changed: 25, skipped: 0 })
    },
  )

  it('lets legacy readers read such a value first', async () => {
    const token = await test.envelope.encrypt('alice', 'one', { column: CONTEXT })
    await fill([['alice', JSON.stringify(token)]])
    const unquote = { name: 'quoted', test: (value: string) => value.startsWith('"'), decrypt: () => 'one' }
    expect(await sweep(test, { legacy: [unquote] })).toMatchObject({ changed: 1, left: 0 })
  })

  it('reports in a dry run what a run then does for owners without a key, shredded owners and invalid ones', async () => {
    const { envelope } = test
    await envelope.encrypt('gone', 'x')
    await envelope.shredUser('gone')
    await fill([
      ['', 'a'],
      ['gone', 'b'],
      ['x'.repeat(600), 'c'],
      ['new', 'd'],
      [null, 'e'],
    ])
    const dry = await sweep(test, { dryRun: true })
    const { before, after, changed, failed, failedCount, left } = await sweep(test)
    expect({ changed, failedCount, left }).toEqual({ changed: 1, failedCount: 4, left: 4 })
    expect(dry).toMatchObject({ complete: true, before, after, changed, failed, failedCount, left })
  })

  it('keeps the old value if a trigger alters the new one, and sweeps if a trigger changes other columns', async () => {
    const { host: db, envelope } = test
    await fill([
      ['alice', 'one'],
      ['alice', 'two'],
    ])
    const on = (change: string) =>
      dialect === 'sqlite'
        ? db.query(
            `drop trigger if exists t; create trigger t after update of api_key on credentials begin update credentials set ${change} where id = new.id; end`,
          )
        : db.query(
            `create or replace function t() returns trigger language plpgsql as 'begin new.${change}; return new; end';
             create or replace trigger t before update on credentials for each row execute function t()`,
          )
    await on(`api_key = ${dialect === 'sqlite' ? 'lower(api_key)' : 'lower(new.api_key)'}`)
    const error = await errorOf(sweep(test))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toContain('a trigger alters what is written')
    expect(everythingOf(error)).not.toContain('v3:')
    expect(await stored()).toEqual(['one', 'two'])

    await db.query('alter table credentials add column touched integer')
    await on('touched = 1')
    expect(await sweep(test)).toMatchObject({ complete: true, changed: 2, left: 0 })
    expect(await envelope.decrypt('alice', String((await stored())[1]), { column: CONTEXT })).toBe('two')
    expect(await db.query('select sum(touched) as n from credentials')).toEqual([
      { n: dialect === 'sqlite' ? 2 : '2' },
    ])
  })

  it('leaves every value readable that others rewrite or rotate meanwhile', async () => {
    const { host: db, envelope } = test
    await fill(Array.from({ length: 12 }, (_, index) => [`user-${index % 3}`, `secret ${index}`] as const))
    const whole = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' }
    const source = await sqlSource(db.url, whole)
    let pages = 0
    const disturbed = {
      ...source,
      async *pages(page: { readonly limit: number }) {
        for await (const cells of source.pages(page)) {
          pages += 1
          if (pages === 2) await envelope.rotateUserKey('user-0')
          if (pages === 3) await envelope.shredUser('user-1')
          // The row gets another owner between the read and the write.
          if (pages === 4) await db.query(`update credentials set user_id = 'user-2' where id = 6`)
          yield cells
        }
      },
    }
    const report = await reencrypt({
      envelope,
      source: disturbed,
      context: CONTEXT,
      plaintext: true,
      batchSize: 2,
    })
    await source.close()
    expect(report.complete).toBe(true)
    const rows = await db.query('select id, user_id, api_key from credentials order by id')
    for (const { id, user_id, api_key } of rows) {
      if (user_id === 'user-1') continue
      expect(await envelope.decrypt(String(user_id), String(api_key), { column: CONTEXT })).toBe(
        `secret ${id}`,
      )
    }
    expect(rows[6]).toMatchObject({ user_id: 'user-2' })
  })
})

describe('a sweep of a source or reader that breaks its contract', () => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await hostOn('sqlite')
  })
  afterEach(() => test.remove())

  it.each([true, 1, undefined, 'OK', [1]])('is refused when replace() returns %j', async (answer) => {
    const source: ValueSource = {
      *pages() {
        yield [{ key: 1, column: 'secret', owner: 'alice', value: 'one' }]
      },
      replace: () => answer as never,
    }
    const error = await errorOf(
      reencrypt({ envelope: test.envelope, source, context: null, plaintext: true }),
    )
    expect(error).toMatchObject(INVALID)
  })

  it('does not take a promise of a legacy reader’s test for true', async () => {
    await test.host.query(`create table credentials (id integer primary key, user_id text, api_key text);
      insert into credentials values (1, 'alice', 'not theirs')`)
    const reader = { name: 'other', test: async () => false, decrypt: () => 'something else' }
    expect(await sweep(test, { legacy: [reader as never] })).toMatchObject({
      changed: 0,
      left: 1,
      failed: [INVALID],
    })
    expect(await test.host.query('select api_key from credentials')).toEqual([{ api_key: 'not theirs' }])
  })
})

describe.runIf(isChosen('sqlite'))('a sweep on SQLite', () => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await hostOn('sqlite')
  })
  afterEach(() => test.remove())

  it('reports owners that are bytes, of which different ones could become one user, and leaves their values', async () => {
    await test.host.query(
      `create table credentials (id integer primary key, user_id blob, api_key text);
       insert into credentials values (1, x'ff01', 'a'), (2, x'fe01', 'b')`,
    )
    expect(await sweep(test)).toMatchObject({
      changed: 0,
      failed: [INVALID, INVALID],
      failedCount: 2,
      left: 2,
    })
    expect(await test.host.query('select count(*) as n from encryption_keys')).toEqual([{ n: 0 }])
    await test.host.query(`update credentials set user_id = case id when 1 then 1 else 1.5 end`)
    expect(await sweep(test)).toMatchObject({ changed: 2 })
    const owners = await test.host.query('select user_id from encryption_keys order by user_id')
    expect(owners).toEqual([{ user_id: '1' }, { user_id: '1.5' }])
  })

  it('reads the catalogue on a connection whose integers are bigints', async () => {
    const client = new Database(test.host.url).defaultSafeIntegers()
    client.exec(`create table credentials (id text primary key, user_id text, api_key text);
      insert into credentials values (null, 'alice', 'one'), ('b', 'alice', 'two')`)
    const table = sqliteCore.sqliteTable('credentials', {
      id: sqliteCore.text('id').primaryKey(),
      userId: sqliteCore.text('user_id'),
      apiKey: sqliteCore.text('api_key'),
    })
    const columns = { apiKey: CONTEXT }
    const source = drizzleSource(drizzleSqlite({ client }), table, { key: 'id', owner: 'userId', columns })
    const run = () => reencrypt({ envelope: test.envelope, source, plaintext: true })
    const error = await errorOf(run())
    expect(error.message).toContain('is null')
    client.exec(`update credentials set id = 'a' where id is null`)
    expect(await run()).toMatchObject({ changed: 2, left: 0 })
    client.close()
  })

  it.each(['nocase', 'rtrim'])(
    'refuses a key of collation %s that is unique only in binary',
    async (collation) => {
      const create = (unique: string) =>
        test.host.query(`drop table if exists credentials;
        create table credentials (id text collate ${collation}, user_id text, api_key text, unique (id${unique}));
        insert into credentials values ('a', 'alice', 'one'), ('b ', 'alice', 'two')`)
      await create(' collate binary')
      expect(await errorOf(sweep(test))).toMatchObject(INVALID)
      await create('')
      expect(await sweep(test)).toMatchObject({ changed: 2 })
    },
  )
})

describe.runIf(isChosen('postgres'))('a sweep on Postgres', () => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await hostOn('postgres')
  })
  afterEach(() => test.remove())
  const create = (type: string) =>
    test.host.query(`drop table if exists credentials;
      create table credentials (id integer primary key, user_id text, api_key ${type});
      insert into credentials values (1, 'alice', 'secret')`)

  it.each(['name', 'char(400)', 'padded'])(
    'refuses a column of type %s, which cuts or pads tokens',
    async (type) => {
      await test.host.query('create domain padded as char(400)')
      await create(type)
      const error = await errorOf(sweep(test))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('must be of text to hold tokens')
      expect(await test.host.query('select api_key::text as v from credentials')).toEqual([{ v: 'secret' }])
    },
  )

  it('takes a domain over text', async () => {
    await test.host.query('create domain secret as text')
    await create('secret')
    expect(await sweep(test)).toMatchObject({ changed: 1, left: 0 })
  })

  it('refuses a table whose rows may be hidden from its role: the report would say that none is left', async () => {
    await create('text')
    await test.host.query(`insert into credentials values (2, 'bob', 'secret')`)
    const role = await freshRole(test.host.url, [
      'grant select, update on credentials to ROLE',
      'alter table credentials enable row level security',
      `create policy own on credentials using (user_id = 'alice')`,
    ])
    try {
      const error = await errorOf(sweep(test, {}, {}, role.url))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('row-level security')
      await asAdmin(test.host.url, `alter role ${role.name} bypassrls`)
      expect(await sweep(test, {}, {}, role.url)).toMatchObject({ changed: 2, left: 0 })
    } finally {
      await role.remove()
    }
  })

  it('gives contexts the dates that Drizzle selects, wherever the process runs', async () => {
    const table = pgCore.pgTable('credentials', {
      id: pgCore.integer('id').primaryKey(),
      userId: pgCore.text('user_id').notNull(),
      apiKey: encryptedText('api_key', { context: CONTEXT }),
      at: pgCore.timestamp('at').notNull(),
      exactly: pgCore.timestamp('exactly', { mode: 'string' }).notNull(),
      zoned: pgCore.timestamp('zoned', { withTimezone: true }).notNull(),
      day: pgCore.date('day', { mode: 'date' }).notNull(),
      span: pgCore.interval('span').notNull(),
      all: pgCore.timestamp('all').array().notNull(),
    })
    await test.host.query(`create table credentials (id integer primary key, user_id text, api_key text, at timestamp,
      exactly timestamp, zoned timestamptz, day date, span interval, "all" timestamp[]);
      insert into credentials values (1, 'alice', null, '2024-07-01 12:34:56.789', '2024-07-01 12:34:56.123456',
        '2024-07-01 12:34:56+02', '2024-07-01', '1 day 02:00', '{2024-07-01 12:34:56}')`)
    const pool = new pg.Pool({ connectionString: test.host.url, max: 2 })
    const zone = process.env.TZ
    process.env.TZ = 'America/New_York'
    try {
      const db = drizzle({ client: pool })
      const [selected] = await test.envelope.scope('alice', () => db.select().from(table))
      await test.host.query(`update credentials set api_key = 'secret'`)
      const seen: unknown[] = []
      const source = drizzleSource(db, table, {
        key: 'id',
        owner: 'userId',
        columns: {
          apiKey: (row) => {
            seen.push({ ...row, apiKey: null })
            return CONTEXT
          },
        },
      })
      expect(await reencrypt({ envelope: test.envelope, source, plaintext: true })).toMatchObject({
        changed: 1,
      })
      expect(seen[0]).toEqual(selected)
    } finally {
      if (zone === undefined) delete process.env.TZ
      else process.env.TZ = zone
      await pool.end()
    }
  })
})
