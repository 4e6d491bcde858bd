/** The counts and failures of one pass over all values. */
import type { MasterKeyReason } from '../errors.js'
import { describeFailure, MAX_LISTED_FAILURES } from '../lifecycle/long-work.js'
import type { ValueKey, ValueRef } from '../sources/value-source.js'
import { CiphertextCount } from './ciphertext-count.js'
import type { ValueState } from './open-value.js'

/** How many values are in each state. */
export type StateCounts = Readonly<Record<ValueState, number>>

/** A value that could not be brought up to date. */
export interface ValueFailure {
  readonly key: ValueKey
  readonly column: string
  /** The user's id; null for the shared pool. */
  readonly owner: string | null
  /** A `code` of KeystoreError. */
  readonly code: string
  /** Never shows the value. */
  readonly reason: string
  /** Why the owner's master key failed, with `ERR_MASTER_KEY`. */
  readonly masterKeyReason?: MasterKeyReason
}

const STATES = [
  'current',
  'oldVersion',
  'oldContext',
  'v2',
  'plaintext',
  'unopenable',
  'shredded',
  'staleFingerprint',
  'empty',
] as const

export class Tally {
  /** How many values were found in each state. */
  readonly before: Record<ValueState, number>
  /** How many values are in each state after the replacements. */
  readonly after: Record<ValueState, number>
  readonly failed: ValueFailure[] = []
  failedCount = 0
  #refused = 0
  changed = 0
  skipped = 0
  /** Whether the pass reached the last value. */
  reachedEnd = false
  /** Whether the pass left values out that others had brought up to date, most likely. */
  endedEarly = false
  /** What looks like ciphertext of other libraries. */
  readonly ciphertexts = new CiphertextCount()

  constructor(legacy: readonly { readonly name: string }[]) {
    const names = [...STATES, ...legacy.map(({ name }) => `legacy:${name}` as const)]
    const none = Object.fromEntries(names.map((name) => [name, 0])) as Record<ValueState, number>
    this.before = { ...none }
    this.after = { ...none }
  }

  /** Counts a value in the state it was found in. */
  add(state: ValueState): void {
    this.before[state] += 1
    this.after[state] += 1
  }

  fail({ key, column, owner }: ValueRef, error: unknown): void {
    this.failedCount += 1
    if (this.failed.length < MAX_LISTED_FAILURES)
      this.failed.push({ key, column, owner, ...describeFailure(error) })
  }

  /**
   * {@link fail} of a value whose replacement the database refuses.
   *
   * @throws the error if it has refused many, and none was written: then it is not about single rows
   */
  refuse(ref: ValueRef, error: unknown): void {
    this.fail(ref, error)
    this.#refused += 1
    if (this.#refused >= MAX_LISTED_FAILURES && this.changed === 0) throw error
  }

  /** Counts a value of this state as replaced: it is current now. */
  change(state: ValueState): void {
    this.changed += 1
    this.after[state] -= 1
    this.after.current += 1
  }

  /** For a source that writes nothing in the end: takes all replacements back. */
  discardChanges(): void {
    this.changed = 0
    this.skipped = 0
    Object.assign(this.after, this.before)
  }

  /**
   * How many values there were in each state before this pass, which did not see all.
   *
   * @param whole the pass after it, which did: what this one has not changed was found then as it was before
   */
  beforeOf(whole: Tally): Record<ValueState, number> {
    const counts: Record<ValueState, number> = { ...whole.before }
    for (const [state, count] of Object.entries(this.before) as [ValueState, number][]) {
      const found = counts[state] ?? 0
      counts[state] = Math.max(0, found + count - (this.after[state] ?? 0))
    }
    return counts
  }

  /** Values in an old state: all that are neither current nor empty, without those of shredded owners. */
  get left(): number {
    const total = Object.values(this.after).reduce((sum, count) => sum + count, 0)
    return total - this.after.current - this.after.empty - this.after.shredded
  }
}
