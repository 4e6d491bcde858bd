/** Long work that the operator starts and watches. One at a time in this process; a second process may run its own, which does no harm. */
import type { Progress } from 'drizzle-keystore'
import { logError } from './log.js'

export type JobKind = 'check' | 'rewrap' | 'erase'

export interface Job {
  readonly kind: JobKind
  readonly state: 'running' | 'done' | 'stopped' | 'failed'
  readonly startedAt: Date
  readonly progress: Progress | null
  /** What it ended with, in sentences. */
  readonly outcome: readonly string[]
}

interface Controls {
  readonly signal: AbortSignal
  readonly onProgress: (progress: Progress) => void
}

/** @returns what to tell the operator, and whether the work came to its end */
type Work = (controls: Controls) => Promise<{ outcome: readonly string[]; complete: boolean }>

export class Jobs {
  #current: Job | null = null
  #abort = new AbortController()
  #running: Promise<void> = Promise.resolve()

  get current(): Job | null {
    return this.#current
  }

  get isRunning(): boolean {
    return this.#current?.state === 'running'
  }

  /** @returns false if one is running */
  start(kind: JobKind, work: Work): boolean {
    if (this.isRunning) return false
    this.#abort = new AbortController()
    this.#current = { kind, state: 'running', startedAt: new Date(), progress: null, outcome: [] }
    this.#running = this.#run(work)
    return true
  }

  /** Ends the work after its current page. Nothing is lost: started again, it goes on. */
  stop(): void {
    this.#abort.abort()
  }

  /** For the end of the process. */
  async close(): Promise<void> {
    this.stop()
    await this.#running
  }

  async #run(work: Work): Promise<void> {
    const { signal } = this.#abort
    try {
      const onProgress = (progress: Progress) => {
        // Counting has no total. The count for the report, at the end, must not take the place of what was done.
        if (progress.total > 0 || !this.#current?.progress) this.#update({ progress })
      }
      const { outcome, complete } = await work({ signal, onProgress })
      this.#update({ state: complete ? 'done' : 'stopped', outcome })
    } catch (error) {
      logError('job.failed', error)
      this.#update({
        state: 'failed',
        outcome: ['It failed. The log says where; start it again when that is mended.'],
      })
    }
  }

  #update(change: Partial<Job>): void {
    if (this.#current !== null) this.#current = { ...this.#current, ...change }
  }
}
