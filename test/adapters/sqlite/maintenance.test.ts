/** `maintenance` on SQLite: findings in files and settings, and ages. */
import { chmodSync, closeSync, openSync, statSync, writeSync } from 'node:fs'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import type { KeyStore } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { isChosen } from '../../support/databases.js'
import { errorsOf, storeMaintenance } from '../../support/maintenance.js'
import { insertRow, makeFile } from '../../support/reference-file.js'
import { randomRecord } from '../../support/rows.js'

describe.runIf(isChosen('sqlite'))('the maintenance of a SQLite store', () => {
  const cleanups = cleanUpAfterEach()
  let path: string
  beforeEach(async () => {
    path = await cleanups.database('sqlite')
  })
  const maintenanceOf = (store: KeyStore) => storeMaintenance(cleanups.closing(store))
  const open = async () => maintenanceOf(await openKeyStore(path))

  it('finds a file of the reference that was not adopted', async () => {
    makeFile(path)
    new Database(path).exec(insertRow({ key: 'randomblob(60)' })).close()
    const findings = await maintenanceOf(sqliteKeyStore({ path, migrate: 'off' })).inspect()
    expect(errorsOf(findings)).toMatchObject([
      { reason: expect.stringContaining('1 keys of the Python reference') },
    ])
  })

  itIf(process.platform !== 'win32', 'Windows has no modes')('finds files that others may read', async () => {
    const maintenance = await open()
    expect(await maintenance.inspect()).toEqual([])
    for (const suffix of ['', '-wal', '-shm']) {
      const file = path + suffix
      for (const mode of [0o640, 0o604, 0o620]) {
        chmodSync(file, mode)
        expect(await maintenance.inspect()).toEqual([
          { severity: 'warning', kind: 'fileMode', reason: expect.stringContaining(`chmod 600 ${file}`) },
        ])
      }
      chmodSync(file, 0o600)
    }
  })

  it('warns of risky settings of a host’s connection, and changes none', async () => {
    const client = cleanups.closing(new Database(path))
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
    const inMemory = sqliteKeyStore({ db: drizzle({ client: cleanups.closing(new Database(':memory:')) }) })
    await inMemory.ready()
    expect(await maintenanceOf(inMemory).inspect()).toEqual([])
  })

  it('finds damage', async () => {
    const store = sqliteKeyStore({ path })
    const { maintenance } = store
    const rows = Array.from({ length: 500 }, (_, i) => randomRecord(`user ${i}`))
    await maintenance.restore(rows)
    await maintenance.finishErasure()
    await store.close()
    // In the middle of the file is a page of rows: its number of cells becomes another one.
    const page = Math.floor(statSync(path).size / 4096 / 2)
    const file = openSync(path, 'r+')
    writeSync(file, Buffer.from([0x0f, 0xff]), 0, 2, page * 4096 + 3)
    closeSync(file)
    const findings = await (await open()).inspect()
    expect(errorsOf(findings)).toEqual([
      { severity: 'error', kind: 'damage', reason: expect.stringMatching(/restore a backup/) },
    ])
  })

  it('gives ages without the times that cannot be read', async () => {
    const maintenance = await open()
    const createdAt = new Date('2026-05-06T07:08:09.123Z')
    const ids = ['a', 'b', 'c', 'd', 'e']
    await maintenance.restore(ids.map((userId) => randomRecord(userId, { createdAt, kekId: 'k' })))
    const past = cleanups.closing(new Database(path))
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
