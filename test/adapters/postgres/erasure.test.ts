/** What a shred on Postgres leaves in the table's files, and what finishes it. */

import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import type { KeyRecord } from '../../../src/index.js'
import { asAdmin, type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { contentsOf, countRemains, randomRecord } from '../../support/remains.js'

const ERASED = { erased: 'file', pending: null }
const pending = (reason: string) => ({ erased: 'pending', pending: expect.stringContaining(reason) })
const keysOf = (rows: readonly KeyRecord[]) => rows.map(({ encryptedKey }) => encryptedKey)

describe.runIf(isChosen('postgres'))('Postgres', () => {
  let database: FreshDatabase
  let admin: pg.Client
  let store: PostgresKeyStore
  let rows: KeyRecord[]
  /** The files of this database; null where the server is on another machine. */
  let folder: string | null

  beforeEach(async () => {
    database = await freshDatabase('postgres')
    admin = new pg.Client(database.url)
    await admin.connect()
    store = postgresKeyStore({ url: database.url }, { schema: 'erased', deadlineMs: 5000 })
    rows = Array.from({ length: 300 }, () => randomRecord(randomBytes(9).toString('base64url')))
    await store.insertIfAbsent(rows)
    const { rows: found } = await admin.query(
      `select current_setting('data_directory') || '/base/' || oid as folder from pg_database where datname = current_database()`,
    )
    folder = existsSync(found[0].folder) ? found[0].folder : null
    if (folder === null) console.log('The files are not searched: the server is on another machine.')
  })
  afterEach(async () => {
    await store.close()
    await admin.end()
    await database.remove()
  })

  async function remains(keys: readonly Uint8Array[]): Promise<number | null> {
    if (folder === null) return null
    await admin.query('checkpoint')
    return countRemains(contentsOf(folder), keys)
  }

  it('a shred leaves the bytes in the files, VACUUM too, and finishErasure does not', async () => {
    const shredded = rows.slice(0, 200)
    await admin.query('analyze')
    for (const { userId } of shredded) {
      const receipt = await store.shred(userId, { forget: userId < 'V' })
      expect(receipt).toMatchObject({ versions: [1], ...pending('run `keystore doctor --finish-erasure`') })
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
    // Nor is the table to be kept in that order from now on.
    const clustered = await admin.query('select 1 from pg_index where indisclustered')
    expect(clustered.rows).toEqual([])
  })

  it('it waits for transactions that may still see the rows, and names them while they last', async () => {
    const [row] = rows
    const older = new pg.Client(database.url)
    await older.connect()
    try {
      await older.query('begin isolation level repeatable read; select 1')
      const { rows: found } = await older.query('select pg_backend_pid() as pid')
      await store.shred(row?.userId ?? '', { forget: false })
      const hasty = postgresKeyStore({ url: database.url }, { schema: 'erased', deadlineMs: 200 })
      expect(await hasty.maintenance.finishErasure()).toMatchObject(pending(`process ${found[0].pid}`))
      await hasty.close()
      const finishing = store.maintenance.finishErasure()
      await older.query('commit')
      expect(await finishing).toEqual(ERASED)
      if (folder !== null) expect(await remains(keysOf(rows.slice(0, 1)))).toBe(0)
    } finally {
      await older.end()
    }
  })

  it('it does not queue for ever before other traffic', async () => {
    const reader = new pg.Client(database.url)
    await reader.connect()
    try {
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
    } finally {
      await reader.end()
    }
  })

  it('a role that does not own the table is told so', async () => {
    const role = `reader_${randomBytes(6).toString('hex')}`
    await asAdmin(
      database.url,
      `create role ${role} login password '${role}'`,
      `grant usage on schema erased to ${role}`,
      `grant all on all tables in schema erased to ${role}`,
    )
    const url = new URL(database.url)
    url.username = role
    url.password = role
    const other = postgresKeyStore({ url: url.href }, { schema: 'erased', migrate: 'off' })
    try {
      await other.shred(rows[0]?.userId ?? '', { forget: false })
      expect(await other.maintenance.finishErasure()).toMatchObject(pending('must be owner'))
      // It sees who holds rows back all the same.
      const older = new pg.Client(database.url)
      await older.connect()
      await older.query('begin isolation level repeatable read; select 1')
      await other.shred(rows[1]?.userId ?? '', { forget: false })
      const hasty = postgresKeyStore({ url: url.href }, { schema: 'erased', migrate: 'off', deadlineMs: 200 })
      expect(await hasty.maintenance.finishErasure()).toMatchObject(pending('process '))
      await hasty.close()
      await older.end()
    } finally {
      await other.close()
      await asAdmin(database.url, `drop owned by ${role}`, `drop role ${role}`)
    }
  })

  it('samples that ANALYZE has taken are told of', async () => {
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
    // To the letter, as a superuser.
    const statements = [...(state.pending ?? '').matchAll(/`((?:delete|vacuum)[^`]+)`/g)].map(
      ([, text]) => text,
    )
    expect(statements).toHaveLength(2)
    for (const statement of statements) await admin.query(statement ?? '')
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    // VACUUM FULL keeps what an older transaction may still see, and autovacuum's are nobody's to end: then once more.
    for (let tries = 0; folder !== null && tries < 20 && ((await remains(keysOf(rows))) ?? 0) > 0; tries++) {
      await sleep(500)
      await admin.query(statements[1] ?? '')
    }
    if (folder !== null) expect(await remains(keysOf(rows))).toBe(0)
    expect(await store.maintenance.inspect()).not.toContainEqual(
      expect.objectContaining({ reason: expect.stringContaining('pg_statistic') }),
    )
  })

  it('inside the host’s transaction it is pending', async () => {
    const pool = new pg.Pool({ connectionString: database.url })
    await drizzle({ client: pool }).transaction(async (tx) => {
      const inside = postgresKeyStore({ db: tx }, { schema: 'erased' })
      expect(await inside.maintenance.finishErasure()).toMatchObject(pending('transaction'))
    })
    await pool.end()
  })

  it.each(['pool', 'db'])('it works over the host’s %s', async (source) => {
    const pool = new pg.Pool({ connectionString: database.url })
    const host = source === 'pool' ? { pool } : { db: drizzle({ client: pool }) }
    const hosts = postgresKeyStore(host, { schema: 'erased' })
    await hosts.shred(rows[0]?.userId ?? '', { forget: false })
    expect(await hosts.maintenance.finishErasure()).toEqual(ERASED)
    await pool.end()
  })
})
