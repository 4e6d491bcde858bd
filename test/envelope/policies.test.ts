/** Which formats are written and read, and what counts as a token. */
import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  EnvelopeCrypto,
  encryptWithKey,
  type KeyStore,
  localMasterKey,
  masterKeyring,
} from '../../src/index.js'
import { dialects, temporaryFolder } from '../support/databases.js'
import { freshStore, type TestStore } from '../support/fresh-store.js'
import { copyReference, reference } from '../support/reference-file.js'
import { v2Row } from '../support/rows.js'
import { withVersion } from '../support/tokens.js'

const ACCEPT_BOTH = { keys: ['v2', 'v3'], tokens: ['v2', 'v3'] } as const
const NOT_ACCEPTED = { code: 'ERR_FORMAT_NOT_ACCEPTED' }

describe.each(dialects)('on %s', (dialect) => {
  let test: TestStore
  let store: KeyStore
  const masterKey = localMasterKey(randomBytes(32))
  beforeEach(async () => {
    test = await freshStore(dialect, { masterKeys: masterKey })
    store = test.store
  })
  afterEach(() => test.remove())

  it('writes v3 by default and v2 with format: "v2", and reads the formats in accept', async () => {
    const v2 = await test.open({ format: 'v2' })
    const old = await v2.encrypt('alice', 'old')
    expect(old).toMatch(/^v2:/)
    await expect(test.open()).rejects.toMatchObject({
      ...NOT_ACCEPTED,
      message: expect.stringContaining('accept: {'),
    })

    const both = await test.open({ accept: ACCEPT_BOTH })
    const fresh = await both.encrypt('alice', 'new')
    expect(fresh).toMatch(/^v3:/)
    expect([await both.decrypt('alice', old), await both.decrypt('alice', fresh)]).toEqual(['old', 'new'])
    await expect(v2.decrypt('alice', fresh)).rejects.toMatchObject(NOT_ACCEPTED)

    const keysOnly = await test.open({ accept: { keys: ['v2', 'v3'] } })
    expect(await keysOnly.decrypt('alice', fresh)).toBe('new')
    await expect(keysOnly.decrypt('alice', old)).rejects.toMatchObject(NOT_ACCEPTED)
    await expect(keysOnly.pool.decrypt(old)).rejects.toMatchObject(NOT_ACCEPTED)
  })

  it('refuses a v2 wrap that is not accepted, with any KEK id in its row', async () => {
    const envelope = await test.open()
    await envelope.encrypt('honest', 'x')
    const ids = [null, masterKey.id, masterKey.v2Id]
    const records = ids.map((kekId, index) => v2Row(masterKey, { userId: `forged-${index}` }, { kekId }))
    await store.insertIfAbsent(records)
    for (const { userId } of records)
      await expect(envelope.encrypt(userId, 'x')).rejects.toMatchObject(NOT_ACCEPTED)
  })

  it('opens although a row under a v3 id was replaced by a v2 wrap, and says so in an event', async () => {
    await store.insertIfAbsent([v2Row(masterKey, { userId: 'forged' }, { kekId: masterKey.id })])
    const events: unknown[] = []
    const envelope = await test.open({ onEvent: (event) => events.push(event) })
    expect(events).toEqual([{ type: 'damagedKey', userId: 'forged', version: 1, kekId: masterKey.id }])
    expect(await envelope.decrypt('bob', await envelope.encrypt('bob', 'x'))).toBe('x')
  })

  it('passes values that are no tokens through with plaintext: "pass-through" only, with an event', async () => {
    const strict = await test.open()
    await expect(strict.decrypt('alice', 'sk-plain')).rejects.toMatchObject({ code: 'ERR_NOT_ENCRYPTED' })
    const events: unknown[] = []
    const lax = await test.open({ plaintext: 'pass-through', onEvent: (event) => events.push(event) })
    expect(events).toEqual([{ type: 'plaintextPassThrough' }])
    expect(await lax.decrypt('alice', 'sk-plain')).toBe('sk-plain')
    expect(Buffer.from(await lax.decryptBytes('alice', 'é')).toString()).toBe('é')
    expect(await lax.pool.decrypt('sk-plain')).toBe('sk-plain')
    const token = await lax.encrypt('alice', 'x')
    expect(await lax.decrypt('alice', token)).toBe('x')
    expect((await lax.user('alice')).decrypt('sk-plain')).toBe('sk-plain')
    // What begins like a token and is none passes, and a damaged token does not.
    for (const text of ['v2:my-plain-key', 'v3:', `v3:${'0f'.repeat(16)}:0f`]) {
      expect(await lax.decrypt('alice', text)).toBe(text)
      expect((await lax.user('alice')).decrypt(text)).toBe(text)
      expect(await lax.pool.decrypt(text)).toBe(text)
      await expect(strict.decrypt('alice', text)).rejects.toMatchObject({ code: 'ERR_MALFORMED_TOKEN' })
    }
    const cut = lax.decrypt('alice', token.slice(0, 40))
    await expect(cut).rejects.toMatchObject({ code: 'ERR_MALFORMED_TOKEN' })
    await expect(lax.decrypt('', 'sk-plain')).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })

  it('encrypts a secret that merely begins like a token, and refuses a whole one', async () => {
    const envelope = await test.open()
    const handle = await envelope.user('alice')
    for (const secret of [
      'v2:',
      'v3:',
      'v2:not really a token',
      'v3:short',
      'V3:x',
      `v3:${'A'.repeat(101)}=`,
    ]) {
      expect(await envelope.decrypt('alice', await envelope.encrypt('alice', secret))).toBe(secret)
      expect(handle.decrypt(handle.encrypt(secret))).toBe(secret)
    }
    const v2 = encryptWithKey('x', randomBytes(32))
    for (const token of [await envelope.encrypt('bob', 'x'), v2, v2.replaceAll('=', '')]) {
      const refused = { code: 'ERR_INVALID_ARGUMENT' }
      await expect(envelope.encrypt('alice', token)).rejects.toMatchObject(refused)
      await expect(envelope.pool.encrypt(token)).rejects.toMatchObject(refused)
      expect(() => handle.encrypt(token)).toThrow(expect.objectContaining(refused))
      expect(await envelope.encryptMany([{ userId: 'alice', plaintext: token }])).toMatchObject([
        { ok: false, error: refused },
      ])
      const twice = await envelope.encrypt('alice', token, {}, { allowToken: true })
      expect(await envelope.decrypt('alice', twice)).toBe(token)
    }
  })

  it('keeps a byte order mark, refuses lone surrogates, and opens bytes that are not UTF-8 as bytes only', async () => {
    const envelope = await test.open()
    const handle = await envelope.user('alice')
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', '\ufeffBOM'))).toBe('\ufeffBOM')
    await expect(envelope.encrypt('alice', 'a\ud800')).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    const bytes = Uint8Array.of(0xff, 0xfe, 0)
    for (const token of [await envelope.encryptBytes('alice', bytes), handle.encryptBytes(bytes)]) {
      expect(Uint8Array.from(await envelope.decryptBytes('alice', token))).toEqual(bytes)
      expect(Uint8Array.from(handle.decryptBytes(token))).toEqual(bytes)
      await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
      expect(() => handle.decrypt(token)).toThrow(expect.objectContaining({ code: 'ERR_DECRYPTION_FAILED' }))
    }
  })

  it('gives a secret that does not print', async () => {
    const envelope = await test.open()
    const secret = await envelope.decryptSecret('alice', await envelope.encrypt('alice', 'hush-hush'))
    expect(secret.reveal()).toBe('hush-hush')
    const shown = [
      String(secret),
      `${secret}`,
      JSON.stringify({ secret }),
      inspect(secret, { showHidden: true }),
    ]
    expect(shown).toEqual(['[secret]', '[secret]', '{"secret":"[secret]"}', '[secret]'])
    expect(inspect({ nested: [secret] }, { depth: 9, showHidden: true })).not.toContain('hush')
    expect(Object.keys(secret)).toEqual([])
  })

  it('gives bulk calls a result for each item, in order, even if other items fail', async () => {
    const envelope = await test.open()
    const token = await envelope.encrypt('alice', 'fine', { a: '1' })
    const items = [
      { userId: 'alice', token, context: { a: '1' } },
      { userId: 'alice', token },
      { userId: 'nobody', token },
      { userId: '', token },
      { userId: 'alice', token: 'sk-plain' },
      { userId: 'alice', token: 'v3:x' },
      { userId: 'alice', token: encryptWithKey('x', randomBytes(32)) },
      { userId: 'alice', token, context: { a: '1' } },
    ]
    const results = await envelope.decryptMany(items)
    expect(results.map((result) => (result.ok ? result.value : result.error.code))).toEqual([
      'fine',
      'ERR_DECRYPTION_FAILED',
      'ERR_KEY_NOT_FOUND',
      'ERR_INVALID_ARGUMENT',
      'ERR_NOT_ENCRYPTED',
      'ERR_MALFORMED_TOKEN',
      'ERR_FORMAT_NOT_ACCEPTED',
      'fine',
    ])
    const broken = [null, { userId: 'a' }] as unknown as typeof items
    const codes = (await envelope.decryptMany(broken)).map((result) => (result.ok ? '' : result.error.code))
    expect(codes).toEqual(['ERR_INVALID_ARGUMENT', 'ERR_INVALID_ARGUMENT'])
    const none = 'no array' as unknown as typeof items
    await expect(envelope.decryptMany(none)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expect(await envelope.encryptMany([])).toEqual([])
  })

  it('gives a user’s keys for synchronous use, until a shred or until it is closed', async () => {
    const envelope = await test.open()
    await expect(envelope.user('alice', { mint: false })).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect((await store.getAll(['alice'])).size).toBe(0)
    const handle = await envelope.user('alice')
    const token = handle.encrypt('x', { a: '1' })
    expect(handle.decrypt(token, { a: '1' })).toBe('x')
    expect(await envelope.decrypt('alice', token, { a: '1' })).toBe('x')
    expect(() => handle.decrypt(token)).toThrow(expect.objectContaining({ code: 'ERR_DECRYPTION_FAILED' }))
    expect(() => handle.decrypt(withVersion(token, 2))).toThrow(
      expect.objectContaining({ code: 'ERR_KEY_NOT_FOUND', retryable: true }),
    )
    await store.shred('alice', { forget: false })
    const looking = await test.open()
    await expect(looking.encrypt('alice', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await expect(looking.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    await expect(envelope.user('alice')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    expect(() => handle.encrypt('x')).toThrow(expect.objectContaining({ code: 'ERR_KEY_SHREDDED' }))
    const bob = await envelope.user('bob')
    await envelope.close()
    expect(() => bob.encrypt('x')).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
  })

  it('runs work in a user’s scope to its end, also when it is lazy', async () => {
    const envelope = await test.open()
    const { requiredScope } = await import('../../src/envelope/scope.js')
    const seen: string[] = []
    const lazy = {
      // biome-ignore lint/suspicious/noThenProperty: a lazy query is exactly such an object
      then(resolve: (value: string) => void) {
        setImmediate(() => {
          seen.push(requiredScope('user', null).handle.userId)
          resolve('rows')
        })
      },
    }
    const scopes = ['alice', 'bob'].map((userId) =>
      envelope.scope(userId, () => lazy as unknown as Promise<string>),
    )
    expect(await Promise.all(scopes)).toEqual(['rows', 'rows'])
    expect(seen.sort()).toEqual(['alice', 'bob'])
    expect(() => requiredScope('user', null)).toThrow(expect.objectContaining({ code: 'ERR_NO_SCOPE' }))
    expect(await envelope.scope('alice', (handle) => handle.userId)).toBe('alice')
  })
})

describe('a file of the Python reference', () => {
  it('is read and written with format: "v2", read with accept, and refused without either', async () => {
    const folder = temporaryFolder()
    const store = await openKeyStore(copyReference(folder.path), { adopt: true })
    const masterKeys = masterKeyring({ primary: localMasterKey(reference.master_key_b64) })
    try {
      await expect(EnvelopeCrypto.open({ store, masterKeys, closeStore: false })).rejects.toMatchObject({
        ...NOT_ACCEPTED,
        message: expect.stringContaining("accept: { keys: ['v2', 'v3']"),
      })
      const v2 = await EnvelopeCrypto.open({ store, masterKeys, format: 'v2', closeStore: false })
      const both = await EnvelopeCrypto.open({ store, masterKeys, accept: ACCEPT_BOTH, closeStore: false })
      for (const { user_id, key_hex, tokens } of reference.users) {
        for (const { plaintext, token } of tokens) {
          expect(await v2.decrypt(user_id, token)).toBe(plaintext)
          expect(await both.decrypt(user_id, token)).toBe(plaintext)
        }
        expect(Buffer.from(await both.getOrCreateUserKey(user_id)).toString('hex')).toBe(key_hex)
        const fresh = await both.encrypt(user_id, 'under the same key')
        expect(await both.decrypt(user_id, fresh)).toBe('under the same key')
      }
      for (const { plaintext, token } of reference.pool_tokens) {
        expect([await v2.pool.decrypt(token), await both.pool.decrypt(token)]).toEqual([plaintext, plaintext])
      }
    } finally {
      await store.close()
      folder.remove()
    }
  })
})
