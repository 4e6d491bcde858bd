/** Calls that fail again and again for the same reason cost the store one query a second. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { EnvelopeCrypto, type KeyStore, localMasterKey } from '../../src/index.js'
import { CHANGES_OF_ALICE, controlledStore } from '../support/controlled-store.js'
import { versionOf } from '../support/tokens.js'

const SHREDDED = { code: 'ERR_KEY_SHREDDED' }
const masterKeys = localMasterKey(randomBytes(32))

function open(store: KeyStore) {
  return EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
}

describe('the key cache', () => {
  it.each([true, false])(
    'asks once a second for a user who is shredded, by this process: %s',
    async (own) => {
      const { store, bare, calls, tell } = controlledStore()
      const envelope = await open(store)
      const token = await envelope.encrypt('alice', 'x')
      if (own) await envelope.shredUser('alice')
      else {
        await bare.shred('alice', { forget: false })
        await tell({ userIds: ['alice'] })
      }
      calls.length = 0
      const call = async () => {
        await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject(SHREDDED)
        await expect(envelope.decrypt('alice', token)).rejects.toMatchObject(SHREDDED)
        await expect(envelope.user('alice')).rejects.toMatchObject(SHREDDED)
      }
      for (let i = 0; i < 10; i++) await call()
      expect(calls.length).toBeLessThanOrEqual(own ? 0 : 1)
      // After an announcement, or a second later, the store is asked again.
      for (const [, change] of CHANGES_OF_ALICE) {
        await tell(change)
        calls.length = 0
        await call()
        expect(calls).toEqual(['getAll 1'])
      }
      await sleep(1100)
      await call()
      expect(calls).toEqual(['getAll 1', 'getAll 1'])
    },
  )

  it('asks once a second for a version that does not exist, and at once for one that does', async () => {
    const { store, bare, calls, tell } = controlledStore()
    const envelope = await open(store)
    const first = await envelope.encrypt('alice', 'x')
    const other = await open(bare)
    await other.rotateUserKey('alice')
    const second = await other.encrypt('alice', 'y')
    await bare.remove([{ userId: 'alice', version: 2 }])
    const missing = () =>
      expect(envelope.decrypt('alice', second)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    calls.length = 0
    for (let i = 0; i < 10; i++) await missing()
    expect(calls).toEqual(['getAll 1'])
    expect(await envelope.decrypt('alice', first)).toBe('x')
    for (const [, change] of CHANGES_OF_ALICE) {
      await tell(change)
      calls.length = 0
      for (let i = 0; i < 3; i++) await missing()
      expect(calls).toEqual(['getAll 1'])
    }
    // Made by this process itself, which no announcement has to tell.
    await envelope.rotateUserKey('alice')
    await expect(envelope.decrypt('alice', second)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    expect(versionOf(await envelope.encrypt('alice', 'z'))).toBe(2)
  })
})
