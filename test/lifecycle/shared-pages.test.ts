/** Where the pages of a rewrap are read that was interrupted: what is left is found at once, wherever it is. */
import { describe, expect, it } from 'vitest'
import type { KeyPage, KeyStore } from '../../src/index.js'
import { Crowd, rowRanges, sharedPagesOf } from '../../src/lifecycle/shared-pages.js'
import type { SampledRef } from '../../src/store.js'
import { compareRefs, type KeyRef } from '../../src/table.js'

const ROWS = 10_000_000

const idOf = (index: number) => String(index).padStart(8, '0')

/** A store of ten million rows, of which those from one on up to another are still under the old KEK id. */
function interruptedStore(from: number, to: number) {
  const counts = { statements: 0 }
  /** The index of the first row behind a ref. */
  const placeAfter = (ref: KeyRef | undefined) =>
    ref === undefined ? 0 : Number(ref.userId) + (ref.version >= 1 ? 1 : 0)
  const store = {
    async list({ after, before, limit }: KeyPage) {
      counts.statements += 1
      const first = Math.max(placeAfter(after), from)
      const end = Math.min(before === undefined ? ROWS : Number(before.userId), to, first + limit)
      const length = Math.max(0, end - first)
      return Array.from({ length }, (_, i) => ({ userId: idOf(first + i), version: 1, kekId: 'old' }))
    },
    maintenance: {
      async sampleRefs(limit: number): Promise<SampledRef[]> {
        return Array.from({ length: limit }, (_, i) => {
          const index = Math.floor(((i + Math.random()) * ROWS) / limit)
          const kekId = index >= from && index < to ? 'old' : 'new'
          return { userId: idOf(index), version: 1, kekId }
        })
      },
    },
  }
  return { store: store as unknown as KeyStore, counts }
}

async function pagesOf(store: KeyStore, count: number) {
  const rows = { ...(await rowRanges(store, ROWS)), kekId: 'old', count, crowd: new Crowd() }
  return sharedPagesOf(store, {}, rows, () => undefined)
}

describe('the pages of a rewrap that was interrupted', () => {
  it.each([10_000, 100_000])('%i rows in one place are found with a few statements', async (left) => {
    for (let trial = 0; trial < 10; trial++) {
      const from = Math.floor(Math.random() * (ROWS - left))
      const { store, counts } = interruptedStore(from, from + left)
      const found: KeyRef[] = []
      let statementsBeforeFirst = 0
      for await (const page of await pagesOf(store, left)) {
        if (found.length === 0) statementsBeforeFirst = counts.statements
        found.push(...page)
      }
      expect(statementsBeforeFirst).toBeLessThanOrEqual(20)
      found.sort(compareRefs)
      expect(found.map(({ userId }) => Number(userId))).toEqual(
        Array.from({ length: left }, (_, i) => from + i),
      )
      // Where nothing is left, many ranges are gone through by one statement.
      expect(counts.statements).toBeLessThan(700)
    }
  })

  it('fewer rows than a range has are found too, and others have a turn after each statement', async () => {
    const { store, counts } = interruptedStore(5_000_000, 5_000_010)
    const found: KeyRef[] = []
    let [mostInTurn, last] = [0, 0]
    const onTurn = () => {
      mostInTurn = Math.max(mostInTurn, counts.statements - last)
      last = counts.statements
      turn = setImmediate(onTurn)
    }
    let turn = setImmediate(onTurn)
    for await (const page of await pagesOf(store, 10)) found.push(...page)
    clearImmediate(turn)
    expect(found).toHaveLength(10)
    expect(counts.statements).toBeLessThan(500)
    expect(mostInTurn).toBeLessThanOrEqual(2)
  })

  it('are read no further once nobody wants them', async () => {
    const { store, counts } = interruptedStore(5_000_000, 5_010_000)
    const pages = await pagesOf(store, 10_000)
    let pagesSeen = 0
    for await (const _ of pages) {
      pagesSeen += 1
      if (pagesSeen === 5) break
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
    const atOnce = counts.statements
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(counts.statements).toBe(atOnce)
    expect(atOnce).toBeLessThan(40)
  })
})
