/** What a copy into an empty store reads: each page is read back once it is written, so that one look at the source is enough. */
import { CALLS, isTurnDueInLoop, nextTurn } from '../event-loop.js'
import type { CensusRow } from '../store.js'
import type { KeyRecord, KeyRef } from '../table.js'
import type { CopyReading, UserPair } from './copy-pages.js'
import { COMPARISON_WEIGHT, isSameRecord, type RecordsDigest, RecordsHash } from './record-digest.js'

/** The rows of both stores, counted when all pages were written and read back. */
export interface BothCounts {
  readonly from: readonly CensusRow[]
  readonly to: readonly CensusRow[]
}

/**
 * Reads the written pages back, in order. It says what all records are only if the target has exactly what was read of the source, page by page,
 * and nothing else, and if neither has changed since: {@link digest}. Else the caller has to compare both from the start.
 */
export class ReadBack {
  readonly #job: CopyReading
  readonly #hash = new RecordsHash()
  #after: KeyRef | undefined
  #isExact = true

  constructor(job: CopyReading) {
    this.#job = job
  }

  /** @param pairs of a page whose records were written */
  async compare(pairs: readonly UserPair[]): Promise<void> {
    const written = pairs.flatMap(({ records }) => records)
    const last = written.at(-1)
    if (!this.#isExact || last === undefined) return
    const found = await this.#job.to.list({
      limit: written.length,
      ...(this.#after === undefined ? {} : { after: this.#after }),
      onUnreadable: () => {
        this.#isExact = false
      },
    })
    this.#after = { userId: last.userId, version: last.version }
    if (isTurnDueInLoop(CALLS)) await nextTurn()
    this.#isExact &&= found.length === written.length && (await this.#areSame(written, found))
  }

  /**
   * The digest of both stores, or null if they may differ. Whoever mints, rotates, shreds or removes a key, or moves it to another master
   * key, changes the counts.
   *
   * @param counts from after the last page was read back
   */
  digest({ from, to }: BothCounts): RecordsDigest | null {
    if (!this.#isExact || this.#job.failures.count > 0 || !isSameCensus(from, to)) return null
    const digest = this.#hash.digest()
    return to.reduce((rows, { count }) => rows + count, 0) === digest.rows ? digest : null
  }

  async #areSame(written: readonly KeyRecord[], found: readonly KeyRecord[]): Promise<boolean> {
    for (let at = 0; at < written.length; at += 1) {
      if (isTurnDueInLoop(COMPARISON_WEIGHT)) await nextTurn()
      const row = found[at] as KeyRecord
      if (!isSameRecord(written[at] as KeyRecord, row)) return false
      this.#hash.add(row)
    }
    return true
  }
}

/** @param a and `b`, both in the order of `compareCensusRows` */
function isSameCensus(a: readonly CensusRow[], b: readonly CensusRow[]): boolean {
  if (a.length !== b.length) return false
  return a.every((row, at) => {
    const other = b[at] as CensusRow
    return (
      row.kekId === other.kekId &&
      row.version === other.version &&
      row.shredded === other.shredded &&
      row.count === other.count &&
      row.ofTenants === other.ofTenants
    )
  })
}
