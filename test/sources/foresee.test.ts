/** The dry run foresees what the database will refuse, and what new values set off, without leaving anything behind. */
import { PGlite } from '@electric-sql/pglite'
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePglite } from 'drizzle-orm/pglite'
import { integer as sqliteInteger, sqliteTable, text as sqliteText } from 'drizzle-orm/sqlite-core'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  drizzleSource,
  type ReencryptReport,
  reencrypt,
  type SourceFinding,
  sqlSource,
} from '../../src/reencrypt/index.js'
import { type Dialect, dialects, isChosen } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { everythingOf } from '../support/leaks.js'
import { hideTransactionStatus } from '../support/old-pg.js'
import { freshRole } from '../support/postgres-roles.js'
import { freshSqlSources, INVALID, type SqlSourceTest } from '../support/sql-sources.js'

const both = (sql: string): Record<Dialect, string> => ({ sqlite: sql, postgres: sql })

/** A table whose column refuses tokens, with what the dry run finds. Row 1 has a value, row 2 none, row 3 a longer one. */
const REFUSING: readonly (readonly [
  name: string,
  create: Partial<Record<Dialect, string>>,
  kind: SourceFinding['kind'],
  reason: string,
  more?: Record<Dialect, string>,
])[] = [
  ['a column that is too narrow', { postgres: 'api_key varchar(120)' }, 'tooNarrow', 'of type text'],
  [
    'a CHECK of the length',
    both('api_key text, constraint short check (length(api_key) <= 120)'),
    'check',
    'short',
  ],
  ['a CHECK of the beginning', both("api_key text, check (api_key like 'sk-%')"), 'check', 'CHECK'],
  [
    'a CHECK of another column too',
    both(
      "api_key text, kind text default 'a', constraint kinds check (kind <> 'a' or api_key not like 'v3:%')",
    ),
    'check',
    'kinds',
  ],
  [
    'a trigger that refuses',
    both('api_key text'),
    'trigger',
    'a trigger refuses',
    {
      sqlite:
        "create trigger guard before update on credentials begin select raise(abort, 'secret of row'); end",
      postgres: `create function guard() returns trigger language plpgsql as $$ begin raise exception 'secret of %', new.api_key; end $$;
        create trigger guard before update on credentials for each row execute function guard()`,
    },
  ],
  [
    'a trigger that runs after the write',
    both('api_key text'),
    'trigger',
    'a trigger refuses',
    {
      sqlite:
        "create trigger guard after update on credentials begin select raise(abort, 'secret of row'); end",
      postgres: `create function guard() returns trigger language plpgsql as $$ begin raise exception 'secret of %', new.api_key; end $$;
        create constraint trigger guard after update on credentials deferrable initially deferred for each row execute function guard()`,
    },
  ],
  [
    'a trigger that alters',
    both('api_key text'),
    'trigger',
    'alters',
    {
      sqlite:
        'create trigger guard after update of api_key on credentials begin update credentials set api_key = upper(new.api_key) where id = new.id and api_key <> upper(new.api_key); end',
      postgres: `create function guard() returns trigger language plpgsql as $$ begin new.api_key = upper(new.api_key); return new; end $$;
        create trigger guard before update on credentials for each row execute function guard()`,
    },
  ],
]

