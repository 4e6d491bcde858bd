/** The sweep's last look opens nothing that the sweep has written itself, and trusts nothing that was changed since. */
import { beforeEach, describe, expect, it } from 'vitest'
import { encryptWithKey, StoreError } from '../../src/index.js'
import type { ValueCell } from '../../src/reencrypt/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { type MemorySource, memorySource } from '../support/memory-source.js'
import { CONTEXT, freshSweep, type SweepTest } from '../support/sweeps.js'

const cleanups = cleanUpAfterEach()
let test: SweepTest

beforeEach(async () => {
  test = await freshSweep('memory')
  cleanups.add(() => test.remove())
})

/** A source with values of format v2. `betweenPasses` runs before the second look. */
async function sourceOf(
  count: number,
  betweenPasses: (source: MemorySource) => Promise<void> | void = () => undefined,
): Promise<MemorySource> {
  const cells: { key: string; owner: string; value: string }[] = []
  for (let i = 0; i < count; i += 1) {
    const owner = `user-${i % 2}`
    const key = await test.envelope.getOrCreateUserKey(owner)
    cells.push({ key: `${i}`, owner, value: encryptWithKey(`secret ${i}`, key) })
  }
  const source = memorySource(cells)
  const { pages } = source
  let passes = 0
  return {
    ...source,
    async *pages(page) {
      passes += 1
      if (passes === 2) await betweenPasses(source)
      yield* pages(page)
    },
  }
}

