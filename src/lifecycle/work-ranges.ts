/**
 * Which part of the work one process does next, while others may be doing other parts, of whom it knows nothing: there is nothing to claim and
 * nothing to clean up after a process that was killed.
 *
 * The work is cut into ranges, in order. Each process begins at a random one and goes up, round the end. Where it comes upon a range that
 * another one has begun, it jumps to the middle of the longest run of ranges that it has not seen yet. So two processes meet about as often as
 * a run can be halved. Ranges that others have begun come last: whoever began them has most likely finished by then, or was killed.
 */

/** Some ranges that follow each other: from the first up to but without the last. */
export interface Stretch {
  readonly from: number
  readonly to: number
  /** Whether this process comes here for the first time. */
  readonly isNew: boolean
}

type State = 'unseen' | 'taken' | 'left' | 'done'

/** A stretch is this part of the run that it begins, so that two processes that meet at the end of the work have little in common. */
const PART_OF_RUN = 16

export class WorkRanges {
  readonly #states: State[]
  readonly #most: number
  readonly #random: () => number
  /** The range behind the last stretch; null after a jump. */
  #at: number | null

  /**
   * @param count how many ranges there are, 1 or more
   * @param most how many ranges a stretch has at most
   * @param random gives numbers from 0 up to 1
   */
  constructor(count: number, most = 1, random: () => number = Math.random) {
    this.#states = Array.from({ length: count }, () => 'unseen')
    this.#most = most
    this.#random = random
    this.#at = Math.floor(random() * count)
  }

  /** The next stretch, which is this process's until it is {@link done} or {@link leave}d. Null: all are done. */
  next(): Stretch | null {
    const at =
      this.#at !== null && this.#states[this.#at] === 'unseen' ? this.#at : this.#middleOfLongestRun()
    const stretch = at === null ? this.#oneLeft() : { from: at, to: this.#endFrom(at), isNew: true }
    if (stretch === null) return null
    this.#states.fill('taken', stretch.from, stretch.to)
    this.#at = stretch.to % this.#states.length
    return stretch
  }

  /** All of a stretch was gone through. */
  done({ from, to }: Stretch): void {
    this.#states.fill('done', from, to)
  }

  /** Another process is at work in a stretch: it comes again at the end. */
  leave({ from, to }: Stretch): void {
    this.#states.fill('left', from, to)
    this.jump()
  }

  /** The next stretch begins somewhere else, since another process is, or was, near the last one. */
  jump(): void {
    this.#at = null
  }

  #oneLeft(): Stretch | null {
    const left = this.#states.flatMap((state, index) => (state === 'left' ? [index] : []))
    const from = left[Math.floor(this.#random() * left.length)]
    return from === undefined ? null : { from, to: from + 1, isNew: false }
  }

  #endFrom(at: number): number {
    const run = this.#runFrom(at)
    const wanted = Math.min(this.#most, Math.max(1, Math.ceil(run / PART_OF_RUN)))
    // Not round the end.
    return Math.min(at + wanted, this.#states.length)
  }

  /** How many unseen ranges follow each other from this one on, round the end. */
  #runFrom(at: number): number {
    const count = this.#states.length
    let run = 0
    while (run < count && this.#states[(at + run) % count] === 'unseen') run += 1
    return run
  }

  #middleOfLongestRun(): number | null {
    const count = this.#states.length
    const isBeginning = (at: number) =>
      this.#states[at] === 'unseen' && this.#states[(at + count - 1) % count] !== 'unseen'
    let longest = { from: 0, run: this.#states[0] === 'unseen' ? this.#runFrom(0) : 0 }
    for (let from = 0; from < count; from++) {
      const run = isBeginning(from) ? this.#runFrom(from) : 0
      if (run > longest.run) longest = { from, run }
    }
    return longest.run === 0 ? null : (longest.from + Math.floor(longest.run / 2)) % count
  }
}
