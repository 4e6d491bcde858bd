/** A store that tells changes when a test says so, and whose work can be held back in the middle. */
import { memoryKeyStore } from '../../src/adapters/memory.js'
import type { StoreChange } from '../../src/index.js'
import { overriding } from './lifecycle.js'

export const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** A point that work waits at, once armed. */
export function gate() {
  let armed = false
  let pass: () => void = () => undefined
  let reach: () => void = () => undefined
  let reached = Promise.resolve()
  return {
    arm() {
      armed = true
      reached = new Promise((resolve) => {
        reach = resolve
      })
    },
    /** Resolves when somebody waits. */
    reached: () => reached,
    open: () => pass(),
    async wait(): Promise<void> {
      if (!armed) return
      armed = false
      const passing = new Promise<void>((resolve) => {
        pass = resolve
      })
      reach()
      await passing
    },
  }
}

/** A memory store that tells what it is told to, and whose reads and inserts can be held back with what they found. */
export function toldStore() {
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
    /** Past what is told, counted and held back: another process. */
    bare,
    calls,
    reading,
    aboutToInsert,
    inserting,
    listeners,
    failWith: (error: Error | null) => {
      failure = error
    },
    async tell(change: StoreChange) {
      for (const listener of listeners) listener(change)
      await turn()
      await turn()
    },
  }
}
