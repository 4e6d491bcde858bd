/** The pool on a par with users: every call that EnvelopeCrypto has for a user, and what format v2 refuses of them. */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  EnvelopeCrypto,
  generateMasterKey,
  KeystoreError,
  type KeystoreEvent,
  localMasterKey,
  Secret,
} from '../../src/index.js'
import { temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest } from '../support/fresh-store.js'
import { FOREIGN_V3_TOKEN, versionOf } from '../support/tokens.js'

const CONTEXT = { column: 'jwks.private_key', kid: 'not shown' }
const SHREDDED = { code: 'ERR_KEY_SHREDDED', message: 'The keys of the pool were shredded' }
const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }

describe.each(backends)('the pool on %s', (backend) => {
  const fresh = freshStoreOfEachTest(backend)

  it('encrypts bytes that are no text, and gives secrets that do not print', async () => {
    const { pool } = await fresh.test.open()
    const bytes = Uint8Array.from([0, 255, 254, 128])
    const token = await pool.encryptBytes(bytes, CONTEXT)
    expect(Uint8Array.from(await pool.decryptBytes(token, CONTEXT))).toEqual(bytes)
    await expect(pool.decrypt(token, CONTEXT)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    expect(Buffer.from(await pool.decryptBytes(await pool.encrypt('text'))).toString()).toBe('text')
    const secret = await pool.decryptSecret(await pool.encrypt('hush', CONTEXT), CONTEXT)
    expect(secret).toBeInstanceOf(Secret)
    expect([String(secret), secret.reveal()]).toEqual(['[secret]', 'hush'])
    await expect(pool.encryptBytes('text' as never)).rejects.toMatchObject(REFUSED)
  })

  it('keeps the bytes that it was given, whatever the caller does to them meanwhile', async () => {
    const { pool } = await fresh.test.open()
    const bytes = Uint8Array.from([1, 2, 3])
    const encrypting = pool.encryptBytes(bytes)
    bytes.fill(0)
    expect([...(await pool.decryptBytes(await encrypting))]).toEqual([1, 2, 3])
  })

  it('encrypts and decrypts in bulk, and one bad item fails alone', async () => {
    const envelope = await fresh.test.open()
    const { pool } = envelope
    const sealed = await pool.encryptMany([
      { plaintext: 'one', context: CONTEXT },
      { plaintext: 'lone \ud800' },
      { plaintext: 'three' },
    ])
    expect(sealed).toMatchObject([{ ok: true }, { ok: false, error: REFUSED }, { ok: true }])
    const [one, , three] = sealed.map((result) => (result.ok ? result.value : ''))
    const opened = await pool.decryptMany([
      { token: one ?? '', context: CONTEXT },
      { token: three ?? '' },
      { token: one ?? '' },
      { token: 'no token' },
      { token: await envelope.encrypt('alice', 'of alice') },
      null as never,
    ])
    expect(opened).toMatchObject([
      { ok: true, value: 'one' },
      { ok: true, value: 'three' },
      { ok: false, error: { code: 'ERR_DECRYPTION_FAILED' } },
      { ok: false, error: { code: 'ERR_NOT_ENCRYPTED' } },
      { ok: false, error: { code: 'ERR_DECRYPTION_FAILED' } },
      { ok: false, error: REFUSED },
    ])
    await expect(pool.encryptMany({} as never)).rejects.toMatchObject(REFUSED)
    // A user cannot be the pool by an empty id.
    expect(await envelope.encryptMany([{ userId: '', plaintext: 'x' }])).toMatchObject([
      { ok: false, error: REFUSED },
    ])
  })

  it('rotates, in every process, and keeps what is under earlier versions', async () => {
    const { pool } = await fresh.test.open()
    await expect(pool.rotate()).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    const old = await pool.encrypt('old')
    expect(await pool.rotate()).toEqual({ userId: '', version: 2, rotated: true })
    const written = await pool.encrypt('new')
    expect([versionOf(old), versionOf(written)]).toEqual([1, 2])
    const other = (await fresh.test.open({ cache: false })).pool
    expect([await other.decrypt(old), await other.decrypt(written)]).toEqual(['old', 'new'])
    const handle = await other.handle()
    expect([handle.decrypt(old), handle.version]).toEqual(['old', 2])
  })

  it('is shredded for good, or forgotten, and says whose keys were', async () => {
    const events: unknown[] = []
    const { pool } = await fresh.test.open({ onEvent: (event) => events.push(event) })
    const token = await pool.encrypt('x')
    const handle = await pool.handle()
    expect(await pool.shred()).toMatchObject({ userId: '', versions: [1], forget: false })
    expect(events).toContainEqual(expect.objectContaining({ type: 'shredded', userId: '' }))
    for (const use of [
      () => pool.encrypt('x'),
      () => pool.decrypt(token),
      () => pool.handle(),
      () => pool.scope(() => null),
      () => pool.rotate(),
      () => handle.decrypt(token),
    ])
      expect(await errorOf(async () => await use())).toMatchObject(SHREDDED)
    expect(await pool.shred({ forget: true })).toMatchObject({ forget: true })
    expect(await pool.decrypt(await pool.encrypt('anew'))).toBe('anew')
    await expect(pool.decrypt(token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
  })

  it('has a scope, in which its handle is in force', async () => {
    const { pool } = await fresh.test.open()
    const token = await pool.scope((handle) => handle.encrypt('inside', CONTEXT))
    expect(await pool.decrypt(token, CONTEXT)).toBe('inside')
    await expect(pool.scope(null as never)).rejects.toMatchObject(REFUSED)
    await fresh.test.store.shred('', { forget: true, at: new Date() })
    const another = (await fresh.test.open()).pool
    await expect(another.scope(() => null, { mint: false })).rejects.toMatchObject({
      code: 'ERR_KEY_NOT_FOUND',
    })
  })

  it('names the column in its events, and nothing else of the context', async () => {
    const events: unknown[] = []
    // Of the others there may be more: a store that begins to listen has keys looked up again.
    const onEvent = (event: KeystoreEvent) => {
      if (event.type === 'decryptFailed') events.push(event)
    }
    const { pool } = await fresh.test.open({ onEvent })
    await pool.encrypt('x')
    await errorOf(pool.decrypt(FOREIGN_V3_TOKEN, CONTEXT))
    await errorOf(pool.decrypt(FOREIGN_V3_TOKEN, { kid: 'not shown' }))
    const failed = { type: 'decryptFailed', userId: '', version: 1, format: 'v3' }
    expect(events).toEqual([{ ...failed, column: 'jwks.private_key' }, failed])
  })

  it('in format v2 has bytes, secrets and bulk, and refuses what needs a data key', async () => {
    const { pool } = await fresh.test.openV2()
    const bytes = Uint8Array.from([255, 0])
    const token = await pool.encryptBytes(bytes, CONTEXT)
    expect(token).toMatch(/^v2:/)
    expect([...(await pool.decryptBytes(token))]).toEqual([255, 0])
    const [sealed] = await pool.encryptMany([{ plaintext: 'one' }])
    const opened = await pool.decryptMany([
      { token: sealed?.ok ? sealed.value : '' },
      { token: `v2:${'A'.repeat(60)}` },
    ])
    expect(opened).toMatchObject([
      { ok: true, value: 'one' },
      { ok: false, error: { code: 'ERR_DECRYPTION_FAILED' } },
    ])
    for (const use of [
      () => pool.handle(),
      () => pool.scope(() => null),
      () => pool.rotate(),
      () => pool.shred(),
    ]) {
      const error = await errorOf(use())
      expect(error).toMatchObject(REFUSED)
      expect(error.message).toMatch(/format 'v2' derives the pool's key.*format 'v3'/)
    }
  })

  it('of format v3 reads the tokens of format v2 that are accepted, also in its scope', async () => {
    const { pool: before } = await fresh.test.openV2()
    const old = await before.encrypt('old')
    const { pool } = await fresh.test.open({ accept: { tokens: ['v2', 'v3'] } })
    const written = await pool.encrypt('new')
    const read = await pool.scope((handle) => [handle.decrypt(old), handle.decrypt(written)])
    expect(read).toEqual(['old', 'new'])
    expect(await pool.decryptMany([{ token: old }, { token: written }])).toMatchObject([
      { value: 'old' },
      { value: 'new' },
    ])
    const forged = `v2:${'A'.repeat(60)}`
    expect(await errorOf(pool.scope((handle) => handle.decrypt(forged)))).toMatchObject({
      code: 'ERR_DECRYPTION_FAILED',
    })
    const { pool: strict } = await fresh.test.open()
    expect(await errorOf(strict.scope((handle) => handle.decrypt(old)))).toMatchObject({
      code: 'ERR_FORMAT_NOT_ACCEPTED',
    })
  })
})

it.each([false, true])('is shredded beside a key log, too (forget: %s)', async (forget) => {
  const folder = temporaryFolder()
  const masterKeys = localMasterKey(generateMasterKey())
  const open = async () => {
    const store = await openKeyStore(join(folder.path, 'keystore.db'))
    return EnvelopeCrypto.open({ store, masterKeys, keyLog: join(folder.path, 'keys.jsonl') })
  }
  try {
    const before = await open()
    await before.pool.encrypt('x')
    await before.pool.rotate()
    await before.pool.shred({ forget })
    await before.close()
    const after = await open()
    const used = await after.pool.encrypt('y').catch(({ code }) => code)
    expect(used).toMatch(forget ? /^v3:/ : /^ERR_KEY_SHREDDED$/)
    await after.close()
  } finally {
    folder.remove()
  }
})

it('an error knows its column only if it has one', () => {
  expect(Object.keys(new KeystoreError('ERR_CLOSED', 'x'))).not.toContain('column')
  expect(new KeystoreError('ERR_CLOSED', 'x', { column: 'a.b' }).column).toBe('a.b')
})
