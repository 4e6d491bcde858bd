/** Bounds how long one call waits. */

/** The longest time that a timer of Node's takes. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** What a call waits for that has a connection for certain. */
export const ANSWER_OF_SERVER = 'an answer of the server: it is out of reach, or another session has a lock'

/** What a call waits for that has none yet, though the pool may make one. */
export const CONNECTION_TO_SERVER = 'a connection to the server'

/** A call's time was up. The message says what it waited for, and may be shown. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError'
}

/** The time that one call has for all that it waits for: a connection, each answer, and the pauses between its attempts. */
export class Deadline {
  /** The time in milliseconds. */
  readonly ms: number
  /** Ends the waiting for each operation. */
  readonly #giveUps = new Set<(error: Error) => void>()
  #endMs: number
  #aborted: Error | null = null

  constructor(ms: number) {
    this.ms = ms
    this.#endMs = performance.now() + ms
  }

  /** Negative once it is over. */
  get remainingMs(): number {
    return this.#endMs - performance.now()
  }

  get isOver(): boolean {
    return this.#aborted !== null || this.remainingMs <= 0
  }

  /** Gives the call its whole time again, because what it waits for is known to proceed. */
  extend(): void {
    this.#endMs = performance.now() + this.ms
  }

  /** Ends all waiting now. */
  abort(error: Error): void {
    this.#aborted ??= error
    for (const giveUp of [...this.#giveUps]) giveUp(this.#aborted)
  }

  /**
   * Waits for an operation, which itself goes on if this ends first.
   *
   * @param waitedFor what it waits for, to follow "waited 10 ms for"
   * @param onGivenUp called if this ends first
   * @throws DeadlineError · what `abort` was given
   */
  wait<T>(operation: Promise<T>, waitedFor: () => string, onGivenUp?: () => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      const stop = () => {
        clearTimeout(timer)
        this.#giveUps.delete(giveUp)
      }
      const giveUp = (error: Error) => {
        stop()
        onGivenUp?.()
        reject(error)
      }
      const start = () => {
        timer = setTimeout(() => setImmediate(end), Math.min(Math.max(0, this.remainingMs), MAX_TIMER_MS))
      }
      // After a turn of the event loop: if the process was busy or suspended meanwhile, an answer that has arrived still counts.
      const end = () => {
        if (!this.#giveUps.has(giveUp)) return
        if (this.remainingMs > 0) start()
        else giveUp(new DeadlineError(`waited ${Math.round(this.ms)} ms for ${waitedFor()}`))
      }
      operation.then(
        (value) => {
          stop()
          resolve(value)
        },
        (error: unknown) => {
          stop()
          reject(error)
        },
      )
      this.#giveUps.add(giveUp)
      if (this.#aborted === null) start()
      else giveUp(this.#aborted)
    })
  }
}
