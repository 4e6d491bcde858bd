/**
 * Pages of the rows under one KEK id, which several processes go through at once: each takes other ranges of user ids, as {@link WorkRanges}
 * chooses them. And each page is found at once, however many rows were moved away before: those leave entries in the index of Postgres until
 * a vacuum, and a range has a bounded number of rows, so of entries.
 */
import { nextTurn } from '../event-loop.js'
import type { KeyStore, SampledRef, UnreadableRow } from '../store.js'
import { compareRefs, type KeyRecord, type KeyRef } from '../table.js'
import { DEFAULT_BATCH_SIZE, type LongWorkOptions, pagesOf, type ReadPage, readPageOf } from './long-work.js'
import { type Stretch, WorkRanges } from './work-ranges.js'

/** Where the rows of a store are cut into ranges. */
export interface RowRanges {
  /** In order. Each is the first row of a range, but for that before all of them. */
  readonly cuts: readonly SampledRef[]
  /** About how many rows a range has, under whatever KEK id. */
  readonly rows: number
}

export const ONE_RANGE: RowRanges = { cuts: [], rows: 0 }

const MAX_RANGES = 4096
/** Of fewer rows a range is not worth the statement that reads it. */
const MIN_RANGE_ROWS = 250
/** Ranges are read together, as many as have this many rows: so many entries of an index are passed in milliseconds. */
const MAX_STRETCH_ROWS = 5000
/** The same where there is most likely no row under the KEK id: fewer statements matter more there than a page in a few milliseconds. */
const MAX_IDLE_STRETCH_ROWS = 25_000

/** @param total how many rows the store has, by a census @throws ERR_STORE */
export async function rowRanges({ maintenance }: KeyStore, total: number): Promise<RowRanges> {
  const count = Math.min(MAX_RANGES, Math.floor(total / MIN_RANGE_ROWS))
  if (count < 2 || maintenance?.sampleRefs === undefined) return ONE_RANGE
  const sampled = (await maintenance.sampleRefs(count, total)).sort(compareRefs)
  const cuts = sampled.filter((ref, index) => {
    const before = sampled[index - 1]
    return isStored(ref) && (before === undefined || compareRefs(before, ref) < 0)
  })
  return { cuts, rows: Math.ceil(total / (cuts.length + 1)) }
}

/** Whether the version is one that stores write. Before the least one that a column can have there is none to begin after. */
function isStored({ version }: KeyRef): boolean {
  return Number.isSafeInteger(version) && version > 0
}

/** Where another process was found at work, which whoever writes the pages can tell: it had written most of a page's rows first. */
export class Crowd {
  readonly #stretches = new WeakMap<readonly KeyRecord[], Stretch>()
  #crowded: Stretch | null = null

  /** @param page one that {@link sharedPagesOf} gave */
  report(page: readonly KeyRecord[]): void {
    this.#crowded = this.#stretches.get(page) ?? null
  }

  given(page: readonly KeyRecord[], stretch: Stretch): void {
    this.#stretches.set(page, stretch)
  }

  isIn(stretch: Stretch): boolean {
    return this.#crowded === stretch
  }
}

export interface RowsUnderKek extends RowRanges {
  readonly kekId: string | null
  /** How many rows are under it, by a census. */
  readonly count: number
  readonly crowd: Crowd
  /** Called after each statement that found no row: thousands may follow each other where nearly all is done. */
  readonly onIdle?: (() => void) | undefined
}

/** Like {@link pagesOf}, but the ranges come in any order. Within a range rows are in that of `list`. Each row comes once. */
export async function* sharedPagesOf(
  store: KeyStore,
  options: LongWorkOptions,
  rows: RowsUnderKek,
  onUnreadable: (row: UnreadableRow) => void,
): AsyncGenerator<readonly KeyRecord[], void, undefined> {
  if (rows.cuts.length === 0) return yield* pagesOf(store, options, { kekId: rows.kekId }, onUnreadable)
  const reader = new RangeReader(store, options, rows, onUnreadable)
  try {
    for (let next = reader.prefetch(); !options.signal?.aborted; await nextTurn()) {
      let read = await next
      while (read !== null && rows.crowd.isIn(read.stretch)) {
        reader.leave(read)
        read = await reader.prefetch()
      }
      if (read === null) return
      for (const row of read.unreadable) onUnreadable(row)
      rows.crowd.given(read.page, read.stretch)
      next = reader.prefetch()
      yield read.page
    }
  } finally {
    reader.end()
  }
}

