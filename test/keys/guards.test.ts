/** What keeps a process from using a key that is not the right one any more, one test for each guard of cache and memory. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  generateMasterKey,
  type KeyStore,
  localMasterKey,
  masterKeyring,
} from '../../src/index.js'
import { controlledStore } from '../support/controlled-store.js'
import { errorOf } from '../support/errors.js'
import { nextTurn } from '../support/gate.js'
import { mintedRow } from '../support/rows.js'
import { gatedMasterKey, overriding, storeWithout } from '../support/store-doubles.js'
import { versionOf } from '../support/tokens.js'

const masterKeys = localMasterKey(generateMasterKey())
const open = (store: KeyStore, options: Partial<EnvelopeCryptoOptions> = {}) =>
  EnvelopeCrypto.open({ store, masterKeys, closeStore: false, ...options })

/** Two services on one store: one that is told of no change, and one that makes changes. */
async function twoServices(options: Partial<EnvelopeCryptoOptions> = {}) {
  const store = memoryKeyStore()
  const here = await open(storeWithout(store, 'changes'), options)
  return { store, here, there: await open(store) }
}

describe('without an announcement', () => {
  it('a user who was forgotten and minted anew is recognised when the rows are read, and nothing is written under the cached key', async () => {
    const { store, here, there } = await twoServices()
    await here.encrypt('alice', 'x')
    // Times are stored in milliseconds.
    await expect.poll(() => Date.now()).toBeGreaterThan(Date.now())
    await there.shredUser('alice', { forget: true })
    const minted = await there.encrypt('alice', 'y')
    await there.rotateUserKey('alice')
    const rotated = await there.encrypt('alice', 'z')
    await store.remove([{ userId: 'alice', version: 2 }])
    // Makes this service read the rows.
    expect(await errorOf(here.decrypt('alice', rotated))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(await there.decrypt('alice', await here.encrypt('alice', 'w'))).toBe('w')
    expect(await here.decrypt('alice', minted)).toBe('y')
  })

  it('a version that was just missing opens once this process has made it', async () => {
    const { store, here, there } = await twoServices({ cache: false })
    await there.encrypt('alice', 'x')
    await there.rotateUserKey('alice')
    const gone = await there.encrypt('alice', 'y')
    await store.remove([{ userId: 'alice', version: 2 }])
    expect(await errorOf(here.decrypt('alice', gone))).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    await here.rotateUserKey('alice')
    const token = await here.encrypt('alice', 'z')
    expect(versionOf(token)).toBe(2)
    expect(await here.decrypt('alice', token)).toBe('z')
  })

  it('a user whom this process has shredded and then forgotten gets a new key at once', async () => {
    const { here } = await twoServices()
    await here.encrypt('alice', 'x')
    await here.shredUser('alice')
    await here.shredUser('alice', { forget: true })
    expect(await here.decrypt('alice', await here.encrypt('alice', 'y'))).toBe('y')
  })
})

it('a user who was forgotten and minted anew by a process whose clock is behind gets the new key, though a higher version was known', async () => {
  const { store, bare, tell } = controlledStore()
  const there = await open(bare)
  await there.encrypt('alice', 'x')
  await there.rotateUserKey('alice')
  const here = await open(store)
  expect(versionOf(await here.encrypt('alice', 'x'))).toBe(2)
  await bare.shred('alice', { forget: true })
  const createdAt = new Date(Date.now() - 3_600_000)
  await bare.insertIfAbsent([await mintedRow(masterKeys, 'alice', { createdAt })])
  await tell({ userIds: ['alice'] })
  const token = await here.encrypt('alice', 'y')
  expect(await (await open(bare)).decrypt('alice', token)).toBe('y')
})

it('a pruned version is dropped when anything may have changed', async () => {
  const { store, bare, tell } = controlledStore()
  const envelope = await open(store)
  const token = await envelope.encrypt('alice', 'x')
  await envelope.rotateUserKey('alice')
  await envelope.encrypt('alice', 'y')
  expect(await envelope.decrypt('alice', token)).toBe('x')
  await bare.remove([{ userId: 'alice', version: 1 }])
  await tell({ unspecific: true })
  await expect
    .poll(() => errorOf(envelope.decrypt('alice', token)))
    .toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
})

describe('encryptMany that waits for another user’s key', () => {
  async function waiting() {
    const store = memoryKeyStore()
    const { masterKey, opening } = gatedMasterKey()
    await (await open(store, { masterKeys: masterKey })).encrypt('bob', 'x')
    const envelope = await open(store, {
      masterKeys: masterKeyring({ primary: localMasterKey(randomBytes(32)), previous: [masterKey] }),
    })
    await envelope.encrypt('alice', 'x')
    opening.arm()
    const sealing = envelope.encryptMany([
      { userId: 'alice', plaintext: 'x' },
      { userId: 'bob', plaintext: 'x' },
    ])
    await opening.reached()
    return { envelope, opening, sealing }
  }

  it('writes nothing for a user who is shredded meanwhile', async () => {
    const { envelope, opening, sealing } = await waiting()
    await envelope.shredUser('alice')
    opening.open()
    expect(await sealing).toMatchObject([{ ok: false, error: { code: 'ERR_KEY_SHREDDED' } }, { ok: true }])
  })

  it('writes under the version to which the user is rotated meanwhile', async () => {
    const { envelope, opening, sealing } = await waiting()
    await envelope.rotateUserKey('alice')
    opening.open()
    const [sealed] = await sealing
    expect(versionOf(sealed?.ok ? sealed.value : '')).toBe(2)
  })
})

it('a batch belongs to no caller: the store is called outside of their AsyncLocalStorage', async () => {
  const storage = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  const bare = memoryKeyStore()
  const store = overriding(bare, {
    getAll(userIds) {
      seen.push(storage.getStore())
      return bare.getAll(userIds)
    },
    insertIfAbsent(records) {
      seen.push(storage.getStore())
      return bare.insertIfAbsent(records)
    },
  })
  const envelope = await open(store)
  await Promise.all(
    ['alice', 'bob'].map((userId) => storage.run(userId, () => envelope.encrypt(userId, 'x'))),
  )
  expect(seen).toEqual([undefined, undefined])
  await nextTurn()
})
