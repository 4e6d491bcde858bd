/** The service in format v2 on every store: tokens, plaintexts, ids, tombstones, races, closing. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  decryptWithKey,
  derivePoolKey,
  EnvelopeCrypto,
  encryptWithKey,
  generateMasterKey,
  localMasterKey,
  masterKeyring,
} from '../../src/index.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { rowsOf as allRows, rowsOfUser } from '../support/rows.js'
import { recordingCalls } from '../support/store-doubles.js'
import { FOREIGN_V3_TOKEN } from '../support/tokens.js'

const masterText = generateMasterKey()
const masterKey = localMasterKey(masterText)

describe.each(backends)('EnvelopeCrypto on %s', (backend) => {
  let fresh: TestStore
  let envelope: EnvelopeCrypto
  let users = 0
  /** A user id that no other test uses, so that one database serves all tests. */
  let user: string

  beforeAll(async () => {
    fresh = await freshStore(backend)
  })
  afterAll(() => fresh.remove())
  beforeEach(async () => {
    users += 1
    user = `user-${users}`
    envelope = await fresh.openV2({ masterKeys: masterKey })
  })
  afterEach(() => envelope.close())

  const rowsOf = (userId: string) => rowsOfUser(fresh.store, userId)
  const countRows = async () => (await allRows(fresh.store)).length

  describe('tokens', () => {
    it.each(['', 'a', 'пароль🔐', 'line1\r\nline2\0nul', 'x'.repeat(100_000)])(
      'give back the plaintext',
      async (text) => {
        const token = await envelope.encrypt(user, text)
        expect(token).toMatch(/^v2:[\w-]+={0,2}$/)
        expect(await envelope.decrypt(user, token)).toBe(text)
      },
    )

    it('differ each time, and open after the service was opened again', async () => {
      const tokens = [await envelope.encrypt(user, 'same'), await envelope.encrypt(user, 'same')]
      expect(tokens[0]).not.toBe(tokens[1])
      const again = await fresh.openV2({ masterKeys: localMasterKey(masterText) })
      for (const token of tokens) expect(await again.decrypt(user, token)).toBe('same')
    })

    it('open for their own user only', async () => {
      const token = await envelope.encrypt(user, 'mine')
      await envelope.encrypt(`${user}-other`, 'other')
      await expect(envelope.decrypt(`${user}-other`, token)).rejects.toMatchObject({
        code: 'ERR_DECRYPTION_FAILED',
        retryable: false,
      })
    })

    it('of bytes open as bytes, those of text too', async () => {
      const bytes = Uint8Array.of(0, 255, 128, 10)
      expect(await envelope.decryptBytes(user, await envelope.encryptBytes(user, bytes))).toEqual(
        Buffer.from(bytes),
      )
      expect(await envelope.decryptBytes(user, await envelope.encrypt(user, 'ä'))).toEqual(Buffer.from('ä'))
      expect(await envelope.decrypt(user, await envelope.encryptBytes(user, Buffer.from('ä')))).toBe('ä')
      expect(await envelope.decryptBytes(user, await envelope.encryptBytes(user, new Uint8Array(0)))).toEqual(
        Buffer.alloc(0),
      )
    })

    it('of bytes that are not UTF-8 open with decryptBytes only', async () => {
      const token = await envelope.encryptBytes(user, Uint8Array.of(0x61, 0xff))
      await expect(envelope.decrypt(user, token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
      expect(await envelope.decryptBytes(user, token)).toEqual(Buffer.of(0x61, 0xff))
    })

    it("are the reference's: its functions open them with the user's raw key, and the service opens those they make", async () => {
      const key = await envelope.getOrCreateUserKey(user)
      expect(key.length).toBe(32)
      expect(decryptWithKey(await envelope.encrypt(user, 'ours'), key)).toBe('ours')
      expect(await envelope.decrypt(user, encryptWithKey('theirs', key))).toBe('theirs')
    })

    it('open with any context and without one, since v2 binds none', async () => {
      const token = await envelope.encrypt(user, 'x', { provider: 'openai' })
      expect(await envelope.decrypt(user, token)).toBe('x')
      expect(await envelope.decrypt(user, token, { provider: 'other' })).toBe('x')
    })

    it.each([
      ['v3:AAAAAXqf235I8ecUiMGc9D0mTHvJt8DDLKGv', 'ERR_MALFORMED_TOKEN'],
      [FOREIGN_V3_TOKEN, 'ERR_FORMAT_NOT_ACCEPTED'],
      ['plain text', 'ERR_NOT_ENCRYPTED'],
      ['', 'ERR_NOT_ENCRYPTED'],
      ['V2:QUJD', 'ERR_NOT_ENCRYPTED'],
      ['v2:', 'ERR_MALFORMED_TOKEN'],
      ['v2:not really a token', 'ERR_MALFORMED_TOKEN'],
      [`v2:${'A'.repeat(36)}`, 'ERR_MALFORMED_TOKEN'],
      [null, 'ERR_INVALID_ARGUMENT'],
      [Buffer.from('v2:'), 'ERR_INVALID_ARGUMENT'],
    ])('such as %j are refused before the store is asked: %s', async (token, code) => {
      const { store, calls } = recordingCalls(fresh.store)
      const recording = await fresh.openV2({ store, masterKeys: masterKey })
      calls.length = 0
      await expect(recording.decrypt(user, token as string)).rejects.toMatchObject({ code })
      await expect(recording.decryptBytes(user, token as string)).rejects.toMatchObject({ code })
      await expect(recording.pool.decrypt(token as string)).rejects.toMatchObject({ code })
      expect(calls).toEqual([])
    })
  })

  describe("a user's key", () => {
    it('is minted by the first write, once, and wrapped under the primary', async () => {
      await envelope.encrypt(user, 'a')
      await envelope.encrypt(user, 'b')
      await envelope.encryptBytes(user, Uint8Array.of(1))
      const rows = await rowsOf(user)
      expect(rows).toMatchObject([{ version: 1, kekId: masterKey.v2Id, wrappedAt: null, shreddedAt: null }])
      expect(rows[0]?.encryptedKey.length).toBe(60)
      expect(Math.abs(Date.now() - (rows[0]?.createdAt.getTime() ?? 0))).toBeLessThan(60_000)
    })

    it('is never minted by decrypt or decryptBytes', async () => {
      const token = await envelope.encrypt(user, 'x')
      const before = await countRows()
      for (const work of [
        () => envelope.decrypt('nobody', token),
        () => envelope.decryptBytes('nobody', token),
      ]) {
        await expect(work()).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND', retryable: false })
      }
      expect(await countRows()).toBe(before)
      expect(await rowsOf('nobody')).toEqual([])
    })

    it('comes from getOrCreateUserKey as 32 bytes that the caller owns', async () => {
      const key = await envelope.getOrCreateUserKey(user)
      const copy = Buffer.from(key)
      key.fill(0)
      expect(Buffer.from(await envelope.getOrCreateUserKey(user))).toEqual(copy)
      expect(copy.equals(Buffer.alloc(32))).toBe(false)
      expect(Buffer.from(await envelope.getOrCreateUserKey(`${user}-other`))).not.toEqual(copy)
    })

    it('is one after 50 first writes at once, by two services, and opens all 50 tokens', async () => {
      const second = await fresh.openV2({ masterKeys: masterKey })
      const services = [envelope, second] as const
      const tokens = await Promise.all(
        Array.from({ length: 50 }, (_, i) => services[i % 2 === 0 ? 0 : 1].encrypt(user, `value ${i}`)),
      )
      expect((await rowsOf(user)).length).toBe(1)
      const opened = await Promise.all(tokens.map((token) => envelope.decrypt(user, token)))
      expect(opened).toEqual(tokens.map((_, i) => `value ${i}`))
    })

    it('that was shredded is ERR_KEY_SHREDDED for reading and writing, and no new key is minted', async () => {
      const token = await envelope.encrypt(user, 'x')
      await fresh.store.shred(user, { forget: false })
      await fresh.store.shred(`${user}-never`, { forget: false })
      for (const id of [user, `${user}-never`]) {
        for (const work of [
          () => envelope.encrypt(id, 'y'),
          () => envelope.encryptBytes(id, Uint8Array.of(1)),
          () => envelope.decrypt(id, token),
          () => envelope.decryptBytes(id, token),
          () => envelope.getOrCreateUserKey(id),
        ]) {
          await expect(work()).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED', retryable: false })
        }
        expect(await rowsOf(id)).toMatchObject([{ version: 1, encryptedKey: new Uint8Array(0) }])
      }
    })

    it('that was shredded and forgotten is replaced by a new key, which does not open old tokens', async () => {
      const token = await envelope.encrypt(user, 'x')
      await fresh.store.shred(user, { forget: true })
      await expect(envelope.decrypt(user, token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
      expect(await envelope.decrypt(user, await envelope.encrypt(user, 'new'))).toBe('new')
      await expect(envelope.decrypt(user, token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    })
  })

  describe('user ids', () => {
    it.each<[string, unknown]>([
      ['empty', ''],
      ['of 513 bytes', 'x'.repeat(513)],
      ['of 513 bytes in 171 characters', '日'.repeat(171)],
      ['with a NUL', 'a\0b'],
      ['with a lone high surrogate', 'a\ud800'],
      ['with a lone low surrogate', '\udc00a'],
      ['that are a number', 7],
      ['that are null', null],
      ['that are bytes', Buffer.from('alice')],
    ])('%s are ERR_INVALID_ARGUMENT before the store is asked', async (_, id) => {
      const { store, calls } = recordingCalls(fresh.store)
      const recording = await fresh.openV2({ store, masterKeys: masterKey })
      const userId = id as string
      const token = encryptWithKey('x', Buffer.alloc(32, 1))
      calls.length = 0
      for (const work of [
        () => recording.encrypt(userId, 'x'),
        () => recording.encryptBytes(userId, Uint8Array.of(1)),
        () => recording.decrypt(userId, token),
        () => recording.decryptBytes(userId, token),
        () => recording.getOrCreateUserKey(userId),
      ]) {
        await expect(work()).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      }
      expect(calls).toEqual([])
    })

    it('of 512 bytes, odd ones and hostile ones are kept as they are', async () => {
      const ids = [
        'x'.repeat(512),
        '🔑'.repeat(128),
        ' leading and trailing ',
        "o'brien; DROP TABLE encryption_keys;--",
        '%_like%',
        '{"a":1}',
        '\\',
        '\n',
      ]
      for (const id of ids) {
        expect(await envelope.decrypt(id, await envelope.encrypt(id, id))).toBe(id)
        expect((await rowsOf(id)).map(({ userId }) => userId)).toEqual([id])
      }
    })

    it.each([
      ['NFC and NFD', '\u00e9', 'e\u0301'],
      ['upper and lower case', 'Alice', 'alice'],
      ['with and without a space at the end', 'bob', 'bob '],
      ['a ligature and its letters', '\ufb01', 'fi'],
    ])('%s stay apart', async (_, left, right) => {
      const [one, other] = [`${user}${left}`, `${user}${right}`]
      const token = await envelope.encrypt(one, 'x')
      await expect(envelope.decrypt(other, token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
      await envelope.encrypt(other, 'y')
      await expect(envelope.decrypt(other, token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
      expect(await envelope.decrypt(one, token)).toBe('x')
    })
  })

  describe('plaintexts and contexts', () => {
    it('keep a byte order mark, and NFC and NFD as they are', async () => {
      for (const text of ['\ufeffvalue', '\ufeff', 'a\ufeff', '\u00e9', 'e\u0301']) {
        expect(await envelope.decrypt(user, await envelope.encrypt(user, text))).toBe(text)
      }
    })

    it.each<[string, unknown]>([
      ['a lone surrogate', 'a\ud83d'],
      ['bytes', Buffer.from('x')],
      ['a number', 5],
      ['undefined', undefined],
      ['null', null],
    ])('refuse %s, and mint nothing', async (_, plaintext) => {
      const refused = { code: 'ERR_INVALID_ARGUMENT' }
      await expect(envelope.encrypt(user, plaintext as string)).rejects.toMatchObject(refused)
      await expect(envelope.pool.encrypt(plaintext as string)).rejects.toMatchObject(refused)
      expect(await rowsOf(user)).toEqual([])
    })

    it('refuse a string where bytes belong', async () => {
      await expect(envelope.encryptBytes(user, 'text' as unknown as Uint8Array)).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      })
    })

    it('refuse a whole token unless allowToken says otherwise, and mint nothing', async () => {
      const token = encryptWithKey('inner', Buffer.alloc(32, 1))
      for (const text of [token, token.replaceAll('=', ''), FOREIGN_V3_TOKEN]) {
        await expect(envelope.encrypt(user, text)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
        await expect(envelope.pool.encrypt(text)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      }
      expect(await rowsOf(user)).toEqual([])
      const allowToken = true
      const twice = await envelope.encrypt(user, token, undefined, { allowToken })
      expect(await envelope.decrypt(user, twice)).toBe(token)
      expect(await envelope.pool.decrypt(await envelope.pool.encrypt(token, {}, { allowToken }))).toBe(token)
    })

    it.each(['v2:not really a token', 'v2:', 'v2:abc', 'v3:x', 'v2: '])(
      'take %j, which merely begins like a token',
      async (text) => {
        expect(await envelope.decrypt(user, await envelope.encrypt(user, text))).toBe(text)
        expect(await envelope.pool.decrypt(await envelope.pool.encrypt(text))).toBe(text)
      },
    )

    it.each<[string, unknown]>([
      ['an array', ['a']],
      ['null', null],
      ['a string', 'openai'],
      ['a value that is a number', { a: 1 }],
      ['a value that is undefined', { a: undefined }],
      ['a lone surrogate in a value', { a: '\ud800' }],
      ['a lone surrogate in a name', { '\ud800': 'a' }],
    ])('refuse a context that is %s, though v2 ignores contexts', async (_, context) => {
      const given = context as Record<string, string>
      const token = encryptWithKey('x', Buffer.alloc(32, 1))
      for (const work of [
        () => envelope.encrypt(user, 'x', given),
        () => envelope.encryptBytes(user, Uint8Array.of(1), given),
        () => envelope.decrypt(user, token, given),
        () => envelope.pool.encrypt('x', given),
        () => envelope.pool.decrypt(token, given),
      ]) {
        await expect(work()).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      }
      expect(await rowsOf(user)).toEqual([])
    })
  })

  describe('the pool', () => {
    it("uses the reference's pool key of the primary, and makes no row", async () => {
      const before = await countRows()
      const token = await envelope.pool.encrypt('shared', { provider: 'openai' })
      expect(await envelope.pool.decrypt(token)).toBe('shared')
      expect(decryptWithKey(token, derivePoolKey(Buffer.from(masterText, 'base64url')))).toBe('shared')
      expect(await countRows()).toBe(before)
    })

    it('opens tokens of previous master keys, writes under the primary, and refuses those of others', async () => {
      const old = await envelope.pool.encrypt('old')
      const primary = localMasterKey(generateMasterKey())
      const renewed = await fresh.openV2({ masterKeys: masterKeyring({ primary, previous: [masterKey] }) })
      expect(await renewed.pool.decrypt(old)).toBe('old')
      const written = await renewed.pool.encrypt('new')
      await expect(envelope.pool.decrypt(written)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
      expect(await renewed.pool.decrypt(written)).toBe('new')
    })

    it("does not open a user's token, and no user opens a token of the pool", async () => {
      const token = await envelope.encrypt(user, 'x')
      await expect(envelope.pool.decrypt(token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
      const pooled = await envelope.pool.encrypt('x')
      await expect(envelope.decrypt(user, pooled)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    })
  })

  describe('closing', () => {
    it('makes every later call ERR_CLOSED, and may be repeated', async () => {
      const token = await envelope.encrypt(user, 'x')
      const pooled = await envelope.pool.encrypt('x')
      await envelope.close()
      await envelope.close()
      for (const work of [
        () => envelope.encrypt(user, 'x'),
        () => envelope.decrypt(user, token),
        () => envelope.encryptBytes(user, Uint8Array.of(1)),
        () => envelope.decryptBytes(user, token),
        () => envelope.getOrCreateUserKey(user),
        () => envelope.pool.encrypt('x'),
        () => envelope.pool.decrypt(pooled),
      ]) {
        await expect(work()).rejects.toMatchObject({ code: 'ERR_CLOSED', retryable: false })
      }
    })

    it('with closeStore: false leaves the store open', async () => {
      await envelope.encrypt(user, 'x')
      await envelope.close()
      expect((await rowsOf(user)).length).toBe(1)
    })

    it.each(['close', 'asyncDispose'] as const)('with %s closes the store, too, by default', async (way) => {
      const own = await freshStore(backend)
      try {
        const closing = await EnvelopeCrypto.open({ store: own.store, masterKeys: masterKey, format: 'v2' })
        await closing.encrypt(user, 'x')
        await (way === 'close' ? closing.close() : closing[Symbol.asyncDispose]())
        await expect(closing.encrypt(user, 'x')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
        await expect(own.store.getAll([user])).rejects.toMatchObject({ code: 'ERR_CLOSED' })
      } finally {
        await own.remove()
      }
    })

    it('of the store under an open service makes its calls ERR_CLOSED', async () => {
      const own = await freshStore(backend)
      const service = await own.openV2({ masterKeys: masterKey })
      await own.store.close()
      await expect(service.encrypt(user, 'x')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
      await own.remove()
    })
  })
})
