/** Shows the progress of a long operation on standard error: as a bar on a terminal, as plain lines elsewhere. */
import type cliProgress from 'cli-progress'
import type { Progress } from '../lifecycle/long-work.js'
import { thousands } from './output.js'

interface ProgressDisplay {
  show(progress: Progress): void
  /** Ends the display. Its last state stays visible on a line of its own. */
  end(): void
}

/** Plain lines come this far apart, so that they do not fill a log. */
const LINE_INTERVAL_MS = 5000

/** Before so much of a phase is over, its rate says how the clock ticks, and not how fast the work is. */
const RATE_AFTER_MS = 1000

/** @param json whether a program reads the report: then no plain lines are written */
export async function progressDisplay(json: boolean): Promise<ProgressDisplay> {
  if (process.stderr.isTTY) return new ProgressBar((await import('cli-progress')).default.SingleBar)
  return json ? NO_DISPLAY : new ProgressLines((line) => process.stderr.write(`${line}\n`))
}

const NO_DISPLAY: ProgressDisplay = { show: () => undefined, end: () => undefined }

/** Writes at most one line every five seconds, and one at the end of each phase. */
export class ProgressLines implements ProgressDisplay {
  readonly #write: (line: string) => void
  readonly #now: () => number
  #last: Progress | null = null
  #written: Progress | null = null
  #lineAt = 0
  #phaseAt = 0

  constructor(write: (line: string) => void, now: () => number = () => performance.now()) {
    this.#write = write
    this.#now = now
  }

  show(progress: Progress): void {
    if (isNewPhase(this.#last, progress)) {
      this.end()
      this.#phaseAt = this.#now()
      this.#lineAt = this.#phaseAt
    }
    this.#last = progress
    if (this.#now() - this.#lineAt >= LINE_INTERVAL_MS) this.#line(progress)
  }

  end(): void {
    if (this.#last !== null && this.#last !== this.#written) this.#line(this.#last)
    this.#last = null
  }

  #line(progress: Progress): void {
    this.#written = progress
    this.#lineAt = this.#now()
    const { phase, done, total } = progress
    // Nobody knows how many there are.
    if (total === 0) this.#write(`${phase} …`)
    else
      this.#write(
        [
          `${phase}: ${thousands(done)} of ${thousands(total)}`,
          ...speedOf(progress, this.#now() - this.#phaseAt),
        ].join(', '),
      )
  }
}

class ProgressBar implements ProgressDisplay {
  readonly #SingleBar: typeof cliProgress.SingleBar
  #bar: cliProgress.SingleBar | null = null
  #last: Progress | null = null
  #phaseAt = 0
  /** A phase of unknown length, which has no bar. */
  #announced: string | null = null

  constructor(SingleBar: typeof cliProgress.SingleBar) {
    this.#SingleBar = SingleBar
  }

  show(progress: Progress): void {
    if (isNewPhase(this.#last, progress)) {
      this.end()
      this.#phaseAt = performance.now()
    }
    this.#last = progress
    if (progress.total === 0) {
      if (progress.phase !== this.#announced) process.stderr.write(`${progress.phase} …\n`)
      this.#announced = progress.phase
      return
    }
    if (this.#bar === null) {
      this.#bar = new this.#SingleBar({ format: () => this.#line(), stream: process.stderr })
      this.#bar.start(progress.total, 0)
    }
    this.#bar.setTotal(progress.total)
    this.#bar.update(progress.done)
  }

  #line(): string {
    const progress = this.#last
    if (progress === null) return ''
    return barLine(progress, performance.now() - this.#phaseAt, process.stderr.columns)
  }

  end(): void {
    this.#bar?.stop()
    this.#bar = null
    this.#last = null
  }
}

/** Also true if an operation goes over the rows again in a phase of the same name. */
function isNewPhase(last: Progress | null, { phase, done }: Progress): boolean {
  return last === null || last.phase !== phase || done < last.done
}

/**
 * The longest of these texts that fits: the library of the bar would cut what does not.
 *
 * @param sinceMs how long the phase has taken until now
 * @param columns of the terminal; 0 or undefined: it does not say
 */
export function barLine(progress: Progress, sinceMs: number, columns?: number): string {
  const { phase, done, total } = progress
  const share = Math.min(1, done / Math.max(1, total))
  const percentage = `${Math.floor(share * 100)} %`
  const bar = (width: number) => '█'.repeat(Math.round(share * width)).padEnd(width, '░')
  const rows = `${thousands(done)} of ${thousands(total)}`
  const lineOf = (width: number, ...parts: readonly string[]) =>
    [`${phase.padEnd(12)} ${bar(width)} ${percentage.padStart(5)}`, ...parts].join(' · ')
  const speed = speedOf(progress, sinceMs)
  const lines = [
    lineOf(24, rows, ...(speed.length === 0 ? [] : [speed.join(', ')])),
    lineOf(12, rows, ...speed.slice(1)),
    `${phase} ${percentage} · ${rows}`,
    `${phase} ${percentage}`,
  ]
  const isNarrower = (line: string) => !columns || line.length < columns
  return lines.find(isNarrower) ?? percentage
}

/** The rate, and how long the rest will take; nothing as long as nobody can tell. */
function speedOf({ rate, etaMs }: Progress, sinceMs: number): string[] {
  if (sinceMs < RATE_AFTER_MS) return []
  const left = etaMs === null || etaMs < 500 ? [] : [`${durationText(etaMs)} left`]
  return [`${thousands(rate)} a second`, ...left]
}

/** `45 s`, `3 min 20 s`, `2 h 5 min` */
function durationText(ms: number): string {
  const seconds = Math.round(ms / 1000)
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60]
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`
}
