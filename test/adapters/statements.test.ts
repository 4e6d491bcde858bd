/** The statements that the stores really send: their plans, their names, and what they leave alone. */
import { randomBytes } from 'node:crypto'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, type KeyStore, localMasterKey } from '../../src/index.js'
import { PostgresTable } from '../../src/sources/postgres-table.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../support/databases.js'

const MILLION = 1_000_000
const masterKey = localMasterKey(randomBytes(32))
const wrapped = Buffer.from(masterKey.wrapV2(randomBytes(32))).toString('hex')
const page = { limit: 500, after: { userId: 'user-5', version: 1 } }

describe.runIf(isChosen('sqlite'))('SQLite', () => {
  let database: FreshDatabase
  let client: Database.Database
  let sent: string[]

  beforeEach(async () => {
    database = await freshDatabase('sqlite')
    sent = []
    client = new Database(database.url, { verbose: (statement) => sent.push(String(statement)) })
  })
  afterEach(async () => {
    client.close()
    await database.remove()
  })

  const planOf = (statement: string) =>
    (client.prepare(`explain query plan ${statement}`).all() as { detail: string }[]).map(
      ({ detail }) => detail,
    )
  const sentLike = (pattern: RegExp) => sent.filter((statement) => pattern.test(statement))

  function fill(rows: number, kekId: string): void {
    const insert = `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
      with recursive n(i) as (select 1 union all select i + 1 from n where i < ${rows})
      select 'user-' || i, x'${wrapped}', ${kekId}, '2026-01-01T00:00:00+00:00' from n`
    client.exec(insert)
  }

  it('lists a page by an index, without a sort', async () => {
    const store = sqliteKeyStore({ db: drizzle(client) })
    await store.ready()
    fill(2000, `'local:x'`)
    sent = []
    await store.list(page)
    await store.list({ ...page, notKekId: 'local:y' })
    expect(sent).toHaveLength(2)
    for (const statement of [...sent]) {
      const plan = planOf(statement).join('\n')
      expect(plan).toContain('SEARCH encryption_keys USING INDEX sqlite_autoindex_encryption_keys_1')
      expect(plan).not.toMatch(/TEMP B-TREE|^SCAN encryption_keys/m)
    }
  })

  it('opens on 1,000,000 rows without reading them all', async () => {
    const store = sqliteKeyStore({ db: drizzle(client) })
    await store.ready()
    fill(MILLION, `case when i = 777777 then '${masterKey.v2Id}' else null end`)
    sent = []
    const begun = performance.now()
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey, format: 'v2' })
    const openMs = performance.now() - begun
    for (const statement of sentLike(/kek_id/)) {
      const plan = planOf(statement)
      const reads = plan.filter((step) => /encryption_keys/.test(step))
      expect(reads.length).toBeGreaterThan(0)
      for (const step of reads) expect(step).toMatch(/^SEARCH .*encryption_keys_kek_id_idx/)
    }
    const counted = performance.now()
    expect((await store.census()).reduce((sum, { count }) => sum + count, 0)).toBe(MILLION)
    expect(openMs).toBeLessThan((performance.now() - counted) / 5)
    await envelope.close()
  })

  it('changes no pragma of a host’s connection, and does not close it', async () => {
    const pragmas = [
      'foreign_keys',
      'synchronous',
      'journal_mode',
      'busy_timeout',
      'secure_delete',
      'locking_mode',
    ]
    const values = () => pragmas.map((name) => [name, client.pragma(name, { simple: true })])
    const before = values()
    const envelope = await EnvelopeCrypto.open({
      store: sqliteKeyStore({ db: drizzle(client) }),
      masterKeys: masterKey,
    })
    await envelope.encrypt('alice', 'x')
    expect(values()).toEqual(before)
    await envelope.close()
    expect(client.open).toBe(true)
    expect(values()).toEqual(before)
  })

  it('runs its own connection with a write-ahead log, and erases what it deletes', async () => {
    const own = sqliteKeyStore({ path: database.url })
    const marker = randomBytes(40)
    const at = new Date()
    await own.insertIfAbsent([
      {
        userId: 'alice',
        version: 1,
        encryptedKey: marker,
        kekId: null,
        createdAt: at,
        wrappedAt: null,
        shreddedAt: null,
      },
    ])
    expect(client.pragma('journal_mode', { simple: true })).toBe('wal')
    const { readFileSync } = await import('node:fs')
    const inFiles = () => ['', '-wal'].some((suffix) => readFileSync(database.url + suffix).includes(marker))
    expect(inFiles()).toBe(true)
    await own.shred('alice', { forget: false })
    client.pragma('wal_checkpoint(TRUNCATE)')
    expect(inFiles()).toBe(false)
    await own.close()
  })
})

