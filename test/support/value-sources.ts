/** A source of values in memory, and values in every state that a sweep may find them in. */
import { derivePoolKey, type EnvelopeCrypto, encryptWithKey } from '../../src/index.js'
import type { ValueCell, ValueChange, ValueSource } from '../../src/reencrypt/index.js'

export interface MemorySource<Row = unknown> extends ValueSource<Row> {
  /** By key: what is stored now. */
  readonly values: Map<string, string | null>
  /** Every change that was asked for. */
  readonly asked: ValueChange[]
  /** The page sizes that were asked for, one for each look. */
  readonly looks: number[]
}

/** @param cells each of another key, a string */
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

/** A token as the Python reference makes it. */
export async function v2Token(envelope: EnvelopeCrypto, userId: string, plaintext: string): Promise<string> {
  return encryptWithKey(plaintext, await envelope.getOrCreateUserKey(userId))
}

/** A token of the shared pool, as the Python reference makes it. */
export function v2PoolToken(masterKey: Uint8Array, plaintext: string): string {
  return encryptWithKey(plaintext, derivePoolKey(masterKey))
}

/** What the sweep's envelope needs to read the reference's values. */
export const ACCEPT_V2 = { keys: ['v2'], tokens: ['v2'] } as const
