/** What format v3 binds together: tokens with user, version and context; wrapped keys with user, version and master key. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type EnvelopeCrypto,
  type KeyRecord,
  type KeyStore,
  localMasterKey,
  masterKeyring,
} from '../../src/index.js'
import { unwrapDataKey } from '../../src/master-keys/key-wrap.js'
import { dialects } from '../support/databases.js'
import { freshStore, type TestStore } from '../support/fresh-store.js'
import { alterRow, mintedRow, rowsOfUser } from '../support/rows.js'
import { countedStore } from '../support/store-doubles.js'
import { withVersion } from '../support/tokens.js'

const FAILED = { code: 'ERR_DECRYPTION_FAILED' }
const MESSAGE = 'Decryption failed: wrong key, user or context, or a changed token'

describe.each(dialects)('on %s', (dialect) => {
  let test: TestStore
  let store: KeyStore
  let envelope: EnvelopeCrypto
  const masterKeys = masterKeyring({ primary: localMasterKey(randomBytes(32)) })

  beforeEach(async () => {
    test = await freshStore(dialect, { masterKeys })
    store = test.store
    envelope = await test.open()
  })
  afterEach(() => test.remove())

  const insert = async (userId: string, version: number) =>
    store.insertIfAbsent([await mintedRow(masterKeys.primary, userId, { version })])

  async function rowOf(userId: string, version = 1): Promise<KeyRecord> {
    const record = (await rowsOfUser(store, userId)).find((row) => row.version === version)
    if (record === undefined) throw new Error('no such row')
    return record
  }

  /** Puts another wrapped key in a row's place, as an attacker with access to the database would. */
  const forge = (
    userId: string,
    version: number,
    { encryptedKey, kekId }: Pick<KeyRecord, 'encryptedKey' | 'kekId'>,
  ) => alterRow(store, { userId, version }, () => ({ encryptedKey, kekId }))

  it('opens a token for its user and context, and for no other', async () => {
    const context = { table: 'credentials', column: 'api_key' }
    const token = await envelope.encrypt('alice', 'secret', context)
    await envelope.encrypt('bob', 'x')
    const attempts: [string, string, Record<string, string> | undefined][] = [
      ['another user', 'bob', context],
      ['the pool', '', context],
      ['no context', 'alice', undefined],
      ['a missing pair', 'alice', { table: 'credentials' }],
      ['an additional pair', 'alice', { ...context, row: '1' }],
      ['another value', 'alice', { ...context, column: 'api_keys' }],
      ['another name', 'alice', { table: 'credentials', columns: 'api_key' }],
      ['names and values exchanged', 'alice', { credentials: 'table', api_key: 'column' }],
      ['values exchanged', 'alice', { table: 'api_key', column: 'credentials' }],
    ]
    for (const [, userId, other] of attempts) {
      const failed =
        userId === '' ? envelope.pool.decrypt(token, other) : envelope.decrypt(userId, token, other)
      const expected = userId === '' ? { code: 'ERR_KEY_NOT_FOUND' } : { ...FAILED, message: MESSAGE }
      await expect(failed).rejects.toMatchObject(expected)
    }
    const reordered = { column: 'api_key', table: 'credentials' }
    expect(await envelope.decrypt('alice', token, reordered)).toBe('secret')
  })

  it('binds each of many tokens to its own user, in whichever order users and contexts alternate', async () => {
    const contexts = [{ row: '1' }, { row: '2' }, { row: '1', column: 'x' }, { row1: '' }]
    const items = contexts.flatMap((context) =>
      ['alice', 'bob'].map((userId) => ({
        userId,
        context,
        plaintext: `${userId} ${JSON.stringify(context)}`,
      })),
    )
    const results = await envelope.encryptMany(items)
    const sealed = items.map((item, at) => {
      const result = results[at]
      if (!result?.ok) throw new Error('an item was not encrypted')
      return { ...item, token: result.value }
    })
    const userFirst = sealed.toSorted((a, b) => a.userId.localeCompare(b.userId))
    for (const order of [sealed, userFirst, sealed.toReversed(), userFirst.toReversed()])
      for (const { userId, context, token, plaintext } of order)
        expect(await envelope.decrypt(userId, token, context)).toBe(plaintext)
  })

  it('opens a token under its own version only, and tries no other', async () => {
    const token = await envelope.encrypt('alice', 'secret')
    await insert('alice', 2)
    const fresh = countedStore(store)
    const other = await test.open({ store: fresh.store })
    await expect(other.decrypt('alice', withVersion(token, 2))).rejects.toMatchObject({
      ...FAILED,
      message: MESSAGE,
    })
    await expect(other.decrypt('alice', withVersion(token, 3))).rejects.toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
    })
    const before = { ...fresh.calls }
    for (const version of [0, 2 ** 31, 2 ** 32 - 1]) {
      const failed = other.decrypt('alice', withVersion(token, version))
      await expect(failed).rejects.toMatchObject({ code: 'ERR_MALFORMED_TOKEN' })
    }
    expect(fresh.calls).toEqual(before)
    expect(await other.decrypt('alice', token)).toBe('secret')
  })

  it('opens a wrapped key in its own row only', async () => {
    const token = await envelope.encrypt('alice', 'secret')
    await envelope.encrypt('bob', 'x')
    await insert('alice', 2)
    const [alice, second] = [await rowOf('alice'), await rowOf('alice', 2)]
    const cases: [string, number, Pick<KeyRecord, 'encryptedKey' | 'kekId'>][] = [
      ['bob', 1, alice],
      ['alice', 2, alice],
      ['alice', 1, second],
      ['alice', 1, { ...alice, kekId: null }],
      ['alice', 1, { ...alice, kekId: alice.kekId?.replace('local:', 'local-v2:') ?? null }],
    ]
    for (const [userId, version, forged] of cases) {
      const original = await rowOf(userId, version)
      await forge(userId, version, forged)
      const attacked = await test.open({ accept: { keys: ['v2', 'v3'] }, allowUnknownMasterKeys: true })
      const failed = attacked.decrypt(userId, withVersion(token, version))
      await expect(failed).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
      await forge(userId, version, original)
    }
    expect(await (await test.open()).decrypt('alice', token)).toBe('secret')
  })

  it('refuses a wrapped key under another master key’s id', async () => {
    const other = localMasterKey(randomBytes(32))
    const token = await envelope.encrypt('alice', 'secret')
    await forge('alice', 1, { ...(await rowOf('alice')), kekId: other.id })
    const both = masterKeyring({
      primary: localMasterKey(randomBytes(32)),
      previous: [other, masterKeys.primary],
    })
    const events: unknown[] = []
    const attacked = await test.open({ masterKeys: both, onEvent: (event) => events.push(event) })
    expect(events).toEqual([{ type: 'damagedKey', userId: 'alice', version: 1, kekId: other.id }])
    await expect(attacked.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
    const without = test.open({ masterKeys: masterKeys.primary })
    await expect(without).rejects.toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
  })

  it('refuses a wrapped key with any bit flipped, any truncation and any extension', async () => {
    const token = await envelope.encrypt('alice', 'secret')
    const { encryptedKey, kekId, ...row } = await rowOf('alice')
    const opens = (wrapped: Uint8Array) =>
      unwrapDataKey(masterKeys, { ...row, kekId, encryptedKey: wrapped }, ['v2', 'v3']).then(
        () => true,
        (error) => {
          expect(error.code).toBe('ERR_UNWRAP_FAILED')
          return false
        },
      )
    expect(encryptedKey).toHaveLength(105)
    expect(await opens(encryptedKey)).toBe(true)
    for (let bit = 0; bit < encryptedKey.length * 8; bit++) {
      const flipped = Uint8Array.from(encryptedKey)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(await opens(flipped)).toBe(false)
    }
    for (let length = 0; length < 105; length++)
      expect(await opens(encryptedKey.subarray(0, length))).toBe(false)
    expect(await opens(Uint8Array.from([...encryptedKey, 0]))).toBe(false)
    expect(await envelope.decrypt('alice', token)).toBe('secret')
  })

  it('keeps the pool’s key apart from the keys of users', async () => {
    const token = await envelope.pool.encrypt('shared', { provider: 'openai' })
    expect(await envelope.pool.decrypt(token, { provider: 'openai' })).toBe('shared')
    await expect(envelope.pool.decrypt(token)).rejects.toMatchObject(FAILED)
    await envelope.encrypt('alice', 'x')
    await expect(envelope.decrypt('alice', token, { provider: 'openai' })).rejects.toMatchObject(FAILED)
    expect([...(await store.getAll([''])).keys()]).toEqual([''])
  })
})