describe.each(dialects)('a dry run on %s', (dialect) => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources(dialect)
  })
  afterEach(() => test.remove())

  const create = (columns: string) =>
    test.host.query(`create table credentials (id integer primary key, user_id text, ${columns})`)
  const fill = () =>
    test.host.insert('credentials', [
      { id: 1, user_id: 'alice', api_key: 'sk-one' },
      { id: 2, user_id: 'alice', api_key: null },
      { id: 3, user_id: 'bob', api_key: `sk-${'long'.repeat(20)}` },
    ])
  const stored = () => test.host.query('select * from credentials order by id')
  const dryRun = async (options = {}): Promise<ReencryptReport> =>
    test.sweep(await test.sourceOf(options), { dryRun: true, batchSize: 1 })

  for (const [name, tables, kind, reason, more] of REFUSING) {
    const columns = tables[dialect]
    if (columns === undefined) continue
    it(`finds ${name}, and the sweep would have failed`, async () => {
      await create(columns)
      await fill()
      if (more !== undefined) await test.host.query(more[dialect])
      const before = await stored()
      const report = await dryRun()
      const errors = report.findings.filter(({ severity }) => severity === 'error')
      expect(errors).toMatchObject([{ kind, column: 'api_key', reason: expect.stringContaining(reason) }])
      expect(errors[0]?.reason).toMatch(/\(row [13]\)/)
      expect(everythingOf(report)).not.toMatch(/secret of|sk-one|v3:A/)
      expect(await stored()).toEqual(before)
      const sweep = test.sweep(await test.sourceOf(), { batchSize: 1 })
      if (kind === 'check' || reason === 'a trigger refuses') {
        const { changed, failed } = await sweep
        const refused = failed.map(({ key }) => key)
        expect(refused.at(-1)).toBe(3)
        expect(changed + refused.length).toBe(2)
      } else {
        const error = await errorOf(sweep)
        expect(error).toMatchObject({ code: 'ERR_STORE' })
        if (kind === 'tooNarrow') expect(error.message).toMatch(/column "api_key".*of type text first/)
      }
    })
  }

  it('finds a generated column, which cannot be swept', async () => {
    await create(
      dialect === 'sqlite'
        ? 'plain text, api_key text generated always as (plain) stored'
        : 'plain text, api_key text generated always as (plain) stored',
    )
    await test.host.insert('credentials', [{ id: 1, user_id: 'alice', plain: 'sk-one' }])
    const { findings } = await dryRun()
    expect(findings.filter(({ severity }) => severity === 'error')).toMatchObject([
      { kind: 'generated', column: 'api_key' },
    ])
    expect(await errorOf(test.sweep(await test.sourceOf()))).toMatchObject({ code: 'ERR_STORE' })
  })

  it('warns of what new values set off: triggers, and columns that are made of them', async () => {
    await create(
      'api_key text, other text, ends text generated always as (substr(api_key, 1, 3)) stored, size integer generated always as (length(other)) stored',
    )
    await test.host.query('create table history (old text)')
    await test.host.query(
      dialect === 'sqlite'
        ? 'create trigger audit after update on credentials begin insert into history values (old.api_key); end'
        : `create function audit() returns trigger language plpgsql as $$ begin insert into history values (old.api_key); return new; end $$;
           create trigger audit after update on credentials for each row execute function audit()`,
    )
    await fill()
    const { findings, changed } = await dryRun()
    expect(changed).toBe(2)
    const reasons = findings.map(({ severity, kind, reason }) => `${severity} ${kind} ${reason}`)
    expect(reasons.filter((reason) => reason.includes('audit'))).toHaveLength(1)
    expect(reasons.filter((reason) => reason.includes('column ends'))).toHaveLength(1)
    // SQLite's catalogue does not tell what a column is made of.
    expect(reasons.filter((reason) => reason.includes('column size'))).toHaveLength(
      dialect === 'sqlite' ? 1 : 0,
    )
    expect(reasons.filter((reason) => !reason.startsWith('warning '))).toEqual([])
    expect(await test.host.query('select * from history')).toEqual([])
    expect((await stored()).map(({ api_key }) => api_key)).toContain('sk-one')
  })

  it('finds nothing where nothing is wrong, and tries the longest values too', async () => {
    await create('api_key text, constraint short check (length(api_key) <= 4000)')
    await test.host.insert(
      'credentials',
      Array.from({ length: 200 }, (_, id) => ({ id, user_id: 'alice', api_key: 'sk-short' })),
    )
    expect(await dryRun()).toMatchObject({ findings: [], changed: 200, left: 0 })
    await test.host.query(`update credentials set api_key = '${'x'.repeat(3500)}' where id = 150`)
    expect((await dryRun()).findings).toMatchObject([
      { kind: 'check', reason: expect.stringContaining('row 150') },
    ])
  })

  it('with an owner that is a function of the row', async () => {
    await create("api_key text, check (api_key like 'sk-%')")
    await fill()
    const { findings } = await dryRun({ owner: (row: { user_id: string }) => row.user_id })
    expect(findings).toMatchObject([{ severity: 'error', kind: 'check' }])
  })
})

