/** The cache of data keys: which queries it makes, how long it keeps keys, and what it must not keep. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { parseToken } from '../../src/format/token.js'
import {
  type CacheOptions,
  EnvelopeCrypto,
  type KeyStore,
  localMasterKey,
  StoreError,
} from '../../src/index.js'
import { DataKey } from '../../src/keys/data-key.js'
import { dialects, freshDatabase, isChosen } from '../support/databases.js'
import { freshService, freshStore, type TestStore } from '../support/fresh-store.js'
import { mintedRow } from '../support/rows.js'
import { countedMasterKey, countedStore, storeWithout } from '../support/store-doubles.js'
import { versionOf } from '../support/tokens.js'
import { userIds } from '../support/users.js'

describe.each(dialects)('on %s', (dialect) => {
  let test: TestStore
  let inner: KeyStore
  const masterKey = randomBytes(32)

  beforeEach(async () => {
    test = await freshStore(dialect)
    inner = test.store
  })
  afterEach(() => test.remove())

  async function service(cache?: CacheOptions | false) {
    const counted = countedStore(storeWithout(inner, 'changes'))
    const master = countedMasterKey(masterKey)
    const options = { store: counted.store, masterKeys: master }
    const envelope = await test.open(cache === undefined ? options : { ...options, cache })
    return { envelope, master, ...counted }
  }

  /** Mints keys by another service than the one under test. @returns a token of each user */
  async function minted(count: number): Promise<string[]> {
    const { envelope } = await service()
    const results = await envelope.encryptMany(
      userIds(count).map((userId) => ({ userId, plaintext: `of ${userId}` })),
    )
    return results.map((result) => (result.ok ? result.value : ''))
  }

  it('unwraps 100 keys for 10,000 encryptions of 100 users', async () => {
    await minted(100)
    const { envelope, master } = await service()
    const before = master.unwraps
    for (let round = 0; round < 100; round++) {
      await Promise.all(userIds(100).map((userId) => envelope.encrypt(userId, 'x')))
    }
    expect(master.unwraps - before).toBe(100)
  })

  it('makes one query and one unwrap for 50 concurrent misses of one user', async () => {
    const [token = ''] = await minted(1)
    const { envelope, master, calls } = await service()
    const before = master.unwraps
    const values = await Promise.all(Array.from({ length: 50 }, () => envelope.decrypt('user-0', token)))
    expect(new Set(values)).toEqual(new Set(['of user-0']))
    expect(calls.getAll).toBe(1)
    expect(master.unwraps - before).toBe(1)
  })

  it('makes one query for the misses of 1,000 users in one tick, reads and writes alike', async () => {
    const tokens = await minted(1000)
    const { envelope, calls } = await service()
    await Promise.all(
      tokens.map((token, index) =>
        index % 2 === 0 ? envelope.decrypt(`user-${index}`, token) : envelope.encrypt(`user-${index}`, 'x'),
      ),
    )
    expect(calls.getAll).toBe(1)
    expect(calls.insertIfAbsent).toBeUndefined()
  })

  it('makes one multi-row insert of concurrent mints', async () => {
    const { envelope, calls, inserts } = await service()
    await Promise.all(userIds(300).map((userId) => envelope.encrypt(userId, 'x')))
    expect(calls.getAll).toBe(1)
    expect(inserts).toEqual([300])
  })

  it('asks the store once for any number of users in encryptMany and decryptMany', async () => {
    const { envelope, calls, inserts } = await service()
    const sealed = await envelope.encryptMany(userIds(200).map((userId) => ({ userId, plaintext: userId })))
    expect([calls.getAll, inserts]).toEqual([1, [200]])
    const fresh = await service()
    const items = sealed.map((result, index) => ({
      userId: `user-${index}`,
      token: result.ok ? result.value : '',
    }))
    const values = await fresh.envelope.decryptMany(items)
    expect(values).toEqual(userIds(200).map((value) => ({ ok: true, value })))
    expect(fresh.calls.getAll).toBe(1)
  })

  it('lets the next caller try again after a load that failed', async () => {
    const [token = ''] = await minted(1)
    const { envelope, calls, failNext } = await service()
    failNext('getAll', new StoreError('planned', { retryable: true }))
    const failed = await Promise.allSettled([
      envelope.decrypt('user-0', token),
      envelope.encrypt('user-0', 'x'),
    ])
    expect(failed.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(calls.getAll).toBe(1)
    expect(await envelope.decrypt('user-0', token)).toBe('of user-0')
    expect(calls.getAll).toBe(2)
  })

  it('keeps no key whose insert failed', async () => {
    const { envelope, calls, failNext } = await service()
    failNext('insertIfAbsent', new StoreError('planned', { retryable: true }))
    await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject({ code: 'ERR_STORE' })
    const token = await envelope.encrypt('alice', 'y')
    expect(calls.getAll).toBe(2)
    const other = await service()
    expect(await other.envelope.decrypt('alice', token)).toBe('y')
  })

  it('does not remember that a user has no key', async () => {
    const { envelope, calls } = await service()
    const stranger = await service()
    const token = await stranger.envelope.encrypt('alice', 'x')
    await expect(envelope.decrypt('bob', token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    await stranger.envelope.encrypt('bob', 'x')
    await expect(envelope.decrypt('bob', token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    expect(calls.getAll).toBe(2)
  })

  it('keeps at most maxEntries keys', async () => {
    const tokens = await minted(3)
    const { envelope, calls } = await service({ maxEntries: 2 })
    const decrypt = (index: number) => envelope.decrypt(`user-${index}`, tokens[index] ?? '')
    for (const index of [0, 1, 0, 1]) await decrypt(index)
    expect(calls.getAll).toBe(2)
    await decrypt(2)
    await decrypt(1)
    expect(calls.getAll).toBe(3)
    await decrypt(0)
    expect(calls.getAll).toBe(4)
  })

  it('reads the key again after ttlMs', async () => {
    const [token = ''] = await minted(1)
    const { envelope, calls } = await service({ ttlMs: 40 })
    await envelope.decrypt('user-0', token)
    await envelope.encrypt('user-0', 'x')
    const before = calls.getAll ?? 0
    await vi.waitFor(async () => {
      await envelope.decrypt('user-0', token)
      expect(calls.getAll).toBeGreaterThan(before)
    })
  })

  it.each<[string, CacheOptions, number, boolean]>([
    ['not yet', {}, 50, false],
    ['after a minute', {}, 61, true],
    ['not then if ttlMs is longer', { ttlMs: 300_000 }, 61, false],
  ])('reads the key again where changes are not announced: %s', async (_, cache, seconds, isReadAgain) => {
    const [token = ''] = await minted(1)
    const { envelope, calls } = await service(cache)
    await envelope.decrypt('user-0', token)
    const before = calls.getAll ?? 0
    const now = performance.now.bind(performance)
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + seconds * 1000)
    try {
      // The cache looks at the clock once in a millisecond.
      await sleep(5)
      await envelope.decrypt('user-0', token)
    } finally {
      clock.mockRestore()
    }
    expect(calls.getAll).toBe(before + (isReadAgain ? 1 : 0))
  })

  it('uses the keys of a user for ttlMs from the first of them, which a further version does not lengthen', async () => {
    const { envelope: filling } = await service()
    const first = await filling.encrypt('alice', 'one')
    await filling.rotateUserKey('alice')
    const second = await filling.encrypt('alice', 'two')
    const { envelope, calls } = await service({ ttlMs: 600 })
    await envelope.decrypt('alice', first)
    await sleep(350)
    await envelope.decrypt('alice', second)
    expect(calls.getAll).toBe(2)
    await envelope.decrypt('alice', first)
    expect(calls.getAll).toBe(2)
    await sleep(350)
    await envelope.decrypt('alice', second)
    expect(calls.getAll).toBe(3)
  })

  it('keeps nothing with cache: false, and still makes one query a tick', async () => {
    const [token = ''] = await minted(1)
    const { envelope, calls } = await service(false)
    await Promise.all(Array.from({ length: 20 }, () => envelope.decrypt('user-0', token)))
    await envelope.decrypt('user-0', token)
    expect(calls.getAll).toBe(2)
  })

  it('fails the user of an unreadable row alone, in a read of many users', async () => {
    const tokens = await minted(5)
    const { envelope, store, failNext } = await service()
    failNext('getAll', new StoreError('planned', { ref: { userId: 'user-3', version: 1 } }))
    const results = await envelope.decryptMany(
      tokens.map((token, index) => ({ userId: `user-${index}`, token })),
    )
    expect(results.map((result) => (result.ok ? 'ok' : result.error.code))).toEqual([
      'ok',
      'ok',
      'ok',
      'ERR_STORE',
      'ok',
    ])
    expect(store).toBeDefined()
  })

  it('gives writes the highest version, and a read of an old token does not change that', async () => {
    const { envelope } = await service()
    const first = await envelope.encrypt('alice', 'one')
    await addVersion(inner, 'alice', 2)
    const later = await service()
    expect(await later.envelope.decrypt('alice', first)).toBe('one')
    expect(versionOf(await later.envelope.encrypt('alice', 'two'))).toBe(2)
    expect(await later.envelope.decrypt('alice', first)).toBe('one')
    expect(versionOf(await later.envelope.encrypt('alice', 'two'))).toBe(2)
  })

  it('writes under a newer version as soon as a read has shown it', async () => {
    const { envelope } = await service()
    expect(versionOf(await envelope.encrypt('alice', 'one'))).toBe(1)
    await addVersion(inner, 'alice', 2)
    const other = await service()
    const second = await other.envelope.encrypt('alice', 'two')
    expect(versionOf(await envelope.encrypt('alice', 'still cached'))).toBe(1)
    expect(await envelope.decrypt('alice', second)).toBe('two')
    expect(versionOf(await envelope.encrypt('alice', 'three'))).toBe(2)
  })

  it('refuses to write under a lower version than one it has seen', async () => {
    const { envelope } = await service({ ttlMs: 1 })
    await envelope.encrypt('alice', 'one')
    await addVersion(inner, 'alice', 2)
    await vi.waitFor(async () => expect(versionOf(await envelope.encrypt('alice', 'two'))).toBe(2))
    await inner.remove([{ userId: 'alice', version: 2 }])
    await vi.waitFor(() =>
      expect(envelope.encrypt('alice', 'three')).rejects.toMatchObject({
        code: 'ERR_KEY_NOT_FOUND',
        retryable: false,
      }),
    )
  })

  /** Adds a version, as a rotation by another service does. */
  const addVersion = async (store: KeyStore, userId: string, version: number) =>
    store.insertIfAbsent([await mintedRow(countedMasterKey(masterKey), userId, { version })])
})

describe('in memory', () => {
  it('adds no latency to a single miss, which is over before the event loop turns', async () => {
    const envelope = await freshService()
    const turns: boolean[] = []
    for (const userId of userIds(10)) {
      let turned = false
      setImmediate(() => {
        turned = true
      })
      await envelope.decrypt(userId, await envelope.encrypt(userId, 'x'))
      turns.push(turned)
    }
    // On a busy machine it turns now and then, as it has to after 10 ms.
    expect(turns).toContain(false)
    await envelope.close()
  })

  it('wipes the bytes from which a key was made, and gives out copies', async () => {
    const bytes = randomBytes(32)
    const key = new DataKey(
      {
        userId: 'alice',
        version: 1,
        encryptedKey: new Uint8Array(),
        kekId: null,
        createdAt: new Date(),
        wrappedAt: null,
      },
      bytes,
    )
    expect(bytes.every((byte) => byte === 0)).toBe(true)
    const copy = key.export()
    expect(copy.every((byte) => byte === 0)).toBe(false)
    const token = key.seal('v3', 'x', [])
    copy.fill(0)
    expect(key.open(parseToken(token, ['v3']), []).toString()).toBe('x')
    expect(key.export().every((byte) => byte === 0)).toBe(false)
  })
})

describe.runIf(isChosen('postgres'))('on Postgres', () => {
  it('sends one statement for 1,000 cold users, and none is kept in memory from a transaction', async () => {
    const database = await freshDatabase('postgres')
    const pool = new pg.Pool({ connectionString: database.url })
    const masterKeys = localMasterKey(randomBytes(32))
    try {
      const store = postgresKeyStore({ pool })
      const filling = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
      await filling.encryptMany(userIds(1000).map((userId) => ({ userId, plaintext: 'x' })))
      const envelope = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
      const query = vi.spyOn(pg.Client.prototype, 'query')
      await Promise.all(userIds(1000).map((userId) => envelope.encrypt(userId, 'x')))
      expect(query).toHaveBeenCalledTimes(1)
      query.mockRestore()

      const db = drizzle(pool)
      const rollback = new Error('roll back')
      let inside: EnvelopeCrypto | undefined
      const transaction = db.transaction(async (tx) => {
        const bound = countedStore(postgresKeyStore({ db: tx, transactional: true }))
        inside = await EnvelopeCrypto.open({ store: bound.store, masterKeys, closeStore: false })
        const token = await inside.encrypt('new', 'x')
        expect(await inside.decrypt('new', token)).toBe('x')
        expect(bound.calls.getAll).toBe(2)
        throw rollback
      })
      await expect(transaction).rejects.toBe(rollback)
      expect(await store.getAll(['new'])).toEqual(new Map())
    } finally {
      await pool.end()
      await database.remove()
    }
  })
})
