/** In which order a sweep takes the pages, so that processes that sweep the same table at the same time help each other. */
import { WorkRanges } from '../lifecycle/work-ranges.js'
import type { PageOrder } from '../sources/value-source.js'

/** Shorter tables are swept from the beginning to the end. */
const LEAST_PAGES = 8

/**
 * A sixth of the parts in a row, each far from the others, in which there was nothing to do: most likely others have done the rest too by then.
 * To end too early costs one more look at everything.
 */
const DONE_SHARE = 6

/**
 * Each process begins somewhere else, and jumps where it comes upon pages that are done already. Where nothing but such pages is left, as far
 * as it sees, it ends early: the last look reads everything in any case. So a process that is killed leaves nothing undone that the others do
 * not find, and nobody reads a third time what somebody else has done.
 */
export class SharedOrder implements PageOrder {
  readonly #signal: AbortSignal | undefined
  readonly #onSearch: () => void
  readonly #mayEndEarly: boolean
  #ranges: WorkRanges | null = null
  #count = 0
  #next = 0
  #doneInARow = 0
  /** Whether there was nothing to do in the pages of the part that was given last; null: it had none yet. */
  #isDone: boolean | null = null
  /** Whether the source was told to stop. */
  isCut = false
  /** Whether pages were left out that others have done, most likely. */
  endedEarly = false

  /** @param onSearch called between two steps of looking for the parts */
  constructor(signal: AbortSignal | undefined, onSearch: () => void, mayEndEarly: boolean) {
    this.#signal = signal
    this.#onSearch = onSearch
    this.#mayEndEarly = mayEndEarly
  }

  begin(count: number): void {
    this.#count = count
    this.#ranges = count < LEAST_PAGES ? null : new WorkRanges(count)
  }

  isOver(): boolean {
    this.#onSearch()
    return this.#cut()
  }

  #cut(): boolean {
    this.isCut ||= this.#signal?.aborted === true
    return this.isCut
  }

  next(): number | null {
    if (this.#cut() || this.endedEarly) return null
    if (this.#ranges !== null) {
      if (this.#isDone !== null) this.#doneInARow = this.#isDone ? this.#doneInARow + 1 : 0
      this.#isDone = null
      this.endedEarly = this.#mayEndEarly && DONE_SHARE * this.#doneInARow >= this.#count
      return this.endedEarly ? null : (this.#ranges.next()?.from ?? null)
    }
    const at = this.#next
    this.#next += 1
    return at < this.#count ? at : null
  }

  /** @param isDone whether there was nothing to do in a page */
  passed(isDone: boolean): void {
    this.#isDone = isDone && this.#isDone !== false
    if (isDone) this.jump()
  }

  /** Somebody else was here: the next page is one far from here. */
  jump(): void {
    this.#ranges?.jump()
  }
}
