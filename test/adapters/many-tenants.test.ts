/** What opening, counting and reading cost with many tenants: no more than with a few. */
import { randomBytes } from 'node:crypto'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, type KeyStore, localMasterKey, masterKeyring } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { isChosen } from '../support/databases.js'
import { storeMaintenance } from '../support/maintenance.js'
import { planOf, type RecordedPool, recordedPool, rowsRead } from '../support/query-plans.js'
import { slow } from '../support/slow.js'

/** A few tenants, and many. */
const COUNTS = [100, slow ? 100_000 : 5000] as const
const masterKey = localMasterKey(randomBytes(32))
const otherKey = localMasterKey(randomBytes(32))
const wrapped = Buffer.from(masterKey.wrapV2(randomBytes(32))).toString('hex')

/** Each tenant has a root of its own, whose id sorts before or after ours, and a user. Two users are under our keys. */
const ROOT = (i: string) => `case when ${i} % 2 = 0 then 'aws-kms:root-' else 'vault:root-' end || ${i}`

/** Calls whose cost must not grow with the number of tenants. */
const CALLS: Readonly<Record<string, (store: KeyStore, tenants: number) => Promise<unknown>>> = {
  open: async (store) => {
    const keys = { primary: masterKey, previous: [otherKey] }
    const options = {
      store,
      masterKeys: masterKeyring(keys),
      format: 'v2',
      accept: { keys: ['v2', 'v3'] },
    } as const
    await (await EnvelopeCrypto.open({ ...options, closeStore: false })).close()
  },
  sampleByKek: async (store) => expect(await store.sampleByKek(3)).toHaveLength(2),
  'a page of one tenant': async (store, tenants) =>
    expect(await store.list({ kekId: `tenant:1:t${tenants / 2}`, limit: 100 })).toHaveLength(1),
  'a page of our key': async (store) =>
    expect(await store.list({ kekId: masterKey.v2Id, limit: 100 })).toHaveLength(1),
  'a page without KEK id': async (store) => expect(await store.list({ kekId: null, limit: 100 })).toEqual([]),
  'counts of two tenants': async (store) =>
    expect((await storeMaintenance(store).countUnder(['tenant:1:t7', 'tenant:1:t9', 'none'])).size).toBe(2),
  'a look-up': async (store) => expect((await store.getAll(['u7', '\u0001tenant:t7'])).size).toBe(2),
}

describe.runIf(isChosen('postgres'))('many tenants on Postgres', () => {
  const cleanups = cleanUpAfterEach()
  let recorded: RecordedPool
  let store: KeyStore

  beforeEach(async () => {
    recorded = recordedPool(await cleanups.database('postgres'))
    cleanups.add(() => recorded.pool.end())
    const made = postgresKeyStore({ pool: recorded.pool })
    await made.ready()
    store = made
    await recorded.pool.query({ text: 'alter table encryption_keys set (autovacuum_enabled = off)' })
  })

  const fill = (tenants: number) =>
    recorded.pool.query({
      text: `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
        select E'\\001tenant:t' || i, '\\x00'::bytea, ${ROOT('i')}, now() from generate_series(1, ${tenants}) i union all
        select 'u' || i, '\\x00', 'tenant:1:t' || i, now() from generate_series(1, ${tenants}) i union all
        values ('ours', '\\x${wrapped}'::bytea, '${masterKey.v2Id}', now()), ('other', '\\x${wrapped}', '${otherKey.v2Id}', now())`,
    })

  it.each([COUNTS[1]])(
    '%i tenants: every statement reads a few rows by an index, whatever the statistics say',
    async (tenants) => {
      await fill(tenants)
      for (const analyze of [false, true]) {
        if (analyze) await recorded.pool.query({ text: 'analyze encryption_keys' })
        for (const [name, call] of Object.entries(CALLS)) {
          recorded.sent.length = 0
          await call(store, tenants)
          // Without begin, set_config and commit around a look that is bounded in time.
          const statements = recorded.sent.filter((sent) => JSON.stringify(sent).includes('encryption_keys'))
          expect(statements.length, name).toBeGreaterThan(0)
          expect(statements.length, name).toBeLessThan(4)
          for (const statement of statements) {
            const plan = await planOf(recorded.pool, statement)
            for (const node of plan.filter((node) => node['Relation Name'] === 'encryption_keys')) {
              expect(node['Node Type'], name).toMatch(/^(Index|Index Only|Bitmap Heap) Scan$/)
              // `open` reads a page of tenants.
              expect(rowsRead(node), name).toBeLessThanOrEqual(name === 'open' ? 100 : 40)
            }
            expect(plan.map((node) => node['Node Type']).join(), name).not.toContain('Seq Scan')
          }
        }
      }
    },
  )

  it('a page of a tenant with many users reads a page, wherever it begins and whatever the statistics say', async () => {
    const users = slow ? 200_000 : 20_000
    await fill(10)
    await recorded.pool.query({
      text: `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
        select 'm' || lpad(i::text, 8, '0'), '\\x00', 'tenant:1:many', now() from generate_series(1, ${users}) i`,
    })
    for (const analyze of [false, true]) {
      if (analyze) await recorded.pool.query({ text: 'analyze encryption_keys' })
      for (const userId of ['', 'm00010000', `m${String(users - 5).padStart(8, '0')}`]) {
        recorded.sent.length = 0
        const rows = await store.list({ kekId: 'tenant:1:many', limit: 100, after: { userId, version: 1 } })
        expect(rows).toHaveLength(userId === '' || userId === 'm00010000' ? 100 : 5)
        for (const statement of [...recorded.sent])
          for (const node of await planOf(recorded.pool, statement))
            if (node['Relation Name'] === 'encryption_keys') expect(rowsRead(node)).toBeLessThanOrEqual(100)
      }
    }
  })

  it('a census does not grow with the tenants', async () => {
    await fill(COUNTS[0])
    const few = await store.census({ rootIds: [masterKey.id] })
    await recorded.pool.query({ text: 'delete from encryption_keys' })
    await fill(COUNTS[1])
    const many = await store.census({ rootIds: [masterKey.id] })
    expect(many).toHaveLength(few.length)
    expect(many.length).toBe(4)
    expect(await storeMaintenance(store).datedCensus()).toHaveLength(4)
  })
})

