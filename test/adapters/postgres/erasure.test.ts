/** What a shred on Postgres leaves in the table's files, and how the erasure is finished. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import type { KeyRecord } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { contentsOf, countRemains, ERASED, keysOf, pending } from '../../support/erased-bytes.js'
import { freshRole } from '../../support/postgres-roles.js'
import { randomRecord } from '../../support/rows.js'

describe.runIf(isChosen('postgres'))('Postgres', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let admin: pg.Client
  let store: PostgresKeyStore
  let rows: KeyRecord[]
  /** The folder of this database's files; null where the server is on another machine. */
  let folder: string | null

  /** A connection of its own. */
  async function connect(to = url): Promise<pg.Client> {
    const client = new pg.Client(to)
    await client.connect()
    cleanups.add(() => client.end())
    return client
  }

  beforeEach(async () => {
    url = await cleanups.database('postgres')
    admin = await connect()
    store = cleanups.closing(postgresKeyStore({ url }, { schema: 'erased', deadlineMs: 5000 }))
    rows = Array.from({ length: 300 }, () => randomRecord(randomBytes(9).toString('base64url')))
    await store.insertIfAbsent(rows)
    const { rows: found } = await admin.query(
      `select current_setting('data_directory') || '/base/' || oid as folder from pg_database where datname = current_database()`,
    )
    folder = existsSync(found[0].folder) ? found[0].folder : null
    if (folder === null) console.log('The files are not searched: the server is on another machine.')
  })

  /** How many of the keys are still in the files; null if those cannot be read. */
  async function remains(keys: readonly Uint8Array[]): Promise<number | null> {
    if (folder === null) return null
    await admin.query('checkpoint')
    return countRemains(contentsOf(folder), keys)
  }

  it('a shred leaves the bytes in the files, so does VACUUM, and finishErasure removes them', async () => {
    const shredded = rows.slice(0, 200)
    await admin.query('analyze')
    for (const { userId } of shredded) {
      const receipt = await store.shred(userId, { forget: userId < 'V' })
      expect(receipt).toMatchObject({
        versions: [1],
        ...pending('call `store.maintenance.finishErasure()`, or run `npx keystore doctor --finish-erasure`'),
      })
      expect(receipt).toMatchObject(pending('write-ahead log, replicas and backups'))
    }
    await admin.query('analyze')
    if (folder !== null) expect(await remains(keysOf(shredded))).toBeGreaterThan(30)
    await admin.query('vacuum erased.encryption_keys')
    if (folder !== null) expect(await remains(keysOf(shredded))).toBeGreaterThan(0)
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    if (folder !== null) {
      expect(await remains(keysOf(shredded))).toBe(0)
      expect(await remains(keysOf(rows.slice(200)))).toBe(100)
    }
    expect((await store.list({ limit: 1000 })).filter(({ shreddedAt }) => shreddedAt === null)).toHaveLength(
      100,
    )
    // The table is not marked to be clustered from now on.
    const clustered = await admin.query('select 1 from pg_index where indisclustered')
    expect(clustered.rows).toEqual([])
  })

  it('finishErasure waits for transactions that may still see the rows, and names them at its deadline', async () => {
    const [row] = rows
    const older = await connect()
    await older.query('begin isolation level repeatable read; select 1')
    const { rows: found } = await older.query('select pg_backend_pid() as pid')
    await store.shred(row?.userId ?? '', { forget: false })
    const hasty = cleanups.closing(postgresKeyStore({ url }, { schema: 'erased', deadlineMs: 1000 }))
    expect(await hasty.maintenance.finishErasure()).toMatchObject(pending(`process ${found[0].pid}`))
    await hasty.close()
    const finishing = store.maintenance.finishErasure()
    await older.query('commit')
    expect(await finishing).toEqual(ERASED)
    if (folder !== null) expect(await remains(keysOf(rows.slice(0, 1)))).toBe(0)
  })

  it('finishErasure waits for transactions of other databases, with which our own snapshot begins', async () => {
    const [row] = rows
    const elsewhere = await connect(await cleanups.database('postgres'))
    await elsewhere.query('begin; create table of_another_database (a integer)')
    const { rows: found } = await elsewhere.query('select pg_backend_pid() as pid')
    await store.shred(row?.userId ?? '', { forget: false })
    const hasty = cleanups.closing(postgresKeyStore({ url }, { schema: 'erased', deadlineMs: 1000 }))
    expect(await hasty.maintenance.finishErasure()).toMatchObject(pending(`process ${found[0].pid}`))
    const finishing = store.maintenance.finishErasure()
    await elsewhere.query('commit')
    expect(await finishing).toEqual(ERASED)
    if (folder !== null) expect(await remains(keysOf(rows.slice(0, 1)))).toBe(0)
  })

  it('finishErasure gives up its place in the queue for the lock, so that other traffic goes on', async () => {
    const reader = await connect()
    await reader.query('begin; lock table erased.encryption_keys in access share mode')
    const finishing = store.maintenance.finishErasure()
    const begun = performance.now()
    let done = false
    void finishing.finally(() => {
      done = true
    })
    let longestMs = 0
    while (!done) {
      const asked = performance.now()
      await store.getAll(['nobody'])
      longestMs = Math.max(longestMs, performance.now() - asked)
    }
    expect(await finishing).toMatchObject(pending('55P03'))
    expect(performance.now() - begun).toBeGreaterThan(1500)
    expect(longestMs).toBeGreaterThan(500)
    expect(longestMs).toBeLessThan(4500)
    await reader.query('rollback')
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
  })

  it('finishErasure says so to a role that does not own the table', async () => {
    const role = await freshRole(url, [
      'grant usage on schema erased to ROLE',
      'grant all on all tables in schema erased to ROLE',
    ])
    cleanups.add(role.remove)
    const asRole = (deadlineMs: number) =>
      cleanups.closing(postgresKeyStore({ url: role.url }, { schema: 'erased', migrate: 'off', deadlineMs }))
    const other = asRole(10_000)
    await other.shred(rows[0]?.userId ?? '', { forget: false })
    expect(await other.maintenance.finishErasure()).toMatchObject(pending('must be owner'))
    // Such a role still sees which transactions hold rows back.
    const older = await connect()
    await older.query('begin isolation level repeatable read; select 1')
    await other.shred(rows[1]?.userId ?? '', { forget: false })
    expect(await asRole(200).maintenance.finishErasure()).toMatchObject(pending('process '))
    await older.query('rollback')
  })

  it('samples of keys that ANALYZE has taken are reported, with the statements that remove them', async () => {
    await admin.query('alter table erased.encryption_keys alter column encrypted_key set statistics 100')
    await admin.query('analyze')
    expect(await store.maintenance.inspect()).toContainEqual({
      severity: 'warning',
      kind: 'setting',
      reason: expect.stringContaining('pg_statistic'),
    })
    for (const { userId } of rows) await store.shred(userId, { forget: false })
    const state = await store.maintenance.finishErasure()
    expect(state).toMatchObject(pending('pg_statistic'))
    if (folder !== null) expect(await remains(keysOf(rows))).toBeGreaterThan(50)
    // Executed letter by letter, as a superuser.
    const statements = [...(state.pending ?? '').matchAll(/`((?:delete|vacuum)[^`]+)`/g)].map(
      ([, text]) => text,
    )
    expect(statements).toHaveLength(2)
    for (const statement of statements) await admin.query(statement ?? '')
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    // VACUUM FULL keeps rows that an older transaction may still see. One of autovacuum cannot be ended: VACUUM is run again after it.
    for (let tries = 0; folder !== null && tries < 20 && ((await remains(keysOf(rows))) ?? 0) > 0; tries++) {
      await sleep(500)
      await admin.query(statements[1] ?? '')
    }
    if (folder !== null) expect(await remains(keysOf(rows))).toBe(0)
    expect(await store.maintenance.inspect()).not.toContainEqual(
      expect.objectContaining({ reason: expect.stringContaining('pg_statistic') }),
    )
  })

  it('finishErasure is pending inside the host’s transaction', async () => {
    const pool = new pg.Pool({ connectionString: url })
    cleanups.add(() => pool.end())
    await drizzle({ client: pool }).transaction(async (tx) => {
      const inside = postgresKeyStore({ db: tx }, { schema: 'erased' })
      expect(await inside.maintenance.finishErasure()).toMatchObject(pending('transaction'))
    })
  })

  it.each(['pool', 'db'])('finishErasure works over the host’s %s', async (source) => {
    const pool = new pg.Pool({ connectionString: url })
    cleanups.add(() => pool.end())
    const host = source === 'pool' ? { pool } : { db: drizzle({ client: pool }) }
    const hosts = postgresKeyStore(host, { schema: 'erased' })
    await hosts.shred(rows[0]?.userId ?? '', { forget: false })
    expect(await hosts.maintenance.finishErasure()).toEqual(ERASED)
  })
})