describe.runIf(isChosen('postgres'))('Postgres', () => {
  let database: FreshDatabase
  let pool: pg.Pool
  let sent: pg.QueryConfig[]

  beforeEach(async () => {
    database = await freshDatabase('postgres')
    pool = new pg.Pool({ connectionString: database.url })
    sent = []
    const query = pool.query.bind(pool) as (...args: unknown[]) => unknown
    pool.query = ((config: pg.QueryConfig, ...rest: unknown[]) => {
      sent.push({ ...config, values: rest[0] as unknown[] })
      return query(config, ...rest)
    }) as typeof pool.query
  })
  afterEach(async () => {
    await pool.end()
    await database.remove()
  })

  interface Plan {
    readonly 'Node Type': string
    readonly 'Relation Name'?: string
    readonly 'Actual Rows'?: number
    readonly 'Actual Loops'?: number
    readonly 'Rows Removed by Filter'?: number
    readonly Plans?: readonly Plan[]
  }

  async function planOf({ text, values = [] }: pg.QueryConfig): Promise<Plan[]> {
    const { rows } = await pool.query({ text: `explain (analyze, format json) ${text}`, values: [] }, values)
    const flatten = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(flatten)]
    return flatten(rows[0]['QUERY PLAN'][0].Plan)
  }

  const fill = (rows: number, kekId: string) =>
    pool.query({
      text: `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
        select 'user-' || i, '\\x${wrapped}', ${kekId}, now() from generate_series(1, ${rows}) i`,
    })

  it('lists a page by an index, without a sort, in a database with a linguistic collation', async () => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    await fill(20_000, `'local:x'`)
    await pool.query({ text: 'analyze encryption_keys' })
    sent = []
    await store.list(page)
    await store.list({ ...page, notKekId: 'local:y' })
    expect(sent).toHaveLength(2)
    for (const statement of [...sent]) {
      const types = (await planOf(statement)).map((node) => node['Node Type'])
      expect(types).toEqual(['Limit', 'Index Scan'])
    }
  })

  it.each([1, 100, 1000])(
    'looks %i users up by the primary key, also when statistics are those of an empty table',
    async (count) => {
      const store = postgresKeyStore({ pool })
      await store.ready()
      await pool.query({ text: 'alter table encryption_keys set (autovacuum_enabled = off)' })
      await fill(20_000, `'local:x'`)
      const userIds = Array.from({ length: count }, (_, i) => `user-${i * 7 + 1}`)
      for (const analyze of [false, true]) {
        if (analyze) await pool.query({ text: 'analyze encryption_keys' })
        sent = []
        expect((await store.getAll(userIds)).size).toBe(count)
        expect((await store.getActive(userIds)).size).toBe(count)
        expect(sent).toHaveLength(2)
        for (const statement of [...sent]) {
          const reads = (await planOf(statement)).filter(
            (node) => node['Relation Name'] === 'encryption_keys',
          )
          expect(reads).toHaveLength(1)
          expect(reads[0]?.['Node Type']).toMatch(/^(Index|Bitmap Heap) Scan$/)
        }
      }
    },
  )

  const ours = `'${masterKey.v2Id}'`
  it.each([
    ['all without a KEK id, then one row under ours', 'null', ours],
    ['all under ours, then one row without', ours, 'null'],
  ])('opens on 1,000,000 rows, %s, without reading them all', async (_, kekId, oneKekId) => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    // The planner's statistics are those of an empty table, and of the full one later: it must not matter. Nor does the write-ahead log.
    await pool.query({ text: 'alter table encryption_keys set (autovacuum_enabled = off)' })
    await pool.query({ text: 'alter table encryption_keys set unlogged' })
    await fill(MILLION, kekId)
    for (const analyze of [false, true]) {
      if (analyze) await pool.query({ text: 'analyze encryption_keys' })
      for (const ofOne of [kekId, oneKekId]) {
        await pool.query({
          text: `update encryption_keys set kek_id = ${ofOne} where user_id = 'user-777777'`,
        })
        await expectFewRead(store)
      }
    }
  })

  async function expectFewRead(store: KeyStore): Promise<void> {
    sent = []
    const options = { store, masterKeys: masterKey, format: 'v2', closeStore: false } as const
    await (await EnvelopeCrypto.open(options)).close()
    expect(sent).toHaveLength(1)
    for (const statement of [...sent]) {
      const reads = (await planOf(statement)).filter((node) => node['Relation Name'] === 'encryption_keys')
      expect(reads.length).toBeGreaterThan(0)
      for (const node of reads) {
        const rows = (node['Actual Rows'] ?? 0) + (node['Rows Removed by Filter'] ?? 0)
        expect(node['Node Type']).toMatch(/^(Index|Index Only) Scan$/)
        expect(rows * (node['Actual Loops'] ?? 1)).toBeLessThan(20)
      }
    }
  }

  it('looks rows up by the primary key, whatever the statistics say of a table of 100,000', async () => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    await pool.query({ text: 'alter table encryption_keys set (autovacuum_enabled = off)' })
    // In no order, as users come: the planner then thinks little of going through an index.
    await pool.query({
      text: `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
        select md5(i::text), '\\x${wrapped}', 'local:old', now() from generate_series(1, 100000) i`,
    })
    for (const analyze of [false, true]) {
      if (analyze) await pool.query({ text: 'analyze encryption_keys' })
      sent = []
      const rows = await store.list({
        limit: 1000,
        notKekId: 'local:new',
        after: { userId: '5', version: 1 },
      })
      const changes = rows.map(({ userId, version, encryptedKey }) => ({
        userId,
        version,
        from: encryptedKey,
        encryptedKey: randomBytes(105),
        kekId: 'local:new',
        wrappedAt: new Date(),
      }))
      expect(await store.replaceWrapped(changes)).toHaveLength(1000)
      await store.insertIfAbsent(rows.map((row) => ({ ...row, version: 2 })))
      await store.getAll(rows.map(({ userId }) => userId))
      await store.remove(rows.slice(0, 100))
      await store.shred(rows[500]?.userId ?? '', { forget: false })
      // One more where the rows were inserted the time before: their winners are read.
      expect(sent).toHaveLength(analyze ? 9 : 8)
      for (const statement of [...sent]) {
        for (const node of await planOf(statement)) {
          if (node['Relation Name'] !== 'encryption_keys') continue
          const read = (node['Actual Rows'] ?? 0) + (node['Rows Removed by Filter'] ?? 0)
          expect(read * (node['Actual Loops'] ?? 1), statement.text).toBeLessThan(10_000)
        }
      }
    }
  })

  /** Statistics of a table that had as many pages as it will have, and one row. */
  async function nearlyEmpty(table: string, insert: (rows: number) => Promise<unknown>) {
    await pool.query({ text: `alter table ${table} set (autovacuum_enabled = off)` })
    await insert(3000)
    await pool.query({ text: `delete from ${table} where ctid <> '(0,1)'` })
    await pool.query({ text: `analyze ${table}` })
    await pool.query({ text: `delete from ${table}` })
  }

  async function lockingLoops(statement: pg.QueryConfig | undefined) {
    const plan = statement === undefined ? [] : await planOf(statement)
    return plan.filter((node) => node['Node Type'] === 'LockRows').map((node) => node['Actual Loops'])
  }

  it('locks keys once, also when the statistics are of a table that was nearly empty', async () => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    const insert = (rows: number) => fill(rows, "'local:old'")
    await nearlyEmpty('encryption_keys', insert)
    await insert(300)
    const rows = await store.list({ limit: 300, after: { userId: '', version: 0 } })
    sent = []
    const changes = rows.map((row) => {
      const to = { encryptedKey: randomBytes(105), kekId: 'local:new', wrappedAt: new Date() }
      return { userId: row.userId, version: row.version, from: row.encryptedKey, ...to }
    })
    expect(await store.replaceWrapped(changes)).toHaveLength(300)
    expect(await store.remove(rows)).toBe(300)
    const [replace, remove] = sent
    await insert(300)
    expect(await lockingLoops(replace)).toEqual([1])
    expect(await lockingLoops(remove)).toEqual([1])
  })

  it('locks swept rows once, likewise', async () => {
    await pool.query({ text: 'create table secrets (id integer primary key, owner text, value text)' })
    const insert = (rows: number) =>
      pool.query({ text: `insert into secrets select i, 'alice', 'old' from generate_series(1, ${rows}) i` })
    await nearlyEmpty('secrets', insert)
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
    expect(await lockingLoops(sent.findLast(({ text }) => text.startsWith('update')))).toEqual([1])
  })

  it('prepares its statements without a name, and with one when told to', async () => {
    for (const namedStatements of [false, true]) {
      const store = postgresKeyStore({ pool }, { namedStatements })
      const envelope = await EnvelopeCrypto.open({
        store,
        masterKeys: masterKey,
        format: 'v2',
        closeStore: false,
      })
      await store.ready()
      sent = []
      await envelope.encrypt(`user-${namedStatements}`, 'x')
      await store.census()
      await envelope.close()
      expect(sent.length).toBeGreaterThan(2)
      const names = sent.map(({ name }) => name)
      if (namedStatements) for (const name of names) expect(name).toMatch(/^keystore_[0-9a-f]{8}_\w+$/)
      else expect(names.every((name) => !name)).toBe(true)
    }
  })
})
