/** Counts and lists that go over a large table part by part, so that the event loop turns in between, and what they find meanwhile. */
import { createClient } from '@libsql/client'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzleLibsql } from 'drizzle-orm/libsql'
import { beforeEach, describe, expect, it } from 'vitest'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import type { KeyRef, KeyStore } from '../../../src/index.js'
import { sqlSource } from '../../../src/reencrypt/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { storeMaintenance } from '../../support/maintenance.js'

const ROWS = 12_000
const HALF = ROWS / 2
const NUMBERS = `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${ROWS})`
const COLUMNS = 'user_id, version, encrypted_key, kek_id, created_at, wrapped_at, shredded_at'
/** Every second row is under `old`, every tenth a tombstone, and user 7 of each thousand has another day. */
const FILL = `${NUMBERS} insert into encryption_keys (rowid, ${COLUMNS})
  select i, printf('user-%06d', i * 7919 % ${ROWS}), 1, zeroblob(60), iif(i % 2, 'old', 'new'),
    iif(i % 1000 = 7, '2020-01-02T00:00:00.000Z', '2026-01-02T00:00:00.000Z'), null,
    iif(i % 10 = 0, '2026-02-02T00:00:00.000Z', null) from n`

const EXPECTED = [
  ['new', false, ROWS * 0.4],
  ['new', true, ROWS * 0.1],
  ['old', false, ROWS * 0.5],
]
const shown = (rows: Awaited<ReturnType<KeyStore['census']>>) =>
  rows.map(({ kekId, shredded, count }) => [kekId, shredded, count]).sort()

