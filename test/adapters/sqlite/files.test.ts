/** Files that the SQLite store makes, URLs that name them, and rows in them that cannot be read. */
import { execFile } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inspect, promisify } from 'node:util'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, type KeyRecord, type KeyStore, localMasterKey } from '../../../src/index.js'
import { isChosen, temporaryFolder } from '../../support/databases.js'

const run = promisify(execFile)
const masterKey = localMasterKey(Uint8Array.from({ length: 32 }, (_, i) => i))
const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8)

function record(userId: string): KeyRecord {
  const encryptedKey = masterKey.wrapV2(crypto.getRandomValues(new Uint8Array(32)))
  const instants = { createdAt: new Date(), wrappedAt: null, shreddedAt: null }
  return { userId, version: 1, encryptedKey, kekId: masterKey.v2Id, ...instants }
}

describe.runIf(isChosen('sqlite'))('SQLite files', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let stores: KeyStore[]
  const open = async (...parameters: Parameters<typeof openKeyStore>) => {
    const store = await openKeyStore(...parameters)
    stores.push(store)
    return store
  }
  const failureOf = async (
    ...parameters: Parameters<typeof openKeyStore>
  ): Promise<Error & { code: string }> => {
    try {
      await open(...parameters)
    } catch (error) {
      if (error instanceof Error && 'code' in error) return error as Error & { code: string }
      throw error
    }
    throw new Error(`opened ${parameters[0]}`)
  }
  beforeEach(() => {
    folder = temporaryFolder()
    stores = []
  })
  afterEach(async () => {
    for (const store of stores) await store.close()
    folder.remove()
  })

  describe('made anew', () => {
    it('are for their owner alone, with every folder and file that comes with them', async () => {
      const path = join(folder.path, 'one', 'two', 'keystore.db')
      const store = await open(path)
      await store.insertIfAbsent([record('alice')])
      expect(modeOf(join(folder.path, 'one'))).toBe('700')
      expect(modeOf(join(folder.path, 'one', 'two'))).toBe('700')
      const files = readdirSync(join(folder.path, 'one', 'two')).sort()
      expect(files).toEqual(['keystore.db', 'keystore.db-shm', 'keystore.db-wal'])
      for (const file of files) expect(modeOf(join(folder.path, 'one', 'two', file))).toBe('600')
    })

    it('leave the modes of a folder and a file that were there as they were', async () => {
      const path = join(folder.path, 'there', 'keystore.db')
      mkdirSync(join(folder.path, 'there'))
      chmodSync(join(folder.path, 'there'), 0o750)
      new Database(path).exec('create table of_the_host (id integer)').close()
      chmodSync(path, 0o640)
      await open(path)
      expect(modeOf(join(folder.path, 'there'))).toBe('750')
      expect(modeOf(path)).toBe('640')
    })
  })

  describe('by URL', () => {
    it.each<[string, (path: string) => string]>([
      ['a path', (path) => path],
      ['sqlite:path', (path) => `sqlite:${path}`],
      ['SQLite:path', (path) => `SQLite:${path}`],
      ['sqlite:///path', (path) => `sqlite://${path}`],
      ['file:path', (path) => `file:${path}`],
      ['file:///path', (path) => `file://${path}`],
    ])('%s opens that file', async (_, urlOf) => {
      const path = join(folder.path, 'keystore.db')
      const store = await open(urlOf(path))
      const row = record('alice')
      await store.insertIfAbsent([row])
      await store.close()
      expect(readdirSync(folder.path)).toEqual(['keystore.db'])
      const reopened = await open(path, { migrate: 'check' })
      expect((await reopened.getAll(['alice'])).get('alice')).toEqual([
        { ...row, encryptedKey: new Uint8Array(row.encryptedKey) },
      ])
    })

    it('a URL’s percent signs are decoded, a path’s are not', async () => {
      await open(`sqlite://${folder.path}/a%20b.db`)
      await open(`${folder.path}/c%20d.db`)
      const made = readdirSync(folder.path).filter((file) => file.endsWith('.db'))
      expect(made).toEqual(['a b.db', 'c%20d.db'])
    })

    it.each([':memory:', 'sqlite::memory:', 'file::memory:'])('%s makes no file', async (url) => {
      const before = readdirSync('.')
      const store = await open(url)
      await store.insertIfAbsent([record('alice')])
      expect((await store.getAll(['alice'])).size).toBe(1)
      expect(readdirSync('.')).toEqual(before)
    })

    it.each([
      'mysql://user:hunter2@host/db',
      'sqlserver:user:hunter2@host',
      'http://user:hunter2@host/keystore.db',
      'sqlite://user:hunter2@host/keystore.db',
      'sqlite://keystore-hunter2.db',
      'file://user:hunter2@host/keystore.db',
      'file:///a%2Fhunter2.db',
      'file:///data/keystore.db#hunter2',
      'sqlite:keystore.db?password=hunter2',
      'sqlite:',
      'file:',
      '',
      ' postgres://user:hunter2@host/db',
      '"postgres://user:hunter2@host/db"',
      'postgres:hunter2',
      'postgres:/user:hunter2@host/db',
      'keystore-hunter2.db\n',
      ' :memory:',
    ])('%j is refused, and its credentials are not shown', async (url) => {
      const before = readdirSync('.')
      const error = await failureOf(url)
      expect(error.code).toBe('ERR_INVALID_ARGUMENT')
      expect(inspect(error, { depth: null })).not.toContain('hunter2')
      expect(readdirSync('.')).toEqual(before)
    })

    it.each(['postgres://user:hunter2@host:port/db', 'postgresql://user:hunter2@127.0.0.1:1/db'])(
      '%j fails, and its credentials are not shown',
      async (url) => {
        const error = await failureOf(url, { deadlineMs: 1 })
        expect(['ERR_INVALID_ARGUMENT', 'ERR_STORE']).toContain(error.code)
        expect(inspect(error, { depth: null, showHidden: true })).not.toContain('hunter2')
      },
    )

    it('options of the other dialect are refused', async () => {
      const path = join(folder.path, 'keystore.db')
      expect((await failureOf(path, { schema: 'keys' })).code).toBe('ERR_INVALID_ARGUMENT')
      expect((await failureOf(path, { namedStatements: true })).code).toBe('ERR_INVALID_ARGUMENT')
      expect((await failureOf('postgres://localhost/db', { adopt: true })).code).toBe('ERR_INVALID_ARGUMENT')
      expect(existsSync(path)).toBe(false)
    })
  })

  describe('that may not be written', () => {
    it('open with migrate "check", for a process that may only read them', async () => {
      const path = join(folder.path, 'keystore.db')
      const row = record('alice')
      const store = await open(path)
      await store.insertIfAbsent([row])
      await store.close()
      // SQLite keeps a WAL file's index beside it, so the folder must take new files.
      chmodSync(folder.path, 0o777)
      chmodSync(path, 0o444)
      const script = fileURLToPath(new URL('../../children/read-only-open.mjs', import.meta.url))
      const { stdout } = await run(process.execPath, [script, path, 'alice'])
      expect(JSON.parse(stdout)).toEqual({
        writable: false,
        wrapped: Buffer.from(row.encryptedKey).toString('hex'),
      })
    })
  })

  describe('that are missing', () => {
    it.each(['check', 'off'] as const)('are refused with migrate %j, and not made', async (migrate) => {
      const path = join(folder.path, 'sub', 'keystore.db')
      const error = await failureOf(path, { migrate })
      expect(error).toMatchObject({ code: 'ERR_SCHEMA', message: expect.stringContaining(path) })
      expect(readdirSync(folder.path)).toEqual([])
    })

    it('are no reason to open an empty one with "check"', async () => {
      const path = join(folder.path, 'keystore.db')
      new Database(path).exec('create table of_the_host (id integer)').close()
      expect((await failureOf(path, { migrate: 'check' })).code).toBe('ERR_SCHEMA')
      const past = new Database(path, { readonly: true })
      expect(past.prepare('select name from sqlite_master').pluck().all()).toEqual(['of_the_host'])
      past.close()
    })
  })

  describe('with a time that cannot be read', () => {
    it.each(['', 'yesterday', '2026-11-22T20:24:02.735', '2026-13-41T00:00:00Z'])(
      '%j is ERR_STORE naming the ref, while other users’ rows work',
      async (created) => {
        const path = join(folder.path, 'keystore.db')
        const connection = new Database(path)
        const store = sqliteKeyStore({ path })
        stores.push(store)
        await store.insertIfAbsent([record('alice'), record('bob')])
        const before = await EnvelopeCrypto.open({
          store,
          masterKeys: masterKey,
          closeStore: false,
          format: 'v2',
        })
        const token = await before.encrypt('bob', 'a secret')
        connection
          .prepare('update encryption_keys set created_at = ? where user_id = ?')
          .run(created, 'alice')
        connection.close()

        const refused = { code: 'ERR_STORE', message: expect.stringMatching(/user "alice", version 1/) }
        await expect(store.getAll(['alice'])).rejects.toMatchObject(refused)
        await expect(store.getActive(['bob', 'alice'])).rejects.toMatchObject(refused)
        await expect(store.insertIfAbsent([record('alice')])).rejects.toMatchObject(refused)
        await expect(store.list({ limit: 10 })).rejects.toMatchObject(refused)

        // Its wrapped key is no worse for it, but nobody is to wait for its repair.
        const envelope = await EnvelopeCrypto.open({
          store,
          masterKeys: masterKey,
          closeStore: false,
          format: 'v2',
        })
        expect(await envelope.decrypt('bob', token)).toBe('a secret')
        expect(await envelope.encrypt('carol', 'new')).toMatch(/^v2:/)
        await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject(refused)
        expect((await store.sampleByKek(5)).map(({ userId }) => userId).sort()).toEqual(['bob', 'carol'])
        expect((await store.list({ after: { userId: 'alice', version: 1 }, limit: 10 })).length).toBe(2)
      },
    )
  })
})
