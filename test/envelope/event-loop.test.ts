/** Loops of awaited calls, and long calls, let timers fire and sockets be read. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  copyKeys,
  EnvelopeCrypto,
  generateMasterKey,
  type KeyStore,
  localMasterKey,
  masterKeyring,
  rewrapAll,
  verifyAll,
} from '../../src/index.js'
import { reencrypt } from '../../src/reencrypt/index.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { memorySource } from '../support/memory-source.js'

/** Runs work. Expects that the event loop turned at least once in 50 ms of its CPU time, on average: the machine may be busy. */
async function expectTurns(work: () => Promise<unknown>): Promise<void> {
  let turns = 0
  const timer = setInterval(() => {
    turns += 1
  }, 0)
  const before = process.cpuUsage()
  try {
    await work()
  } finally {
    clearInterval(timer)
  }
  const { user, system } = process.cpuUsage(before)
  expect(turns).toBeGreaterThan((user + system) / 1000 / 50)
}

describe.each(dialects)('on %s', (dialect) => {
  const masterKeys = localMasterKey(generateMasterKey())
  let database: FreshDatabase
  const stores: KeyStore[] = []

  beforeEach(async () => {
    database = await freshDatabase(dialect)
  })
  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close()
    await database.remove()
  })

  async function open() {
    const store = await openKeyStore(database.url)
    stores.push(store)
    return EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
  }

  it.each(['encrypt', 'decrypt', 'encryptBytes', 'decryptBytes', 'fingerprint'] as const)(
    'another process’s shred is noticed within 2 s in a loop of %s, which memory answers',
    async (method) => {
      const [envelope, other] = [await open(), await open()]
      const token = await envelope.encrypt('alice', 'x')
      // The store has to know of its connection that listens before anything is announced.
      await sleep(300)
      const calls = {
        encrypt: () => envelope.encrypt('alice', 'x'),
        decrypt: () => envelope.decrypt('alice', token),
        encryptBytes: () => envelope.encryptBytes('alice', Buffer.from('x')),
        decryptBytes: () => envelope.decryptBytes('alice', token),
        fingerprint: () => envelope.fingerprint('alice', 'x', { name: 'test' }),
      }
      const shredding = sleep(50).then(async () => {
        await other.shredUser('alice')
        return performance.now()
      })
      const loop = async () => {
        for (const end = performance.now() + 6000; performance.now() < end; ) await calls[method]()
      }
      await expect(loop()).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
      const noticedAt = performance.now()
      expect(noticedAt - (await shredding)).toBeLessThan(2000)
    },
  )

  it('a loop of mints lets timers fire', async () => {
    const envelope = await open()
    await expectTurns(async () => {
      for (let i = 0; i < 3000; i++) await envelope.encrypt(`user-${i}`, 'x')
    })
  })

  it('bulk calls and long work let timers fire', async () => {
    const envelope = await open()
    const items = Array.from({ length: 5000 }, (_, i) => ({
      userId: `user-${i}`,
      plaintext: 'x'.repeat(100),
    }))
    const tokens: { userId: string; token: string }[] = []
    await expectTurns(async () => {
      for (const [i, result] of (await envelope.encryptMany(items)).entries())
        tokens.push({ userId: `user-${i}`, token: result.ok ? result.value : '' })
    })
    const cold = await open()
    await expectTurns(() => cold.decryptMany(tokens))
    await expectTurns(() => cold.decryptMany(tokens))
    const [store] = stores as [KeyStore]
    await expectTurns(() => verifyAll({ store, masterKeys }))
    await expectTurns(() => copyKeys({ from: store, to: memoryKeyStore() }))
    const primary = localMasterKey(generateMasterKey())
    await expectTurns(() =>
      rewrapAll({ store, masterKeys: masterKeyring({ primary, previous: [masterKeys] }) }),
    )
    const source = memorySource(
      tokens.map(({ userId, token }, i) => ({ key: `${i}`, owner: userId, value: token })),
    )
    await expectTurns(() => reencrypt({ envelope: cold, source, context: 'new', previousContexts: [null] }))
  })
})

it('a call that memory answers makes no turn of its own', async () => {
  const envelope = await EnvelopeCrypto.open({
    store: memoryKeyStore(),
    masterKeys: localMasterKey(generateMasterKey()),
  })
  await envelope.encrypt('alice', 'x')
  for (let i = 0; i < 200; i++) {
    let turned = false
    setImmediate(() => {
      turned = true
    })
    await envelope.encrypt('alice', 'x')
    expect(turned).toBe(false)
    await sleep(0)
  }
})