describe.runIf(isChosen('sqlite'))('a dry run on SQLite', () => {
  it.each(["abs(cast('-9223372036854775808' as integer))", "json('{')"])(
    'takes no error of a trigger for its own: %s',
    async (failing) => {
      const test = await freshSqlSources('sqlite')
      try {
        await test.create()
        await test.host.query(
          `create trigger guard before update on credentials begin select ${failing}; end`,
        )
        await test.host.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'sk-one' }])
        const { findings } = await test.sweep(await test.sourceOf(), { dryRun: true })
        expect(findings.filter(({ severity }) => severity === 'error')).toMatchObject([
          { kind: 'refused', reason: expect.stringContaining('row 1') },
        ])
        expect(await errorOf(test.sweep(await test.sourceOf()))).toMatchObject({ code: 'ERR_STORE' })
      } finally {
        await test.remove()
      }
    },
  )

  it('waits for the end of a transaction that the application has open on its connection', async () => {
    const test = await freshSqlSources('sqlite')
    const client = test.host.client as Database.Database
    try {
      await test.create()
      const table = sqliteTable('credentials', {
        id: sqliteInteger('id').primaryKey(),
        userId: sqliteText('user_id'),
        apiKey: sqliteText('api_key'),
      })
      const source = drizzleSource(drizzleSqlite({ client }), table, {
        key: 'id',
        owner: 'userId',
        columns: ['apiKey'],
      })
      client.exec("begin; insert into credentials values (1, 'alice', 'sk-one')")
      const running = reencrypt({
        envelope: test.envelope,
        source,
        context: null,
        plaintext: true,
        dryRun: true,
      })
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(client.inTransaction).toBe(true)
      client.exec('commit')
      expect(await running).toMatchObject({ changed: 1, findings: [] })
      expect(await test.host.query('select api_key from credentials')).toEqual([{ api_key: 'sk-one' }])
    } finally {
      await test.remove()
    }
  })
})

