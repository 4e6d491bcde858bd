/** A memory store that reports changes only when a test says so, and whose reads and inserts the test can stop half way. */
import { memoryKeyStore } from '../../src/adapters/memory.js'
import type { StoreChange } from '../../src/index.js'
import { gate, nextTurn } from './gate.js'
import { overriding } from './store-doubles.js'

/** The ways in which a store reports a change that another process has made of alice. */
export const CHANGES_OF_ALICE: readonly [string, StoreChange][] = [
  ['named', { userIds: ['alice'] }],
  ['unspecific', { unspecific: true }],
  ['of anybody', {}],
]

export function controlledStore() {
  const bare = memoryKeyStore()
  const listeners = new Set<(change: StoreChange) => void>()
  const reading = gate()
  const aboutToInsert = gate()
  const inserting = gate()
  const calls: string[] = []
  let failure: Error | null = null
  const store = overriding(bare, {
    async getAll(ids) {
      calls.push(`getAll ${ids.length}`)
      if (failure !== null) throw failure
      const found = await bare.getAll(ids)
      await reading.wait()
      return found
    },
    async insertIfAbsent(records) {
      await aboutToInsert.wait()
      const winners = await bare.insertIfAbsent(records)
      await inserting.wait()
      return winners
    },
    changes(listener) {
      calls.push('changes')
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  })
  return {
    store,
    /** The same rows without calls, gates and reports: what another process does. */
    bare,
    /** `changes`, and `getAll` with the number of ids, in order. */
    calls,
    /** After a read of rows, before its answer. */
    reading,
    /** Before an insert. */
    aboutToInsert,
    /** After an insert, before its answer. */
    inserting,
    listeners,
    /** Makes every further `getAll` fail; null ends that. */
    failWith: (error: Error | null) => {
      failure = error
    },
    /** Reports a change to all listeners, and lets them react. */
    async tell(change: StoreChange) {
      for (const listener of listeners) listener(change)
      await nextTurn()
      await nextTurn()
    },
  }
}
