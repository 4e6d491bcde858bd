/** Loops of awaited calls, and long calls, let timers fire and sockets be read. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, type KeyStore, localMasterKey } from '../../src/index.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'

/** Runs work, and counts how often the event loop turned meanwhile. Turns and not milliseconds: the machine may be busy. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0
  const timer = setInterval(() => {
    turns += 1
  }, 0)
  try {
    await work()
  } finally {
    clearInterval(timer)
  }
  return turns
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
    const begun = performance.now()
    const turns = await turnsDuring(async () => {
      for (let i = 0; i < 3000; i++) await envelope.encrypt(`user-${i}`, 'x')
    })
    expect(turns).toBeGreaterThan((performance.now() - begun) / 200)
  })

  it('encryptMany and decryptMany of many users let timers fire', async () => {
    const envelope = await open()
    const items = Array.from({ length: 20_000 }, (_, i) => ({ userId: `user-${i}`, plaintext: 'x' }))
    let tokens: { userId: string; token: string }[] = []
    const sealing = await turnsDuring(async () => {
      const sealed = await envelope.encryptMany(items)
      tokens = sealed.map((result, i) => ({ userId: `user-${i}`, token: result.ok ? result.value : '' }))
    })
    expect(sealing).toBeGreaterThanOrEqual(19)
    expect(await turnsDuring(() => envelope.decryptMany(tokens))).toBeGreaterThanOrEqual(19)
  })
})

it('a call that memory answers makes no turn of its own', async () => {
  const { memoryKeyStore } = await import('../../src/adapters/memory.js')
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
