/** What the key cache must not do while another call or process shreds, rotates, forgets or mints. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeyStore,
  localMasterKey,
  type MasterKey,
  StoreError,
} from '../../src/index.js'
import { controlledStore } from '../support/controlled-store.js'
import { mintedRow } from '../support/rows.js'
import { gatedMasterKey, overriding, remoteMasterKey } from '../support/store-doubles.js'
import { versionOf } from '../support/tokens.js'

const inner = localMasterKey(randomBytes(32))
const remote = (change: Partial<MasterKey> = {}) => remoteMasterKey(change, inner)
const SHREDDED = { code: 'ERR_KEY_SHREDDED' }

function open(store: KeyStore, masterKeys: MasterKey, options: Partial<EnvelopeCryptoOptions> = {}) {
  return EnvelopeCrypto.open({ store, masterKeys, closeStore: false, ...options })
}

describe('the key cache', () => {
  it('keeps no key whose user was found shredded while the key was being unwrapped', async () => {
    const store = memoryKeyStore()
    const token = await (await open(store, remote())).encrypt('alice', 'x')
    const { masterKey, opening } = gatedMasterKey(inner)
    const envelope = await open(store, masterKey)
    opening.arm()
    const first = envelope.encrypt('alice', 'one')
    await opening.reached()
    await store.shred('alice', { forget: false })
    await expect(envelope.user('alice')).rejects.toMatchObject(SHREDDED)
    opening.open()
    await expect(first).rejects.toMatchObject(SHREDDED)
    await expect(envelope.encrypt('alice', 'lost for ever')).rejects.toMatchObject(SHREDDED)
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject(SHREDDED)
  })

  it('does not write under a version if a higher one was found while it was being unwrapped', async () => {
    const store = memoryKeyStore()
    await (await open(store, remote())).encrypt('bob', 'x')
    const { masterKey, opening } = gatedMasterKey(inner)
    const envelope = await open(store, masterKey)
    opening.arm()
    const first = envelope.encrypt('bob', 'one')
    await opening.reached()
    await store.insertIfAbsent([await mintedRow(remote(), 'bob', { version: 2 })])
    const newer = await (await open(store, remote())).encrypt('bob', 'two')
    expect(await envelope.decrypt('bob', newer)).toBe('two')
    opening.open()
    expect(versionOf(await first)).toBe(2)
    expect(versionOf(await envelope.encrypt('bob', 'three'))).toBe(2)
  })

  /** Whichever of two answers comes first, and by however few turns of the microtask queue. */
  const OFFSETS = Array.from({ length: 81 }, (_, index) => index - 40)
  const WRITES: Record<string, (envelope: EnvelopeCrypto) => Promise<string>> = {
    encrypt: (envelope) => envelope.encrypt('alice', 'x'),
    encryptMany: async (envelope) => {
      const [result] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'x' }])
      if (result?.ok !== true) throw result?.error
      return result.value
    },
    user: async (envelope) => (await envelope.user('alice')).encrypt('x'),
  }

  it.each(Object.entries(WRITES))(
    'takes rows that a rotation has outdated for no lost version: %s',
    async (_, write) => {
      for (const offset of OFFSETS) {
        const { store, reading, aboutToInsert, inserting } = controlledStore()
        const envelope = await open(store, remote(), { cache: false })
        await envelope.encrypt('alice', 'x')
        for (const point of [aboutToInsert, inserting]) point.arm()
        const rotating = envelope.rotateUserKey('alice')
        await aboutToInsert.reached()
        reading.arm()
        const writing = write(envelope)
        await reading.reached()
        aboutToInsert.open()
        await inserting.reached()
        const [first, second] = offset < 0 ? [inserting, reading] : [reading, inserting]
        first.open()
        for (let turn = 0; turn < Math.abs(offset); turn += 1) await null
        second.open()
        expect(await rotating).toMatchObject({ version: 2, rotated: true })
        const version = versionOf(await writing)
        // The rotation is known to have ended before the write was made.
        if (offset < 0) expect(version).toBe(2)
      }
    },
  )

  it('takes rows that an announced rotation has outdated for no lost version: rotateUserKey', async () => {
    for (const offset of OFFSETS) {
      const { store, bare, tell } = controlledStore()
      const answers: (() => void)[] = []
      let isHeld = false
      const held = overriding(store, {
        async getAll(ids) {
          const found = await bare.getAll(ids)
          if (isHeld) await new Promise<void>((resolve) => answers.push(resolve))
          return found
        },
      })
      const envelope = await open(held, remote())
      const handle = await envelope.user('alice')
      isHeld = true
      const rotating = envelope.rotateUserKey('alice')
      await tell({})
      await bare.insertIfAbsent([await mintedRow(remote(), 'alice', { version: 2 })])
      // The user has a handle, so the announcement reads the rows again, beside the read that is under way.
      await tell({ userIds: ['alice'] })
      isHeld = false
      const inOrder = offset < 0 ? answers.toReversed() : answers
      expect(inOrder.length).toBeGreaterThan(1)
      for (const answer of inOrder) {
        answer()
        for (let turn = 0; turn < Math.abs(offset); turn += 1) await null
      }
      expect((await rotating).version).toBeGreaterThan(1)
      expect(handle.encrypt('x')).toMatch(/^v3:/)
    }
  })

  it('drops the keys of a user whom it finds forgotten, so that nothing is written under them', async () => {
    const store = memoryKeyStore()
    const envelope = await open(store, remote())
    const old = await envelope.encrypt('carl', 'x')
    await store.shred('carl', { forget: true })
    await expect(envelope.user('carl', { mint: false })).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    await expect(envelope.decrypt('carl', old)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    const fresh = await envelope.encrypt('carl', 'new')
    expect(await (await open(store, remote())).decrypt('carl', fresh)).toBe('new')
  })

  it('opens nothing with a key whose user was shredded while the key was being unwrapped', async () => {
    const store = memoryKeyStore()
    const token = await (await open(store, remote())).encrypt('alice', 'x')
    const { masterKey, opening } = gatedMasterKey(inner)
    const envelope = await open(store, masterKey)
    opening.arm()
    const decrypting = envelope.decrypt('alice', token)
    await opening.reached()
    await envelope.shredUser('alice')
    opening.open()
    await expect(decrypting).rejects.toMatchObject(SHREDDED)
  })

  it('reads a leased user again at an announcement, though a read of it is under way that began before', async () => {
    const { store, bare, tell, reading } = controlledStore()
    const envelope = await open(store, remote())
    const handle = await envelope.user('alice')
    reading.arm()
    const slow = envelope.user('alice').catch(() => undefined)
    await reading.reached()
    await bare.shred('alice', { forget: false })
    await tell({ userIds: ['alice'] })
    expect(() => handle.encrypt('lost')).toThrow(expect.objectContaining(SHREDDED))
    reading.open()
    await slow
  })

  it('does not repeat a failed read of a user without a handle', async () => {
    const { store, calls, failWith, tell } = controlledStore()
    const envelope = await open(store, remote())
    await envelope.encrypt('alice', 'x')
    failWith(new StoreError('planned', { retryable: true }))
    calls.length = 0
    await tell({ unspecific: true })
    await sleep(1200)
    expect(calls).toEqual(['getAll 1'])
  })

  /** Forgets Alice and mints her anew at the same millisecond, so that only the wrapped bytes tell the keys apart. */
  async function mintAnew(store: KeyStore): Promise<void> {
    const [row] = (await store.getAll(['alice'])).get('alice') ?? []
    await store.shred('alice', { forget: true })
    await store.insertIfAbsent([
      await mintedRow(remote(), 'alice', { createdAt: row?.createdAt ?? new Date() }),
    ])
  }

  it('uses no cached key in place of one that was minted at the same millisecond', async () => {
    const { store, bare } = controlledStore()
    const envelope = await open(store, remote())
    await envelope.encrypt('alice', 'x')
    await mintAnew(bare)
    const handle = await envelope.user('alice')
    expect(await (await open(bare, remote())).decrypt('alice', handle.encrypt('y'))).toBe('y')
  })

  it('shares the unwrapping of a row only with those who have read the same bytes', async () => {
    const { store, bare, tell } = controlledStore()
    const token = await (await open(bare, remote())).encrypt('alice', 'x')
    const { masterKey, opening } = gatedMasterKey(inner)
    const envelope = await open(store, masterKey)
    opening.arm()
    const first = envelope.decrypt('alice', token).catch(() => undefined)
    await opening.reached()
    await mintAnew(bare)
    await tell({ userIds: ['alice'] })
    const sealed = envelope.encrypt('alice', 'y')
    setTimeout(() => opening.open(), 50)
    expect(await (await open(bare, remote())).decrypt('alice', await sealed)).toBe('y')
    await first
  })

  it('gives a handle with all versions, though its read found no row and others were made meanwhile', async () => {
    const { store, bare, reading } = controlledStore()
    const envelope = await open(store, remote())
    const other = await open(bare, remote())
    reading.arm()
    const making = envelope.user('alice')
    await reading.reached()
    const first = await other.encrypt('alice', 'one')
    await other.rotateUserKey('alice')
    reading.open()
    const handle = await making
    expect(handle.version).toBe(2)
    expect(handle.decrypt(first)).toBe('one')
  })

  it('caches the key of a user who was minted anew as soon as it has read the new row', async () => {
    const { store, bare, calls, tell } = controlledStore()
    const envelope = await open(store, remote())
    await envelope.encrypt('alice', 'x')
    await envelope.user('alice')
    await tell({ userIds: ['alice'] })
    await sleep(3)
    await bare.shred('alice', { forget: true })
    await (await open(bare, remote())).encrypt('alice', 'minted anew')
    await envelope.encrypt('alice', 'y')
    calls.length = 0
    await envelope.encrypt('alice', 'z')
    expect(calls).toEqual([])
  })

  it('leaves a handle ended when its user gets a new key', async () => {
    const store = memoryKeyStore()
    const envelope = await open(store, remote())
    const handle = await envelope.user('dora')
    await store.shred('dora', { forget: false })
    await expect(envelope.user('dora')).rejects.toMatchObject(SHREDDED)
    await store.shred('dora', { forget: true })
    const anew = await envelope.user('dora')
    expect(() => handle.encrypt('x')).toThrow(expect.objectContaining(SHREDDED))
    expect(await envelope.decrypt('dora', anew.encrypt('y'))).toBe('y')
  })

  it('gives a handle though another read, begun before the mint, finds no key', async () => {
    const inside = memoryKeyStore()
    let hold: Promise<void> | null = null
    const store = overriding(inside, {
      getAll: async (ids: readonly string[]) => {
        const found = await inside.getAll(ids)
        await hold
        return found
      },
      insertIfAbsent: async (records: Parameters<KeyStore['insertIfAbsent']>[0]) => {
        let release: () => void = () => undefined
        hold = new Promise((resolve) => {
          release = resolve
        })
        // The read of another caller begins before the row is there, and ends after it.
        const foreign = envelope.user('eve', { mint: false }).catch(() => undefined)
        await new Promise((resolve) => setImmediate(resolve))
        const winners = await inside.insertIfAbsent(records)
        setTimeout(() => {
          hold = null
          release()
        }, 20)
        await foreign
        return winners
      },
    })
    const envelope = await open(store, remote())
    const handle = await envelope.user('eve')
    expect(handle.decrypt(handle.encrypt('x'))).toBe('x')
  })

  it('takes the bytes to encrypt as they were when it was called', async () => {
    const envelope = await open(memoryKeyStore(), remote())
    const bytes = Buffer.from('a secret')
    const sealing = envelope.encryptBytes('alice', bytes)
    bytes.fill(0)
    expect(Buffer.from(await envelope.decryptBytes('alice', await sealing)).toString()).toBe('a secret')
  })

  it('refuses a data key of zeros, as a careless master key gives it after it was wiped', async () => {
    const store = memoryKeyStore()
    await (await open(store, remote())).encrypt('alice', 'x')
    const memory = new Map<string, Uint8Array>()
    const careless = remote({
      unwrap(wrapped, aad) {
        const name = Buffer.from(wrapped).toString('hex')
        const known = memory.get(name) ?? inner.unwrap(wrapped, aad)
        memory.set(name, known)
        return known
      },
    })
    const envelope = await open(store, careless)
    await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject({
      code: 'ERR_MASTER_KEY',
      reason: 'wrongKey',
    })
  })
})

