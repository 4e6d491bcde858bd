/** What a key cache does when its store reports changes, also while it reads, unwraps, mints and rotates keys. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { UserHandle } from '../../src/envelope/user-handle.js'
import {
  EnvelopeCrypto,
  type EnvelopeCryptoOptions,
  type KeyStore,
  type KeystoreEvent,
  localMasterKey,
  masterKeyring,
  rewrapAll,
  type StoreChange,
  StoreError,
} from '../../src/index.js'
import { CHANGES_OF_ALICE, controlledStore } from '../support/controlled-store.js'
import { nextTurn } from '../support/gate.js'
import { mintedRow } from '../support/rows.js'
import { gatedMasterKey, overriding, remoteMasterKey } from '../support/store-doubles.js'
import { versionOf } from '../support/tokens.js'

const SHREDDED = { code: 'ERR_KEY_SHREDDED' }
const LOST = { code: 'ERR_KEY_NOT_FOUND' }
const OUTAGE = new StoreError('planned', { retryable: true })
const inner = localMasterKey(randomBytes(32))
const plain = remoteMasterKey({}, inner)

function open(store: KeyStore, options: Partial<EnvelopeCryptoOptions> = {}) {
  return EnvelopeCrypto.open({ store, masterKeys: plain, closeStore: false, ...options })
}

describe.each(CHANGES_OF_ALICE)('a reported change: %s', (_, change) => {
  /** Who was forgotten is told by name only. */
  const isNamed = change.userIds !== undefined
  const told = (forget: boolean): StoreChange => (isNamed && forget ? { ...change, forgotten: true } : change)
  it('of a shred ends cached keys and handles, even if they are not used', async () => {
    const { store, bare, tell } = controlledStore()
    const envelope = await open(store)
    const token = await envelope.encrypt('alice', 'x')
    const handle = await envelope.user('alice')
    await bare.shred('alice', { forget: false })
    expect(await envelope.decrypt('alice', token)).toBe('x')
    await tell(change)
    expect(() => handle.encrypt('x')).toThrow(expect.objectContaining(SHREDDED))
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject(SHREDDED)
    await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject(SHREDDED)
  })

  it('of a rotation gives writes the new version', async () => {
    const { store, bare, tell } = controlledStore()
    const envelope = await open(store)
    const old = await envelope.encrypt('alice', 'x')
    const handle = await envelope.user('alice')
    await (await open(bare)).rotateUserKey('alice')
    expect(versionOf(await envelope.encrypt('alice', 'x'))).toBe(1)
    await tell(change)
    expect(versionOf(await envelope.encrypt('alice', 'x'))).toBe(2)
    expect(versionOf(handle.encrypt('x'))).toBe(1)
    expect(await envelope.decrypt('alice', old)).toBe('x')
  })

  it('of a shred counts while the key is being unwrapped', async () => {
    const { store, bare, tell } = controlledStore()
    await (await open(bare)).encrypt('alice', 'x')
    const { masterKey, opening } = gatedMasterKey(inner)
    const envelope = await open(store, { masterKeys: masterKey })
    // A cache without any key does not listen.
    await envelope.encrypt('bob', 'x')
    opening.arm()
    const first = envelope.encrypt('alice', 'one').catch(() => undefined)
    await opening.reached()
    await bare.shred('alice', { forget: false })
    await tell(change)
    opening.open()
    await first
    await expect(envelope.encrypt('alice', 'lost')).rejects.toMatchObject(SHREDDED)
  })

  it('of a shred counts while a handle is being made', async () => {
    const { store, bare, tell } = controlledStore()
    await (await open(bare)).encrypt('alice', 'x')
    const { masterKey, opening } = gatedMasterKey(inner)
    const envelope = await open(store, { masterKeys: masterKey })
    opening.arm()
    const handle = envelope.user('alice')
    await opening.reached()
    await bare.shred('alice', { forget: false })
    await tell(change)
    opening.open()
    await expect(handle).rejects.toMatchObject(SHREDDED)
  })

  it.each([true, false])('of a shred counts while the key is being minted, forget: %s', async (forget) => {
    const { store, bare, tell, inserting } = controlledStore()
    const envelope = await open(store)
    await envelope.encrypt('bob', 'x')
    inserting.arm()
    const first = envelope.encrypt('alice', 'one').catch(() => undefined)
    await inserting.reached()
    await bare.shred('alice', { forget })
    await tell(told(forget))
    inserting.open()
    await first
    if (!forget) await expect(envelope.encrypt('alice', 'lost')).rejects.toMatchObject(SHREDDED)
    else if (!isNamed) await expect(envelope.encrypt('alice', 'lost')).rejects.toMatchObject(LOST)
    else {
      const token = await envelope.encrypt('alice', 'two')
      expect(await (await open(bare)).decrypt('alice', token)).toBe('two')
    }
  })

  it.each([true, false])(
    'of a shred counts while a handle is made with a new key, forget: %s',
    async (forget) => {
      const { store, bare, tell, inserting } = controlledStore()
      const envelope = await open(store)
      inserting.arm()
      const making = envelope.user('alice').catch((error: unknown) => error)
      await inserting.reached()
      await bare.shred('alice', { forget })
      await tell(told(forget))
      inserting.open()
      const handle = await making
      if (!forget) expect(handle).toMatchObject(SHREDDED)
      else if (!isNamed) expect(handle).toMatchObject(LOST)
      else expect(await (await open(bare)).decrypt('alice', (handle as UserHandle).encrypt('x'))).toBe('x')
    },
  )

  it('of a shred counts while the rows are being read', async () => {
    const { store, bare, tell, reading } = controlledStore()
    await (await open(bare)).encrypt('alice', 'x')
    const envelope = await open(store)
    await envelope.encrypt('bob', 'x')
    reading.arm()
    // A call that got the rows of before may finish, or may get the report in time and fail.
    const uses = [envelope.encrypt('alice', 'one'), envelope.user('alice')] as const
    const outcomes = Promise.allSettled(uses)
    await reading.reached()
    await bare.shred('alice', { forget: false })
    await tell(change)
    reading.open()
    const [sealed, held] = await outcomes
    await nextTurn()
    if (sealed.status === 'rejected') expect(sealed.reason).toMatchObject(SHREDDED)
    if (held.status === 'rejected') expect(held.reason).toMatchObject(SHREDDED)
    else expect(() => held.value.encrypt('lost')).toThrow(expect.objectContaining(SHREDDED))
    await expect(envelope.encrypt('alice', 'lost')).rejects.toMatchObject(SHREDDED)
  })

  it('of a shred ends a handle that was made of rows read before', async () => {
    const { store, bare, tell, reading } = controlledStore()
    await (await open(bare)).encrypt('alice', 'x')
    const envelope = await open(store)
    reading.arm()
    const making = envelope.user('alice').catch((error: unknown) => error)
    await reading.reached()
    await bare.shred('alice', { forget: false })
    await tell(change)
    reading.open()
    const handle = await making
    await nextTurn()
    if (handle instanceof UserHandle)
      expect(() => handle.encrypt('lost')).toThrow(expect.objectContaining(SHREDDED))
    else expect(handle).toMatchObject(SHREDDED)
  })

  it('of a user who was forgotten and minted anew ends old keys and handles, and writes are under the new key', async () => {
    const { store, bare, tell } = controlledStore()
    const envelope = await open(store)
    const old = await envelope.encrypt('alice', 'x')
    const handle = await envelope.user('alice')
    await sleep(3)
    await bare.shred('alice', { forget: true })
    const other = await open(bare)
    await other.encrypt('alice', 'minted anew')
    await tell(change)
    expect(() => handle.encrypt('lost')).toThrow(expect.objectContaining(SHREDDED))
    const token = await envelope.encrypt('alice', 'y')
    expect(await other.decrypt('alice', token)).toBe('y')
    await expect(envelope.decrypt('alice', old)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
  })
})

