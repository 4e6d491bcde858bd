/** The option journalMode: an existing file with a rollback journal keeps it, and a store does on it whatever it does past a write-ahead log. */
import { execFileSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import type { SqliteKeyStoreOptions } from '../../../src/adapters/options.js'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { contentsOf, countRemains, ERASED, keysOf } from '../../support/erased-bytes.js'
import { errorOf } from '../../support/errors.js'
import { randomRecord, rowsOf } from '../../support/rows.js'

describe.runIf(isChosen('sqlite'))('journalMode', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  let path: string
  beforeEach(() => {
    folder = cleanups.folder()
    path = join(folder, 'app.db')
  })

  const open = (options: SqliteKeyStoreOptions = {}): SqliteKeyStore =>
    cleanups.closing(sqliteKeyStore({ path }, { deadlineMs: 60_000, journalMode: 'keep', ...options }))
  /** Makes the application's file, with a rollback journal. */
  function makeFile(): void {
    const client = new Database(path)
    client.exec('create table host_rows (id integer primary key, text text)')
    client.close()
    chmodSync(path, 0o600)
  }
  function journalOf(): unknown {
    const client = new Database(path, { readonly: true })
    const mode = client.pragma('journal_mode', { simple: true })
    client.close()
    return mode
  }

  it('keep leaves the file that is there, and wal switches it', async () => {
    makeFile()
    const store = open()
    await store.insertIfAbsent([randomRecord('alice')])
    await store.close()
    expect(journalOf()).toBe('delete')
    await open({ journalMode: 'wal' }).ready()
    expect(journalOf()).toBe('wal')
    const kept = open()
    expect((await kept.getAll(['alice'])).size).toBe(1)
    expect(journalOf()).toBe('wal')
  })

  it('keep gives a file that it makes a write-ahead log', async () => {
    await open().ready()
    expect(journalOf()).toBe('wal')
  })

  it('must be one of the two, for a file that the store opens', () => {
    const refused = expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' })
    expect(() => open({ journalMode: 'delete' as never })).toThrow(refused)
    const client = cleanups.closing(new Database(':memory:'))
    expect(() => sqliteKeyStore({ db: { $client: client } }, { journalMode: 'keep' })).toThrow(refused)
  })

  describe('a store on a file with a rollback journal', () => {
    let store: SqliteKeyStore
    beforeEach(async () => {
      makeFile()
      store = open({ pollMs: 20 })
      await store.ready()
    })

    it('leaves no byte of a shredded key', async () => {
      const rows = Array.from({ length: 200 }, (_, index) => randomRecord(`user ${index}`))
      await store.insertIfAbsent(rows)
      const shredded = rows.filter((_, index) => index % 2 === 0)
      for (const { userId } of shredded)
        expect(await store.shred(userId, { forget: false })).toMatchObject(ERASED)
      expect(countRemains(contentsOf(folder), keysOf(shredded))).toBe(0)
      expect(countRemains(contentsOf(folder), keysOf(rows))).toBe(100)
      expect(await store.maintenance.finishErasure()).toEqual(ERASED)
      expect(journalOf()).toBe('delete')
    })

    it('learns of changes by others', async () => {
      const listener = listenTo(store)
      const other = open()
      const row = randomRecord('alice')
      await other.insertIfAbsent([row])
      await listener.next(({ unspecific }) => unspecific === true)
      expect((await store.getAll(['alice'])).get('alice')).toEqual([row])
    })

    it('waits for locks, and blocks nothing meanwhile', async () => {
      const writer = cleanups.closing(new Database(path))
      writer.exec('begin exclusive')
      let isDone = false
      const calls = [store.insertIfAbsent([randomRecord('alice')]), rowsOf(store)].map((call) =>
        call.then(() => {
          isDone = true
        }),
      )
      for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setTimeout(resolve, 1))
      expect(isDone).toBe(false)
      writer.exec('commit')
      await Promise.all(calls)
      const hasty = open({ deadlineMs: 50 })
      await hasty.ready()
      writer.exec('begin exclusive')
      expect(await errorOf(hasty.shred('alice', { forget: false }))).toMatchObject({
        code: 'ERR_STORE',
        retryable: true,
      })
      writer.exec('commit')
    })

    it('warns of the journal, and finds no error', async () => {
      expect(await store.maintenance.inspect()).toMatchObject([
        { severity: 'warning', kind: 'setting', reason: expect.stringContaining('journal_mode is delete') },
      ])
    })

    it('notices an older copy that was written over the file', async () => {
      await store.insertIfAbsent([randomRecord('alice')])
      execFileSync('cp', [path, `${path}.older`])
      await store.insertIfAbsent([randomRecord('bob')])
      execFileSync('sh', ['-ec', `cat ${path}.older > ${path}`])
      await expect(store.insertIfAbsent([randomRecord('carol')])).rejects.toMatchObject({
        code: 'ERR_STORE',
        retryable: false,
        message: expect.stringContaining('open it again'),
      })
    })

    it('goes on when another connection switches the file to a write-ahead log', async () => {
      await store.insertIfAbsent([randomRecord('alice')])
      const other = open({ journalMode: 'wal' })
      await other.insertIfAbsent([randomRecord('bob')])
      await store.insertIfAbsent([randomRecord('carol')])
      await other.close()
      await store.insertIfAbsent([randomRecord('dora')])
      expect(await store.shred('bob', { forget: false })).toMatchObject(ERASED)
      expect((await rowsOf(store)).map(({ userId }) => userId)).toEqual(['alice', 'bob', 'carol', 'dora'])
    })
  })
})
