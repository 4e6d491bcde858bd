/** EnvelopeCrypto.open on every store: which master keys the rows need, damaged rows, read-only access. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  generateMasterKey,
  type KeyRecord,
  type KeyStore,
  type KeystoreEvent,
  localMasterKey,
  type MasterKey,
  MasterKeyError,
  masterKeyring,
} from '../../src/index.js'
import { unwrapDataKey } from '../../src/master-keys/key-wrap.js'
import { startChild } from '../support/child-process.js'
import { dialects, freshDatabase } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { freshRole } from '../support/postgres-roles.js'
import { alterRow, corrupted, randomRecord, rowsOf, v2Row } from '../support/rows.js'
import { overriding, recordingCalls } from '../support/store-doubles.js'

const newKey = () => localMasterKey(generateMasterKey())
const [ours, theirs, third] = [newKey(), newKey(), newKey()]
const unknown = { name: 'MasterKeyError', code: 'ERR_UNKNOWN_MASTER_KEY', retryable: false }

describe.each(dialects)('a process whose EnvelopeCrypto.open rejects on %s', (dialect) => {
  it('ends by itself, at once, though it closes nothing', async () => {
    const database = await freshDatabase(dialect)
    try {
      const store = await openKeyStore(database.url)
      await store.insertIfAbsent([v2Row(theirs)])
      await store.close()
      const child = startChild('open-with-wrong-key.mjs', [database.url])
      expect(await child.line()).toBe('ERR_UNKNOWN_MASTER_KEY true')
      // An idle connection would keep it alive for 10 s.
      const ended = await Promise.race([child.ended(), sleep(8000, 'alive')])
      child.kill()
      expect(ended).toEqual({ code: 0, stderr: '' })
    } finally {
      await database.remove()
    }
  })
})

describe.each(backends)('EnvelopeCrypto.open on %s', (backend) => {
  let fresh: TestStore
  beforeEach(async () => {
    fresh = await freshStore(backend)
  })
  afterEach(() => fresh.remove())

  async function openWithEvents(options: Omit<EnvelopeCryptoOptions, 'store' | 'onEvent'>) {
    const events: KeystoreEvent[] = []
    const envelope = await fresh.openV2({ ...options, onEvent: (event) => events.push(event) })
    return { envelope, events }
  }

  it('opens an empty store with any master key', async () => {
    const { events } = await openWithEvents({ masterKeys: ours })
    expect(events).toEqual([])
  })

  it('refuses a wrong master key, naming the KEK ids it lacks and how many rows each has', async () => {
    await fresh.store.insertIfAbsent([
      ...['a', 'b', 'c'].map((userId) => v2Row(theirs, { userId })),
      v2Row(third, { userId: 'd' }),
      v2Row(ours, { userId: 'e' }),
    ])
    const error = await errorOf(fresh.openV2({ masterKeys: ours }))
    expect(error).toMatchObject(unknown)
    expect(error.message).toContain(`${theirs.v2Id}: 3 rows`)
    expect(error.message).toContain(`${third.v2Id}: 1 row`)
    expect(error.message).not.toContain(ours.v2Id)
    expect((await rowsOf(fresh.store)).length).toBe(5)
  })

  it.each<[string, Partial<EnvelopeCryptoOptions>, string]>([
    ['a wrong master key', {}, 'ERR_UNKNOWN_MASTER_KEY'],
    ['a wrong option', { format: 'v4' as 'v3' }, 'ERR_INVALID_ARGUMENT'],
  ])('closes the store if it rejects, unless closeStore is false: %s', async (_, options, code) => {
    await fresh.store.insertIfAbsent([v2Row(theirs)])
    const other = await fresh.another()
    let closed = 0
    const store = overriding(other, {
      close: async () => {
        closed += 1
        if (backend !== 'memory') await other.close()
        // What a store throws when it is closed does not hide why it could not be opened.
        throw new Error('close')
      },
    })
    const open = (closeStore?: boolean) =>
      errorOf(
        EnvelopeCrypto.open({
          store,
          masterKeys: ours,
          ...(closeStore === undefined ? {} : { closeStore }),
          ...options,
        }),
      )
    expect(await open(false)).toMatchObject({ code })
    expect(closed).toBe(0)
    expect((await store.census()).length).toBe(1)
    expect(await open()).toMatchObject({ code })
    expect(closed).toBe(1)
    if (backend !== 'memory') await expect(store.census()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('neither counts tombstones nor needs their master key', async () => {
    await fresh.store.insertIfAbsent(['a', 'b', 'c'].map((userId) => v2Row(theirs, { userId })))
    await fresh.store.shred('a', { forget: false })
    expect((await errorOf(fresh.openV2({ masterKeys: ours }))).message).toContain(`${theirs.v2Id}: 2 rows`)
    for (const userId of ['b', 'c']) await fresh.store.shred(userId, { forget: false })
    await fresh.openV2({ masterKeys: ours })
  })

  it('refuses rows without a KEK id if none of their samples opens', async () => {
    await fresh.store.insertIfAbsent(
      ['a', 'b', 'c', 'd', 'e'].map((userId) => v2Row(theirs, { userId }, { kekId: null })),
    )
    const error = await errorOf(fresh.openV2({ masterKeys: ours }))
    expect(error).toMatchObject(unknown)
    expect(error.message).toContain('no KEK id (the Python reference): 5 rows')
  })

  it('opens rows without a KEK id under any local master key of the keyring', async () => {
    await fresh.store.insertIfAbsent([
      v2Row(theirs, {}, { kekId: null }),
      v2Row(ours, { userId: 'bob' }, { kekId: null }),
    ])
    const { envelope, events } = await openWithEvents({
      masterKeys: masterKeyring({ primary: ours, previous: [theirs] }),
    })
    expect(events).toEqual([])
    for (const userId of ['alice', 'bob']) {
      expect(await envelope.decrypt(userId, await envelope.encrypt(userId, 'x'))).toBe('x')
    }
  })

  it('opens rows without a KEK id when only some are damaged', async () => {
    const broken = v2Row(ours, { userId: 'a' }, { kekId: null, encryptedKey: new Uint8Array(60).fill(7) })
    await fresh.store.insertIfAbsent([broken])
    await fresh.store.insertIfAbsent([v2Row(ours, { userId: 'b' }, { kekId: null })])
    const { envelope, events } = await openWithEvents({ masterKeys: ours })
    expect(events).toEqual([{ type: 'damagedKey', userId: 'a', version: 1, kekId: null }])
    expect(await envelope.decrypt('b', await envelope.encrypt('b', 'x'))).toBe('x')
  })

  describe('and planted rows in a store that is v3 otherwise', () => {
    const plant = (userId: string, kekId: string | null) =>
      randomRecord(userId, { kekId, encryptedKey: randomBytes(60) })

    async function v3Store(): Promise<string> {
      const envelope = await fresh.open({ masterKeys: ours })
      return envelope.encrypt('honest', 'x')
    }

    it.each([
      ['60 random bytes without a KEK id', () => plant('planted', null)],
      ['60 random bytes under the id of v2 wraps', () => plant('planted', ours.v2Id)],
      [
        'a v2 wrap under our key, without a KEK id',
        () => v2Row(ours, { userId: 'planted' }, { kekId: null }),
      ],
      ['59 bytes without a KEK id', () => randomRecord('planted', { encryptedKey: randomBytes(59) })],
    ])('opens in spite of %s, which is an event, and fails for that user alone', async (_, row) => {
      const token = await v3Store()
      const planted = row()
      await fresh.store.insertIfAbsent([planted])
      const events: KeystoreEvent[] = []
      const envelope = await fresh.open({ masterKeys: ours, onEvent: (event) => events.push(event) })
      const { userId, version, kekId } = planted
      expect(events).toEqual([{ type: 'damagedKey', userId, version, kekId }])
      expect(await envelope.decrypt('honest', token)).toBe('x')
      expect(await envelope.decrypt('other', await envelope.encrypt('other', 'y'))).toBe('y')
      const error = await errorOf(envelope.encrypt('planted', 'z'))
      expect(['ERR_FORMAT_NOT_ACCEPTED', 'ERR_UNWRAP_FAILED']).toContain((error as MasterKeyError).code)
      expect(error.message).not.toMatch(/tokens|accept\./)
    })

    it('opens in spite of many of them, with an event for each that it looked at', async () => {
      await v3Store()
      const ids = Array.from({ length: 20 }, (_, index) => `a-${index}`)
      await fresh.store.insertIfAbsent(ids.flatMap((id) => [plant(id, null), plant(`b-${id}`, ours.v2Id)]))
      const events: KeystoreEvent[] = []
      await fresh.open({ masterKeys: ours, onEvent: (event) => events.push(event) })
      expect(events.map(({ type }) => type)).toEqual(Array(6).fill('damagedKey'))
    })

    it('refuses where v2 is accepted and no row without an id opens: a key may be missing', async () => {
      await v3Store()
      await fresh.store.insertIfAbsent([v2Row(theirs, { userId: 'old' }, { kekId: null })])
      const accept = { keys: ['v2'] } as const
      const error = await errorOf(fresh.open({ masterKeys: ours, accept }))
      expect(error).toMatchObject(unknown)
      expect(error.message).toContain('no KEK id (the Python reference): 1 row')
      await fresh.open({ masterKeys: masterKeyring({ primary: ours, previous: [theirs] }), accept })
    })
  })

  it.each([
    ['without a KEK id', null],
    ['under the id of v2 wraps', ours.v2Id],
  ])('refuses a store that has v2 wraps %s only, and names no option for tokens', async (_, kekId) => {
    await fresh.store.insertIfAbsent([v2Row(ours, {}, { kekId })])
    const error = await errorOf(fresh.open({ masterKeys: ours }))
    expect(error).toMatchObject({ code: 'ERR_FORMAT_NOT_ACCEPTED' })
    expect(error.message).toContain('docs/MIGRATING.md')
    expect(error.message).not.toMatch(/tokens/)
  })

  it('with allowUnknownMasterKeys opens, says so, and fails for those users one by one', async () => {
    const writer = await fresh.openV2({ masterKeys: theirs })
    const token = await writer.encrypt('alice', 'x')
    const { envelope, events } = await openWithEvents({ masterKeys: ours, allowUnknownMasterKeys: true })
    expect(events).toEqual([{ type: 'unknownMasterKey', kekIds: [theirs.v2Id] }])
    for (const work of [() => envelope.decrypt('alice', token), () => envelope.encrypt('alice', 'y')]) {
      const error = await errorOf(work)
      expect(error).toMatchObject(unknown)
      expect(error.message).toContain(theirs.v2Id)
      expect(error.message).toContain('"alice"')
    }
    expect(await envelope.decrypt('bob', await envelope.encrypt('bob', 'x'))).toBe('x')
    expect(await writer.decrypt('alice', token)).toBe('x')
  })

  it('opens old rows with previous keys, and wraps new rows under the primary', async () => {
    const token = await (await fresh.openV2({ masterKeys: theirs })).encrypt('alice', 'x')
    const { envelope, events } = await openWithEvents({
      masterKeys: masterKeyring({ primary: ours, previous: [third, theirs] }),
    })
    expect(events).toEqual([])
    expect(await envelope.decrypt('alice', token)).toBe('x')
    await envelope.encrypt('alice', 'y')
    const written = await envelope.encrypt('bob', 'z')
    const kekIds = (await rowsOf(fresh.store)).map(({ userId, kekId }) => [userId, kekId])
    expect(kekIds).toEqual([
      ['alice', theirs.v2Id],
      ['bob', ours.v2Id],
    ])
    expect(await errorOf(fresh.openV2({ masterKeys: theirs }))).toMatchObject(unknown)
    // That the row names the primary's KEK id would not show it: the row opens with the primary alone.
    const primaryOnly = await fresh.openV2({ masterKeys: ours, allowUnknownMasterKeys: true })
    expect(await primaryOnly.decrypt('bob', written)).toBe('z')
  })

  it('opens despite a damaged row under a known key, which is an event, and ERR_UNWRAP_FAILED on use', async () => {
    const before = await fresh.openV2({ masterKeys: ours })
    const token = await before.encrypt('alice', 'x')
    await alterRow(fresh.store, { userId: 'alice', version: 1 }, ({ encryptedKey }) => ({
      encryptedKey: corrupted(encryptedKey),
    }))

    const { envelope, events } = await openWithEvents({ masterKeys: ours })
    expect(events).toEqual([{ type: 'damagedKey', userId: 'alice', version: 1, kekId: ours.v2Id }])
    for (const work of [
      () => envelope.decrypt('alice', token),
      () => envelope.decryptBytes('alice', token),
      () => envelope.encrypt('alice', 'y'),
      () => envelope.getOrCreateUserKey('alice'),
    ]) {
      const error = await errorOf(work)
      expect(error).toMatchObject({ name: 'MasterKeyError', code: 'ERR_UNWRAP_FAILED', retryable: false })
      expect(error.message).toContain('"alice"')
    }
    expect(await envelope.decrypt('bob', await envelope.encrypt('bob', 'x'))).toBe('x')
    expect((await rowsOf(fresh.store)).length).toBe(2)
  })

  it('keeps 20 users usable when the first row is damaged, and leaves that row as it is', async () => {
    await fresh.store.insertIfAbsent([
      v2Row(ours, { userId: 'a' }, { encryptedKey: new Uint8Array(60).fill(1) }),
    ])
    const users = Array.from({ length: 20 }, (_, i) => `user-${i}`)
    const first = await fresh.openV2({ masterKeys: ours })
    const tokens = await Promise.all(users.map((userId) => first.encrypt(userId, userId)))
    const { envelope, events } = await openWithEvents({ masterKeys: ours })
    expect(events).toEqual([{ type: 'damagedKey', userId: 'a', version: 1, kekId: ours.v2Id }])
    for (const [i, token] of tokens.entries()) {
      expect(await envelope.decrypt(users[i] ?? '', token)).toBe(users[i])
    }
    expect((await rowsOf(fresh.store))[0]?.encryptedKey).toEqual(new Uint8Array(60).fill(1))
  })

  it.each([
    ['empty', 0],
    ['59 bytes', 59],
    ['61 bytes', 61],
    ['104 bytes', 104],
  ])('a wrapped key of %s is ERR_UNWRAP_FAILED on use', async (_, length) => {
    await fresh.store.insertIfAbsent([v2Row(ours, {}, { encryptedKey: new Uint8Array(length).fill(3) })])
    const { envelope } = await openWithEvents({ masterKeys: ours })
    expect(await errorOf(envelope.encrypt('alice', 'x'))).toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
  })

  it('does not open a wrap under one key of the keyring by the KEK id of another: the id decides', async () => {
    await fresh.store.insertIfAbsent([v2Row(theirs, {}, { kekId: ours.v2Id })])
    const { envelope } = await openWithEvents({
      masterKeys: masterKeyring({ primary: ours, previous: [theirs] }),
    })
    expect(await errorOf(envelope.encrypt('alice', 'x'))).toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
  })

  it('only reads: it calls no method that writes, and takes a census only to refuse', async () => {
    await fresh.store.insertIfAbsent([v2Row(ours, {})])
    const { store, calls } = recordingCalls(fresh.store)
    const open = (masterKeys: MasterKey) => fresh.openV2({ store, masterKeys })
    await open(ours)
    expect(calls).toEqual(['sampleByKek', 'list'])
    await errorOf(open(theirs))
    expect(calls.slice(2)).toEqual(['sampleByKek', 'list', 'census'])
  })

  it('refuses wrong master keys and formats with ERR_INVALID_ARGUMENT, before it asks the store', async () => {
    const { store, calls } = recordingCalls(fresh.store)
    const remote: MasterKey = { id: 'kms:1', wrap: (key) => key, unwrap: (key) => key }
    const wrong: unknown[] = [
      generateMasterKey(),
      randomBytes(32),
      null,
      undefined,
      {},
      { primary: 'x' },
      remote,
    ]
    for (const masterKeys of wrong) {
      const error = await errorOf(
        EnvelopeCrypto.open({ store, masterKeys: masterKeys as MasterKey, format: 'v2' }),
      )
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    }
    const error = await errorOf(EnvelopeCrypto.open({ store, masterKeys: ours, format: 'v4' as 'v3' }))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(calls.filter((name) => name !== 'close')).toEqual([])
  })

  it('throws in an outage of the store, and never takes it for an empty store', async () => {
    await fresh.store.close()
    expect(await errorOf(fresh.openV2({ masterKeys: ours }))).toMatchObject({ code: 'ERR_CLOSED' })
  })
})

describe('a master key that a key service holds', () => {
  const record: KeyRecord = v2Row(ours, {}, { kekId: 'kms:1', encryptedKey: randomBytes(90) })
  const unwrapWith = (unwrap: MasterKey['unwrap']) => {
    const remote: MasterKey = { id: 'kms:1', wrap: (key) => key, unwrap }
    return unwrapDataKey(masterKeyring({ primary: ours, previous: [remote] }), record, ['v2', 'v3'])
  }

  it('may give 32 bytes, and any other number is no damage of the row', async () => {
    expect(await unwrapWith(() => Buffer.alloc(32, 1))).toEqual(Buffer.alloc(32, 1))
    for (const length of [0, 16, 31, 33]) {
      const error = await errorOf(unwrapWith(async () => Buffer.alloc(length)))
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'wrongKey' })
      expect(error.message).toContain(`unwrap() returned ${length} bytes, not 32`)
    }
  })

  it('opens nothing where v2 alone is accepted, and is not asked', async () => {
    let asked = 0
    const remote: MasterKey = {
      id: 'kms:1',
      wrap: (key) => key,
      unwrap: () => {
        asked += 1
        return randomBytes(32)
      },
    }
    const masterKeys = masterKeyring({ primary: ours, previous: [remote] })
    const notAccepted = { code: 'ERR_FORMAT_NOT_ACCEPTED' }
    expect(await errorOf(unwrapDataKey(masterKeys, record, ['v2']))).toMatchObject(notAccepted)
    const store = memoryKeyStore()
    await store.insertIfAbsent([record])
    const events: KeystoreEvent[] = []
    const onEvent = (event: KeystoreEvent) => events.push(event)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, format: 'v2', onEvent })
    expect(events).toEqual([{ type: 'damagedKey', userId: 'alice', version: 1, kekId: 'kms:1' }])
    for (const work of [
      () => envelope.encrypt('alice', 'x'),
      () => envelope.user('alice'),
      () => envelope.getOrCreateUserKey('alice'),
    ])
      expect(await errorOf(work)).toMatchObject(notAccepted)
    expect(asked).toBe(0)
    const both = await EnvelopeCrypto.open({ store, masterKeys, format: 'v2', accept: { keys: ['v3'] } })
    await both.encrypt('alice', 'x')
    expect(asked).toBe(2)
  })

  it('that fails is ERR_MASTER_KEY, not a damaged key, and hides its client’s error', async () => {
    const error = await errorOf(unwrapWith(() => Promise.reject(new Error('a secret'))))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', retryable: false, reason: undefined })
    expect(error).not.toHaveProperty('cause')
    const own = new MasterKeyError('ERR_MASTER_KEY', 'throttled', { retryable: true })
    expect(await errorOf(unwrapWith(() => Promise.reject(own)))).toBe(own)
  })
})

describe.each(dialects)('read-only access on %s', (dialect) => {
  it('is enough to open and to decrypt, while a mint is ERR_STORE', async () => {
    const database = await freshDatabase(dialect)
    const writer = await EnvelopeCrypto.open({ store: await openKeyStore(database.url), masterKeys: ours })
    const token = await writer.encrypt('alice', 'x')
    const access = await (dialect === 'sqlite'
      ? readOnlyConnection(database.url)
      : selectOnlyRole(database.url))
    const reader = await EnvelopeCrypto.open({ store: access.store, masterKeys: ours })
    try {
      expect(await reader.decrypt('alice', token)).toBe('x')
      expect(await reader.decrypt('alice', await reader.encrypt('alice', 'y'))).toBe('y')
      expect(await errorOf(reader.encrypt('bob', 'z'))).toMatchObject({ code: 'ERR_STORE', retryable: false })
      expect(await errorOf(writer.decrypt('bob', token))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    } finally {
      await reader.close()
      await writer.close()
      await access.end()
      await database.remove()
    }
  })
})

interface ReadOnlyAccess {
  readonly store: KeyStore
  end(): unknown
}

async function readOnlyConnection(path: string): Promise<ReadOnlyAccess> {
  const client = new Database(path, { readonly: true })
  const store = sqliteKeyStore({ db: drizzle({ client }) }, { migrate: 'check' })
  return { store, end: () => client.close() }
}

async function selectOnlyRole(url: string): Promise<ReadOnlyAccess> {
  const role = await freshRole(url, ['grant select on all tables in schema public to ROLE'])
  return { store: await openKeyStore(role.url), end: role.remove }
}
