/** encryptMany and decryptMany: items are read once and at once, each fails alone, and a key that has ended is not used after a turn. */
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { POOL_USER_ID } from '../../src/envelope/pool-crypto.js'
import {
  type DecryptItem,
  EnvelopeCrypto,
  generateMasterKey,
  type ItemResult,
  type KeyStore,
  localMasterKey,
} from '../../src/index.js'
import { everythingOf } from '../support/leaks.js'

const masterKeys = localMasterKey(generateMasterKey())

let store: KeyStore
let envelope: EnvelopeCrypto
beforeEach(async () => {
  store = memoryKeyStore()
  envelope = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
})
afterEach(() => envelope.close())

function valuesOf<Value>(results: readonly ItemResult<Value>[]): unknown[] {
  return results.map((result) => (result.ok ? result.value : result.error.code))
}

async function sealed(
  plaintexts: readonly string[],
  context: Record<string, string>,
): Promise<DecryptItem[]> {
  const items = plaintexts.map((plaintext) => ({ userId: 'alice', plaintext, context }))
  return (await envelope.encryptMany(items)).map((result) => {
    if (!result.ok) throw result.error
    return { userId: 'alice', token: result.value, context }
  })
}

describe.each(['in memory', 'not in memory'])('items whose key is %s', (where) => {
  /** The service that the items are given to. */
  let other: EnvelopeCrypto
  beforeEach(async () => {
    other =
      where === 'in memory'
        ? envelope
        : await EnvelopeCrypto.open({ store, masterKeys, cache: false, closeStore: false })
  })
  afterEach(() => other.close())

  it('have each of their properties read once, before the event loop turns', async () => {
    const [item] = await sealed(['one'], { row: '1' })
    const read: string[] = []
    const watched = (properties: object) =>
      Object.defineProperties(
        {},
        Object.fromEntries(
          Object.entries(properties).map(([name, value]) => [
            name,
            {
              enumerable: true,
              get: () => {
                read.push(name)
                return value
              },
            },
          ]),
        ),
      ) as never
    const opening = other.decryptMany([watched(item as DecryptItem)])
    expect(read.splice(0).sort()).toEqual(['context', 'token', 'userId'])
    expect(valuesOf(await opening)).toEqual(['one'])
    const sealing = other.encryptMany([
      watched({ userId: 'alice', plaintext: 'x', context: {}, allowToken: false }),
    ])
    expect(read.splice(0).sort()).toEqual(['allowToken', 'context', 'plaintext', 'userId'])
    expect(await sealing).toMatchObject([{ ok: true }])
    expect(read).toEqual([])
  })

  it('and that the caller changes afterwards give what they were', async () => {
    const items = await sealed(['one', 'two'], { row: '1' })
    const context = { row: '1' }
    const given = items.map((item) => ({ ...item, context }))
    const opening = other.decryptMany(given)
    context.row = 'changed'
    for (const item of given) Object.assign(item, { token: 'changed', userId: 'bob' })
    given.length = 0
    expect(valuesOf(await opening)).toEqual(['one', 'two'])
  })

  it('and that a getter of another item changes are what they are when their turn comes', async () => {
    const [first, second, third] = (await sealed(['one', 'two', 'three'], { row: '1' })) as [
      DecryptItem,
      DecryptItem,
      DecryptItem,
    ]
    const items = [{ ...first }, { ...second }, { ...third }]
    Object.defineProperty(items[1], 'token', {
      enumerable: true,
      get: () => {
        Object.assign(items[0] as object, { token: third.token })
        Object.assign(items[2] as object, { token: first.token })
        return second.token
      },
    })
    expect(valuesOf(await other.decryptMany(items))).toEqual(['one', 'two', 'one'])
  })

  it('share a context object, which is what it is at each of them', async () => {
    const context = { row: '1' }
    const [one] = (await sealed(['one'], { row: '1' })) as [DecryptItem]
    const [two] = (await sealed(['two'], { row: '2' })) as [DecryptItem]
    const next = (token: string, row: string) => ({
      userId: 'alice',
      context,
      get token() {
        context.row = row
        return token
      },
    })
    const items = [next(one.token, '1'), next(two.token, '2'), next(one.token, '2'), next(two.token, '2')]
    expect(valuesOf(await other.decryptMany(items))).toEqual(['one', 'two', 'ERR_DECRYPTION_FAILED', 'two'])
    let asked = 0
    const moving = {
      get row() {
        asked += 1
        return `${asked}`
      },
    }
    const moved = [one, two, two].map((item) => ({ ...item, context: moving }))
    expect(valuesOf(await other.decryptMany(moved))).toEqual(['one', 'two', 'ERR_DECRYPTION_FAILED'])
  })

  it('fail alone, and say nothing of what a getter threw', async () => {
    const [good] = (await sealed(['good'], {})) as [DecryptItem]
    // So that the pool's key is in memory, which is nobody's to name.
    await envelope.pool.encrypt('x')
    for (const [call, item] of [
      ['decryptMany', good],
      ['encryptMany', { userId: 'alice', plaintext: 'good' }],
    ] as const) {
      const throwing = {
        ...item,
        get context(): never {
          throw new Error('sk-planted')
        },
      }
      const ofClass = Object.assign(new (class Item {})(), item)
      const hidden = Object.defineProperty({ ...item }, 'userId', { enumerable: false })
      const bad = [throwing, ofClass, null, 7, hidden, Object.create(item), { ...item, userId: POOL_USER_ID }]
      // After the last one is a hole.
      const items = Object.assign([], [item, ...bad], { [bad.length + 2]: item })
      const results = await other[call](items as never)
      expect(results.map(({ ok }) => ok)).toEqual([true, ...bad.map(() => false), false, true])
      const codes = new Set(valuesOf(results).slice(1, -1))
      expect([...codes]).toEqual(['ERR_INVALID_ARGUMENT'])
      expect(everythingOf(results)).not.toContain('sk-planted')
      const message = 'an item cannot be read: a getter of it threw'
      expect(results[1]).toMatchObject({ error: { message } })
    }
  })
})

