/** faultyStore does what each fault says, and the fault suite fails a store, a service or a copy that does not bear faults. */
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import * as library from '../../src/index.js'
import {
  type FaultyMethod,
  faultyStore,
  randomFaults,
  STORE_FAULTS,
  type StoreFault,
  testKeyStoreFaults,
} from '../../src/testing/index.js'
import { breaks } from '../support/broken-stores.js'
import { memorySubject, runSuite } from '../support/conformance.js'
import { randomRecord } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'

const REFUSED = { code: 'ERR_STORE', retryable: true }

/** A store in memory whose first insert has the fault, and the inserts that have reached it. */
function storeWith(fault: StoreFault) {
  const bare = memoryKeyStore()
  const inserted: string[] = []
  const counted = overriding(bare, {
    insertIfAbsent(records) {
      inserted.push(...records.map(({ userId }) => userId))
      return bare.insertIfAbsent(records)
    },
  })
  let isFirst = true
  const schedule = (method: FaultyMethod) => {
    if (method !== 'insertIfAbsent' || !isFirst) return null
    isFirst = false
    return fault
  }
  return { bare, inserted, ...faultyStore(counted, schedule) }
}

describe('a call with the fault', () => {
  const row = randomRecord('alice')

  it('fail is refused, and nothing happens', async () => {
    const { store, bare, inserted, faults, heal } = storeWith('fail')
    await expect(store.insertIfAbsent([row])).rejects.toMatchObject(REFUSED)
    await heal()
    expect(inserted).toEqual([])
    expect(faults).toEqual([{ method: 'insertIfAbsent', fault: 'fail' }])
    await store.insertIfAbsent([row])
    expect(await bare.getAll(['alice'])).toEqual(new Map([['alice', [row]]]))
  })

  it('delay happens later, and is answered', async () => {
    const { store, inserted } = storeWith('delay')
    const answer = store.insertIfAbsent([row])
    await Promise.resolve()
    expect(inserted).toEqual([])
    expect(await answer).toEqual([row])
    expect(inserted).toEqual(['alice'])
  })

  it('late is refused and happens afterwards, with the arguments that it was given', async () => {
    const { store, bare, inserted, heal } = storeWith('late')
    const given = structuredClone(row)
    await expect(store.insertIfAbsent([given])).rejects.toMatchObject(REFUSED)
    expect(inserted).toEqual([])
    given.encryptedKey.fill(0)
    await heal()
    expect(await bare.getAll(['alice'])).toEqual(new Map([['alice', [row]]]))
  })

  it('lost happens, and its answer is an error', async () => {
    const { store, bare } = storeWith('lost')
    await expect(store.insertIfAbsent([row])).rejects.toMatchObject(REFUSED)
    expect(await bare.getAll(['alice'])).toEqual(new Map([['alice', [row]]]))
  })

  it('twice happens twice, and is answered once', async () => {
    const { store, inserted } = storeWith('twice')
    expect(await store.insertIfAbsent([row])).toEqual([row])
    expect(inserted).toEqual(['alice', 'alice'])
  })

  it('twice tells what was erased, though the second time erases nothing', async () => {
    const bare = memoryKeyStore()
    const { store } = faultyStore(bare, () => 'twice')
    await bare.insertIfAbsent([row, randomRecord('bob')])
    expect(await store.shred('alice', { forget: false })).toMatchObject({ versions: [1] })
    expect(await store.remove([{ userId: 'bob', version: 1 }])).toBe(1)
  })
})

describe('randomFaults', () => {
  const drawn = (seed: number, options = {}) => {
    const schedule = randomFaults(seed, options)
    return Array.from({ length: 200 }, () => schedule('list'))
  }

  it('chooses the same faults for the same seed, all kinds of them, and others for another seed', () => {
    expect(drawn(7)).toEqual(drawn(7))
    expect(drawn(7)).not.toEqual(drawn(8))
    expect(new Set(drawn(7))).toEqual(new Set([...STORE_FAULTS, null]))
  })

  it('chooses as often and of the kinds as it is told', () => {
    expect(new Set(drawn(7, { rate: 0 }))).toEqual(new Set([null]))
    expect(new Set(drawn(7, { rate: 1, kinds: ['lost', 'twice'] }))).toEqual(new Set(['lost', 'twice']))
  })
})

