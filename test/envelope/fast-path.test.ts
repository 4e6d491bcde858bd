/** What makes the library fast, measured by counts: a fast path that is lost shows here on any machine. */
import { randomBytes } from 'node:crypto'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { freshDatabase, isChosen } from '../support/databases.js'
import { recordedPool } from '../support/query-plans.js'

/** The number of calls of node:crypto by name and algorithm, and the kinds of keys given to ciphers. */
const calls = new Map<string, number>()
const keyKinds = new Set<string>()

function counted(name: string): void {
  calls.set(name, (calls.get(name) ?? 0) + 1)
}

// This file alone uses the modules with the mock: other files in the same process load others.
vi.doMock('node:crypto', async (importOriginal) => {
  const actual = await importOriginal<typeof import('node:crypto')>()
  const cipher =
    <A extends readonly unknown[], R>(name: string, original: (...args: A) => R) =>
    (...args: A) => {
      const [algorithm, key] = args
      counted(`${name} ${algorithm}`)
      keyKinds.add(`${algorithm} ${key instanceof actual.KeyObject ? 'KeyObject' : 'bytes'}`)
      return original(...args)
    }
  const plain =
    <A extends unknown[], R>(name: string, original: (...args: A) => R) =>
    (...args: A) => {
      counted(name)
      return original(...args)
    }
  return {
    ...actual,
    createCipheriv: cipher('encrypt', actual.createCipheriv),
    createDecipheriv: cipher('decrypt', actual.createDecipheriv),
    createHmac: plain('hmac', actual.createHmac),
    createSecretKey: plain('import', actual.createSecretKey),
    randomBytes: plain('random', actual.randomBytes as (length: number) => Buffer),
  }
})
// What the native core does is no call of node:crypto.
vi.stubEnv('KEYSTORE_NATIVE', '0')
vi.resetModules()
const { EnvelopeCrypto, localMasterKey } = await import('../../src/index.js')
const { memoryKeyStore } = await import('../../src/adapters/memory.js')
const { sqliteKeyStore } = await import('../../src/adapters/sqlite/store.js')
const { measureBytes } = await import('../../src/format/aead.js')
const { postgresKeyStore } = await import('../../src/adapters/postgres/store.js')
vi.doUnmock('node:crypto')
vi.resetModules()
afterAll(() => {
  vi.unstubAllEnvs()
  vi.resetModules()
})

beforeEach(() => {
  calls.clear()
  keyKinds.clear()
})

const TOKENS = 100
/** In some releases of Node.js, keys given as bytes are slow, so that even a key for one cipher is imported. */
const IMPORTS_ONE_TIME_KEYS = !measureBytes()

describe.each(['v2', 'v3'] as const)('a token %s of a user in memory', (format) => {
  const key = randomBytes(32)
  const opened = EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: localMasterKey(key), format })
  afterAll(async () => (await opened).close())

  it.each(['handle', 'service'])('takes one AES-GCM cipher and nothing else, through the %s', async (way) => {
    const envelope = await opened
    const alice = await envelope.user('alice')
    const token = await envelope.encrypt('alice', 'secret')
    await envelope.decrypt('alice', token)
    calls.clear()
    keyKinds.clear()
    for (let i = 0; i < TOKENS; i += 1) {
      if (way === 'handle') alice.decrypt(alice.encrypt('secret', { row: '1' }), { row: '1' })
      else await envelope.decrypt('alice', await envelope.encrypt('alice', 'secret'))
    }
    // Random bytes for nonces: a pool of 12 KiB has 512 nonces of v3.
    expect(calls.get('random') ?? 0).toBeLessThanOrEqual(2)
    calls.delete('random')
    const imports = format === 'v3' && IMPORTS_ONE_TIME_KEYS ? [['import', 2 * TOKENS]] : []
    expect(Object.fromEntries(calls)).toEqual({
      'encrypt aes-256-gcm': TOKENS,
      'decrypt aes-256-gcm': TOKENS,
      ...Object.fromEntries(imports),
    })
    const isBytes = format === 'v3' && !IMPORTS_ONE_TIME_KEYS
    expect([...keyKinds]).toEqual([`aes-256-gcm ${isBytes ? 'bytes' : 'KeyObject'}`])
  })

  it('is there when the call returns: the call awaits nothing', async () => {
    const envelope = await opened
    const token = await envelope.encrypt('alice', 'secret')
    for (const call of [
      () => envelope.encrypt('alice', 'secret'),
      () => envelope.encryptBytes('alice', Buffer.from('secret')),
      () => envelope.decrypt('alice', token),
      () => envelope.decryptBytes('alice', token),
    ]) {
      let isThere = false
      void call().then(() => {
        isThere = true
      })
      // A call that awaited anything would not be done yet.
      await null
      expect(isThere, String(call)).toBe(true)
    }
  })
})

