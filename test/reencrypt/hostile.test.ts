/** The sweep against tables, values and owners that would cost a user their data, or make its report untrue. */
import { randomBytes } from 'node:crypto'
import Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { encryptedText } from '../../src/drizzle/postgres.js'
import { EnvelopeCrypto, encryptWithKey, generateMasterKey, localMasterKey } from '../../src/index.js'
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
import { asAdmin, dialects, isChosen } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { everythingOf } from '../support/leaks.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const CONTEXT = 'credentials.api_key'

interface Host {
  readonly db: RawDatabase
  readonly envelope: EnvelopeCrypto
  close(): Promise<void>
}

async function hostOn(dialect: 'sqlite' | 'postgres'): Promise<Host> {
  const db = await rawDatabase(dialect)
  const envelope = await EnvelopeCrypto.open({
    store: await openKeyStore(db.url),
    masterKeys: localMasterKey(generateMasterKey()),
    accept: { keys: ['v2'], tokens: ['v2'] },
  })
  return {
    db,
    envelope,
    async close() {
      await envelope.close()
      await db.close()
    },
  }
}

/** Sweeps the table `credentials`, whoever it belongs to. */
async function sweep(
  { db, envelope }: Host,
  options: Partial<ReencryptOptions<SqlRow>> = {},
  shape: Partial<SqlSourceOptions> = {},
  url = db.url,
): Promise<ReencryptReport> {
  const whole = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key', ...shape }
  const source = await sqlSource(url, whole as SqlSourceOptions)
  try {
    return await reencrypt({
      envelope,
      source,
      context: CONTEXT,
      plaintext: true,
      batchSize: 2,
      ...options,
    })
  } finally {
    await source.close()
  }
}

