/** `mint: 'never'`: a service that uses keys which another one makes. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type EnvelopeCrypto, localMasterKey } from '../../src/index.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { rowsOf } from '../support/rows.js'
import { userIds } from '../support/users.js'

const masterKeys = localMasterKey(randomBytes(32))
const NOT_FOUND = { code: 'ERR_KEY_NOT_FOUND', retryable: false }
const name = { name: 'n' }

describe.each(backends)("mint: 'never' on %s", (backend) => {
  let test: TestStore
  let minting: EnvelopeCrypto
  let envelope: EnvelopeCrypto
  beforeEach(async () => {
    test = await freshStore(backend)
    minting = await test.open({ masterKeys })
    envelope = await test.open({ masterKeys, store: await test.another(), mint: 'never' })
  })
  afterEach(() => test.remove())

  it('gives no first key to an unknown user, nor to the pool, and inserts nothing', async () => {
    const uses: (() => Promise<unknown>)[] = [
      () => envelope.encrypt('alice', 'x'),
      () => envelope.encryptBytes('alice', new Uint8Array(3)),
      () => envelope.user('alice'),
      () => envelope.user('alice', { mint: true }),
      () => envelope.scope('alice', () => 1),
      () => envelope.getOrCreateUserKey('alice'),
      () => envelope.fingerprint('alice', 'x', name),
      () => envelope.fingerprints('alice', 'x', name),
      () => envelope.rotateUserKey('alice'),
      () => envelope.pool.encrypt('x'),
      () => envelope.pool.fingerprint('x', name),
      () => envelope.pool.fingerprints('x', name),
      () => envelope.pool.handle(),
    ]
    for (const use of uses) await expect(use(), String(use)).rejects.toMatchObject(NOT_FOUND)
    const items = userIds(3).map((userId) => ({ userId, plaintext: 'x' }))
    expect(await envelope.encryptMany(items)).toMatchObject(Array(3).fill({ ok: false, error: NOT_FOUND }))
    expect(await rowsOf(test.store)).toEqual([])
  })

  it('uses and rotates the keys of known users, of the same batch too', async () => {
    const token = await minting.encrypt('alice', 'secret of alice')
    const pooled = await minting.pool.encrypt('secret of all')
    expect(await envelope.decrypt('alice', token)).toBe('secret of alice')
    expect(await envelope.pool.decrypt(pooled)).toBe('secret of all')
    const results = await envelope.encryptMany([
      { userId: 'nobody', plaintext: 'x' },
      { userId: 'alice', plaintext: 'x' },
    ])
    expect(results).toMatchObject([{ ok: false, error: NOT_FOUND }, { ok: true }])
    expect(await envelope.rotateUserKey('alice')).toMatchObject({ version: 2, rotated: true })
    const rotated = await envelope.encrypt('alice', 'newer')
    expect(await minting.decrypt('alice', rotated)).toBe('newer')
  })

  it('goes on once another service has made the key', async () => {
    await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject(NOT_FOUND)
    await minting.encrypt('alice', 'x')
    expect(await envelope.encrypt('alice', 'x')).toContain('v3:')
  })

  it('is one of two words', async () => {
    for (const mint of ['Never', true, null, ''])
      await expect(test.open({ masterKeys, mint: mint as 'never' })).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      })
    await test.open({ masterKeys, mint: 'on-first-use' })
  })
})