it('counts each item once', async () => {
  const items = await sealed(['one', 'two', 'three'], {})
  const before = envelope.cacheStats
  await envelope.decryptMany(items)
  expect(envelope.cacheStats).toMatchObject({ hits: before.hits + 3, misses: before.misses })
  await envelope.encryptMany(items.map(({ userId }) => ({ userId, plaintext: 'x' })))
  expect(envelope.cacheStats).toMatchObject({ hits: before.hits + 6, misses: before.misses })
  const cold = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
  await cold.decryptMany(items)
  expect(cold.cacheStats.hits + cold.cacheStats.misses).toBe(3)
  await cold.close()
})

it('opens tokens of users whose keys are evicted meanwhile', async () => {
  const small = await EnvelopeCrypto.open({ store, masterKeys, cache: { maxEntries: 2 }, closeStore: false })
  const users = Array.from({ length: 60 }, (_, i) => `user-${i % 20}`)
  const tokens = await small.encryptMany(users.map((userId, i) => ({ userId, plaintext: `${i}` })))
  const items = users.map((userId, i) => ({ userId, token: String(valuesOf(tokens)[i]) }))
  expect(valuesOf(await small.decryptMany(items))).toEqual(users.map((_, i) => `${i}`))
  await small.close()
})

describe.each([
  ['short', 5000, 10],
  // Above the limit of the native core, and long enough for turns among the first thousand.
  ['long', 100, 400_000],
] as const)('a call of many %s items', (_, count, length) => {
  const plaintext = 'x'.repeat(length)

  it('does not use a key that was shredded while the event loop turned', async () => {
    const [item] = (await sealed([plaintext], {})) as [DecryptItem]
    await turn()
    const shredding = turn().then(() => envelope.shredUser('alice'))
    const opened = await envelope.decryptMany(Array.from({ length: count }, () => item))
    await shredding
    expect(opened[0]?.ok && opened[0].value === plaintext).toBe(true)
    expect(valuesOf(opened.slice(-1))).toEqual(['ERR_KEY_SHREDDED'])
    const firstRefused = opened.findIndex(({ ok }) => !ok)
    expect(opened.slice(firstRefused).every(({ ok }) => !ok)).toBe(true)
  })

  it('nor one of a service that was closed', async () => {
    await envelope.encrypt('alice', 'x')
    await turn()
    void turn().then(() => envelope.close())
    const items = Array.from({ length: count }, () => ({ userId: 'alice', plaintext }))
    const made = await envelope.encryptMany(items)
    expect(made[0]).toMatchObject({ ok: true })
    expect(valuesOf(made.slice(-1))).toEqual(['ERR_CLOSED'])
  })
})