describe('the fault suite', () => {
  const intact = memorySubject('intact', () => ({}))
  /** Runs one test of the suite, with so many seeds that one of them meets the fault. @returns whether it fails */
  const fails = async (
    test: string,
    subject: Parameters<typeof testKeyStoreFaults>[1],
    tested: Parameters<typeof testKeyStoreFaults>[2] = library,
  ) => {
    const { passed, failed } = await runSuite((runner) =>
      testKeyStoreFaults(
        { ...runner, it: (name, body) => name.startsWith(test) && runner.it(name, body) },
        subject,
        tested,
        { runs: 30 },
      ),
    )
    expect(passed.length + failed.length).toBe(1)
    return failed.length === 1
  }

  it('passes an intact store and the library', async () => {
    const { passed, failed } = await runSuite((runner) =>
      testKeyStoreFaults(runner, intact, library, { runs: 1 }),
    )
    expect(failed).toEqual([])
    expect(passed).toHaveLength(6)
  })

  it.each([
    ['the last writer wins', 'get-or-create'],
    ['a shred names every version again', 'shred'],
    ['replaceWrapped reports every change as made', 'rewrap: all rows'],
    ['a change that is made again has lost', 'rewrap: a report'],
  ])('fails a store in which %s', async (name, test) => {
    const change = breaks[name]
    if (change === undefined) throw new Error(`no such break: ${name}`)
    expect(await fails(test, memorySubject(name, change))).toBe(true)
  })

  /** The library, with a service that opens its store through a wrapper. */
  const opening = (wrap: (store: library.KeyStore) => library.KeyStore) => ({
    ...library,
    EnvelopeCrypto: {
      open: (options: library.EnvelopeCryptoOptions) =>
        library.EnvelopeCrypto.open({ ...options, store: wrap(options.store) }),
    },
  })

  it('fails a service that goes on with a key whose insert has failed', async () => {
    const tested = opening((store) =>
      overriding(store, { insertIfAbsent: (rows) => store.insertIfAbsent(rows).catch(() => [...rows]) }),
    )
    expect(await fails('get-or-create', intact, tested)).toBe(true)
  })

  it('fails a service whose receipts say that a failed shred has erased', async () => {
    const tested = opening((store) =>
      overriding(store, {
        shred: (userId, options) =>
          store
            .shred(userId, options)
            .catch(() => ({ userId, versions: [1, 2], kekIds: [], at: options.at ?? new Date() })),
      }),
    )
    expect(await fails('shred', intact, tested)).toBe(true)
  })

  it('fails a copy that says it is equal before it is', async () => {
    const copyKeys = (options: library.CopyOptions) =>
      library.copyKeys(options).catch(() => ({ complete: true, equal: true, extra: 0, copied: 0 }))
    expect(await fails('copy', intact, { ...library, copyKeys })).toBe(true)
  })

  it('names the seed of a run that failed, and repeats it', async () => {
    const messages: string[] = []
    const bodies: (() => Promise<void>)[] = []
    const runner = {
      describe: (_: string, body: () => void) => body(),
      it: (_: string, body: () => Promise<void>) => bodies.push(body),
    }
    const broken = { ...library, rewrapAll: () => Promise.reject(new Error('planned')) }
    testKeyStoreFaults(runner, intact, broken, { seed: 42 })
    for (const body of bodies) await body().catch((error) => messages.push(error.message))
    expect(messages).toEqual(Array(2).fill('With the seed 42 (repeat it with { seed: 42 }): planned'))
  })
})
