/** The statements that a Postgres store sends: their plans, their locks and their names. */
import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, type KeyStore, localMasterKey } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { analyzeNearlyEmpty, planOf, recordedPool, rowsLocked, rowsRead } from '../../support/query-plans.js'

const MILLION = 1_000_000
const masterKey = localMasterKey(randomBytes(32))
/** In hex. */
const wrapped = Buffer.from(masterKey.wrapV2(randomBytes(32))).toString('hex')
const page = { limit: 500, after: { userId: 'user-5', version: 1 } }

describe.runIf(isChosen('postgres'))('the statements of a Postgres store', () => {
  const cleanups = cleanUpAfterEach()
  let pool: pg.Pool
  /** The statements that were sent. A test empties the list before it begins to record. */
  let sent: pg.QueryConfig[]

  beforeEach(async () => {
    const recorded = recordedPool(await cleanups.database('postgres'))
    pool = recorded.pool
    sent = recorded.sent
    cleanups.add(() => pool.end())
  })

  /** In several transactions: while one that is older is open, whichever database it is in, no other test can finish an erasure. */
  const fill = async (rows: number, kekId: string) => {
    for (let from = 1; from <= rows; from += 100_000) {
      await pool.query({
        text: `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
          select 'user-' || i, '\\x${wrapped}', ${kekId}, now()
          from generate_series(${from}, ${Math.min(rows, from + 99_999)}) i`,
      })
    }
  }

  it('list a page by an index, without a sort, in a database with a linguistic collation', async () => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    await fill(20_000, `'local:x'`)
    await pool.query({ text: 'analyze encryption_keys' })
    sent.length = 0
    await store.list(page)
    await store.list({ ...page, notKekId: 'local:y' })
    // Around the first of them stand begin, what bounds its time, and commit.
    const statements = sent.filter((statement) => JSON.stringify(statement).includes('encryption_keys'))
    expect(statements).toHaveLength(2)
    for (const statement of statements) {
      const types = (await planOf(pool, statement)).map((node) => node['Node Type'])
      expect(types).toEqual(['Limit', 'Index Scan'])
    }
  })

  it.each([1, 100, 1000])(
    'look %i users up by the primary key, even with the statistics of an empty table',
    async (count) => {
      const store = postgresKeyStore({ pool })
      await store.ready()
      await pool.query({ text: 'alter table encryption_keys set (autovacuum_enabled = off)' })
      await fill(20_000, `'local:x'`)
      const userIds = Array.from({ length: count }, (_, i) => `user-${i * 7 + 1}`)
      for (const analyze of [false, true]) {
        if (analyze) await pool.query({ text: 'analyze encryption_keys' })
        sent.length = 0
        expect((await store.getAll(userIds)).size).toBe(count)
        expect((await store.getActive(userIds)).size).toBe(count)
        expect(sent).toHaveLength(2)
        for (const statement of [...sent]) {
          const reads = (await planOf(pool, statement)).filter(
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
  ])('read only a few of 1,000,000 rows when a service opens: %s', async (_, kekId, oneKekId) => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    // It must not matter whether the planner has the statistics of an empty table or, later, of the full one. No write-ahead log, for speed.
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
    sent.length = 0
    const options = { store, masterKeys: masterKey, format: 'v2', closeStore: false } as const
    await (await EnvelopeCrypto.open(options)).close()
    // The samples, and the first tenants.
    // Around the first of them stand begin, what bounds its time, and commit.
    const statements = sent.filter((statement) => JSON.stringify(statement).includes('encryption_keys'))
    expect(statements).toHaveLength(2)
    for (const statement of statements) {
      const reads = (await planOf(pool, statement)).filter(
        (node) => node['Relation Name'] === 'encryption_keys',
      )
      expect(reads.length).toBeGreaterThan(0)
      for (const node of reads) {
        expect(node['Node Type']).toMatch(/^(Index|Index Only) Scan$/)
        expect(rowsRead(node)).toBeLessThan(20)
      }
    }
  }

  it('look rows up by the primary key, with any statistics of a table of 100,000 rows', async () => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    await pool.query({ text: 'alter table encryption_keys set (autovacuum_enabled = off)' })
    // In random order, as users come: the planner then estimates an index scan as expensive.
    await pool.query({
      text: `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
        select md5(i::text), '\\x${wrapped}', 'local:old', now() from generate_series(1, 100000) i`,
    })
    for (const analyze of [false, true]) {
      if (analyze) await pool.query({ text: 'analyze encryption_keys' })
      sent.length = 0
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
      // One more in the second round: the rows are there already, so that their winners are read.
      expect(sent).toHaveLength(analyze ? 10 : 9)
      for (const statement of [...sent]) {
        for (const node of await planOf(pool, statement)) {
          // A planner that expects more rows than refs reads all of a table of some millions: it takes 10 for the length of any array.
          if (node['Subplan Name'] === 'CTE locked')
            expect(node['Plan Rows'], statement.text).toBeLessThanOrEqual(10)
          if (node['Relation Name'] !== 'encryption_keys') continue
          expect(rowsRead(node), statement.text).toBeLessThan(10_000)
        }
      }
    }
  })

  it('lock each row once, even with the statistics of a nearly empty table', async () => {
    const store = postgresKeyStore({ pool })
    await store.ready()
    const insert = (rows: number) => fill(rows, "'local:old'")
    await analyzeNearlyEmpty(pool, 'encryption_keys', insert)
    await insert(300)
    const rows = await store.list({ limit: 300, after: { userId: '', version: 0 } })
    sent.length = 0
    const changes = rows.map((row) => {
      const to = { encryptedKey: randomBytes(105), kekId: 'local:new', wrappedAt: new Date() }
      return { userId: row.userId, version: row.version, from: row.encryptedKey, ...to }
    })
    expect(await store.replaceWrapped(changes)).toHaveLength(300)
    expect(await store.remove(rows)).toBe(300)
    const [replace, , remove] = sent
    await insert(300)
    expect(await rowsLocked(pool, replace)).toBe(300)
    expect(await rowsLocked(pool, remove)).toBe(300)
  })

  it('have no names, unless namedStatements is set', async () => {
    for (const namedStatements of [false, true]) {
      const store = postgresKeyStore({ pool }, { namedStatements })
      const envelope = await EnvelopeCrypto.open({
        store,
        masterKeys: masterKey,
        format: 'v2',
        closeStore: false,
      })
      await store.ready()
      sent.length = 0
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