describe('the key cache', () => {
  it('can write for a user who was forgotten at a high version and minted anew, without a report', async () => {
    const { store, bare } = controlledStore()
    const envelope = await open(store, { cache: { ttlMs: 1 } })
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    expect(versionOf(await envelope.encrypt('alice', 'x'))).toBe(2)
    await sleep(5)
    await bare.shred('alice', { forget: true })
    const other = await open(bare)
    await other.encrypt('alice', 'minted anew')
    const token = await envelope.encrypt('alice', 'y')
    expect(versionOf(token)).toBe(1)
    expect(await other.decrypt('alice', token)).toBe('y')
  })

  it('binds a user who was seen without rows to no version of before', async () => {
    const { store, bare, tell } = controlledStore()
    const envelope = await open(store, { cache: { ttlMs: 1 } })
    const token = await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    await sleep(5)
    await bare.shred('alice', { forget: true })
    await tell({ userIds: ['alice'] })
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    // Minted anew by a process whose clock is behind.
    await bare.insertIfAbsent([await mintedRow(plain, 'alice', { createdAt: new Date(0) })])
    expect(versionOf(await envelope.encrypt('alice', 'anew'))).toBe(1)
  })

  it('reads a user again who is announced, whose keys have expired and of whom a second version is known', async () => {
    const { store, bare, tell } = controlledStore()
    const envelope = await open(store, { cache: { ttlMs: 1 } })
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    await sleep(5)
    await bare.shred('alice', { forget: true })
    await tell({ userIds: ['alice'] })
    // Minted anew by a process whose clock is behind: only the moment without rows shows that the key is another one.
    await bare.insertIfAbsent([await mintedRow(plain, 'alice', { createdAt: new Date(0) })])
    expect(versionOf(await envelope.encrypt('alice', 'anew'))).toBe(1)
  })

  it('does not remember a version whose user was forgotten while it was being made', async () => {
    const { store, bare, inserting } = controlledStore()
    const envelope = await open(store)
    await envelope.encrypt('alice', 'x')
    inserting.arm()
    const rotation = envelope.rotateUserKey('alice')
    await inserting.reached()
    await envelope.shredUser('alice', { forget: true })
    inserting.open()
    await rotation
    // A new key, minted by a process whose clock is behind.
    await bare.insertIfAbsent([await mintedRow(plain, 'alice', { createdAt: new Date(0) })])
    expect(versionOf(await envelope.encrypt('alice', 'anew'))).toBe(1)
  })

  it('reads again if the rows it got are older than its own rotation', async () => {
    const { store, bare, reading, aboutToInsert } = controlledStore()
    await (await open(bare)).encrypt('alice', 'x')
    const envelope = await open(store)
    aboutToInsert.arm()
    const rotation = envelope.rotateUserKey('alice')
    await aboutToInsert.reached()
    reading.arm()
    const slow = envelope.encrypt('alice', 'y')
    await reading.reached()
    aboutToInsert.open()
    expect(await rotation).toMatchObject({ version: 2, rotated: true })
    reading.open()
    expect(versionOf(await slow)).toBe(2)
  })

  it('ends all keys of a user it shreds, even if it knew the user as shredded already', async () => {
    const { store, bare, reading, tell } = controlledStore()
    const envelope = await open(store)
    await envelope.encrypt('alice', 'x')
    await envelope.shredUser('alice')
    await expect(envelope.encrypt('alice', 'x')).rejects.toMatchObject(SHREDDED)
    await bare.shred('alice', { forget: true })
    await (await open(bare)).encrypt('alice', 'minted anew')
    await tell({ userIds: ['alice'] })
    reading.arm()
    const slow = envelope.encrypt('alice', 'x').catch((error: unknown) => error)
    await reading.reached()
    await envelope.shredUser('alice')
    reading.open()
    expect(await slow).toMatchObject(SHREDDED)
    await expect(envelope.encrypt('alice', 'lost')).rejects.toMatchObject(SHREDDED)
  })

  it('encrypts nothing more under a key after a shred that failed, which may have erased it', async () => {
    const { store, bare } = controlledStore()
    const failing = overriding(store, {
      async shred(userId, options) {
        await bare.shred(userId, options)
        throw OUTAGE
      },
    })
    const envelope = await open(failing)
    await envelope.encrypt('alice', 'x')
    const handle = await envelope.user('alice')
    await expect(envelope.shredUser('alice')).rejects.toMatchObject({ code: 'ERR_STORE' })
    await expect(envelope.encrypt('alice', 'lost')).rejects.toMatchObject(SHREDDED)
    await nextTurn()
    expect(() => handle.encrypt('lost')).toThrow(expect.objectContaining(SHREDDED))
  })

  it('drops keys that it cannot read again, and goes on reading until it can judge their handles', async () => {
    const { store, bare, calls, failWith, tell } = controlledStore()
    const envelope = await open(store)
    const token = await envelope.encrypt('alice', 'x')
    const handle = await envelope.user('alice')
    await bare.shred('alice', { forget: false })
    failWith(OUTAGE)
    await tell({ unspecific: true })
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_STORE' })
    // The shred is not known yet.
    expect(handle.decrypt(token)).toBe('x')
    failWith(null)
    await expect.poll(() => isEnded(() => handle.encrypt('x')), { timeout: 3000 }).toBe(true)
    const looks = calls.length
    await sleep(1200)
    expect(calls).toHaveLength(looks)
  })

  it('does not go on reading a row that is unreadable', async () => {
    const { store, calls, failWith, tell } = controlledStore()
    const envelope = await open(store)
    const handle = await envelope.user('alice')
    failWith(new StoreError('planned', { ref: { userId: 'alice', version: 1 } }))
    await tell({ userIds: ['alice'] })
    const looks = calls.length
    await sleep(1200)
    expect(calls).toHaveLength(looks)
    expect(handle.encrypt('x')).toContain('v3:')
  })

  it('reads the users of the time since the last change again in one query, and drops the others', async () => {
    const { store, calls, tell } = controlledStore()
    const envelope = await open(store)
    const users = ['a', 'b', 'c', 'd', 'e']
    const tokens = await Promise.all(users.map((userId) => envelope.encrypt(userId, 'x')))
    await tell({ unspecific: true })
    await envelope.decrypt('a', tokens[0] ?? '')
    await envelope.encrypt('b', 'x')
    calls.length = 0
    await tell({ unspecific: true })
    expect(calls).toEqual(['getAll 2'])
    await envelope.decrypt('a', tokens[0] ?? '')
    await envelope.encrypt('b', 'x')
    expect(calls).toEqual(['getAll 2'])
    await envelope.decrypt('c', tokens[2] ?? '')
    expect(calls).toEqual(['getAll 2', 'getAll 1'])
  })

  it('drops the keys of the user that a report names, and all keys if it names none', async () => {
    const { store, calls, tell } = controlledStore()
    const envelope = await open(store)
    for (const userId of ['a', 'b']) await envelope.encrypt(userId, 'x')
    calls.length = 0
    await tell({ userIds: ['a', 'nobody here knows'] })
    // No handle of them exists: only the next use reads them again.
    expect(calls).toEqual([])
    for (const userId of ['a', 'b']) await envelope.encrypt(userId, 'x')
    expect(calls).toEqual(['getAll 1'])
    await tell({})
    await Promise.all(['a', 'b'].map((userId) => envelope.encrypt(userId, 'x')))
    expect(calls).toEqual(['getAll 1', 'getAll 2'])
  })

  it('goes on working, with one query at a time, however often changes are reported', async () => {
    const { store, calls, tell } = controlledStore()
    const envelope = await open(store)
    const handle = await envelope.user('alice')
    const slowly = overriding(store, {
      async getAll(ids) {
        const found = await store.getAll(ids)
        await sleep(5)
        return found
      },
    })
    const slow = await open(slowly)
    let isTelling = true
    const telling = (async () => {
      while (isTelling) await tell({})
    })()
    const begun = performance.now()
    const token = await slow.encrypt('alice', 'x')
    expect((await slow.user('alice')).decrypt(token)).toBe('x')
    // It takes 50 ms. A cache that begins anew at each change would wait until the reports end.
    expect(performance.now() - begun).toBeLessThan(2000)
    expect(handle.decrypt(token)).toBe('x')
    isTelling = false
    await telling
    await sleep(20)
    calls.length = 0
    for (let i = 0; i < 100; i++) void tell({ userIds: ['alice'] })
    await nextTurn()
    await nextTurn()
    // Two services have handles of the user, and each makes two queries: one was begun before the last report, one is begun after it.
    expect(calls.length).toBeGreaterThan(0)
    expect(calls.length).toBeLessThanOrEqual(4)
  })

  it('emits an event when the store cannot report changes, and keeps its keys', async () => {
    const { store, calls, tell } = controlledStore()
    const events: KeystoreEvent[] = []
    const envelope = await open(store, { onEvent: (event) => events.push(event) })
    await envelope.encrypt('a', 'x')
    events.length = 0
    calls.length = 0
    await tell({ silent: 'planned' })
    await envelope.encrypt('a', 'x')
    expect(events).toEqual([{ type: 'changesSilent', reason: 'planned' }])
    expect(calls).toEqual([])
  })

  it('subscribes once, before it first reads, if it keeps anything, and until it is closed', async () => {
    const { store, calls, listeners } = controlledStore()
    const envelope = await open(store)
    await Promise.all(['a', 'b'].map((userId) => envelope.encrypt(userId, 'x')))
    await envelope.user('c')
    expect(calls.filter((call) => call === 'changes')).toHaveLength(1)
    expect(calls[0]).toBe('changes')
    await envelope.close()
    expect(listeners.size).toBe(0)

    const without = await open(store, { cache: false })
    await without.encrypt('a', 'x')
    expect(listeners.size).toBe(0)
    await without.user('a')
    expect(listeners.size).toBe(1)
    await without.close()
    expect(listeners.size).toBe(0)

    const bound = await open(overriding(store, { transactional: true }))
    await bound.user('a')
    expect(listeners.size).toBe(0)
  })

  it('leaves a handle alone when its user is rewrapped', async () => {
    const { store, bare, tell } = controlledStore()
    const fresh = localMasterKey(randomBytes(32))
    const rewrapping = masterKeyring({ primary: fresh, previous: [plain] })
    const envelope = await open(store, { masterKeys: masterKeyring({ primary: plain, previous: [fresh] }) })
    const handle = await envelope.user('alice')
    await sleep(3)
    expect(await rewrapAll({ store: bare, masterKeys: rewrapping })).toMatchObject({ changed: 1 })
    for (const told of [{ userIds: ['alice'] }, { unspecific: true }, {}]) await tell(told)
    expect(await envelope.decrypt('alice', handle.encrypt('x'))).toBe('x')
  })
})

function isEnded(use: () => unknown): boolean {
  try {
    use()
    return false
  } catch {
    return true
  }
}
