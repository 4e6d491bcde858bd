/** What one look at all values comes to. */
import { describeFailure, MAX_LISTED } from '../lifecycle/long-work.js'
import type { ValueKey } from '../sources/value-source.js'
import type { SweptValue, ValueState } from './open-value.js'

/** How many values are in each state. */
export type StateCounts = Readonly<Record<ValueState, number>>

/** One value that stays as it is, though it should not. */
export interface ValueFailure {
  readonly key: ValueKey
  readonly column: string
  /** Null: the shared pool. */
  readonly owner: string | null
  /** A code of KeystoreError. */
  readonly code: string
  /** Never shows the value. */
  readonly reason: string
}

const STATES = [
  'current',
  'oldVersion',
  'oldContext',
  'v2',
  'plaintext',
  'unopenable',
  'shredded',
  'empty',
] as const

export class Tally<Row> {
  /** As the values were found. */
  readonly before: Record<ValueState, number>
  /** As they are after what was done to them. */
  readonly after: Record<ValueState, number>
  readonly failed: ValueFailure[] = []
  failedCount = 0
  changed = 0
  skipped = 0
  /** Whether all values were looked at. */
  whole = false

  constructor(legacy: readonly { readonly name: string }[]) {
    const names = [...STATES, ...legacy.map(({ name }) => `legacy:${name}` as const)]
    const none = Object.fromEntries(names.map((name) => [name, 0])) as Record<ValueState, number>
    this.before = { ...none }
    this.after = { ...none }
  }

  add(state: ValueState): void {
    this.before[state] += 1
    this.after[state] += 1
  }

  fail({ key, column, owner }: SweptValue<Row>, error: unknown): void {
    this.failedCount += 1
    if (this.failed.length < MAX_LISTED) this.failed.push({ key, column, owner, ...describeFailure(error) })
  }

  /** A value that was in this state is current now. */
  change(state: ValueState): void {
    this.changed += 1
    this.after[state] -= 1
    this.after.current += 1
  }

  /** Nothing of it was written in the end. */
  undo(): void {
    this.changed = 0
    this.skipped = 0
    Object.assign(this.after, this.before)
  }

  /** Values that are not as they should be: all but those that are current, absent or of a shredded owner. */
  get left(): number {
    const total = Object.values(this.after).reduce((sum, count) => sum + count, 0)
    return total - this.after.current - this.after.empty - this.after.shredded
  }
}
