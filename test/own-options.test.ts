/** Options are an object's own properties: what some code has put on Object.prototype is none. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../src/adapters/memory.js'
import { openKeyStore } from '../src/adapters/open.js'
import { postgresKeyStore } from '../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../src/adapters/sqlite/store.js'
import { encryptedText } from '../src/drizzle/sqlite.js'
import {
  census,
  copyKeys,
  decryptRows,
  EnvelopeCrypto,
  encryptRows,
  generateMasterKey,
  type KeystoreEvent,
  localMasterKey,
  masterKeyring,
  masterKeysFromEnv,
  pruneRetired,
  resolveMasterKey,
  rewrapAll,
  rotateWhere,
  verifyAll,
} from '../src/index.js'
import { jsonlSource, reencrypt, sqlSource } from '../src/reencrypt/index.js'
import { dialects, freshDatabase, temporaryFolder } from './support/databases.js'
import { errorOf } from './support/errors.js'
import { freshStore, type TestStore } from './support/fresh-store.js'
import { everythingOf } from './support/leaks.js'
import { memorySource } from './support/memory-source.js'
import { rowsOf, v2Row } from './support/rows.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const [ours, next] = [localMasterKey(generateMasterKey()), localMasterKey(generateMasterKey())]

/** Runs work while every object inherits some properties. */
async function inheriting<T>(properties: object, work: () => Promise<T> | T): Promise<T> {
  for (const [name, value] of Object.entries(properties))
    Object.defineProperty(Object.prototype, name, { value, configurable: true, writable: true })
  try {
    return await work()
  } finally {
    for (const name of Object.keys(properties)) Reflect.deleteProperty(Object.prototype, name)
  }
}

describe.each(dialects)('on %s', (dialect) => {
  let fresh: TestStore
  beforeEach(async () => {
    fresh = await freshStore(dialect)
  })
  afterEach(() => fresh.remove())

  it('open takes no inherited option', async () => {
    const { store } = fresh
    const events: KeystoreEvent[] = []
    const polluted = {
      plaintext: 'pass-through',
      format: 'v2',
      accept: { keys: ['v2'], tokens: ['v2'] },
      allowUnknownMasterKeys: true,
      onEvent: (event: KeystoreEvent) => events.push(event),
      cache: false,
      closeStore: false,
      shredLog: () => undefined,
    }
    const envelope = await inheriting(polluted, () => EnvelopeCrypto.open({ store, masterKeys: ours }))
    expect(await errorOf(envelope.decrypt('alice', 'sk-plain'))).toMatchObject({ code: 'ERR_NOT_ENCRYPTED' })
    expect(await envelope.encrypt('alice', 'x')).toMatch(/^v3:/)
    await envelope.encrypt('alice', 'x')
    expect(envelope.cacheStats.hits).toBeGreaterThan(0)
    expect(events).toEqual([])
    await inheriting({ keys: ['v2'], tokens: ['v2'], maxEntries: -1, ttlMs: -1 }, async () => {
      const other = await EnvelopeCrypto.open({
        store,
        masterKeys: ours,
        accept: {},
        cache: {},
        closeStore: false,
      })
      await other.close()
    })
    await store.insertIfAbsent([v2Row(next, { userId: 'of another' })])
    const refused = inheriting(polluted, () => EnvelopeCrypto.open({ store, masterKeys: ours }))
    expect(await errorOf(refused)).toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
  })

  it('calls of a service take none', async () => {
    const envelope = await fresh.open({ masterKeys: ours })
    const token = await envelope.encrypt('alice', 'x')
    const polluted = {
      allowToken: true,
      mint: false,
      forget: true,
      context: { tenant: 'a' },
      name: 'b',
      shredLog: 7,
    }
    await inheriting(polluted, async () => {
      expect(await errorOf(envelope.encrypt('alice', token))).toMatchObject(INVALID)
      expect(await errorOf(envelope.fingerprint('alice', 'x', {} as never))).toMatchObject(INVALID)
      expect((await envelope.user('bob')).version).toBe(1)
      expect((await envelope.pool.handle()).version).toBe(1)
      const [made, twice] = await envelope.encryptMany([
        { userId: 'alice', plaintext: 'x' },
        { userId: 'alice', plaintext: token },
      ])
      expect(twice).toMatchObject({ ok: false, error: INVALID })
      expect(made?.ok && (await envelope.decrypt('alice', made.value, {}))).toBe('x')
      expect(await envelope.decryptMany([{ userId: 'alice', token }])).toMatchObject([
        { ok: true, value: 'x' },
      ])
      expect(await envelope.shredUser('bob')).toMatchObject({ forget: false })
    })
    expect((await rowsOf(fresh.store)).map(({ userId }) => userId)).toContain('bob')
  })

  it('long operations take none', async () => {
    const { store } = fresh
    const envelope = await fresh.open({ masterKeys: ours })
    for (const userId of ['alice', 'bob']) await envelope.encrypt(userId, 'x')
    const masterKeys = masterKeyring({ primary: next, previous: [ours] })
    const polluted = {
      dryRun: true,
      batchSize: -1,
      onProgress: 7,
      onEvent: 7,
      accept: 7,
      format: 'v2',
      includeFirst: true,
      tokensReencrypted: true,
      shredLog: 'no/such/file',
      previous: [],
    }
    await inheriting(polluted, async () => {
      expect(await rewrapAll({ store, masterKeys })).toMatchObject({
        complete: true,
        changed: 2,
        kekId: next.id,
      })
      expect(await rotateWhere({ store, masterKeys, olderThanMs: 0 })).toMatchObject({
        complete: true,
        rotated: 2,
      })
      expect(await verifyAll({ store, masterKeys })).toMatchObject({ complete: true, rows: 4 })
      expect(await census({ store })).toHaveLength(2)
      const prune = { store, userId: 'alice', beforeVersion: 2 }
      expect(await errorOf(pruneRetired(prune as never))).toMatchObject(INVALID)
      expect(await pruneRetired({ ...prune, tokensReencrypted: true })).toMatchObject({ versions: [] })
      expect(await copyKeys({ from: store, to: memoryKeyStore() })).toMatchObject({
        complete: true,
        copied: 4,
      })
      const sweeper = await fresh.open({ masterKeys })
      const source = memorySource([{ key: 'a', owner: 'alice', value: 'sk-plain' }])
      const report = await reencrypt({ envelope: sweeper, source, context: null, plaintext: true })
      expect(report).toMatchObject({ complete: true, dryRun: false, changed: 1 })
    })
  })

  it('factories and sources take none', async () => {
    const folder = temporaryFolder()
    const file = join(folder.path, 'values.jsonl')
    writeFileSync(file, '{"userId":"alice","apiKey":"sk-plain"}\n')
    const empty = await freshDatabase(dialect)
    const { url } = empty
    const polluted = { migrate: 'off', adopt: true, pollMs: -1, namedStatements: true, listenUrl: 7 }
    await inheriting(polluted, async () => {
      const apart = dialect === 'sqlite' ? sqliteKeyStore({ path: url }) : postgresKeyStore({ url })
      expect((await apart.ready()).applied.length).toBeGreaterThan(0)
      await apart.close()
      const store = await openKeyStore(url)
      expect(await store.census()).toEqual([])
      await store.close()
    })
    await empty.remove()
    await inheriting(
      { owner: null, columns: ['apiKey'], pool: true, key: 'id', table: 'secrets' },
      async () => {
        expect(() => jsonlSource(file, {} as never)).toThrow(expect.objectContaining(INVALID))
        expect(await errorOf(sqlSource(fresh.url ?? '', {} as never))).toMatchObject(INVALID)
      },
    )
    folder.remove()
  })
})

