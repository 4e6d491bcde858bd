/** Fingerprints: those of the frozen vectors on every store, what changes them and what does not. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { generateMasterKey, localMasterKey, masterKeyring, rewrapAll } from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { backends, freshService, freshStore, type TestStore } from '../support/fresh-store.js'
import { v2Row } from '../support/rows.js'
import { v3Vectors } from '../support/vectors.js'

const vectors = v3Vectors()
const NAME = { name: 'credentials.api_key' }

describe.each(backends)('fingerprints on %s', (backend) => {
  let fresh: TestStore
  beforeEach(async () => {
    fresh = await freshStore(backend)
  })
  afterEach(() => fresh.remove())

  it('are those of the vectors, the pool’s included', async () => {
    const masterKeys = localMasterKey(Buffer.from(vectors.master_key, 'hex'))
    const firsts = vectors.wraps.filter(({ version }) => version === 1)
    await fresh.store.insertIfAbsent(
      firsts.map(({ user, wrapped }) =>
        v2Row(
          masterKeys,
          { userId: user },
          { encryptedKey: Buffer.from(wrapped, 'hex'), kekId: vectors.kek_id },
        ),
      ),
    )
    const envelope = await fresh.open({ masterKeys, cache: false })
    let compared = 0
    for (const { user, name, value, fingerprint } of vectors.fingerprints) {
      if (!firsts.some((wrap) => wrap.user === user)) continue
      compared += 1
      if (user === '') expect(await envelope.pool.fingerprint(value, { name })).toBe(fingerprint)
      else {
        expect(await envelope.fingerprint(user, value, { name })).toBe(fingerprint)
        expect((await envelope.user(user)).fingerprint(value, { name })).toBe(fingerprint)
      }
    }
    expect(compared).toBeGreaterThanOrEqual(5)
  })

  it('stay the same after rotations of the user’s key and of the master key, and differ by user, name and value', async () => {
    const [oldKey, newKey] = [localMasterKey(generateMasterKey()), localMasterKey(generateMasterKey())]
    const before = await fresh.open({ masterKeys: oldKey, cache: false })
    const first = await before.fingerprint('alice', 'sk-1', NAME)
    expect(first).toMatch(/^f1:[A-Za-z0-9_-]{43}$/)
    await before.rotateUserKey('alice')
    const masterKeys = masterKeyring({ primary: newKey, previous: [oldKey] })
    await rewrapAll({ store: fresh.store, masterKeys })
    const after = await fresh.open({ masterKeys: newKey, cache: false })
    expect(await after.fingerprint('alice', 'sk-1', NAME)).toBe(first)
    const others = [
      await after.fingerprint('bob', 'sk-1', NAME),
      await after.fingerprint('alice', 'sk-2', NAME),
      await after.fingerprint('alice', 'sk-1', { name: 'other' }),
      await after.pool.fingerprint('sk-1', NAME),
    ]
    expect(new Set([first, ...others]).size).toBe(5)
  })

  it('of a shredded user cannot be made any more; the pool’s can', async () => {
    const envelope = await fresh.open({ masterKeys: localMasterKey(generateMasterKey()), cache: false })
    const handle = await envelope.user('alice')
    const ofPool = await envelope.pool.fingerprint('sk-1', NAME)
    await envelope.shredUser('alice')
    const shredded = { code: 'ERR_KEY_SHREDDED' }
    await expect(envelope.fingerprint('alice', 'sk-1', NAME)).rejects.toMatchObject(shredded)
    expect(() => handle.fingerprint('sk-1', NAME)).toThrow(expect.objectContaining(shredded))
    expect(await envelope.pool.fingerprint('sk-1', NAME)).toBe(ofPool)
  })
})

it('fingerprints refuse invalid values and names, without showing them', async () => {
  const envelope = await freshService()
  const handle = await envelope.user('alice')
  for (const [value, options] of [
    ['hush\ud800', NAME],
    [7, NAME],
    ['hush', {}],
    ['hush', { name: 'a\ud800' }],
    ['hush', undefined],
  ] as [string, { name: string }][]) {
    for (const call of [
      () => envelope.fingerprint('alice', value, options),
      () => envelope.pool.fingerprint(value, options),
      async () => handle.fingerprint(value, options),
    ]) {
      const error = await errorOf(call)
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(error.message).not.toContain('hush')
    }
  }
  await expect(envelope.fingerprint('', 'x', NAME)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  await envelope.close()
})
