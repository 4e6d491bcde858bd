/** In which order a sweep takes the pages, so that processes that sweep the same table at the same time help each other. */
import { WorkRanges } from '../lifecycle/work-ranges.js'
import type { PageOrder } from '../sources/value-source.js'

/** Shorter tables are swept from the beginning to the end. */
const LEAST_PAGES = 8

/**
 * Each process begins somewhere else, and jumps where it comes upon pages that are done already. It reads every page once, whoever has done
 * it: so a process that is killed leaves nothing undone that the others do not find.
 */
export class SharedOrder implements PageOrder {
  readonly #signal: AbortSignal | undefined
  readonly #onSearch: () => void
  #ranges: WorkRanges | null = null
  #count = 0
  #next = 0
  /** Whether the source was told to stop. */
  isCut = false

  /** @param onSearch called between two steps of looking for the parts */
  constructor(signal: AbortSignal | undefined, onSearch: () => void) {
    this.#signal = signal
    this.#onSearch = onSearch
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
    if (this.#cut()) return null
    if (this.#ranges !== null) return this.#ranges.next()?.from ?? null
    const at = this.#next
    this.#next += 1
    return at < this.#count ? at : null
  }

  /** Somebody else was here: the next page is one far from here. */
  jump(): void {
    this.#ranges?.jump()
  }
}