describe.runIf(isChosen('sqlite'))('many tenants on SQLite', () => {
  const cleanups = cleanUpAfterEach()
  const sent: string[] = []
  let client: Database.Database
  let store: KeyStore

  beforeEach(async () => {
    const path = await cleanups.database('sqlite')
    client = cleanups.closing(new Database(path, { verbose: (statement) => sent.push(String(statement)) }))
    const made = sqliteKeyStore({ db: drizzle({ client }) })
    await made.ready()
    store = made
  })

  const fill = (tenants: number) => {
    const numbers = `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${tenants})`
    const insert = 'insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)'
    client.exec(`${insert} ${numbers} select char(1) || 'tenant:t' || i, x'00', ${ROOT('i')}, '2026-01-01T00:00:00Z' from n;
      ${insert} ${numbers} select 'u' || i, x'00', 'tenant:1:t' || i, '2026-01-01T00:00:00Z' from n;
      ${insert} values ('ours', x'${wrapped}', '${masterKey.v2Id}', '2026-01-01T00:00:00Z'),
        ('other', x'${wrapped}', '${otherKey.v2Id}', '2026-01-01T00:00:00Z')`)
  }

  it.each(COUNTS)(
    '%i tenants: every statement searches an index, with and without statistics',
    async (tenants) => {
      fill(tenants)
      for (const analyze of [false, true]) {
        if (analyze) client.exec('analyze')
        for (const [name, call] of Object.entries(CALLS)) {
          sent.length = 0
          await call(store, tenants)
          const statements = sent.filter((statement) => /encryption_keys/.test(statement))
          expect(statements.length, name).toBeGreaterThan(0)
          // open looks at a few tenants first, and then at a page of them.
          expect(statements.length, name).toBeLessThan(7)
          for (const statement of statements) {
            const plan = client.prepare(`explain query plan ${statement}`).all() as { detail: string }[]
            for (const { detail } of plan.filter(({ detail }) => /encryption_keys/.test(detail)))
              expect(detail, `${name}: ${statement}`).toMatch(/^SEARCH /)
            expect(plan.map(({ detail }) => detail).join(), name).not.toMatch(/TEMP B-TREE/)
          }
        }
      }
    },
  )

  it('calls take as long as with a few, and a census does not grow', async () => {
    const medians = async (tenants: number) => {
      fill(tenants)
      const times: Record<string, number> = {}
      for (const [name, call] of Object.entries(CALLS)) {
        const rounds: number[] = []
        for (let round = 0; round < 15; round++) {
          const start = performance.now()
          await call(store, tenants)
          rounds.push(performance.now() - start)
        }
        times[name] = rounds.sort((a, b) => a - b)[7] ?? 0
      }
      return { times, census: await store.census() }
    }
    const few = await medians(COUNTS[0])
    client.exec('delete from encryption_keys')
    const many = await medians(COUNTS[1])
    expect(many.census).toHaveLength(few.census.length)
    // Fifty or a thousand times as many tenants.
    for (const [name, ms] of Object.entries(many.times))
      expect(ms, name).toBeLessThan(3 * (few.times[name] ?? 0) + 3)
  })
})