/** How often the loop turns during the work. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0
  let isOver = false
  const turn = () => {
    turns += 1
    if (!isOver) setImmediate(turn)
  }
  setImmediate(turn)
  await work()
  isOver = true
  return turns
}

describe.runIf(isChosen('sqlite'))('a large table of SQLite', () => {
  const cleanups = cleanUpAfterEach()
  let path: string
  let client: InstanceType<typeof Database>
  beforeEach(async () => {
    path = await cleanups.database('sqlite')
    const store = sqliteKeyStore({ path })
    await store.ready()
    await store.close()
    client = cleanups.closing(new Database(path))
    client.exec(FILL)
  })

  const drivers: Record<string, () => KeyStore> = {
    'a path': () => sqliteKeyStore({ path }),
    libsql: () =>
      sqliteKeyStore({
        db: drizzleLibsql({ client: cleanups.closing(createClient({ url: `file:${path}` })) }),
      }),
  }

  describe.each(Object.keys(drivers))('on %s', (driver) => {
    let store: KeyStore
    beforeEach(() => {
      store = cleanups.closing(drivers[driver]?.() as KeyStore)
    })

    it('is counted part by part, whatever its row numbers are', async () => {
      client.exec(`update encryption_keys set rowid = rowid - ${HALF}`)
      client.exec(`update encryption_keys set rowid = 9223372036854775807 where rowid = ${HALF}`)
      client.exec(`update encryption_keys set rowid = -9223372036854775800 where rowid = 5`)
      expect(shown(await store.census())).toEqual(EXPECTED)
      expect(await turnsDuring(() => store.census())).toBeGreaterThanOrEqual(2)
    })

    it('is counted with ages that are those of all parts', async () => {
      const dated = await storeMaintenance(store).datedCensus()
      expect(shown(dated)).toEqual(EXPECTED)
      const old = dated.find(({ kekId }) => kekId === 'old')
      expect([old?.oldest.toISOString(), old?.newest.toISOString()]).toEqual([
        '2020-01-02T00:00:00.000Z',
        '2026-01-02T00:00:00.000Z',
      ])
    })

    it('is counted under a KEK id part by part, ids that are not UTF-8 included', async () => {
      client.exec('drop trigger encryption_keys_user_id_update')
      client.exec(
        `update encryption_keys set user_id = cast(x'ff' || hex(user_id) as text) where rowid > 11000`,
      )
      client.exec("update encryption_keys set user_id = '' where rowid = 1")
      const counts = () => storeMaintenance(store).countUnder(['old', 'none', 'new'])
      expect(await counts()).toEqual(
        new Map([
          ['old', ROWS * 0.5],
          ['new', ROWS * 0.4],
        ]),
      )
      expect(await turnsDuring(counts)).toBeGreaterThanOrEqual(1)
    })

    it('is passed part by part where few rows are not under a KEK id, and each of them is listed once', async () => {
      client.exec("update encryption_keys set kek_id = 'new'")
      expect(await turnsDuring(() => store.list({ notKekId: 'new', limit: 10 }))).toBeGreaterThanOrEqual(2)
      client.exec(`update encryption_keys set kek_id = null where user_id in
        ('user-000001', 'user-004998', 'user-004999', 'user-005001', 'user-011999')`)
      const shreds = client.prepare(
        'select user_id from encryption_keys where kek_id is null and shredded_at is null',
      )
      const listed: string[] = []
      for (let after: { userId: string; version: number } | undefined; ; ) {
        const page = await store.list({ notKekId: 'new', limit: 2, ...(after && { after }) })
        after = page.at(-1)
        if (after === undefined) break
        listed.push(...page.map(({ userId }) => userId))
      }
      expect(listed).toEqual(shreds.pluck().all().sort())
      expect(listed.length).toBeGreaterThan(3)
      const before = { userId: 'user-004999', version: 1 }
      const early = await store.list({ notKekId: 'new', limit: 100, before })
      expect(early.map(({ userId }) => userId)).toEqual(listed.filter((userId) => userId < 'user-004999'))
    })

    it('is passed part by part though the row at which a part ends has no valid id or version', async () => {
      client.exec("update encryption_keys set kek_id = 'new'")
      // libsql itself ends the process at a text that is not UTF-8.
      const bad =
        driver === 'libsql' ? 'version = 1.5' : "user_id = cast(cast(user_id as blob) || x'ff' as text)"
      client.exec('drop trigger encryption_keys_user_id_update')
      client.pragma('ignore_check_constraints = on')
      client.exec(
        `update encryption_keys set ${bad} where user_id in ('user-004999', 'user-002499', 'user-011999')`,
      )
      const list = () => store.list({ notKekId: 'new', limit: 10 })
      expect(await list()).toEqual([])
      expect(await turnsDuring(list)).toBeGreaterThanOrEqual(2)
      client.exec(`update encryption_keys set kek_id = 'old', shredded_at = null
        where user_id in ('user-001248', 'user-001249', 'user-001250', 'user-009000')`)
      const listed: string[] = []
      for (let after: KeyRef | undefined; ; ) {
        const page = await store.list({ notKekId: 'new', limit: 2, ...(after && { after }) })
        after = page.at(-1)
        if (after === undefined) break
        listed.push(...page.map(({ userId }) => userId))
      }
      expect(listed).toEqual(['user-001248', 'user-001249', 'user-001250', 'user-009000'])
    })
  })

  it('is counted anew if its rows got other numbers meanwhile', async () => {
    client.exec(`delete from encryption_keys where rowid <= ${HALF}`)
    const store = cleanups.closing(sqliteKeyStore({ path }))
    await store.census()
    let isOver = false
    let isRebuilt = false
    const counting = store.census().finally(() => {
      isOver = true
    })
    setImmediate(() => {
      if (isOver) return
      // As tools for migrations do. VACUUM may too.
      client.exec(`begin immediate; create table rebuilt as select * from encryption_keys order by rowid;
        drop table encryption_keys; alter table rebuilt rename to encryption_keys; commit`)
      isRebuilt = true
    })
    expect(shown(await counting).map(([, , count]) => count)).toEqual([ROWS * 0.2, ROWS * 0.05, ROWS * 0.25])
    expect(isRebuilt).toBe(true)
  })

  it('is counted in one step where it has no row numbers', async () => {
    const { sql } = client.prepare("select sql from sqlite_master where name = 'encryption_keys'").get() as {
      sql: string
    }
    client.exec('alter table encryption_keys rename to filled')
    client.exec(`${sql} without rowid`)
    client.exec(`insert into encryption_keys select ${COLUMNS} from filled`)
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }), migrate: 'off' }))
    expect(shown(await store.census())).toEqual(EXPECTED)
  })

  it.each([
    ['a whole number', 'integer primary key)', 'i'],
    ['a text', 'text primary key)', "printf('k%06d', i)"],
    ['a text without row numbers', 'text primary key) without rowid', "printf('k%06d', i)"],
  ])('of the application is counted part by part by its key: %s', async (_, type, key) => {
    client.exec(`create table t (owner text, v text, id ${type}`)
    client.exec(`${NUMBERS} insert into t (id, owner, v) select ${key}, 'u', 'v' from n`)
    const source = cleanups.closing(
      await sqlSource(path, { table: 't', key: 'id', owner: 'owner', column: 'v' }),
    )
    expect(await source.count?.()).toBe(ROWS)
    expect(await turnsDuring(async () => source.count?.())).toBeGreaterThanOrEqual(2)
    client.exec('delete from t where id in (select id from t limit 2000)')
    expect(await source.count?.()).toBe(ROWS - 2000)
  })
})