describe.each(dialects)('a sweep on %s', (dialect) => {
  let host: Host
  beforeEach(async () => {
    host = await hostOn(dialect)
    await host.db.query('create table credentials (id integer primary key, user_id text, api_key text)')
  })
  afterEach(() => host.close())

  const stored = async () =>
    (await host.db.query('select api_key from credentials order by id')).map(({ api_key }) => api_key)
  const fill = (values: readonly (readonly [owner: string | null, value: string])[]) =>
    host.db.insert(
      'credentials',
      values.map(([user_id, api_key], id) => ({ id, user_id, api_key })),
    )

  it('does not take a token between white space or quotes for a plaintext', async () => {
    const { envelope } = host
    const v3 = await envelope.encrypt('alice', 'one', { column: CONTEXT })
    const v2 = encryptWithKey('two', await envelope.getOrCreateUserKey('alice'))
    const wrapped = [` ${v3}`, `\t${v2}\n`, JSON.stringify(v3), `\ufeff${v3}`, `'${v2}'`]
    await fill([...wrapped.map((value) => ['alice', value] as const), ['alice', `"no token, 'but quoted' "`]])
    for (const plaintext of [false, true]) {
      const report = await sweep(host, { plaintext })
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
      const { db } = host
      const columns = `"${key}" integer primary key, "${owner}" text, "${column}" text`
      await db.query(`drop table credentials; create table credentials (${columns})`)
      await db.insert(
        'credentials',
        Array.from({ length: 25 }, (_, id) => ({ [key]: id, [owner]: 'alice', [column]: `secret ${id}` })),
      )
      const report = await sweep(host, {}, { key, owner, column })
      expect(report).toMatchObject({ complete: true, before: { plaintext: 25 }, changed: 25, skipped: 0 })
    },
  )

  it('shows such a value to legacy readers first', async () => {
    const token = await host.envelope.encrypt('alice', 'one', { column: CONTEXT })
    await fill([['alice', JSON.stringify(token)]])
    const unquote = { name: 'quoted', test: (value: string) => value.startsWith('"'), decrypt: () => 'one' }
    expect(await sweep(host, { legacy: [unquote] })).toMatchObject({ changed: 1, left: 0 })
  })

  it('says in a dry run what a run then does, of owners without a key, shredded ones, and such as are none', async () => {
    const { envelope } = host
    await envelope.encrypt('gone', 'x')
    await envelope.shredUser('gone')
    await fill([
      ['', 'a'],
      ['gone', 'b'],
      ['x'.repeat(600), 'c'],
      ['new', 'd'],
      [null, 'e'],
    ])
    const dry = await sweep(host, { dryRun: true })
    const { before, after, changed, failed, failedCount, left } = await sweep(host)
    expect({ changed, failedCount, left }).toEqual({ changed: 1, failedCount: 4, left: 4 })
    expect(dry).toMatchObject({ complete: true, before, after, changed, failed, failedCount, left })
  })

  it('keeps the old value where a trigger alters what is written, and sweeps where it does not', async () => {
    const { db, envelope } = host
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
    const error = await errorOf(sweep(host))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toContain('a trigger alters what is written')
    expect(everythingOf(error)).not.toContain('v3:')
    expect(await stored()).toEqual(['one', 'two'])

    await db.query('alter table credentials add column touched integer')
    await on('touched = 1')
    expect(await sweep(host)).toMatchObject({ complete: true, changed: 2, left: 0 })
    expect(await envelope.decrypt('alice', String((await stored())[1]), { column: CONTEXT })).toBe('two')
    expect(await db.query('select sum(touched) as n from credentials')).toEqual([
      { n: dialect === 'sqlite' ? 2 : '2' },
    ])
  })

  it('changes nothing of rows that others rewrite, rotate and shred meanwhile, and opens all in the end', async () => {
    const { envelope, db } = host
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
          // The row changes hands between reading and writing.
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

describe('a sweep of what is against the contract', () => {
  let host: Host
  beforeEach(async () => {
    host = await hostOn('sqlite')
  })
  afterEach(() => host.close())

  it.each([true, 1, undefined, 'OK', [1]])(
    'counts nothing as written when replace() returns %j',
    async (answer) => {
      const source: ValueSource = {
        *pages() {
          yield [{ key: 1, column: 'secret', owner: 'alice', value: 'one' }]
        },
        replace: () => answer as never,
      }
      const error = await errorOf(
        reencrypt({ envelope: host.envelope, source, context: null, plaintext: true }),
      )
      expect(error).toMatchObject(INVALID)
    },
  )

  it('does not take a promise of a legacy reader for yes', async () => {
    await host.db.query(`create table credentials (id integer primary key, user_id text, api_key text);
      insert into credentials values (1, 'alice', 'not theirs')`)
    const reader = { name: 'other', test: async () => false, decrypt: () => 'something else' }
    expect(await sweep(host, { legacy: [reader as never] })).toMatchObject({
      changed: 0,
      left: 1,
      failed: [INVALID],
    })
    expect(await host.db.query('select api_key from credentials')).toEqual([{ api_key: 'not theirs' }])
  })
})

describe.runIf(isChosen('sqlite'))('a sweep on SQLite', () => {
  let host: Host
  beforeEach(async () => {
    host = await hostOn('sqlite')
  })
  afterEach(() => host.close())

  it('makes no user of an owner that is bytes: different ones would become one', async () => {
    await host.db.query(
      `create table credentials (id integer primary key, user_id blob, api_key text);
       insert into credentials values (1, x'ff01', 'a'), (2, x'fe01', 'b')`,
    )
    expect(await errorOf(sweep(host))).toMatchObject(INVALID)
    expect(await host.db.query('select count(*) as n from encryption_keys')).toEqual([{ n: 0 }])
    await host.db.query(`update credentials set user_id = case id when 1 then 1 else 1.5 end`)
    expect(await sweep(host)).toMatchObject({ changed: 2 })
    const owners = await host.db.query('select user_id from encryption_keys order by user_id')
    expect(owners).toEqual([{ user_id: '1' }, { user_id: '1.5' }])
  })

  it('reads the catalogue alike on a connection of the host whose integers are bigints', async () => {
    const client = new Database(host.db.url).defaultSafeIntegers()
    client.exec(`create table credentials (id text primary key, user_id text, api_key text);
      insert into credentials values (null, 'alice', 'one'), ('b', 'alice', 'two')`)
    const table = sqliteCore.sqliteTable('credentials', {
      id: sqliteCore.text('id').primaryKey(),
      userId: sqliteCore.text('user_id'),
      apiKey: sqliteCore.text('api_key'),
    })
    const columns = { apiKey: CONTEXT }
    const source = drizzleSource(drizzleSqlite({ client }), table, { key: 'id', owner: 'userId', columns })
    const run = () => reencrypt({ envelope: host.envelope, source, plaintext: true })
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
        host.db.query(`drop table if exists credentials;
        create table credentials (id text collate ${collation}, user_id text, api_key text, unique (id${unique}));
        insert into credentials values ('a', 'alice', 'one'), ('b ', 'alice', 'two')`)
      await create(' collate binary')
      expect(await errorOf(sweep(host))).toMatchObject(INVALID)
      await create('')
      expect(await sweep(host)).toMatchObject({ changed: 2 })
    },
  )
})

describe.runIf(isChosen('postgres'))('a sweep on Postgres', () => {
  let host: Host
  beforeEach(async () => {
    host = await hostOn('postgres')
  })
  afterEach(() => host.close())
  const create = (type: string) =>
    host.db.query(`drop table if exists credentials;
      create table credentials (id integer primary key, user_id text, api_key ${type});
      insert into credentials values (1, 'alice', 'secret')`)

  it.each(['name', 'char(400)', 'padded'])(
    'refuses a column of type %s, which cuts or pads tokens',
    async (type) => {
      await host.db.query('create domain padded as char(400)')
      await create(type)
      const error = await errorOf(sweep(host))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('must be of text to hold tokens')
      expect(await host.db.query('select api_key::text as v from credentials')).toEqual([{ v: 'secret' }])
    },
  )

  it('takes a domain over text', async () => {
    await host.db.query('create domain secret as text')
    await create('secret')
    expect(await sweep(host)).toMatchObject({ changed: 1, left: 0 })
  })

  it('refuses a table whose rows may be hidden from its role: it would say that none is left', async () => {
    await create('text')
    const role = `role_${randomBytes(6).toString('hex')}`
    await asAdmin(
      host.db.url,
      `insert into credentials values (2, 'bob', 'secret')`,
      `create role ${role} login password '${role}'`,
      `grant select, update on credentials to ${role}`,
      'alter table credentials enable row level security',
      `create policy own on credentials using (user_id = 'alice')`,
    )
    const url = new URL(host.db.url)
    url.username = role
    url.password = role
    try {
      const error = await errorOf(sweep(host, {}, {}, url.href))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('row-level security')
      await asAdmin(host.db.url, `alter role ${role} bypassrls`)
      expect(await sweep(host, {}, {}, url.href)).toMatchObject({ changed: 2, left: 0 })
    } finally {
      await asAdmin(host.db.url, `drop owned by ${role}`, `drop role ${role}`)
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
    await host.db.query(`create table credentials (id integer primary key, user_id text, api_key text, at timestamp,
      exactly timestamp, zoned timestamptz, day date, span interval, "all" timestamp[]);
      insert into credentials values (1, 'alice', null, '2024-07-01 12:34:56.789', '2024-07-01 12:34:56.123456',
        '2024-07-01 12:34:56+02', '2024-07-01', '1 day 02:00', '{2024-07-01 12:34:56}')`)
    const pool = new pg.Pool({ connectionString: host.db.url, max: 2 })
    const zone = process.env.TZ
    process.env.TZ = 'America/New_York'
    try {
      const db = drizzle({ client: pool })
      const [selected] = await host.envelope.scope('alice', () => db.select().from(table))
      await host.db.query(`update credentials set api_key = 'secret'`)
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
      expect(await reencrypt({ envelope: host.envelope, source, plaintext: true })).toMatchObject({
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