describe.runIf(isChosen('postgres'))('a dry run on Postgres', () => {
  let test: SqlSourceTest
  beforeEach(async () => {
    test = await freshSqlSources('postgres')
    await test.create()
    await test.host.insert('credentials', [{ id: 1, user_id: 'alice', api_key: 'sk-one' }])
  })
  afterEach(() => test.remove())

  it('finds that its role may read the table and not change it', async () => {
    const role = await freshRole(test.host.url, [
      'grant usage on schema public to ROLE',
      'grant select on credentials to ROLE',
    ])
    const source = await sqlSource(role.url, {
      table: 'credentials',
      key: 'id',
      owner: 'user_id',
      column: 'api_key',
    })
    try {
      expect((await test.sweep(source, { dryRun: true })).findings).toMatchObject([
        { severity: 'error', kind: 'denied' },
      ])
    } finally {
      await source.close()
      await role.remove()
    }
  })

  it('refuses a table whose rows row-level security may hide', async () => {
    const role = await freshRole(test.host.url, [
      'grant usage on schema public to ROLE',
      'grant select, update on credentials to ROLE',
      'alter table credentials enable row level security',
    ])
    try {
      const shape = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' }
      const error = await errorOf(sqlSource(role.url, shape))
      expect(error).toMatchObject(INVALID)
      expect(error.message).toContain('row-level security')
    } finally {
      await role.remove()
    }
  })

  it('tries values on one connection of the application, which is left as it was', async () => {
    await test.host.query('alter table credentials add constraint short check (length(api_key) <= 100)')
    const client = new pg.Client(test.host.url)
    await client.connect()
    try {
      const table = pgTable('credentials', {
        id: integer('id').primaryKey(),
        userId: text('user_id'),
        apiKey: text('api_key'),
      })
      const source = drizzleSource(drizzle({ client }), table, {
        key: 'id',
        owner: 'userId',
        columns: ['apiKey'],
      })
      const dryRun = () =>
        reencrypt({ envelope: test.envelope, source, context: null, plaintext: true, dryRun: true })
      expect((await dryRun()).findings).toMatchObject([
        { severity: 'error', kind: 'check', reason: expect.stringContaining('short') },
      ])
      await client.query('alter table credentials drop constraint short')
      expect(await dryRun()).toMatchObject({ findings: [], changed: 1 })
      expect((await client.query('select api_key from credentials')).rows).toEqual([{ api_key: 'sk-one' }])
    } finally {
      await client.end()
    }
  })

  const ofDrizzle = (db: Parameters<typeof drizzleSource>[0]) => {
    const table = pgTable('credentials', {
      id: integer('id').primaryKey(),
      userId: text('user_id'),
      apiKey: text('api_key'),
    })
    const source = drizzleSource(db, table, { key: 'id', owner: 'userId', columns: ['apiKey'] })
    return reencrypt({ envelope: test.envelope, source, context: null, plaintext: true, dryRun: true })
  }

  it('leaves a transaction alone that the application has open on its one connection', async () => {
    const client = new pg.Client(test.host.url)
    await client.connect()
    const insert = (id: number) =>
      client.query(`insert into credentials (id, user_id, api_key) values (${id}, 'alice', 'sk-mine')`)
    try {
      await client.query('begin')
      await insert(2)
      expect(await ofDrizzle(drizzle({ client }))).toMatchObject({ findings: [], changed: 2 })
      await client.query('alter table credentials add constraint short check (length(api_key) <= 100)')
      // What the application writes meanwhile stays as well.
      const running = ofDrizzle(drizzle({ client }))
      for (let id = 3; id < 40; id += 1) await insert(id)
      expect((await running).findings).toMatchObject([{ severity: 'error', kind: 'check' }])
      expect((await client.query('commit')).command).toBe('COMMIT')
    } finally {
      await client.end()
    }
    const rows = await test.host.query('select id, api_key from credentials order by id')
    expect(rows).toHaveLength(39)
    expect(rows.map(({ api_key }) => api_key).filter((key) => !String(key).startsWith('sk-'))).toEqual([])
  })

  it.each([
    ['', () => undefined],
    [', of clients that do not tell', hideTransactionStatus],
  ])('leaves a transaction alone that the application has open on its pool of one%s', async (_, prepare) => {
    const pool = new pg.Pool({ connectionString: test.host.url, max: 1 })
    prepare(pool)
    try {
      await pool.query('begin')
      await pool.query("insert into credentials (id, user_id, api_key) values (2, 'alice', 'sk-mine')")
      expect(await ofDrizzle(drizzle({ client: pool }))).toMatchObject({ findings: [], changed: 2 })
      expect((await pool.query('commit')).command).toBe('COMMIT')
      // Outside of a transaction its own is rolled back, and the connection stays as it was.
      expect(await ofDrizzle(drizzle({ client: pool }))).toMatchObject({ findings: [], changed: 2 })
      await pool.query('begin')
      await pool.query("insert into credentials (id, user_id, api_key) values (3, 'alice', 'sk-mine')")
      expect(await ofDrizzle(drizzle({ client: pool }))).toMatchObject({ findings: [], changed: 3 })
      await pool.query('rollback')
    } finally {
      await pool.end()
    }
    expect(await test.host.query('select id from credentials where id > 1')).toEqual([{ id: 2 }])
  })

  it('leaves a transaction alone that PGlite has open', async () => {
    const client = new PGlite()
    try {
      await client.exec('create table credentials (id integer primary key, user_id text, api_key text)')
      await client.exec("begin; insert into credentials values (1, 'alice', 'sk-mine')")
      expect(await ofDrizzle(drizzlePglite({ client }))).toMatchObject({ findings: [], changed: 1 })
      await client.exec('commit')
      expect((await client.query('select api_key from credentials')).rows).toEqual([{ api_key: 'sk-mine' }])
    } finally {
      await client.close()
    }
  })
})
