/** The sweep's last look opens nothing that the sweep has written itself, and trusts nothing that was changed since. */
import { beforeEach, describe, expect, it } from 'vitest'
import { encryptWithKey } from '../../src/index.js'
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
})
