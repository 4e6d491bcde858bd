/** isoText gives what toISOString gives. */
import { randomInt } from 'node:crypto'
import { expect, it } from 'vitest'
import { isoText } from '../src/iso-time.js'

const DAY = 86_400_000
const FIRST = Date.parse('0000-01-01T00:00:00.000Z')
const LAST = Date.parse('9999-12-31T23:59:59.999Z')

it('gives what toISOString gives, at every edge', () => {
  const edges = [0, DAY, -DAY, FIRST, LAST, Date.UTC(2024, 1, 29), Date.UTC(1900, 1, 28), 8.64e15, -8.64e15]
  for (const edge of edges)
    for (const ms of [edge - 1, edge, edge + 1, edge + 999, edge + 59_999, edge + 3_599_999])
      if (Math.abs(ms) <= 8.64e15) expect(isoText(new Date(ms))).toBe(new Date(ms).toISOString())
})

it('gives what toISOString gives for more days than it remembers', () => {
  for (let day = 0; day < 10_000; day += 1) {
    const time = new Date(day * DAY + randomInt(DAY))
    expect(isoText(time)).toBe(time.toISOString())
  }
})

it('refuses an invalid time as toISOString does', () => {
  expect(() => isoText(new Date(Number.NaN))).toThrow(RangeError)
})
