/** A key is used and kept only once its row is durable: else a process would encrypt under a key that nobody has. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EnvelopeCrypto, localMasterKey, StoreError } from '../../src/index.js'
import { controlledStore } from '../support/controlled-store.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { nextTurn } from '../support/gate.js'
import { countedStore } from '../support/store-doubles.js'

/** Every use of a user's key that mints it. What each gives shows which key it used. */
const USES: Record<string, (envelope: EnvelopeCrypto) => Promise<unknown>> = {
  encrypt: (envelope) => envelope.encrypt('alice', 'x'),
  encryptBytes: (envelope) => envelope.encryptBytes('alice', Buffer.from('x')),
  encryptMany: async (envelope) => {
    const [result] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'x' }])
    if (result?.ok !== true) throw result?.error
    return result.value
  },
  'a handle': async (envelope) => (await envelope.user('alice')).encrypt('x'),
  getOrCreateUserKey: async (envelope) =>
    Buffer.from(await envelope.getOrCreateUserKey('alice')).toString('hex'),
  fingerprint: (envelope) => envelope.fingerprint('alice', 'x', { name: 'n' }),
}
const uses = Object.keys(USES)
const use = (name: string, envelope: EnvelopeCrypto) =>
  (USES[name] as NonNullable<(typeof USES)[string]>)(envelope)

/** What another process makes of the same, of the row that is stored. */
async function expectStored(name: string, given: unknown, other: EnvelopeCrypto): Promise<void> {
  if (name === 'getOrCreateUserKey' || name === 'fingerprint')
    expect(await use(name, other), name).toBe(given)
  else expect(await other.decrypt('alice', String(given)), name).toBe('x')
}

const planned = () => new StoreError('planned', { retryable: true })

describe.each(backends)('after an insert that failed, on %s', (backend) => {
  let fresh: TestStore
  const masterKeys = localMasterKey(randomBytes(32))
  beforeEach(async () => {
    fresh = await freshStore(backend)
  })
  afterEach(() => fresh.remove())

  // All pairs where they cost nothing: what is kept does not depend on the store.
  const firsts = backend === 'memory' ? uses : uses.slice(0, 1)
  it.each(firsts.flatMap((first) => uses.map((then) => [first, then] as const)))(
    'of %s, %s uses no key but the stored one',
    async (first, then) => {
      const { store, failNext } = countedStore(fresh.store)
      const envelope = await fresh.open({ store, masterKeys })
      failNext('insertIfAbsent', planned())
      await expect(use(first, envelope)).rejects.toMatchObject({ code: 'ERR_STORE' })
      expect(await fresh.store.census()).toEqual([])
      const given = await use(then, envelope)
      expect(await fresh.store.census()).toMatchObject([{ count: 1 }])
      await expectStored(then, given, await fresh.open({ masterKeys }))
    },
  )

  it('of a rotation, writes go on under the version that is stored, and the next rotation makes the next one', async () => {
    const { store, failNext } = countedStore(fresh.store)
    const envelope = await fresh.open({ store, masterKeys })
    await envelope.encrypt('alice', 'x')
    failNext('insertIfAbsent', planned())
    await expect(envelope.rotateUserKey('alice')).rejects.toMatchObject({ code: 'ERR_STORE' })
    const other = await fresh.open({ masterKeys })
    expect(await other.decrypt('alice', await envelope.encrypt('alice', 'x'))).toBe('x')
    expect((await envelope.user('alice')).version).toBe(1)
    expect(await envelope.rotateUserKey('alice')).toMatchObject({ version: 2, rotated: true })
    expect(
      await (await fresh.open({ masterKeys })).decrypt('alice', await envelope.encrypt('alice', 'x')),
    ).toBe('x')
  })
})

describe('while an insert is under way', () => {
  it.each(uses)('%s does not end before it has', async (name) => {
    const { store, bare, aboutToInsert } = controlledStore()
    const masterKeys = localMasterKey(randomBytes(32))
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
    aboutToInsert.arm()
    const first = envelope.encrypt('alice', 'x')
    await aboutToInsert.reached()
    let ended = false
    const second = use(name, envelope).finally(() => {
      ended = true
    })
    for (let turn = 0; turn < 5; turn++) await nextTurn()
    // A bulk call inserts by itself, and may end with a row of its own.
    expect({ ended, stored: (await bare.census()).length > 0 }).not.toEqual({ ended: true, stored: false })
    aboutToInsert.open()
    await first
    await expectStored(name, await second, await EnvelopeCrypto.open({ store: bare, masterKeys }))
    await envelope.close()
  })
})
