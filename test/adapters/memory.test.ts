/** What the memory store does beyond the contract, which the conformance suite checks. */
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import type { KeyRecord, KeyRef } from '../../src/index.js'
import { randomRecord } from '../support/rows.js'
import { userIds } from '../support/users.js'

describe('pages of the memory store', () => {
  it('do not sort all rows each time', async () => {
    const store = memoryKeyStore()
    await store.insertIfAbsent(userIds(20_000).map((userId) => randomRecord(userId)))
    const timed = async (limit: number) => {
      const rows: KeyRecord[] = []
      const start = performance.now()
      for (let after: KeyRef | undefined; ; ) {
        const page = await store.list(after === undefined ? { limit } : { limit, after })
        rows.push(...page)
        after = page.at(-1)
        if (page.length < limit) return { rows, ms: performance.now() - start }
      }
    }
    const whole = await timed(100_000)
    const paged = await timed(50)
    expect(paged.rows).toEqual(whole.rows)
    // 400 pages: with a sort for each it was 400 times.
    expect(paged.ms / whole.ms).toBeLessThan(40)
  })
})