describe('bulk calls', () => {
  it('fail an item alone for an error of its getter, its master key or its row', async () => {
    const inside = memoryKeyStore()
    let broken = true
    const store = overriding(inside, {
      insertIfAbsent: async (records: Parameters<KeyStore['insertIfAbsent']>[0]) => {
        if (broken && records.some(({ userId }) => userId === 'row')) {
          broken = false
          throw new StoreError('planned', { ref: { userId: 'row', version: 1 } })
        }
        return inside.insertIfAbsent(records)
      },
    })
    const masterKey = remote({
      wrap(dataKey, aad) {
        if (Buffer.from(aad).includes('unlucky')) throw new Error('no MasterKeyError')
        return inner.wrap(dataKey, aad)
      },
    })
    const envelope = await open(store, masterKey)
    const getter = {
      userId: 'getter',
      get plaintext(): string {
        throw new Error('hush-hush')
      },
    }
    const items = [{ userId: 'fine', plaintext: 'x' }, getter, { userId: 'unlucky', plaintext: 'x' }]
    const results = await envelope.encryptMany([...items, { userId: 'row', plaintext: 'x' }])
    const codes = results.map((result) => (result.ok ? 'ok' : result.error.code))
    expect(codes).toEqual(['ok', 'ERR_INVALID_ARGUMENT', 'ERR_MASTER_KEY', 'ERR_STORE'])
    expect(JSON.stringify(results)).not.toContain('hush')
  })
})
