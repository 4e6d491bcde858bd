/** A backup is written in place over the file of a host's connection: the store says so, and no key that it read before is used any more. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, type KeyStore, type KeystoreEvent, localMasterKey } from '../../../src/index.js'
import { isAnything, isSilent, listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { fixedRecord, randomRecord, rowsOf } from '../../support/rows.js'

const LOST = { code: 'ERR_STORE', retryable: false, message: expect.stringContaining('open it again') }
/** A poll that comes by itself comes too late for the test. */
const NEVER_MS = 1_000_000

const cleanups = cleanUpAfterEach()

/** In another process, as an operator does it: this one has the file open. */
function execute(script: string): void {
  execFileSync('sh', ['-ec', script])
}

describe.runIf(isChosen('sqlite')).each(['wal', 'delete', 'truncate', 'persist'])(
  'a host’s file with journal_mode %s',
  (mode) => {
    let path: string
    let client: Database.Database
    let store: SqliteKeyStore

    beforeEach(async () => {
      const folder = cleanups.folder()
      path = join(folder, 'app.db')
      client = cleanups.closing(new Database(path))
      client.pragma(`journal_mode = ${mode}`)
      client.exec('create table host_rows (id integer primary key, text text)')
      store = onHost()
      await store.insertIfAbsent([fixedRecord('alice')])
      client.pragma('wal_checkpoint(truncate)')
      execute(`cp ${path} ${folder}/older.db`)
      await store.insertIfAbsent([fixedRecord('bob')])
    })

    function onHost(pollMs = NEVER_MS): SqliteKeyStore {
      return cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }, { pollMs, deadlineMs: 5000 }))
    }

    const overwrite = () => execute(`cat ${path.replace('app.db', 'older.db')} > ${path}`)
    const overwritings: Readonly<Record<string, () => void>> = {
      'a backup': overwrite,
      'a backup, and its journals were removed': () => {
        overwrite()
        execute(`rm -f ${path}-wal ${path}-shm ${path}-journal`)
      },
    }

    describe.each(Object.keys(overwritings))('that was overwritten by %s', (kind) => {
      it('is ERR_STORE for every call from the next write on, until it is opened again', async () => {
        overwritings[kind]?.()
        await expect(store.insertIfAbsent([randomRecord('carol')])).rejects.toMatchObject(LOST)
        await expect(store.shred('alice', { forget: false })).rejects.toMatchObject(LOST)
        await expect(store.getAll(['alice'])).rejects.toMatchObject(LOST)
        client.close()
        overwrite()
        execute(`rm -f ${path}-wal ${path}-shm ${path}-journal`)
        client = cleanups.closing(new Database(path))
        const again = onHost()
        await again.insertIfAbsent([fixedRecord('dora')])
        expect((await rowsOf(again)).map(({ userId }) => userId)).toEqual(['alice', 'dora'])
      })

      it('is found by the next poll', async () => {
        const listener = listenTo(onHost(20))
        const polled = onHost(20)
        await polled.getAll(['alice'])
        const listening = listenTo(polled)
        overwritings[kind]?.()
        expect((await listening.next(isSilent)).silent).toContain('open it again')
        expect(listening.changes.some(isAnything)).toBe(true)
        await expect(polled.getAll(['alice'])).rejects.toMatchObject(LOST)
        listener.end()
      })
    })

    it('is the same file whatever SQLite does with it', async () => {
      const other = cleanups.closing(new Database(path))
      for (const [index, connection] of [client, other, client, other].entries()) {
        connection.exec(`insert into host_rows (text) values ('${'x'.repeat(10_000)}')`)
        await store.insertIfAbsent([randomRecord(`a${index}`)])
        connection.pragma('wal_checkpoint(truncate)')
        await store.insertIfAbsent([randomRecord(`b${index}`)])
        connection.exec('vacuum')
        await store.insertIfAbsent([randomRecord(`c${index}`)])
        // Its changes are written into the file before they are rolled back.
        connection.pragma('cache_size = 1')
        connection.exec('begin; update host_rows set text = text || 1; delete from host_rows; rollback')
        await store.insertIfAbsent([randomRecord(`d${index}`)])
        connection.exec(`create table t${index} (x); pragma user_version = ${index}`)
        await store.shred(`d${index}`, { forget: false })
      }
      other.close()
      for (const next of ['delete', 'wal', 'truncate', 'wal', 'delete', mode]) {
        client.pragma(`journal_mode = ${next}`)
        await store.insertIfAbsent([randomRecord(`to ${next}`)])
        client.pragma('wal_checkpoint(truncate)')
        await store.shred(`to ${next}`, { forget: true })
      }
      client.pragma('locking_mode = exclusive')
      client.exec(`create table last (x); insert into last values (1)`)
      await store.insertIfAbsent([randomRecord('e')])
      client.exec(`create table more (x)`)
      await store.insertIfAbsent([randomRecord('f')])
      expect(await store.getAll(['alice', 'bob', 'e', 'f'])).toHaveProperty('size', 4)
    })
  },
)

it.runIf(isChosen('sqlite'))(
  'a host’s file whose transaction is rolled back after a crash is the same file',
  async () => {
    const path = join(cleanups.folder(), 'app.db')
    const client = cleanups.closing(new Database(path))
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }, { pollMs: NEVER_MS }))
    await store.insertIfAbsent([fixedRecord('alice')])
    // Writes pages into the file, with a counter that is not yet committed, and dies.
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
  },
)

describe.runIf(isChosen('sqlite'))('once one call has found that the file is another', () => {
  const stores: Readonly<Record<string, (path: string) => Promise<readonly [KeyStore, KeyStore]>>> = {
    'the same store': async (path) => {
      const store = await openKeyStore(path, { pollMs: NEVER_MS, deadlineMs: 5000 })
      return [store, store]
    },
    'a store on the same host’s connection': async (path) => {
      const client = cleanups.closing(new Database(path))
      const open = () => sqliteKeyStore({ db: drizzle({ client }) }, { pollMs: NEVER_MS, deadlineMs: 5000 })
      return [open(), open()]
    },
    'a store on another connection': async (path) => [
      await openKeyStore(path, { pollMs: NEVER_MS, deadlineMs: 5000 }),
      await openKeyStore(path, { pollMs: NEVER_MS, deadlineMs: 5000 }),
    ],
  }

  it.each(Object.keys(stores))('no cached key is used by %s', async (kind) => {
    const path = join(cleanups.folder(), 'keystore.db')
    const open = stores[kind] as (path: string) => Promise<readonly [KeyStore, KeyStore]>
    const [finder, other] = (await open(path)).map((store) => cleanups.closing(store)) as [KeyStore, KeyStore]
    const events: KeystoreEvent['type'][] = []
    const envelope = await EnvelopeCrypto.open({
      store: other,
      masterKeys: localMasterKey(randomBytes(32)),
      onEvent: ({ type }) => void events.push(type),
    })
    await envelope.encrypt('zoe', 'secret')
    await finder.getAll(['zoe'])
    execute(`mv ${path} ${path}.away`)
    await expect(envelope.encrypt('zoe', 'secret')).resolves.toBeTypeOf('string')
    await expect(finder.remove([{ userId: 'nobody', version: 1 }])).rejects.toMatchObject(LOST)
    await expect(envelope.encrypt('zoe', 'secret')).rejects.toMatchObject(LOST)
    expect(events).toContain('changesSilent')
  })
})
