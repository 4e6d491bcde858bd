/** The service, encrypted columns and sweeps on libsql, and what a store on it says of what the driver cannot do. The conformance suite runs on it too. */
import { copyFileSync, renameSync } from 'node:fs'
import { createServer } from 'node:http'
import { dirname } from 'node:path'
import { type Client, createClient } from '@libsql/client'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/libsql'
import { sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { encryptedJson, encryptedText } from '../../../src/drizzle/sqlite.js'
import type { KeystoreEvent } from '../../../src/events.js'
import {
  decryptRows,
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  masterKeyring,
  pruneRetired,
  rewrapAll,
  verifyAll,
} from '../../../src/index.js'
import { drizzleSource, reencrypt } from '../../../src/reencrypt/index.js'
import { sampleColumns } from '../../../src/sources/sample.js'
import { tableOn } from '../../../src/sources/table-on.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { contentsOf, countRemains, ERASED, keysOf, pending } from '../../support/erased-bytes.js'
import { errorOf } from '../../support/errors.js'
import { everythingOf } from '../../support/leaks.js'
import { freePort } from '../../support/postgres-server.js'
import { randomRecord, rowsOf } from '../../support/rows.js'

const masterKey = localMasterKey(generateMasterKey())
const nextKey = localMasterKey(generateMasterKey())
const oneKey = { masterKeys: masterKey, closeStore: false }

const credentials = sqliteTable('credentials', {
  id: text('id').primaryKey(),
  userId: text('user_id'),
  apiKey: encryptedText('api_key', { context: 'credentials.api_key' }),
  settings: encryptedJson<{ port: number }>('settings', { context: 'credentials.settings' }),
  legacy: text('legacy'),
})
const CREATE = `create table credentials (id text primary key not null, user_id text, api_key text, settings text, legacy text)`

describe.runIf(isChosen('sqlite'))('on libsql', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let client: Client
  let db: ReturnType<typeof drizzle>
  beforeEach(async () => {
    url = await cleanups.database('sqlite')
    client = cleanups.closing(createClient({ url: `file:${url}` }))
    db = drizzle({ client })
  })
  const storeOn = (options = {}) =>
    cleanups.closing(sqliteKeyStore({ db }, { deadlineMs: 60_000, ...options }))
  const query = async (sql: string) => (await client.execute(sql)).rows

  it('mints, decrypts, rotates, prunes, rewraps, verifies and shreds', async () => {
    const store = storeOn()
    const envelope = await EnvelopeCrypto.open({ store, ...oneKey })
    const ids = ['alice', 'bob', 'Zoë "\\', "o'neil", 'NULL', ' ']
    const items = ids.map((userId) => ({ userId, plaintext: `of ${userId}` }))
    const tokens = await envelope.encryptMany(items)
    expect(tokens.map(({ ok }) => ok)).toEqual(ids.map(() => true))
    await envelope.rotateUserKey('alice')
    const written = await envelope.encrypt('alice', 'under version 2')
    await envelope.close()

    const masterKeys = masterKeyring({ primary: nextKey, previous: [masterKey] })
    expect(await rewrapAll({ store, masterKeys })).toMatchObject({ changed: ids.length + 1 })
    expect(await verifyAll({ store, masterKeys: nextKey })).toMatchObject({ ok: true, rows: ids.length + 1 })

    const later = await EnvelopeCrypto.open({ store: storeOn(), masterKeys: nextKey, closeStore: false })
    const opened = await later.decryptMany(
      tokens.map((token, index) => ({ userId: ids[index] ?? '', token: token.ok ? token.value : '' })),
    )
    expect(opened).toEqual(items.map(({ plaintext }) => ({ ok: true, value: plaintext })))
    expect(await later.decrypt('alice', written)).toBe('under version 2')
    const prune = { userId: 'alice', beforeVersion: 2, tokensReencrypted: true, includeFirst: true } as const
    expect((await pruneRetired({ store, ...prune })).versions).toEqual([1])
    expect(await later.shredUser('alice')).toMatchObject({ versions: [2], erased: 'pending' })
    await expect(later.decrypt('alice', written)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await later.close()
    expect((await rowsOf(store)).filter(({ shreddedAt }) => shreddedAt !== null)).toHaveLength(1)
  })

  it('shares a file with a store on a path', async () => {
    const envelope = await EnvelopeCrypto.open({ store: storeOn(), masterKeys: masterKey })
    const token = await envelope.encrypt('alice', 'x')
    const other = await EnvelopeCrypto.open({ store: await openKeyStore(url), masterKeys: masterKey })
    expect(await other.decrypt('alice', token)).toBe('x')
    await other.close()
    await envelope.close()
  })

  it('migrates once, however many stores open a fresh database at once', async () => {
    const stores = Array.from({ length: 8 }, () => {
      const own = cleanups.closing(createClient({ url: `file:${url}` }))
      return cleanups.closing(sqliteKeyStore({ db: drizzle({ client: own }) }))
    })
    const reports = await Promise.all(stores.map((store) => store.ready()))
    expect(reports.filter(({ applied }) => applied.length > 0)).toHaveLength(1)
    expect(await query('select count(*) as n from __drizzle_keystore_migrations')).toMatchObject([{ n: 5 }])
    await expect(storeOn({ migrate: 'check' }).getAll(['a'])).resolves.toEqual(new Map())
  })

  it('refuses what it cannot migrate', async () => {
    expect(await errorOf(storeOn({ migrate: 'check' }).ready())).toMatchObject({ code: 'ERR_SCHEMA' })
    await client.execute(
      'create table encryption_keys (user_id text primary key, encrypted_key blob, created_at text)',
    )
    const error = await errorOf(storeOn().ready())
    expect(error).toMatchObject({ code: 'ERR_SCHEMA' })
    expect(error.message).toContain('sqliteKeyStore({ path, adopt: true })')
    await client.execute('drop table encryption_keys')
    await storeOn().ready()
    await client.execute(`delete from __drizzle_keystore_migrations where tag > '0001'`)
    expect((await errorOf(storeOn().ready())).message).toContain(
      'open the file once with sqliteKeyStore({ path })',
    )
    await client.execute('drop table encryption_keys')
    expect((await errorOf(storeOn().ready())).message).toContain('it was dropped')
  })

  it('says that changes are not announced, and doctor finds what the driver cannot do', async () => {
    const store = storeOn()
    const events: KeystoreEvent[] = []
    const envelope = await EnvelopeCrypto.open({ store, ...oneKey, onEvent: (event) => events.push(event) })
    await envelope.encrypt('alice', 'x')
    await envelope.decrypt('alice', await envelope.encrypt('alice', 'x'))
    expect(events).toContainEqual(
      expect.objectContaining({ type: 'changesSilent', reason: expect.stringContaining('libsql') }),
    )
    await envelope.close()
    const findings = await store.maintenance.inspect()
    expect(findings.map(({ severity, kind }) => `${severity} ${kind}`)).toEqual([
      'note setting',
      'note setting',
    ])
    await client.execute(`create trigger audit after update on encryption_keys begin select 1; end`)
    await client.execute(`insert into __drizzle_keystore_migrations values ('9999_later', 'x', 'x')`)
    expect((await store.maintenance.inspect()).map(({ kind }) => kind)).toEqual([
      'setting',
      'setting',
      'copies',
      'schemaVersion',
    ])
  })

  it('leaves an erasure pending, which finishErasure finishes', async () => {
    const store = storeOn()
    const rows = Array.from({ length: 50 }, (_, index) => randomRecord(`user ${index}`))
    await store.insertIfAbsent(rows)
    for (const { userId } of rows)
      expect(await store.shred(userId, { forget: true })).toMatchObject(
        pending('call `store.maintenance.finishErasure()`, or run `npx keystore doctor --finish-erasure`'),
      )
    const files = () => contentsOf(dirname(url))
    expect(countRemains(files(), keysOf(rows))).toBeGreaterThan(0)
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    expect(countRemains(files(), keysOf(rows))).toBe(0)
  })

  it('looks up what a write has done whose answer was lost', async () => {
    /** The next batch is committed, and its answer lost. */
    let isLost = false
    const flaky = new Proxy(client, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (name !== 'batch') return typeof value === 'function' ? value.bind(target) : value
        return async (...args: Parameters<Client['batch']>) => {
          const results = await target.batch(...args)
          if (!isLost) return results
          isLost = false
          throw Object.assign(new Error('the connection was closed'), { code: 'HRANA_CLOSED_ERROR' })
        }
      },
    })
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client: flaky }) }, { deadlineMs: 60_000 }))
    await store.ready()
    const losing = async <T>(work: () => Promise<T>) => {
      isLost = true
      const result = await work()
      expect(isLost).toBe(false)
      return result
    }
    const rows = ['alice', 'bob', 'carol'].map((userId) => randomRecord(userId))
    expect(await losing(() => store.insertIfAbsent(rows))).toEqual(rows)
    const second = randomRecord('alice', { version: 2, kekId: 'other' })
    expect(await losing(() => store.insertIfAbsent([second]))).toEqual([second])
    const { userId, version, encryptedKey: from } = second
    const change = {
      userId,
      version,
      from,
      encryptedKey: new Uint8Array(105),
      kekId: 'k',
      wrappedAt: new Date(),
    }
    expect(await losing(() => store.replaceWrapped([change]))).toEqual([{ userId, version }])
    expect(await losing(() => store.shred('alice', { forget: true }))).toMatchObject({ versions: [1, 2] })
    expect(await losing(() => store.shred('bob', { forget: false }))).toMatchObject({ versions: [1] })
    expect(await losing(() => store.remove(rows))).toBe(2)
    expect(await rowsOf(store)).toEqual([])
  })

  it('waits for the host’s transaction, and ends the call at its deadline', async () => {
    const store = storeOn({ deadlineMs: 300 })
    await store.ready()
    const transaction = await client.transaction('write')
    const error = await errorOf(store.shred('alice', { forget: false }))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect(error.message).toMatch(
      /another connection has the lock, perhaps a transaction.*`await envelope.user/,
    )
    expect(error.message).toMatch(/\(SQLITE_BUSY: database is locked\)$/)
    await transaction.rollback()
    await store.shred('alice', { forget: false })
    await expect(db.transaction(async (tx) => sqliteKeyStore({ db: tx } as never))).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('mint before you begin it'),
    })
  })

  it('refuses options that are for files', () => {
    for (const options of [{ adopt: true }, { pollMs: 5 }])
      expect(() => sqliteKeyStore({ db, ...options } as never)).toThrow(
        expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
      )
  })

  it('quotes no value in an error', async () => {
    const store = storeOn()
    await store.ready()
    await client.execute(
      `create trigger refuse before insert on encryption_keys begin select raise(abort, 'alice is refused'); end`,
    )
    const envelope = await EnvelopeCrypto.open({ store, ...oneKey })
    const error = await errorOf(envelope.encrypt('alice', 'x'))
    expect(error.message).toContain('SQLITE_CONSTRAINT')
    expect(error.message).not.toContain('alice')
    await envelope.close()
  })

  it('lists past rows that are no records', async () => {
    const store = storeOn()
    const rows = Array.from({ length: 3 }, (_, index) => randomRecord(`user ${index}`))
    await store.insertIfAbsent(rows)
    const [first, second, third] = await rowsOf(store)
    await client.execute({
      sql: `update encryption_keys set created_at = 'yesterday' where user_id = ?`,
      args: [second?.userId ?? ''],
    })
    const unreadable: string[] = []
    const page = { limit: 2, onUnreadable: ({ userId }: { userId: string }) => unreadable.push(userId) }
    expect(await store.list(page)).toEqual([first, third])
    expect(unreadable).toEqual([second?.userId])
    expect(await errorOf(store.list({ limit: 2 }))).toMatchObject({
      code: 'ERR_STORE',
      ref: { userId: second?.userId, version: 1 },
    })
  })

  it('encrypts columns, and sweeps them to the newest key', async () => {
    await client.execute(CREATE)
    const envelope = await EnvelopeCrypto.open({ store: storeOn(), ...oneKey })
    for (const userId of ['alice', 'bob']) {
      await envelope.scope(userId, () =>
        db
          .insert(credentials)
          .values({ id: userId, userId, apiKey: `key of ${userId}`, settings: { port: 22 } }),
      )
    }
    await envelope.rotateUserKey('alice')
    await client.execute(`update credentials set api_key = 'plain' where id = 'bob'`)
    const source = drizzleSource(db, credentials, {
      key: 'id',
      owner: 'userId',
      columns: ['apiKey', 'settings'],
    })
    const report = await reencrypt({ envelope, source, plaintext: true })
    expect(report).toMatchObject({ complete: true, changed: 3, failedCount: 0, left: 0 })
    for (const { api_key, settings } of await query('select api_key, settings from credentials'))
      for (const value of [api_key, settings]) expect(value).toMatch(/^v3:/)
    const read = await envelope.scope('alice', () =>
      db.select().from(credentials).where(eq(credentials.id, 'alice')),
    )
    expect(read).toMatchObject([{ apiKey: 'key of alice', settings: { port: 22 } }])
    expect(await reencrypt({ envelope, source })).toMatchObject({ changed: 0, failedCount: 0, left: 0 })
    await envelope.close()
  })

  it('writes nothing into a file that was replaced, and says that the store is to be opened anew', async () => {
    const store = storeOn()
    await store.insertIfAbsent([randomRecord('alice')])
    await client.execute('pragma wal_checkpoint(truncate)')
    copyFileSync(url, `${url}.older`)
    renameSync(`${url}.older`, url)
    expect(await errorOf(store.shred('alice', { forget: false }))).toMatchObject({
      code: 'ERR_STORE',
      retryable: false,
      message: expect.stringMatching(/deleted, renamed or replaced. Close the store and open it again/),
    })
  })

  it('undoes a page of a sweep that a trigger alters', async () => {
    await client.executeMultiple(`${CREATE};
      insert into credentials (id, user_id, api_key) values ('1', 'alice', 'plain'), ('2', 'alice', 'plain');
      create trigger shorten after update of api_key on credentials begin
        update credentials set api_key = substr(new.api_key, 1, 20) where id = new.id and id = '2'; end`)
    const envelope = await EnvelopeCrypto.open({ store: storeOn(), ...oneKey })
    const source = drizzleSource(db, credentials, { key: 'id', owner: 'userId', columns: ['apiKey'] })
    const error = await errorOf(reencrypt({ envelope, source, plaintext: true }))
    expect(error.message).toContain('a trigger alters what is written')
    expect(await query('select api_key from credentials')).toMatchObject([
      { api_key: 'plain' },
      { api_key: 'plain' },
    ])
    await envelope.close()
  })

  it('decrypts rows of many users, and finds plaintext in registered columns', async () => {
    await client.execute(CREATE)
    const envelope = await EnvelopeCrypto.open({ store: storeOn(), ...oneKey })
    for (const userId of ['alice', 'bob']) {
      const legacy = await envelope.encrypt(userId, `of ${userId}`, { column: 'credentials.legacy' })
      await db.insert(credentials).values({ id: userId, userId, legacy })
    }
    const rows = await db.select({ userId: credentials.userId, legacy: credentials.legacy }).from(credentials)
    const opened = await decryptRows(envelope, rows, {
      owner: ({ userId }) => userId ?? '',
      columns: { legacy: 'credentials.legacy' },
    })
    expect(opened.rows.map(({ legacy }) => legacy)).toEqual(['of alice', 'of bob'])
    await envelope.close()

    await client.execute(`update credentials set api_key = 'plain' where id = 'bob'`)
    const withColumns = (columns: readonly string[]) =>
      tableOn(client, { table: 'credentials', key: ['id'], owner: 'user_id', columns, wholeRows: false })
    const { findings } = await sampleColumns('credentials', withColumns, ['api_key'])
    expect(findings.map(({ kind }) => kind)).toEqual(['plaintext', 'unregistered'])
  })
})

describe('a URL of libsql', () => {
  const cleanups = cleanUpAfterEach()

  it('is opened by openKeyStore, whose errors do not show its token', async () => {
    const error = await errorOf(
      openKeyStore('libsql://127.0.0.1:1?tls=0&authToken=hunter2', { deadlineMs: 200 }),
    )
    expect(error).toMatchObject({ code: 'ERR_STORE' })
    expect(`${error.message}${error.cause}`).not.toContain('hunter2')
    expect(error.message).toContain('could not connect to the database (')
    await expect(openKeyStore('libsql://x', { schema: 'x' })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })

  it.each<[string, (port: number) => string, RegExp]>([
    ['a closed port', (port) => `libsql://127.0.0.1:${port}?tls=0`, /connect ECONNREFUSED 127\.0\.0\.1/],
    [
      'a closed port, by a WebSocket',
      (port) => `ws://127.0.0.1:${port}`,
      /connect ECONNREFUSED 127\.0\.0\.1/,
    ],
    ['an unknown host', () => 'libsql://none.invalid', /ENOTFOUND|EAI_AGAIN/],
  ])('says that it could not connect, and why: %s', async (_, urlOf, reason) => {
    const url = urlOf(await freePort())
    const client = cleanups.closing(createClient({ url, authToken: 'hunter2' }))
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }, { deadlineMs: 1500 }))
    const error = await errorOf(store.getAll(['alice']))
    expect(error.message).toMatch(/^The key store could not connect to the database \(/)
    expect(error.message).toMatch(reason)
    expect(everythingOf(error)).not.toContain('hunter2')
  })

  it('says that the server does not take the token', async () => {
    const server = createServer((_, response) => response.writeHead(401).end())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    cleanups.add(() => new Promise((resolve) => server.close(resolve)))
    const address = server.address()
    const port = typeof address === 'object' ? address?.port : undefined
    const error = await errorOf(openKeyStore(`libsql://127.0.0.1:${port}?tls=0&authToken=hunter2`))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toContain('could not connect to the database (HTTP status 401: is the authToken')
  })
})
