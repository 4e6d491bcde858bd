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
  readonly #writtenBefore: boolean
  #refused = 0
  changed = 0
  skipped = 0
  /** Whether the pass reached the last value. */
  reachedEnd = false
  /** Whether the pass left values out that others had brought up to date, most likely. */
  endedEarly = false
  /** What looks like ciphertext of other libraries. */
  readonly ciphertexts = new CiphertextCount()

  /** @param writtenBefore whether an earlier pass has written any value */
  constructor(legacy: readonly { readonly name: string }[], writtenBefore = false) {
    this.#writtenBefore = writtenBefore
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
    if (this.#refused >= MAX_LISTED_FAILURES && this.changed === 0 && !this.#writtenBefore) throw error
  }

  /** Counts a value of this state as replaced. */
  change(state: ValueState, to: 'current' | 'empty' = 'current'): void {
    this.changed += 1
    this.after[state] -= 1
    this.after[to] += 1
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
   * @param next the pass after it: what this one has not changed was found then as it was before
   */
  beforeOf(next: Tally): Record<ValueState, number> {
    const counts: Record<ValueState, number> = { ...next.before }
    for (const [state, count] of Object.entries(this.before) as [ValueState, number][]) {
      const found = counts[state] ?? 0
      counts[state] = Math.max(0, found + count - (this.after[state] ?? 0))
    }
    return counts
  }

  /** How many values it has seen. */
  get size(): number {
    return Object.values(this.before).reduce((sum, count) => sum + count, 0)
  }

  /** Values in an old state: all that are neither current nor empty, without those of shredded owners. */
  get left(): number {
    return this.size - this.after.current - this.after.empty - this.after.shredded
  }
}
