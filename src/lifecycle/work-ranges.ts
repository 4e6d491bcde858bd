/**
 * Which part of the work one process does next, while others may be doing other parts, of whom it knows nothing: there is nothing to claim and
 * nothing to clean up after a process that was killed.
 *
 * The work is cut into ranges, in order. Each process begins at a random one and goes up, round the end. Where it comes upon a range that
 * another one has begun, it jumps to the middle of the longest run of ranges that it has not seen yet. So two processes meet about as often as
 * a run can be halved. Ranges that others have begun come last: whoever began them has most likely finished by then, or was killed.
 *
 * Ranges in which there is most likely nothing to do come after those in which there is, in longer stretches, by the same rules: so a process
 * that goes on with what was interrupted finds work at once.
 */

/** Some ranges that follow each other: from the first up to but without the last. */
export interface Stretch {
  readonly from: number
  readonly to: number
  /** Whether this process comes here for the first time. */
  readonly isNew: boolean
}

/** How the work is cut. */
export interface RangeOptions {
  /** How many ranges a stretch has at most. Default 1. */
  readonly most?: number
  /** Of ranges where there is most likely nothing to do: how many a stretch has at most. */
  readonly mostIdle?: number
  /** Whether there is most likely something to do in a range. Default: in all of them. */
  readonly isBusy?: (range: number) => boolean
  /** Gives numbers from 0 up to 1. */
  readonly random?: () => number
}

type State = 'unseen' | 'taken' | 'left' | 'done'

/** A stretch is this part of the run that it begins, so that two processes that meet at the end of the work have little in common. */
const PART_OF_RUN = 16

export class WorkRanges {
  readonly #states: State[]
  readonly #random: () => number
  /** First the ranges with work, then the others. */
  readonly #kinds: readonly KindOfRanges[]
  /** Of the last stretch. */
  #last: KindOfRanges | null = null

  /** @param count how many ranges there are, 1 or more */
  constructor(
    count: number,
    { most = 1, mostIdle = most, isBusy = () => true, random = Math.random }: RangeOptions = {},
  ) {
    this.#states = Array.from({ length: count }, () => 'unseen')
    this.#random = random
    const busy: number[] = []
    const idle: number[] = []
    for (let range = 0; range < count; range++) (isBusy(range) ? busy : idle).push(range)
    this.#kinds = [
      new KindOfRanges(this.#states, busy, most, PART_OF_RUN, random),
      // Going through what is done already costs little, also twice.
      new KindOfRanges(this.#states, idle, mostIdle, 1, random),
    ]
  }

  /** The next stretch, which is this process's until it is {@link done} or {@link leave}d. Null: all are done. */
  next(): Stretch | null {
    const stretch = this.#nextUnseen() ?? this.#oneLeft()
    if (stretch !== null) this.#states.fill('taken', stretch.from, stretch.to)
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
    this.#last?.jump()
  }

  #nextUnseen(): Stretch | null {
    for (const kind of this.#kinds) {
      const stretch = kind.next()
      this.#last = kind
      if (stretch !== null) return stretch
    }
    return null
  }

  #oneLeft(): Stretch | null {
    const left = this.#states.flatMap((state, index) => (state === 'left' ? [index] : []))
    const from = left[Math.floor(this.#random() * left.length)]
    return from === undefined ? null : { from, to: from + 1, isNew: false }
  }
}

/** Some of the ranges. What follows each other in this list may have others between. */
class KindOfRanges {
  readonly #states: readonly State[]
  readonly #ranges: readonly number[]
  readonly #most: number
  readonly #part: number
  /** The place in the list behind the last stretch; null after a jump. */
  #at: number | null

  constructor(
    states: readonly State[],
    ranges: readonly number[],
    most: number,
    part: number,
    random: () => number,
  ) {
    this.#states = states
    this.#ranges = ranges
    this.#most = most
    this.#part = part
    this.#at = ranges.length === 0 ? null : Math.floor(random() * ranges.length)
  }

  /** The next stretch of ranges that were not seen yet. Null if there is none. */
  next(): Stretch | null {
    const at = this.#at !== null && this.#isUnseen(this.#at) ? this.#at : this.#middleOfLongestRun()
    if (at === null) return null
    const end = this.#endFrom(at)
    this.#at = end % this.#ranges.length
    const from = this.#ranges[at] as number
    return { from, to: from + end - at, isNew: true }
  }

  jump(): void {
    this.#at = null
  }

  #isUnseen(at: number): boolean {
    const range = this.#ranges[at]
    return range !== undefined && this.#states[range] === 'unseen'
  }

  #endFrom(at: number): number {
    const run = this.#runFrom(at)
    const wanted = Math.min(this.#most, Math.max(1, Math.ceil(run / this.#part)))
    let end = at + 1
    // Not round the end, nor over ranges that are not in the list.
    while (end < at + wanted && this.#ranges[end] === (this.#ranges[end - 1] as number) + 1) end += 1
    return end
  }

  /** How many unseen ranges follow each other in the list from this one on, round the end. */
  #runFrom(at: number): number {
    const count = this.#ranges.length
    let run = 0
    while (run < count && this.#isUnseen((at + run) % count)) run += 1
    return run
  }

  #middleOfLongestRun(): number | null {
    const count = this.#ranges.length
    const isBeginning = (at: number) => this.#isUnseen(at) && !this.#isUnseen((at + count - 1) % count)
    let longest = { from: 0, run: this.#isUnseen(0) ? this.#runFrom(0) : 0 }
    for (let from = 0; from < count; from++) {
      const run = isBeginning(from) ? this.#runFrom(from) : 0
      if (run > longest.run) longest = { from, run }
    }
    return longest.run === 0 ? null : (longest.from + Math.floor(longest.run / 2)) % count
  }
}
