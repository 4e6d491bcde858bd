/** Files of a SQLite store: their modes, read-only files, missing files, and rows with a time that cannot be read. */
import { execFile } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import Database from 'better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, localMasterKey } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { root } from '../../support/root.js'
import { v2Row } from '../../support/rows.js'

const run = promisify(execFile)
const masterKey = localMasterKey(Uint8Array.from({ length: 32 }, (_, i) => i))
const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8)

describe.runIf(isChosen('sqlite'))('SQLite files', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  beforeEach(() => {
    folder = cleanups.folder()
  })
  const open = async (...parameters: Parameters<typeof openKeyStore>) =>
    cleanups.closing(await openKeyStore(...parameters))

  describe('that the store makes', () => {
    it('can be read by their owner alone, with the folders and files made beside them', async () => {
      const path = join(folder, 'one', 'two', 'keystore.db')
      const store = await open(path)
      await store.insertIfAbsent([v2Row(masterKey)])
      expect(modeOf(join(folder, 'one'))).toBe('700')
      expect(modeOf(join(folder, 'one', 'two'))).toBe('700')
      const files = readdirSync(join(folder, 'one', 'two')).sort()
      expect(files).toEqual(['keystore.db', 'keystore.db-shm', 'keystore.db-wal'])
      for (const file of files) expect(modeOf(join(folder, 'one', 'two', file))).toBe('600')
    })

    it('keep their mode if they were there before, and so do their folders', async () => {
      const path = join(folder, 'there', 'keystore.db')
      mkdirSync(join(folder, 'there'))
      chmodSync(join(folder, 'there'), 0o750)
      new Database(path).exec('create table of_the_host (id integer)').close()
      chmodSync(path, 0o640)
      await open(path)
      expect(modeOf(join(folder, 'there'))).toBe('750')
      expect(modeOf(path)).toBe('640')
    })
  })

  describe('that may not be written', () => {
    it('open with migrate "check", for a process that may only read them', async () => {
      const path = join(folder, 'keystore.db')
      const row = v2Row(masterKey)
      const store = await open(path)
      await store.insertIfAbsent([row])
      await store.close()
      // SQLite keeps a WAL file's index beside it, so the folder must take new files.
      chmodSync(folder, 0o777)
      chmodSync(path, 0o444)
      const script = join(root, 'test/children/read-only-open.mjs')
      const { stdout } = await run(process.execPath, [script, path, 'alice'])
      expect(JSON.parse(stdout)).toEqual({
        writable: false,
        wrapped: Buffer.from(row.encryptedKey).toString('hex'),
      })
    })
  })

  describe('that are missing', () => {
    it.each(['check', 'off'] as const)('are refused with migrate %j, and not made', async (migrate) => {
      const path = join(folder, 'sub', 'keystore.db')
      const error = await keystoreErrorOf(open(path, { migrate }))
      expect(error).toMatchObject({ code: 'ERR_SCHEMA', message: expect.stringContaining(path) })
      expect(readdirSync(folder)).toEqual([])
    })

    it('and files without our table are refused with migrate "check", and left unchanged', async () => {
      const path = join(folder, 'keystore.db')
      new Database(path).exec('create table of_the_host (id integer)').close()
      expect((await keystoreErrorOf(open(path, { migrate: 'check' }))).code).toBe('ERR_SCHEMA')
      const past = cleanups.closing(new Database(path, { readonly: true }))
      expect(past.prepare('select name from sqlite_master').pluck().all()).toEqual(['of_the_host'])
    })
  })

  describe('that are folders', () => {
    it.each(['auto', 'check', 'off'] as const)(
      'are refused with migrate %j: the message says so, and what to give',
      async (migrate) => {
        const made = join(folder, 'made')
        mkdirSync(made)
        for (const path of [made, `${made}/`, join(folder, 'missing/')]) {
          const { code, message } = await keystoreErrorOf(open(path, { migrate }))
          const advice = `${path} is a folder: name the file of the store, such as ${join(path, 'keystore.db')}`
          expect({ code, message }).toEqual({ code: 'ERR_INVALID_ARGUMENT', message: advice })
        }
        const lazy = cleanups.closing(sqliteKeyStore({ path: made }, { migrate }))
        await expect(lazy.getAll(['alice'])).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
        expect([readdirSync(folder), readdirSync(made)]).toEqual([['made'], []])
      },
    )
  })

  describe('with a time that cannot be read', () => {
    it.each(['', 'yesterday', '2026-11-22T20:24:02.735', '2026-13-41T00:00:00Z'])(
      '%j is ERR_STORE naming the user and version, while other users’ rows work',
      async (created) => {
        const path = join(folder, 'keystore.db')
        const store = cleanups.closing(sqliteKeyStore({ path }))
        const openService = () =>
          EnvelopeCrypto.open({ store, masterKeys: masterKey, closeStore: false, format: 'v2' })
        await store.insertIfAbsent([v2Row(masterKey), v2Row(masterKey, { userId: 'bob' })])
        const token = await (await openService()).encrypt('bob', 'a secret')
        const connection = cleanups.closing(new Database(path))
        const spoil = connection.prepare('update encryption_keys set created_at = ? where user_id = ?')
        spoil.run(created, 'alice')

        const refused = { code: 'ERR_STORE', message: expect.stringMatching(/user "alice", version 1/) }
        await expect(store.getAll(['alice'])).rejects.toMatchObject(refused)
        await expect(store.getActive(['bob', 'alice'])).rejects.toMatchObject(refused)
        await expect(store.insertIfAbsent([v2Row(masterKey)])).rejects.toMatchObject(refused)
        await expect(store.list({ limit: 10 })).rejects.toMatchObject(refused)

        // Its wrapped key could be opened, but no other user's call may depend on the repair of the row.
        const envelope = await openService()
        expect(await envelope.decrypt('bob', token)).toBe('a secret')
        expect(await envelope.encrypt('carol', 'new')).toMatch(/^v2:/)
        await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject(refused)
        expect((await store.sampleByKek(5)).map(({ userId }) => userId).sort()).toEqual(['bob', 'carol'])
        expect((await store.list({ after: { userId: 'alice', version: 1 }, limit: 10 })).length).toBe(2)
      },
    )
  })
})