const users = Array.from({ length: 1000 }, (_, i) => `user-${i}`)
const masterKeys = localMasterKey(randomBytes(32))
/** Options with which hardly any key stays in memory. */
const COLD = { cache: { maxEntries: 1 } }

describe.runIf(isChosen('sqlite'))('on SQLite', () => {
  const cleanups = cleanUpAfterEach()
  const sent: string[] = []
  let client: Database.Database
  beforeEach(async () => {
    client = cleanups.closing(
      new Database(await cleanups.database('sqlite'), {
        verbose: (statement) => sent.push(String(statement)),
      }),
    )
  })
  /** A service on the connection, which has sent what opening takes. */
  const open = async (options: object = {}) =>
    cleanups.closing(
      await EnvelopeCrypto.open({ store: sqliteKeyStore({ db: drizzle(client) }), masterKeys, ...options }),
    )

  it('one user is one point query, prepared once, and a thousand are one query', async () => {
    const envelope = await open(COLD)
    const tokens = await envelope.encryptMany(users.map((userId) => ({ userId, plaintext: 'x' })))
    const items = users.map((userId, i) => {
      const token = tokens[i]
      if (!token?.ok) throw new Error('not encrypted')
      return { userId, token: token.value }
    })
    const prepare = vi.spyOn(client, 'prepare')
    sent.length = 0
    for (const userId of users.slice(0, 10)) await envelope.getOrCreateUserKey(userId)
    expect(sent.filter((statement) => /^select/i.test(statement))).toHaveLength(10)
    expect(sent.join('\n')).not.toContain('json_each')

    sent.length = 0
    expect((await envelope.decryptMany(items)).every(({ ok }) => ok)).toBe(true)
    expect(sent.filter((statement) => /encryption_keys/.test(statement))).toHaveLength(1)
    const prepared = prepare.mock.calls.filter(([statement]) => /encryption_keys/.test(String(statement)))
    expect(prepared).toEqual([])
  })

  it('a thousand new users are one transaction', async () => {
    const envelope = await open()
    sent.length = 0
    await Promise.all(users.map((userId) => envelope.getOrCreateUserKey(userId)))
    expect(sent.filter((statement) => /^begin/i.test(statement))).toHaveLength(1)
    // The others look at the file, of which a host's connection says nothing.
    expect(sent.filter((statement) => /^select.*encryption_keys/is.test(statement))).toHaveLength(1)
  })
})

describe.runIf(isChosen('postgres'))('on Postgres', () => {
  it('any number of users is one round trip, and new ones are one more', async () => {
    const database = await freshDatabase('postgres')
    const { pool, sent } = recordedPool(database.url)
    const store = postgresKeyStore({ pool, listenUrl: false })
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, ...COLD })
    sent.length = 0

    await Promise.all(users.map((userId) => envelope.getOrCreateUserKey(userId)))
    expect(sent).toHaveLength(2)

    sent.length = 0
    await Promise.all(users.slice(0, 100).map((userId) => envelope.getOrCreateUserKey(userId)))
    expect(sent).toHaveLength(1)

    const tokens = await envelope.encryptMany(users.map((userId) => ({ userId, plaintext: 'x' })))
    sent.length = 0
    const opened = await envelope.decryptMany(
      users.map((userId, i) => ({ userId, token: tokens[i]?.ok ? tokens[i].value : '' })),
    )
    expect(opened.every(({ ok }) => ok)).toBe(true)
    expect(sent).toHaveLength(1)

    await envelope.close()
    await pool.end()
    await database.remove()
  })
})
