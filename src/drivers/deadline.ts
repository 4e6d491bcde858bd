/** Bounds how long one call waits. */

/** The longest time that a timer of Node's takes. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** What a call waits for that has a connection for certain. */
export const ANSWER_OF_SERVER = 'an answer of the server: it is out of reach, or another session has a lock'

/** What a call waits for that has none yet, though the pool may make one. */
export const CONNECTION_TO_SERVER = 'a connection to the server'

/**
 * So many times as long a statement may take that reads or changes a whole table, where the server cannot be asked whether it is still at
 * work: 200 s by default, in which about 10 million keys are rewritten.
 */
export const TIMES_UNASKED = 20
/** To follow what such a statement waited for. */
export const GIVE_ANOTHER_CONNECTION =
  '. Or the server is still at work, which the store can ask only on another connection of a node-postgres pool, and not behind pgbouncer: ' +
  'give the pool a second connection, or the store a pool ({ pool } or { url }), or a longer deadlineMs'

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
  /** How long it is from where it began anew, for the message. */
  #grantedMs: number
  #aborted: Error | null = null

  constructor(ms: number) {
    this.ms = ms
    this.#grantedMs = ms
    this.#endMs = performance.now() + ms
  }

  /** Negative once it is over. */
  get remainingMs(): number {
    return this.#endMs - performance.now()
  }

  get isOver(): boolean {
    return this.#aborted !== null || this.remainingMs <= 0
  }

  /** Gives the call its whole time again, because what it waits for is known to proceed, or that time several times over. */
  extend(times = 1): void {
    this.#grantedMs = this.ms * times
    this.#endMs = performance.now() + this.#grantedMs
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
        else giveUp(new DeadlineError(`waited ${Math.round(this.#grantedMs)} ms for ${waitedFor()}`))
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

  /** The same for a statement that may take long, while nobody can be asked whether the server is still at work. */
  async waitLonger<T>(operation: Promise<T>, waitedFor: () => string, onGivenUp?: () => void): Promise<T> {
    this.extend(TIMES_UNASKED)
    const result = await this.wait(operation, () => waitedFor() + GIVE_ANOTHER_CONNECTION, onGivenUp)
    this.extend()
    return result
  }
}
