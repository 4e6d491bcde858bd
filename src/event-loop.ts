/**
 * Turns of the event loop. A loop of awaited calls that are all answered from memory, or by a synchronous driver, never leaves the
 * microtask queue: no timer fires and no socket is read, so that another process's shred would go unnoticed.
 */

/** How many short calls pass between two looks at the clock. */
export const CALLS = 64
/** The longest time without a turn, in milliseconds, as far as calls allow it. */
const LONGEST_MS = 10

let calls = 0
/** A time in the turn that the loop has not left since; null if there is none. */
let turnBegan: number | null = null
let isDue = false

/**
 * Whether the event loop has been kept from turning for so long that the caller should await {@link nextTurn}. It becomes true between two
 * runs of the microtask queue only: calls that are started together all wait or all go on, so that a batch of them stays one batch.
 *
 * @param weight how many short calls the work counts for; {@link CALLS} to look at the clock in any case
 */
export function isTurnDue(weight = 1): boolean {
  if (isDue) return true
  if (isOverdue(weight)) {
    queueMicrotask(() => {
      isDue = turnBegan !== null
    })
  }
  return false
}

/** {@link isTurnDue} for a loop that awaits nothing else: no microtask runs during it. */
export function isTurnDueInLoop(weight = 1): boolean {
  return isDue || isOverdue(weight)
}

function isOverdue(weight: number): boolean {
  calls += weight
  if (calls < CALLS) return false
  calls = 0
  const now = performance.now()
  if (turnBegan !== null) return now - turnBegan > LONGEST_MS
  turnBegan = now
  setImmediate(() => {
    turnBegan = null
    isDue = false
  }).unref()
  return false
}

let turning: Promise<void> | null = null

/** Resolves after timers and sockets were served. All who wait for the same turn go on together, so that their work can be one batch. */
export function nextTurn(): Promise<void> {
  turning ??= new Promise((resolve) => {
    setImmediate(() => {
      turning = null
      resolve()
    })
  })
  return turning
}

/** For {@link isTurnDue}: a long value counts for as many calls as it has kilobytes. */
export function weightOf(value: unknown): number {
  const isLong = typeof value === 'string' || value instanceof Uint8Array
  return isLong ? 1 + (value.length >>> 10) : 1
}
