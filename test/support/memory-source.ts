/** A source of values in memory, for tests of the sweep itself. */
import type { ValueCell, ValueChange, ValueSource } from '../../src/reencrypt/index.js'

export interface MemorySource<Row = unknown> extends ValueSource<Row> {
  /** What is stored now, by key. */
  readonly values: Map<string, string | null>
  /** Every change that the sweep has asked for. */
  readonly asked: ValueChange[]
  /** The page size of each walk through the values. */
  readonly looks: number[]
}

/**
 * @param cells each with a key of its own
 * @param beforeReplace what happens before the sweep's changes are made: another writer's work
 */
export function memorySource<Row = unknown>(
  cells: readonly Omit<ValueCell<Row>, 'column'>[],
  beforeReplace: (changes: readonly ValueChange[], source: MemorySource<Row>) => void = () => undefined,
): MemorySource<Row> {
  const source: MemorySource<Row> = {
    values: new Map(cells.map(({ key, value }) => [String(key), value ?? null])),
    asked: [],
    looks: [],
    *pages({ limit }) {
      source.looks.push(limit)
      for (let start = 0; start < cells.length; start += limit) {
        yield cells
          .slice(start, start + limit)
          .map((cell) => ({ ...cell, column: 'secret', value: source.values.get(String(cell.key)) }))
      }
    },
    replace(changes) {
      source.asked.push(...changes)
      beforeReplace(changes, source)
      return changes.filter(({ key, from, to }) => {
        if (source.values.get(String(key)) !== from) return false
        source.values.set(String(key), to)
        return true
      })
    },
    count: () => cells.length,
  }
  return source
}
