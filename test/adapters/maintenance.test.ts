/** What the operator's commands find in a storage, and rows that they bring back. */
import { chmodSync, closeSync, openSync, statSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { LEDGER } from '../../src/adapters/migrator.js'
import { openKeyStore } from '../../src/adapters/open.js'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import type { KeyStore, StoreFinding, StoreMaintenance } from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import {
  asAdmin,
  type Dialect,
  dialects,
  type FreshDatabase,
  freshDatabase,
  isChosen,
} from '../support/databases.js'
import { runSql, schemaErrorOf } from '../support/migration-helpers.js'
import { insertRow, makeFile } from '../support/reference-file.js'
import { randomRecord } from '../support/remains.js'

let database: FreshDatabase
const opened: { close(): unknown }[] = []
const keep = <T extends { close(): unknown }>(something: T): T => {
  opened.push(something)
  return something
}
afterEach(async () => {
  for (const thing of opened.splice(0).reverse()) await thing.close()
  await database.remove()
})

function maintenanceOf(store: KeyStore): StoreMaintenance {
  if (store.maintenance === undefined) throw new Error('the store has no maintenance')
  return keep(store) && store.maintenance
}

const open = async (options = {}) => maintenanceOf(await openKeyStore(database.url, options))
const errorsOf = (findings: readonly StoreFinding[]) =>
  findings.filter(({ severity }) => severity === 'error')
const storeOn = (dialect: Dialect, options: { migrate: 'off' | 'check' }) =>
  dialect === 'sqlite'
    ? sqliteKeyStore({ path: database.url }, options)
    : postgresKeyStore({ url: database.url }, options)

describe.each(dialects)('inspect on %s: the schema', (dialect) => {
  beforeEach(async () => {
    database = await freshDatabase(dialect)
  })
  const run = (sql: string) => runSql(dialect, database.url, sql)

  it('is found to be behind, as mode check would say', async () => {
    await (await openKeyStore(database.url)).close()
    await run(`delete from ${LEDGER} where tag like '0002%'`)
    const refused = await schemaErrorOf(keep(storeOn(dialect, { migrate: 'check' })).ready())
    const finding = { severity: 'error', kind: 'schemaVersion', reason: refused }
    expect(errorsOf(await maintenanceOf(storeOn(dialect, { migrate: 'off' })).inspect())).toEqual([finding])
    expect(await maintenanceOf(storeOn(dialect, { migrate: 'check' })).inspect()).toEqual([finding])
  })

  it('is found to be newer, or made of other SQL', async () => {
    await (await openKeyStore(database.url)).close()
    const off = maintenanceOf(storeOn(dialect, { migrate: 'off' }))
    expect(errorsOf(await off.inspect())).toEqual([])
    await run(`update ${LEDGER} set sha256 = 'other' where tag like '0001%'`)
    expect(errorsOf(await off.inspect())).toMatchObject([{ reason: expect.stringContaining('other SQL') }])
    await run(`update ${LEDGER} set tag = '0099_later' where tag like '0001%'`)
    expect(errorsOf(await off.inspect())).toMatchObject([
      { reason: expect.stringContaining('upgrade the package') },
    ])
  })

  it('is found to be missing', async () => {
    if (dialect === 'sqlite') makeFile(database.url, 'create table of_the_host (id integer)')
    const findings = await maintenanceOf(storeOn(dialect, { migrate: 'off' })).inspect()
    expect(errorsOf(findings)).toMatchObject([
      { kind: 'schemaVersion', reason: expect.stringContaining('keystore migrate') },
    ])
  })

  it('of a table that the host’s own migrations made is a matter of its columns', async () => {
    await (await openKeyStore(database.url)).close()
    await run(`drop table ${LEDGER}`)
    const off = maintenanceOf(storeOn(dialect, { migrate: 'off' }))
    expect(errorsOf(await off.inspect())).toEqual([])
    await run(
      'drop index encryption_keys_kek_id_idx; alter table encryption_keys rename column kek_id to kek',
    )
    expect(errorsOf(await off.inspect())).toMatchObject([{ kind: 'schemaVersion' }])
  })

  it('an outage is an error, no finding', async () => {
    if (dialect === 'postgres') {
      const store = postgresKeyStore({ url: 'postgres://u@127.0.0.1:1/x' }, { migrate: 'off', deadlineMs: 1 })
      await expect(maintenanceOf(store).inspect()).rejects.toMatchObject({ code: 'ERR_STORE' })
      return
    }
    const client = new Database(database.url)
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.ready()
    client.close()
    await expect(maintenanceOf(store).inspect()).rejects.toMatchObject({ code: 'ERR_STORE' })
  })
})

describe.runIf(isChosen('sqlite'))('inspect on SQLite', () => {
  beforeEach(async () => {
    database = await freshDatabase('sqlite')
  })

  it('finds a reference’s file that nobody has adopted', async () => {
    makeFile(database.url)
    new Database(database.url).exec(insertRow({ key: 'randomblob(60)' })).close()
    const findings = await maintenanceOf(storeOn('sqlite', { migrate: 'off' })).inspect()
    expect(errorsOf(findings)).toMatchObject([
      { reason: expect.stringContaining('1 keys of the Python reference') },
    ])
  })

  itIf(process.platform !== 'win32', 'Windows has no modes')('finds files that others may read', async () => {
    const maintenance = await open()
    expect(await maintenance.inspect()).toEqual([])
    for (const suffix of ['', '-wal', '-shm']) {
      const path = database.url + suffix
      for (const mode of [0o640, 0o604, 0o620]) {
        chmodSync(path, mode)
        expect(await maintenance.inspect()).toEqual([
          { severity: 'warning', kind: 'fileMode', reason: expect.stringContaining(`chmod 600 ${path}`) },
        ])
      }
      chmodSync(path, 0o600)
    }
  })

  it('finds what a host’s connection is set to, as warnings, and changes nothing', async () => {
    const client = keep(new Database(database.url))
    client.pragma('synchronous = off')
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.ready()
    const reasons = async () => {
      const findings = await maintenanceOf(store).inspect()
      for (const { severity, kind } of findings) expect([severity, kind]).toEqual(['warning', 'setting'])
      return findings.map(({ reason }) => reason.split(' ')[0])
    }
    expect(await reasons()).toEqual(['journal_mode', 'synchronous', 'secure_delete'])
    client.pragma('journal_mode = wal')
    client.pragma('synchronous = normal')
    client.pragma('secure_delete = fast')
    expect(await reasons()).toEqual(['synchronous', 'secure_delete'])
    client.pragma('synchronous = extra')
    client.pragma('secure_delete = on')
    expect(await reasons()).toEqual([])
    const inMemory = sqliteKeyStore({ db: drizzle({ client: keep(new Database(':memory:')) }) })
    await inMemory.ready()
    expect(await maintenanceOf(inMemory).inspect()).toEqual([])
  })

  it('finds damage', async () => {
    const maintenance = await open()
    const rows = Array.from({ length: 500 }, (_, i) => randomRecord(`user ${i}`))
    await maintenance.restore(rows)
    await maintenance.finishErasure()
    for (const thing of opened.splice(0)) await thing.close()
    // In the middle of the file is a page of rows: its number of cells becomes another one.
    const page = Math.floor(statSync(database.url).size / 4096 / 2)
    const file = openSync(database.url, 'r+')
    writeSync(file, Buffer.from([0x0f, 0xff]), 0, 2, page * 4096 + 3)
    closeSync(file)
    const findings = await (await open()).inspect()
    expect(errorsOf(findings)).toEqual([
      { severity: 'error', kind: 'damage', reason: expect.stringMatching(/restore a backup/) },
    ])
  })

  it('ages leave out times that cannot be read', async () => {
    const maintenance = await open()
    const createdAt = new Date('2026-05-06T07:08:09.123Z')
    const ids = ['a', 'b', 'c', 'd', 'e']
    await maintenance.restore(ids.map((userId) => randomRecord(userId, { createdAt, kekId: 'k' })))
    const past = keep(new Database(database.url))
    const set = past.prepare('update encryption_keys set created_at = ? where user_id = ?')
    for (const [at, userId] of [
      ['2026-05-05T09:08:09.5+02:00', 'b'],
      ['now', 'c'],
      ['2027-01-01T00:00:00', 'd'],
      ['', 'e'],
    ])
      set.run(at, userId)
    const oldest = new Date('2026-05-05T07:08:09.500Z')
    expect(await maintenance.datedCensus()).toEqual([
      { kekId: 'k', version: 1, shredded: false, count: 5, oldest, newest: createdAt },
    ])
    past.exec(`update encryption_keys set created_at = 'never'`)
    const [row] = await maintenance.datedCensus()
    expect([row?.count, row?.oldest.getTime(), row?.newest.getTime()]).toEqual([5, Number.NaN, Number.NaN])
  })
})

describe.runIf(isChosen('postgres'))('on Postgres', () => {
  beforeEach(async () => {
    database = await freshDatabase('postgres')
  })

  it('inspect finds what would lose keys in a crash', async () => {
    const url = new URL(database.url)
    url.searchParams.set('options', '-c synchronous_commit=off')
    const findings = await maintenanceOf(postgresKeyStore({ url: url.href })).inspect()
    expect(findings).toContainEqual({
      severity: 'warning',
      kind: 'setting',
      reason: expect.stringContaining('synchronous_commit is off'),
    })
    expect(errorsOf(findings)).toEqual([])
    const others = await (await open()).inspect()
    expect(others.filter(({ reason }) => reason.includes('synchronous_commit'))).toEqual([])
  })

  it('ages leave out times that cannot be read', async () => {
    const maintenance = await open()
    await maintenance.restore([randomRecord('a'), randomRecord('b', { kekId: 'k' })])
    await asAdmin(database.url, `update encryption_keys set created_at = 'infinity' where user_id = 'b'`)
    const rows = await maintenance.datedCensus()
    const byKek = new Map(rows.map((row) => [row.kekId, row.newest.getTime()]))
    expect(byKek.get(null)).toBeGreaterThan(0)
    expect(byKek.get('k')).toBeNaN()
  })

  it('a row that was being restored when its user was shredded does not survive', async () => {
    const maintenance = await open()
    // Between what restore has seen and its commit there is time for a whole shred.
    await asAdmin(
      database.url,
      `create function linger() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return new; end $$`,
      `create trigger linger before insert on encryption_keys for each row when (new.version = 2) execute function linger()`,
    )
    const restoring = maintenance.restore([randomRecord('alice', { version: 2 })])
    const client = new pg.Client(database.url)
    await client.connect()
    for (let waiting = 0; waiting === 0; await sleep(10)) {
      const { rows } = await client.query(`select 1 from pg_stat_activity where wait_event = 'PgSleep'`)
      waiting = rows.length
    }
    await client.end()
    const other = keep(await openKeyStore(database.url))
    await other.shred('alice', { forget: false })
    expect((await other.getAll(['alice'])).get('alice')).toHaveLength(1)
    const [winner] = await restoring
    expect(winner).toMatchObject({ version: 1, shreddedAt: expect.any(Date) })
    expect((await other.getAll(['alice'])).get('alice')).toEqual([winner])
  })
})