describe('the last look', () => {
  it('finds a value that was damaged after it was written', async () => {
    const source = await sourceOf(20, ({ values }) => {
      const token = String(values.get('7'))
      const at = token.length - 60
      values.set('7', `${token.slice(0, at)}${token[at] === 'A' ? 'B' : 'A'}${token.slice(at + 1)}`)
    })
    const report = await test.sweep(source)
    expect(report).toMatchObject({ changed: 20, after: { current: 19, unopenable: 1 }, left: 1 })
    expect(report.failed).toMatchObject([{ key: '7', code: 'ERR_DECRYPTION_FAILED' }])
  })

  it('finds tokens that were exchanged between two rows of two owners', async () => {
    const source = await sourceOf(20, ({ values }) => {
      const [a, b] = [values.get('4') as string, values.get('5') as string]
      values.set('4', b).set('5', a)
    })
    expect(await test.sweep(source)).toMatchObject({ changed: 20, after: { current: 18, unopenable: 2 } })
  })

  it('brings a value under the version that was made after it was written', async () => {
    const source = await sourceOf(20, async () => {
      await test.envelope.rotateUserKey('user-1')
    })
    const report = await test.sweep(source)
    expect(report).toMatchObject({ complete: true, changed: 30, after: { current: 20 }, left: 0 })
    for (const [key, token] of source.values)
      expect(await test.decrypt(`user-${Number(key) % 2}`, token)).toBe(`secret ${key}`)
  })

  it('tells the key of a user who was forgotten and came back from the one before', async () => {
    const source = await sourceOf(20, async () => {
      await test.envelope.shredUser('user-1', { forget: true })
      await test.envelope.encrypt('user-1', 'x')
    })
    expect(await test.sweep(source)).toMatchObject({ changed: 20, after: { current: 10, unopenable: 10 } })
  })

  it('opens none of the tokens that are still as they were written', async () => {
    const source = await sourceOf(20)
    const opened: string[] = []
    const envelope = new Proxy(test.envelope, {
      get(target, name) {
        const found: unknown = Reflect.get(target, name, target)
        if (name !== 'user') return typeof found === 'function' ? found.bind(target) : found
        return async (...args: Parameters<typeof target.user>) => {
          const handle = await target.user(...args)
          const decrypt = handle.decryptUnderAny.bind(handle)
          handle.decryptUnderAny = (token, contexts) => {
            opened.push(typeof token === 'string' ? 'text' : token.format)
            return decrypt(token, contexts)
          }
          return handle
        }
      },
    })
    expect(await test.sweep(source, { envelope, context: CONTEXT })).toMatchObject({
      changed: 20,
      complete: true,
    })
    expect(opened).toEqual(Array.from({ length: 20 }, () => 'v2'))
  })

  it('ends with the outage of the store that comes while one value of a page waits for its key', async () => {
    const first = await test.envelope.getOrCreateUserKey('a')
    const before = await test.envelope.user('a')
    await test.envelope.rotateUserKey('a')
    const source = memorySource([
      { key: '0', owner: 'a', value: await test.envelope.encrypt('a', 'under a newer version') },
      { key: '1', owner: 'a', value: encryptWithKey('to be changed', first) },
    ])
    let lookUps = 0
    const envelope = new Proxy(test.envelope, {
      get(target, name) {
        const found: unknown = Reflect.get(target, name, target)
        if (name !== 'user') return typeof found === 'function' ? found.bind(target) : found
        return async () => {
          lookUps += 1
          if (lookUps > 1) throw new StoreError('The store is out of reach', { retryable: true })
          return before
        }
      },
    })
    await expect(test.sweep(source, { envelope })).rejects.toMatchObject({ code: 'ERR_STORE' })
    expect(lookUps).toBe(2)
  })

  describe('of a page during which the keys of an owner are looked up again, since a value names a newer version', () => {
    /** A service whose store answers once, after `begin`, without the newest version of user a's key. */
    async function staleSweeper(beforeNextLookUp: () => Promise<void>) {
      let answers = 2
      const store = new Proxy(test.store, {
        get(target, name) {
          if (name === 'changes') return undefined
          const value = Reflect.get(target, name)
          if (name !== 'getAll') return typeof value === 'function' ? value.bind(target) : value
          return async (ids: string[]) => {
            if (answers === 1 && ids.includes('a')) await beforeNextLookUp()
            const found = await target.getAll(ids)
            const rows = found.get('a')
            if (rows === undefined) return found
            answers += 1
            return answers > 1
              ? found
              : new Map([...found, ['a', rows.filter(({ version }) => version === 1)]])
          }
        },
      })
      const begin = () => {
        answers = 0
      }
      return { envelope: await test.open(store), begin }
    }

    /** The first page has a value that is to be changed; the second has values of user a under two versions. */
    async function swept(beforeNextLookUp: () => Promise<void> = async () => undefined) {
      const { envelope, begin } = await staleSweeper(beforeNextLookUp)
      const old = encryptWithKey('old', await test.envelope.getOrCreateUserKey('b'))
      await test.envelope.getOrCreateUserKey('a')
      const first = await test.envelope.encrypt('a', 'one', { column: CONTEXT })
      await envelope.user('a')
      await test.envelope.rotateUserKey('a')
      const second = await test.envelope.encrypt('a', 'two', { column: CONTEXT })
      const source = memorySource([
        { key: '0', owner: 'b', value: old },
        { key: '1', owner: 'a', value: first },
        { key: '2', owner: 'a', value: second },
      ])
      let passes = 0
      const report = await test.sweep(
        {
          ...source,
          *pages(page) {
            const [cells = []] = [...(source.pages(page) as Iterable<ValueCell<unknown>[]>)]
            yield cells.slice(0, 1)
            passes += 1
            if (passes === 1) begin()
            yield cells.slice(1)
          },
        },
        { envelope },
      )
      return { report, first, now: source.values.get('1') }
    }

    it('changes a value that was current under the keys before', async () => {
      const { report, first, now } = await swept()
      expect(report).toMatchObject({ left: 0, after: { current: 3 } })
      expect(now).not.toBe(first)
    })

    it('goes on if the owner was shredded meanwhile', async () => {
      const { report } = await swept(() => test.envelope.shredUser('a').then(() => undefined))
      expect(report).toMatchObject({ changed: 1, after: { current: 1, shredded: 2 } })
    })
  })
})
