/** Fingerprints: those of the frozen vectors on every store, what changes them and what does not. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { FingerprintOptions } from '../../src/format/fingerprint.js'
import {
  generateMasterKey,
  type KeyRecord,
  type KeyRef,
  localMasterKey,
  type MasterKey,
  masterKeyring,
  pruneRetired,
  rewrapAll,
} from '../../src/index.js'
import { newDataKey } from '../../src/master-keys/key-wrap.js'
import { keyringOf } from '../../src/master-keys/keyring.js'
import { errorOf } from '../support/errors.js'
import { backends, freshService, freshStore, type TestStore } from '../support/fresh-store.js'
import { alterRow, corrupted, v2Row } from '../support/rows.js'
import { countedStore } from '../support/store-doubles.js'
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

  it('are made with the lowest live version once version 1 was pruned, on every way', async () => {
    const masterKeys = localMasterKey(generateMasterKey())
    const envelope = await fresh.open({ masterKeys, cache: false })
    const first = await envelope.fingerprint('alice', 'sk-1', NAME)
    for (let version = 2; version <= 4; version++) await envelope.rotateUserKey('alice')
    expect(await envelope.fingerprint('alice', 'sk-1', NAME)).toBe(first)
    const all = await envelope.fingerprints('alice', 'sk-1', NAME)
    expect(all.map((print) => print.replace(/[\w-]{43}$/, ''))).toEqual(['f1:', 'f2:2:', 'f2:3:', 'f2:4:'])
    expect(all[0]).toBe(first)
    await prune(fresh, 'alice', 3)
    const handle = await envelope.user('alice')
    const lowest = await envelope.fingerprint('alice', 'sk-1', NAME)
    expect(lowest).toBe(all[2])
    expect(handle.fingerprint('sk-1', NAME)).toBe(lowest)
    expect(await envelope.fingerprints('alice', 'sk-1', NAME)).toEqual(all.slice(2))
    expect(handle.fingerprints('sk-1', NAME)).toEqual(all.slice(2))
    expect(await envelope.fingerprint('alice', 'sk-2', NAME)).not.toBe(lowest)
  })

  it('of the pool go on under its lowest live version too', async () => {
    const masterKeys = localMasterKey(generateMasterKey())
    const envelope = await fresh.open({ masterKeys, cache: false })
    await envelope.pool.fingerprint('sk-1', NAME)
    const other = { ...(await newKey(masterKeys, { userId: '', version: 2 })) }
    await fresh.store.insertIfAbsent([other])
    const [first, second] = await envelope.pool.fingerprints('sk-1', NAME)
    expect(await envelope.pool.fingerprint('sk-1', NAME)).toBe(first)
    await prune(fresh, '', 2)
    expect(second).toMatch(/^f2:2:/)
    expect(await envelope.pool.fingerprint('sk-1', NAME)).toBe(second)
    expect(await envelope.pool.fingerprints('sk-1', NAME)).toEqual([second])
  })

  it('are not made, and none is left out, when a live version does not open', async () => {
    const envelope = await fresh.open({ masterKeys: localMasterKey(generateMasterKey()), cache: false })
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    await envelope.rotateUserKey('alice')
    const damage = { code: 'ERR_UNWRAP_FAILED' }
    await alterRow(fresh.store, { userId: 'alice', version: 2 }, ({ encryptedKey }) => ({
      encryptedKey: corrupted(encryptedKey),
    }))
    const handle = await envelope.user('alice')
    expect(handle.fingerprint('x', NAME)).toMatch(/^f1:/)
    expect(() => handle.fingerprints('x', NAME)).toThrow(expect.objectContaining(damage))
    await expect(envelope.fingerprints('alice', 'x', NAME)).rejects.toMatchObject(damage)
    await fresh.store.remove([{ userId: 'alice', version: 1 }])
    await expect(envelope.fingerprint('alice', 'x', NAME)).rejects.toMatchObject(damage)
  })

  it('come from memory, also under a version above 1, until a change is announced', async () => {
    const masterKeys = localMasterKey(generateMasterKey())
    const { store, calls } = countedStore(await fresh.another())
    const envelope = await fresh.open({ store, masterKeys })
    const first = await envelope.fingerprint('alice', 'x', NAME)
    const minted = calls.getAll
    expect(await envelope.fingerprint('alice', 'x', NAME)).toBe(first)
    expect(calls.getAll).toBe(minted)
    await envelope.rotateUserKey('alice')
    await prune(fresh, 'alice', 2)
    await expect.poll(() => envelope.fingerprint('alice', 'x', NAME), { timeout: 5000 }).toMatch(/^f2:2:/)
    // The announcement of the change may come a moment later.
    await expect
      .poll(async () => {
        const before = calls.getAll
        await envelope.fingerprint('alice', 'x', NAME)
        return (calls.getAll ?? 0) - (before ?? 0)
      })
      .toBe(0)
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

function prune({ store }: TestStore, userId: string, beforeVersion: number) {
  return pruneRetired({ store, userId, beforeVersion, tokensReencrypted: true, includeFirst: true })
}

async function newKey(masterKeys: MasterKey, ref: KeyRef): Promise<KeyRecord> {
  return (await newDataKey(keyringOf(masterKeys), ref, 'v3')).record
}

it('normalization and bits are bound to the name, in whatever order the steps are listed', async () => {
  const envelope = await freshService()
  const print = (value: string, options: Partial<FingerprintOptions> = {}) =>
    envelope.fingerprint('alice', value, { ...NAME, ...options })
  const both = { normalize: ['lowercase', 'trim'] } as const
  expect(await print(' A ', both)).toBe(await print('a', { normalize: ['trim', 'lowercase', 'trim'] }))
  expect(await print('a', { normalize: [] })).toBe(await print('a', { bits: 256 }))
  const kinds = [
    {},
    { normalize: 'trim' },
    both,
    { normalize: (text: string) => text },
    { bits: 255 },
  ] as const
  const prints = await Promise.all(kinds.map((kind) => print('a', kind)))
  expect(new Set(prints.map((text) => text.slice(3, 13))).size).toBe(kinds.length)
  expect(await print('\u00e9', { normalize: 'nfc' })).toBe(await print('e\u0301', { normalize: 'nfc' }))
  await envelope.close()
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
    ['hush', { ...NAME, normalise: 'trim' }],
    ['hush', { ...NAME, normalize: 'upper' }],
    ['hush', { ...NAME, bits: 0 }],
    ['hush', { ...NAME, bits: 257 }],
    ['hush', { ...NAME, bits: '8' }],
  ] as [string, { name: string }][]) {
    for (const call of [
      () => envelope.fingerprint('alice', value, options),
      () => envelope.pool.fingerprint(value, options),
      async () => handle.fingerprint(value, options),
      () => envelope.fingerprints('alice', value, options),
      () => envelope.pool.fingerprints(value, options),
      async () => handle.fingerprints(value, options),
    ]) {
      const error = await errorOf(call)
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(error.message).not.toContain('hush')
    }
  }
  await expect(envelope.fingerprint('', 'x', NAME)).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  await envelope.close()
})
