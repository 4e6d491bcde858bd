/** Gathers what is asked for in one tick into one call. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'

interface Waiting<Item, Result> {
  readonly item: Item
  resolve(result: Result): void
  reject(error: unknown): void
}

/** So many items take a synchronous driver milliseconds, whatever the clock says: it is first looked at when the work is done. */
const LARGE = 128

/**
 * Runs together all items that are added in one tick and by the promises that settle in it. An item waits for no timer, only until the
 * running code has finished.
 */
export class Batch<Item, Result> {
  readonly #run: (items: readonly Item[]) => Promise<readonly (Result | Error)[]>
  #waiting: Waiting<Item, Result>[] = []
  /** Outside any caller's AsyncLocalStorage: a batch belongs to all of them. */
  readonly #outside = AsyncLocalStorage.snapshot()

  /** @param run results in the order of the items; an Error fails its own item only, a rejection fails all */
  constructor(run: (items: readonly Item[]) => Promise<readonly (Result | Error)[]>) {
    this.#run = run
  }

  add(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject })
      // A tick that is asked for in a microtask comes after all microtasks: after everybody who is about to add an item.
      if (this.#waiting.length === 1)
        Promise.resolve().then(() => process.nextTick(() => this.#outside(() => this.#flush())))
    })
  }

  async #flush(): Promise<void> {
    const batch = this.#waiting
    this.#waiting = []
    try {
      const results = await this.#run(batch.map(({ item }) => item))
      // A synchronous driver may have taken long for it.
      if (batch.length > LARGE || isTurnDueInLoop(CALLS)) await nextTurn()
      // All of them in one turn: what they ask for next is then one batch again.
      for (const [index, { resolve, reject }] of batch.entries()) {
        const result = results[index]
        if (result instanceof Error) reject(result)
        else resolve(result as Result)
      }
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
  }
}

/** {@link Batch} of keys. A key that is already waiting or under way has one promise for all its callers. */
export class KeyedBatch<Result> {
  readonly #flights = new Map<string, Promise<Result>>()
  readonly #batch: Batch<string, Result>

  /** @param run like that of {@link Batch} */
  constructor(run: (keys: readonly string[]) => Promise<readonly (Result | Error)[]>) {
    this.#batch = new Batch(async (keys) => {
      try {
        return await run(keys)
      } finally {
        // Before any promise is settled: a caller that asks again then starts a new flight.
        for (const key of keys) this.#flights.delete(key)
      }
    })
  }

  get(key: string): Promise<Result> {
    const flying = this.#flights.get(key)
    if (flying) return flying
    const flight = this.#batch.add(key)
    this.#flights.set(key, flight)
    return flight
  }
}

/** One flight for each key: all callers share its promise while it is under way. A failure is not kept. */
export class SingleFlight<Result> {
  readonly #flights = new Map<string, Promise<Result>>()

  run(key: string, start: () => Promise<Result>): Promise<Result> {
    const flying = this.#flights.get(key)
    if (flying) return flying
    const flight = start()
    this.#flights.set(key, flight)
    // Not `finally`, which makes three more promises. Registered first, this runs before any caller continues.
    const end = () => this.#flights.delete(key)
    flight.then(end, end)
    return flight
  }

  has(key: string): boolean {
    return this.#flights.has(key)
  }

  keys(): IterableIterator<string> {
    return this.#flights.keys()
  }
}
