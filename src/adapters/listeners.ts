/** The listeners of one store's changes. */
import type { StoreChange } from '../store.js'

export type ChangeListener = (change: StoreChange) => void

/** What produces the changes: it runs only while somebody listens. */
interface ChangeProducer {
  /** Called with the first listener. */
  start(): void
  /** Called when the last listener has gone. */
  stop(): void
}

export class Listeners {
  /** Objects, so that a function that was added twice is called twice, and each addition ends by itself. */
  readonly #entries = new Set<{ readonly listener: ChangeListener }>()
  readonly #producer: ChangeProducer
  /** The last change, if it said that no further change will be published: new listeners are given it too. */
  #silentChange: StoreChange | null = null

  constructor(producer: ChangeProducer) {
    this.#producer = producer
  }

  get size(): number {
    return this.#entries.size
  }

  /** @returns a function that removes the listener */
  add(listener: ChangeListener): () => void {
    const entry = { listener }
    this.#entries.add(entry)
    const silentChange = this.#silentChange
    if (silentChange !== null) {
      process.nextTick(() => {
        if (this.#entries.has(entry)) callListener(listener, silentChange)
      })
    }
    if (this.#entries.size === 1) this.#producer.start()
    return () => {
      if (this.#entries.delete(entry) && this.#entries.size === 0) this.#stop()
    }
  }

  publish(change: StoreChange): void {
    this.#silentChange = change.silent === undefined ? null : change
    for (const { listener } of [...this.#entries]) callListener(listener, change)
  }

  /** Removes all listeners. */
  clear(): void {
    if (this.#entries.size === 0) return
    this.#entries.clear()
    this.#stop()
  }

  #stop(): void {
    this.#silentChange = null
    this.#producer.stop()
  }
}

/** An error of a listener becomes an uncaught exception, as in node:diagnostics_channel: it breaks neither the write nor other listeners. */
function callListener(listener: ChangeListener, change: StoreChange): void {
  try {
    listener(change)
  } catch (error) {
    process.nextTick(() => {
      throw error
    })
  }
}