/** A page, and where it was read. */
interface RangePage extends ReadPage {
  readonly stretch: Stretch
  readonly after: KeyRef | undefined
}

class RangeReader {
  readonly #store: KeyStore
  readonly #options: LongWorkOptions
  readonly #rows: RowsUnderKek
  readonly #onUnreadable: (row: UnreadableRow) => void
  readonly #ranges: WorkRanges
  /** By the first range of a stretch that was left: after which row it goes on. */
  readonly #left = new Map<number, KeyRef | undefined>()
  #stretch: Stretch | null = null
  #after: KeyRef | undefined
  #isEntered = false
  #hasEnded = false

  constructor(
    store: KeyStore,
    options: LongWorkOptions,
    rows: RowsUnderKek,
    onUnreadable: (row: UnreadableRow) => void,
  ) {
    this.#store = store
    this.#options = options
    this.#rows = rows
    this.#onUnreadable = onUnreadable
    const count = rows.cuts.length + 1
    const wanted = ((options.batchSize ?? DEFAULT_BATCH_SIZE) * count) / Math.max(rows.count, 1)
    const most = Math.min(Math.ceil(wanted), Math.ceil(MAX_STRETCH_ROWS / rows.rows))
    this.#ranges = new WorkRanges(count, {
      most: Math.max(1, most),
      mostIdle: Math.max(1, most, Math.floor(MAX_IDLE_STRETCH_ROWS / rows.rows)),
      isBusy: (range) => rows.cuts[range - 1]?.kekId === rows.kekId,
    })
  }

  prefetch(): Promise<RangePage | null> {
    const page = this.#read()
    // A caller that leaves the loop never awaits this page: its rejection must not be an unhandled one.
    page.catch(() => undefined)
    return page
  }

  /** What is being read ahead stops at the next statement: nobody wants it any more. */
  end(): void {
    this.#hasEnded = true
  }

  /** Another process is at work where this page was read: it is read again later. */
  leave({ stretch, after }: RangePage): void {
    this.#leave(stretch, after)
  }

  #leave(stretch: Stretch, after: KeyRef | undefined): void {
    // Each range by itself, since one range is what is taken again.
    for (let range = stretch.from; range < stretch.to; range++)
      this.#left.set(range, laterOf(this.#startOf(range), after))
    this.#ranges.leave(stretch)
    this.#stretch = null
  }

  async #read(): Promise<RangePage | null> {
    const { kekId } = this.#rows
    for (; ; await nextTurn()) {
      this.#stretch ??= this.#enter()
      const stretch = this.#stretch
      if (stretch === null || this.#hasEnded || this.#options.signal?.aborted) return null
      const after = this.#after
      const before = this.#rows.cuts[stretch.to - 1]
      const filter = { kekId, ...(before && { before }) }
      const read = await readPageOf(this.#store, this.#options, filter, after)
      const isEntered = this.#isEntered
      this.#isEntered = false
      const isBegun = isEntered && stretch.isNew && this.#isBegun(stretch, read)
      const last = read.page.at(-1)
      if (last === undefined) {
        for (const row of read.unreadable) this.#onUnreadable(row)
        this.#ranges.done(stretch)
        this.#stretch = null
        if (!this.#hasEnded) this.#rows.onIdle?.()
        if (isBegun) this.#ranges.jump()
      } else if (isBegun) this.#leave(stretch, after)
      else {
        this.#after = last
        return { ...read, stretch, after }
      }
    }
  }

  #enter(): Stretch | null {
    const stretch = this.#ranges.next()
    if (stretch === null) return null
    this.#after = stretch.isNew ? this.#startOf(stretch.from) : this.#left.get(stretch.from)
    this.#isEntered = true
    return stretch
  }

  /** Before the first row of a range, which is the one that was sampled. */
  #startOf(range: number): KeyRef | undefined {
    const first = this.#rows.cuts[range - 1]
    return first && { userId: first.userId, version: first.version - 1 }
  }

  /** Whether the first row of a stretch was under the KEK id when it was sampled, and is not any more. */
  #isBegun({ from }: Stretch, { page, unreadable }: ReadPage): boolean {
    const first = this.#rows.cuts[from - 1]
    if (first === undefined || first.kekId !== this.#rows.kekId) return false
    const [row] = page
    if (row === undefined) return unreadable.length === 0
    return compareRefs(row, first) !== 0 && unreadable.length === 0
  }
}

function laterOf(a: KeyRef | undefined, b: KeyRef | undefined): KeyRef | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return compareRefs(a, b) < 0 ? b : a
}
