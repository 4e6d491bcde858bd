/** The file of an open store is deleted, replaced or overwritten: nothing goes on into a file that nobody else sees. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { rmSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, type KeyStore, type KeystoreEvent, localMasterKey } from '../../../src/index.js'
import { listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { isChosen } from '../../support/databases.js'
import { fixedRecord, randomRecord, rowsOf } from '../../support/rows.js'

const LOST = { code: 'ERR_STORE', retryable: false, message: expect.stringContaining('open it again') }

describe.runIf(isChosen('sqlite'))('a SQLite file under an open store', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  let path: string
  let store: KeyStore

  beforeEach(async () => {
    folder = cleanups.folder()
    path = join(folder, 'keystore.db')
    store = cleanups.closing(await openKeyStore(path, { pollMs: 20, deadlineMs: 5000 }))
    await store.insertIfAbsent([fixedRecord('alice')])
    // A backup, in one file.
    execute(`cp ${path} ${folder}/older.db; cp ${path}-wal ${folder}/older.db-wal`)
    new Database(`${folder}/older.db`).exec('pragma wal_checkpoint(truncate)').close()
    await store.insertIfAbsent([fixedRecord('bob')])
  })

  /** In another process, as an operator does it: this one has the file open. */
  function execute(script: string): void {
    execFileSync('sh', ['-ec', script])
  }

  const changes: Readonly<Record<string, () => void>> = {
    renamed: () => execute(`mv ${path} ${folder}/away.db`),
    deleted: () => execute(`rm ${path}`),
    'deleted with its write-ahead log': () => execute(`rm ${path} ${path}-wal ${path}-shm`),
    'left without its write-ahead log': () => execute(`rm ${path}-wal`),
    'left with another write-ahead log': () => execute(`rm ${path}-wal; cp ${folder}/older.db ${path}-wal`),
    'replaced by mv': () => execute(`mv ${folder}/older.db ${path}`),
    'overwritten in place by cp': () => execute(`cp ${folder}/older.db ${path}`),
    'overwritten in place by cp -p': () => execute(`cp -p ${folder}/older.db ${path}`),
    'replaced by a symbolic link': () => {
      unlinkSync(path)
      symlinkSync(join(folder, 'older.db'), path)
    },
  }

  describe.each(Object.keys(changes))('that was %s', (change) => {
    it('is ERR_STORE for every write, and a shred is no receipt; after reopening all works', async () => {
      changes[change]?.()
      await expect(store.insertIfAbsent([randomRecord('carol')])).rejects.toMatchObject(LOST)
      await expect(store.shred('alice', { forget: false })).rejects.toMatchObject(LOST)
      await expect(store.remove([{ userId: 'alice', version: 1 }])).rejects.toMatchObject(LOST)
      // Known now, so that reads do not go on either.
      await expect(store.getAll(['alice'])).rejects.toMatchObject(LOST)
      await store.close()
      if (change.includes('write-ahead log') && !change.startsWith('deleted'))
        rmSync(`${path}-wal`, { force: true })
      const again = cleanups.closing(await openKeyStore(path))
      await again.insertIfAbsent([fixedRecord('dora')])
      expect((await rowsOf(again)).map(({ userId }) => userId)).toContain('dora')
    })

    it('is found by the next poll, which ends the use of cached keys', async () => {
      const events: KeystoreEvent['type'][] = []
      const envelope = await EnvelopeCrypto.open({
        store: cleanups.closing(await openKeyStore(path, { pollMs: 20 })),
        masterKeys: localMasterKey(randomBytes(32)),
        allowUnknownMasterKeys: true,
        onEvent: ({ type }) => void events.push(type),
      })
      cleanups.add(() => envelope.close())
      await envelope.encrypt('zoe', 'secret')
      const listener = listenTo(store)
      changes[change]?.()
      const { silent } = await listener.next(({ silent }) => silent !== undefined)
      expect(silent).toContain('open it again')
      expect(listener.changes.some((change) => Object.keys(change).length === 0)).toBe(true)
      for (let tries = 0; tries < 500 && !events.includes('changesSilent'); tries++)
        await new Promise((resolve) => setTimeout(resolve, 10))
      await expect(envelope.encrypt('zoe', 'secret')).rejects.toMatchObject(LOST)
    })
  })

  it('is noticed within a second by a store that only reads, and that nobody listens to', async () => {
    await store.getAll(['alice'])
    execute(`mv ${folder}/older.db ${path}`)
    await new Promise((resolve) => setTimeout(resolve, 1100))
    await expect(store.getAll(['alice'])).rejects.toMatchObject(LOST)
  })

  it('that others write, checkpoint and vacuum is the same file', async () => {
    const other = cleanups.closing(new Database(path))
    for (let i = 0; i < 20; i++) {
      other.exec(
        `insert into encryption_keys (user_id, version, encrypted_key, created_at) values ('o${i}', 1, x'00', '2026-01-01T00:00:00Z')`,
      )
      if (i % 3 === 0) other.exec(`pragma wal_checkpoint(${['passive', 'truncate', 'restart'][(i / 3) % 3]})`)
      if (i === 10) other.exec('vacuum')
      await store.insertIfAbsent([randomRecord(`user-${i}`)])
      await store.shred(`user-${i}`, { forget: i % 2 === 0 })
    }
    expect(await store.getAll(['o19'])).toHaveProperty('size', 1)
  })

  it('is watched on a host’s connection too', async () => {
    const client = cleanups.closing(new Database(path))
    const shared = sqliteKeyStore({ db: drizzle({ client }) })
    await shared.insertIfAbsent([randomRecord('carol')])
    execute(`mv ${folder}/older.db ${path}`)
    await expect(shared.insertIfAbsent([randomRecord('dora')])).rejects.toMatchObject(LOST)
    await expect(shared.shred('alice', { forget: false })).rejects.toMatchObject(LOST)
  })

  it('of a host may leave its write-ahead log', async () => {
    const file = join(folder, 'host.db')
    const client = cleanups.closing(new Database(file))
    client.pragma('journal_mode = WAL')
    const shared = sqliteKeyStore({ db: drizzle({ client }) })
    await shared.insertIfAbsent([randomRecord('carol')])
    client.pragma('journal_mode = DELETE')
    await shared.insertIfAbsent([randomRecord('dora')])
    expect(await rowsOf(shared)).toHaveLength(2)
  })

  itIf(process.platform === 'linux', '/proc/locks is Linux’s')(
    'keeps SQLite’s locks when a shred reads it',
    async () => {
      const { readFileSync } = await import('node:fs')
      const locks = () =>
        readFileSync('/proc/locks', 'utf8')
          .split('\n')
          .filter((line) => line.includes(` ${process.pid} `)).length
      const before = locks()
      await store.shred('alice', { forget: false })
      expect(locks()).toBe(before)
    },
  )
})
