/** Keys that were used and are gone from the store: noticed, and never silently replaced by a second key. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeystoreEvent,
  localMasterKey,
  type StoreChange,
} from '../../src/index.js'
import { controlledStore } from '../support/controlled-store.js'

const masterKeys = localMasterKey(randomBytes(32))
const LOST = { code: 'ERR_KEY_NOT_FOUND', retryable: false }

/** A service that has used Alice's key, which is then removed past it and announced or not. */
async function afterLoss(announced?: StoreChange, options: Partial<EnvelopeCryptoOptions> = {}) {
  const { store, bare, tell } = controlledStore()
  const events: KeystoreEvent[] = []
  const onEvent = (event: KeystoreEvent) => events.push(event)
  const envelope = await EnvelopeCrypto.open({ store, masterKeys, onEvent, closeStore: false, ...options })
  const token = await envelope.encrypt('alice', 'x')
  const handle = await envelope.user('alice')
  const rows = (await bare.getAll(['alice'])).get('alice') ?? []
  await bare.remove([{ userId: 'alice', version: 1 }])
  if (announced !== undefined) await tell(announced)
  const lost = () => events.filter(({ type }) => type === 'keysLost')
  // A version that is not cached makes the service read the rows.
  const read = () => envelope.user('alice', { mint: false }).catch((error: unknown) => error)
  return { envelope, token, handle, rows, bare, tell, lost, read }
}

describe('keys that are gone, though no change was announced', () => {
  it('are an event, once, and nothing is minted for their user', async () => {
    const { envelope, bare, lost, read } = await afterLoss()
    expect(await read()).toMatchObject(LOST)
    for (let i = 0; i < 3; i++) await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    await expect(envelope.user('alice')).rejects.toMatchObject(LOST)
    const [bulk] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'y' }])
    expect(bulk).toMatchObject({ ok: false, error: LOST })
    expect(lost()).toEqual([{ type: 'keysLost', users: [{ userId: 'alice', version: 1 }], count: 1 }])
    expect(await bare.getAll(['alice'])).toEqual(new Map())
    expect(await envelope.encrypt('bob', 'x')).toContain('v3:')
  })

  it('are not said to be shredded by a handle', async () => {
    const { handle, token, read } = await afterLoss()
    await read()
    expect(() => handle.encrypt('y')).toThrow(expect.objectContaining(LOST))
    expect(() => handle.decrypt(token)).toThrow(expect.objectContaining(LOST))
  })

  it('work again once they are back', async () => {
    const { envelope, token, handle, rows, bare, read } = await afterLoss()
    await read()
    await bare.insertIfAbsent(rows)
    expect(await envelope.decrypt('alice', token)).toBe('x')
    expect(await envelope.decrypt('alice', handle.encrypt('y'))).toBe('y')
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'z'))).toBe('z')
  })

  it('are erased by a later shred', async () => {
    const { envelope, handle, read } = await afterLoss()
    await read()
    await envelope.shredUser('alice')
    expect(() => handle.encrypt('y')).toThrow(expect.objectContaining({ code: 'ERR_KEY_SHREDDED' }))
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  })
})

describe('keys that are gone after an announcement', () => {
  it('that their user was forgotten: a new key is minted, and nothing was lost', async () => {
    const { envelope, lost } = await afterLoss({ userIds: ['alice'], forgotten: true })
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'y'))).toBe('y')
    expect(lost()).toEqual([])
  })

  it.each<StoreChange>([{ userIds: ['alice'] }, { unspecific: true }, {}, { silent: 'planned' }])(
    'of anything else are lost all the same, until they are forgotten here (%j)',
    async (announced) => {
      const { envelope, lost, read } = await afterLoss(announced)
      await read()
      for (let i = 0; i < 2; i++) await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
      expect(lost()).toEqual([{ type: 'keysLost', users: [{ userId: 'alice', version: 1 }], count: 1 }])
      await envelope.shredUser('alice', { forget: true })
      expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'y'))).toBe('y')
    },
  )

  it('that their user was forgotten, and of which rows were found since, are lost', async () => {
    const { envelope, rows, bare, tell, lost, read } = await afterLoss({
      userIds: ['alice'],
      forgotten: true,
    })
    await bare.maintenance?.restore(rows)
    await tell({ userIds: ['alice'] })
    await read()
    await bare.remove([{ userId: 'alice', version: 1 }])
    await tell({ unspecific: true })
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    expect(lost()).toHaveLength(1)
  })

  it('are only an event where neither a cache nor a key log could tell that they were forgotten', async () => {
    const { envelope, lost } = await afterLoss(undefined, { cache: false })
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'y'))).toBe('y')
    expect(lost()).toHaveLength(1)
  })

  it('are lost though this service has rotated them before', async () => {
    const { store, bare, tell } = controlledStore()
    const events: KeystoreEvent[] = []
    const onEvent = (event: KeystoreEvent) => events.push(event)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, onEvent, closeStore: false })
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    await tell({ userIds: ['alice'] })
    await bare.remove((await bare.getAll(['alice'])).get('alice') ?? [])
    await tell({ unspecific: true })
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    expect(events.filter(({ type }) => type === 'keysLost')).toHaveLength(1)
  })
})
