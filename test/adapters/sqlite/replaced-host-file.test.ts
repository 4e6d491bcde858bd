/** The file of the host's own connection is overwritten in place, with a write-ahead log and without. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { fixedRecord, randomRecord, rowsOf } from '../../support/rows.js'

const LOST = { code: 'ERR_STORE', retryable: false, message: expect.stringContaining('open it again') }

describe.runIf(isChosen('sqlite'))('the file of a host’s connection', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  let path: string
  beforeEach(() => {
    folder = cleanups.folder()
    path = join(folder, 'host.db')
  })

  function hostStore(journal: string, pollMs = 1000): SqliteKeyStore {
    const client = cleanups.closing(new Database(path))
    client.pragma(`journal_mode = ${journal}`)
    return cleanups.closing(sqliteKeyStore({ db: drizzle({ client }), pollMs, deadlineMs: 5000 }))
  }

  /** In another process, as an operator does it. */
  function execute(script: string): void {
    execFileSync('sh', ['-ec', script])
  }

  const restored = () => execute(`cat ${folder}/older.db > ${path}`)

  describe.each(['wal', 'delete', 'truncate'])('in journal mode %s', (journal) => {
    /** With a copy from before bob. */
    async function withOlderCopy(store: SqliteKeyStore): Promise<void> {
      await store.insertIfAbsent([fixedRecord('alice')])
      const other = new Database(path)
      await other.backup(`${folder}/older.db`)
      other.close()
      await store.insertIfAbsent([fixedRecord('bob')])
    }

    it('that an older copy overwrites is ERR_STORE for every write, until it is opened again', async () => {
      const store = hostStore(journal)
      await withOlderCopy(store)
      restored()
      await expect(store.insertIfAbsent([randomRecord('carol')])).rejects.toMatchObject(LOST)
      await expect(store.shred('alice', { forget: false })).rejects.toMatchObject(LOST)
      await expect(store.getAll(['alice'])).rejects.toMatchObject(LOST)
      await store.close()
    })

    it('that an older copy overwrites is found by the next poll', async () => {
      const store = hostStore(journal, 20)
      await withOlderCopy(store)
      const listener = listenTo(store)
      // The first poll of a listener tells the state that later ones are compared with.
      await new Promise((resolve) => setTimeout(resolve, 100))
      restored()
      const { silent } = await listener.next(({ silent }) => silent !== undefined)
      expect(silent).toContain('open it again')
    })

    it('ends the use of cached keys with the first write that fails', async () => {
      // No poll comes in time.
      const store = hostStore(journal, 600_000)
      const masterKeys = localMasterKey(generateMasterKey())
      const envelope = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
      await envelope.encrypt('zoe', 'x')
      const other = new Database(path)
      await other.backup(`${folder}/older.db`)
      other.close()
      const token = await envelope.encrypt('yan', 'x')
      restored()
      await expect(envelope.encrypt('carol', 'x')).rejects.toMatchObject(LOST)
      await expect(envelope.encrypt('yan', 'y')).rejects.toMatchObject(LOST)
      await expect(envelope.decrypt('yan', token)).rejects.toMatchObject(LOST)
    })

    it('that others write, also as processes that die, is the same file', async () => {
      const store = hostStore(journal, 5)
      const listener = listenTo(store)
      const other = cleanups.closing(new Database(path))
      for (let i = 0; i < 20; i++) {
        const users = Array.from({ length: 20 }, (_, n) => randomRecord(`user-${i}-${n}`))
        await store.insertIfAbsent(users)
        other.exec(
          `begin immediate; delete from encryption_keys where user_id = 'user-${i}-0'; ${i % 2 === 0 ? 'commit' : 'rollback'}`,
        )
        if (i === 10) other.exec('vacuum')
      }
      expect(await rowsOf(store)).toHaveLength(390)
      expect(listener.changes.every(({ silent }) => silent === undefined)).toBe(true)
    })
  })

  it('whose transaction was rolled back after a crash is the same file', async () => {
    const store = hostStore('delete')
    await store.insertIfAbsent([fixedRecord('alice')])
    // Spills pages into the file, with a counter that is not yet committed, and dies.
    const script = `
      const db = new (require('better-sqlite3'))(process.argv[1])
      db.pragma('cache_size = 2')
      db.exec('begin immediate; create table big (x)')
      const insert = db.prepare('insert into big values (randomblob(3000))')
      for (let i = 0; i < 500; i++) insert.run()
      process.kill(process.pid, 'SIGKILL')`
    expect(() => execFileSync(process.execPath, ['-e', script, path], { stdio: 'ignore' })).toThrow()
    await store.insertIfAbsent([fixedRecord('bob')])
    expect(await rowsOf(store)).toHaveLength(2)
  })
})
