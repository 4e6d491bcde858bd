/** The order in which all stores list and lock rows. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { inLockOrder } from '../src/adapters/records.js'
import { compareRefs, type KeyRef } from '../src/table.js'
import { slow } from './support/slow.js'

const numRuns = slow ? 100_000 : 2000
const ids = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 6 }),
  // Ids with common beginnings, and characters that UTF-16 and UTF-8 order differently.
  fc
    .array(
      fc.constantFrom('a', '\u00e9', '\ud7ff', '\ue000', '\uff5e', '\u{10000}', '\u{1f600}', '\u{10ffff}'),
      {
        maxLength: 6,
      },
    )
    .map((pieces) => pieces.join('')),
)
const refs: fc.Arbitrary<KeyRef> = fc.record({ userId: ids, version: fc.integer({ min: 1, max: 3 }) })

describe('compareRefs', () => {
  it('compares the UTF-8 bytes of the ids, then the versions', () => {
    fc.assert(
      fc.property(refs, refs, (a, b) => {
        const byBytes = Buffer.compare(Buffer.from(a.userId), Buffer.from(b.userId)) || a.version - b.version
        expect(Math.sign(compareRefs(a, b))).toBe(Math.sign(byBytes))
      }),
      { numRuns },
    )
  })

  it('sorts the refs to be locked, and keeps the first of equal ones', () => {
    fc.assert(
      fc.property(fc.array(refs, { maxLength: 20 }), (given) => {
        const marked = given.map((ref, index) => ({ ...ref, index }))
        const ordered = inLockOrder(marked)
        for (const [i, ref] of ordered.entries()) {
          const next = ordered[i + 1]
          if (next !== undefined) expect(compareRefs(ref, next)).toBeLessThan(0)
          expect(marked.find((one) => compareRefs(one, ref) === 0)?.index).toBe(ref.index)
        }
        expect(ordered.length).toBe(new Set(given.map(({ userId, version }) => `${version}:${userId}`)).size)
      }),
      { numRuns },
    )
  })
})
