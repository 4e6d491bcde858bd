/** Which rows are looked at for a sample: those at random row numbers. Rows that were inserted together have numbers that follow each other. */
import type { PlaceholderValues } from './bind.js'

/**
 * The placeholder `:numbers` of `selectRefsAt`.
 *
 * @param range of `selectRowNumbers`; a table without rows has nulls
 * @param count how many numbers
 */
export function rowNumbers(range: readonly (readonly unknown[])[], count: number): PlaceholderValues {
  const [first = null, last = null] = range[0] ?? []
  if (first === null || last === null) return { numbers: '[]' }
  const [low, high] = [Number(first), Number(last)]
  // One in each of as many equal parts: more even than numbers that are chosen independently.
  const part = (high - low + 1) / count
  const numbers = Array.from({ length: count }, (_, index) =>
    Math.floor(low + (index + Math.random()) * part),
  )
  return { numbers: JSON.stringify([...new Set(numbers)]) }
}