it('keyrings, variables of the environment, rows and columns take none', async () => {
  const text = generateMasterKey()
  const polluted = {
    API_KEY_MASTER_KEY: text,
    API_KEY_MASTER_KEY_PREVIOUS: text,
    primary: next,
    previous: [next],
    find: () => next,
  }
  const envelope = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: ours })
  await inheriting(polluted, async () => {
    expect(() => masterKeysFromEnv({})).toThrow(expect.objectContaining({ code: 'ERR_MASTER_KEY' }))
    expect(resolveMasterKey({})).toBeNull()
    expect(masterKeyring({ primary: ours }).previous).toEqual([])
    const other = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: ours })
    await other.encrypt('alice', 'x')
    await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: { primary: ours } as never })
  })
  await inheriting({ owner: 'userId', columns: {}, context: 'a', formats: ['v2'] }, async () => {
    const rows = [{ userId: 'alice', apiKey: 'x' }]
    expect(await errorOf(encryptRows(envelope, rows, {} as never))).toMatchObject(INVALID)
    expect(await errorOf(decryptRows(envelope, rows, {} as never))).toMatchObject(INVALID)
    expect(() => encryptedText('api_key', {} as never)).toThrow(expect.objectContaining(INVALID))
  })
})

describe('an options object that is not plain', () => {
  class Options {
    readonly store = memoryKeyStore()
    readonly masterKeys = ours
    get format() {
      return 'v2' as const
    }
  }

  it('is refused, since what it inherits would silently not count', async () => {
    const inherited = Object.create({ format: 'v2' }, { store: { value: memoryKeyStore() } })
    for (const options of [new Options(), inherited, [], new Map(), null, 'x', 7] as never[]) {
      expect(await errorOf(EnvelopeCrypto.open(options))).toMatchObject(INVALID)
      expect(await errorOf(rewrapAll(options))).toMatchObject(INVALID)
      expect(await errorOf(() => sqliteKeyStore({ path: ':memory:' }, options))).toMatchObject(INVALID)
    }
    expect(await errorOf(EnvelopeCrypto.open(new Options()))).toMatchObject({
      message: expect.stringContaining('plain object'),
    })
  })

  it('or whose getter throws, is an error of ours without the getter’s', async () => {
    const options = {
      store: memoryKeyStore(),
      get masterKeys(): never {
        throw new Error('sk-planted')
      },
    }
    const error = await errorOf(EnvelopeCrypto.open(options))
    expect(error).toMatchObject(INVALID)
    expect(everythingOf(error)).not.toContain('sk-planted')
  })
})
