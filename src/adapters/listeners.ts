/** Those who listen to a store's changes. */
import type { StoreChange } from '../store.js'

export type ChangeListener = (change: StoreChange) => void

export class Listeners {
  /** Objects, so that a function that was passed twice is called twice, and ended once each. */
  readonly #each = new Set<{ readonly listener: ChangeListener }>()
  readonly #start: () => void
  readonly #stop: () => void
  /** What was told last, if that was that nothing will be told: for whoever comes later. */
  #silence: StoreChange | null = null

  /** @param watch `start` is called with the first listener, `stop` when the last one has gone */
  constructor(watch: { start(): void; stop(): void }) {
    this.#start = () => watch.start()
    this.#stop = () => watch.stop()
  }

  get size(): number {
    return this.#each.size
  }

  add(listener: ChangeListener): () => void {
    const entry = { listener }
    this.#each.add(entry)
    const silence = this.#silence
    if (silence !== null) {
      process.nextTick(() => {
        if (this.#each.has(entry)) call(listener, silence)
      })
    }
    if (this.#each.size === 1) this.#start()
    return () => {
      if (this.#each.delete(entry) && this.#each.size === 0) this.#end()
    }
  }

  tell(change: StoreChange): void {
    this.#silence = change.silent === undefined ? null : change
    for (const { listener } of [...this.#each]) call(listener, change)
  }

  /** Ends all of them. */
  clear(): void {
    if (this.#each.size === 0) return
    this.#each.clear()
    this.#end()
  }

  #end(): void {
    this.#silence = null
    this.#stop()
  }
}

/** What a listener throws is its own affair, as in node:diagnostics_channel: it breaks neither the write nor the others. */
function call(listener: ChangeListener, change: StoreChange): void {
  try {
    listener(change)
  } catch (error) {
    process.nextTick(() => {
      throw error
    })
  }
}
