/** Every call of a SQLite store ends by its deadline while another connection has the lock, and says what it waited for. */
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { type OpenedKeyStore, openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { syncRunner } from '../../../src/sources/sqlite-runner.js'
import { SqliteTable } from '../../../src/sources/sqlite-table.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { fixedRecord, randomRecord, rowsOf } from '../../support/rows.js'

const DEADLINE_MS = 150
/** Far more than the deadline, and far less than the sum of SQLite's own waiting, 5 s, or a wait without end. */
const AT_MOST_MS = 4000
const WAITED = {
  code: 'ERR_STORE',
  retryable: true,
  message: expect.stringMatching(/within \d+ ms: another connection has the lock/),
}

describe.runIf(isChosen('sqlite'))('SQLite calls while another connection has the lock', () => {
  const cleanups = cleanUpAfterEach()
  let path: string
  let other: Database.Database
  beforeEach(() => {
    path = join(cleanups.folder(), 'keystore.db')
  })

  async function storeBeside(begin: string): Promise<OpenedKeyStore> {
    const store = cleanups.closing(await openKeyStore(path, { deadlineMs: DEADLINE_MS }))
    await store.insertIfAbsent([fixedRecord('alice')])
    other = cleanups.closing(new Database(path))
    other.exec(begin)
    return store
  }

  /** Expects the error in time. */
  async function expectInTime(work: () => Promise<unknown>): Promise<void> {
    const start = performance.now()
    expect(await keystoreErrorOf(work())).toMatchObject(WAITED)
    expect(performance.now() - start).toBeLessThan(AT_MOST_MS)
  }

  it.each(['begin immediate', 'begin exclusive'])(
    'writes end, reads go on, and all works afterwards: %s',
    async (begin) => {
      const store = await storeBeside(begin)
      const [alice] = await rowsOf(store)
      if (alice === undefined) throw new Error('there is no row')
      const writes: (() => Promise<unknown>)[] = [
        () => store.insertIfAbsent([randomRecord('bob')]),
        () => store.replaceWrapped([{ ...alice, from: alice.encryptedKey, wrappedAt: new Date() }]),
        () => store.shred('alice', { forget: false }),
        () => store.remove([alice]),
        () => storeMaintenance(store).restore([randomRecord('carol')]),
      ]
      for (const write of writes) await expectInTime(write)
      expect(await storeMaintenance(store).finishErasure()).toMatchObject({ erased: 'pending' })
      expect(await store.getAll(['alice'])).toHaveProperty('size', 1)
      other.exec('rollback')
      for (const write of writes) await write()
    },
  )

  it('opening and migrating end, and leave nothing open', async () => {
    other = cleanups.closing(new Database(path))
    other.exec('create table t (a); begin exclusive')
    await expectInTime(() => openKeyStore(path, { deadlineMs: DEADLINE_MS }))
    other.exec('rollback')
    // A connection that was left open would keep this one from leaving WAL mode.
    await (await openKeyStore(path)).close()
    expect(other.pragma('journal_mode = delete', { simple: true })).toBe('delete')
  })

  it('all steps of opening share one deadline', async () => {
    await storeBeside('select 1')
    await cleanups.run()
    path = join(cleanups.folder(), 'exclusive.db')
    await (await openKeyStore(path)).close()
    other = cleanups.closing(new Database(path))
    other.pragma('locking_mode = exclusive')
    other.exec('begin exclusive; create table t (a); commit')
    const store = cleanups.closing(sqliteKeyStore({ path }, { deadlineMs: 400 }))
    const start = performance.now()
    expect(await keystoreErrorOf(store.insertIfAbsent([randomRecord('bob')]))).toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
    })
    expect(performance.now() - start).toBeLessThan(AT_MOST_MS)
  })

  it('close ends while a call waits, and ends the call', async () => {
    const store = cleanups.closing(await openKeyStore(path, { deadlineMs: 600_000 }))
    other = cleanups.closing(new Database(path))
    other.exec('begin immediate')
    const waiting = keystoreErrorOf(store.insertIfAbsent([randomRecord('bob')]))
    await store.close()
    expect(await waiting).toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('close ends while the store is still opening', async () => {
    other = cleanups.closing(new Database(path))
    other.exec('create table t (a); begin exclusive')
    const store = cleanups.closing(sqliteKeyStore({ path }, { deadlineMs: 600_000 }))
    const opening = keystoreErrorOf(store.ready())
    await store.close()
    expect(await opening).toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('a host’s busy timeout, which would stop the whole process, neither counts nor is lost', async () => {
    await storeBeside('select 1')
    const client = cleanups.closing(new Database(path, { timeout: 60_000 }))
    const shared = sqliteKeyStore({ db: drizzle({ client }) }, { deadlineMs: DEADLINE_MS })
    await shared.ready()
    other.exec('begin immediate')
    await expectInTime(() => shared.insertIfAbsent([randomRecord('bob')]))
    await expectInTime(() => shared.shred('alice', { forget: false }))
    expect(client.pragma('busy_timeout', { simple: true })).toBe(60_000)
    other.exec('rollback')
    await shared.insertIfAbsent([randomRecord('bob')])
  })

  it('a sweep’s source says it too', async () => {
    other = cleanups.closing(new Database(path))
    other.exec('create table t (id integer primary key, user_id text, v text); begin exclusive')
    const client = cleanups.closing(new Database(path, { timeout: 0 }))
    const shape = { table: 't', key: ['id'], owner: 'user_id', columns: ['v'], wholeRows: false }
    await expectInTime(() => new SqliteTable(syncRunner(client), shape, DEADLINE_MS).check())
  })

  it('a full disk is retryable, and the same call succeeds when there is room', async () => {
    const client = cleanups.closing(new Database(path))
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.ready()
    client.pragma(`max_page_count = ${client.pragma('page_count', { simple: true })}`)
    const records = Array.from({ length: 200 }, (_, index) => randomRecord(`user-${index}`))
    expect(await keystoreErrorOf(store.insertIfAbsent(records))).toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
      message: expect.stringContaining('SQLITE_FULL'),
    })
    client.pragma('max_page_count = 100000')
    expect(await store.insertIfAbsent(records)).toHaveLength(200)
  })
})
