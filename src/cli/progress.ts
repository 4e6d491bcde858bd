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

  constructor(write: (line: string) => void, now: () => number = () => performance.now()) {
    this.#write = write
    this.#now = now
  }

  show(progress: Progress): void {
    if (isNewPhase(this.#last, progress)) {
      this.end()
      this.#lineAt = this.#now()
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
    else this.#write(`${phase}: ${thousands(done)} of ${thousands(total)}, ${speedOf(progress)}`)
  }
}

class ProgressBar implements ProgressDisplay {
  readonly #SingleBar: typeof cliProgress.SingleBar
  #bar: cliProgress.SingleBar | null = null
  #last: Progress | null = null
  /** A phase of unknown length, which has no bar. */
  #announced: string | null = null

  constructor(SingleBar: typeof cliProgress.SingleBar) {
    this.#SingleBar = SingleBar
  }

  show(progress: Progress): void {
    if (isNewPhase(this.#last, progress)) this.end()
    this.#last = progress
    if (progress.total === 0) {
      if (progress.phase !== this.#announced) process.stderr.write(`${progress.phase} …\n`)
      this.#announced = progress.phase
      return
    }
    const payload = { phase: progress.phase.padEnd(12), speed: speedOf(progress) }
    if (this.#bar === null) {
      this.#bar = new this.#SingleBar({
        format: '{phase} {bar} {percentage} % · {value} of {total} · {speed}',
        formatValue: (value, _options, type) =>
          type === 'percentage' ? String(value).padStart(3) : thousands(Number(value)),
        barCompleteChar: '█',
        barIncompleteChar: '░',
        barsize: 24,
        stream: process.stderr,
      })
      this.#bar.start(progress.total, 0, payload)
    }
    this.#bar.setTotal(progress.total)
    this.#bar.update(progress.done, payload)
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

function speedOf({ rate, etaMs }: Progress): string {
  const left = etaMs === null || etaMs < 500 ? '' : `, ${durationText(etaMs)} left`
  return `${thousands(rate)} a second${left}`
}

/** `45 s`, `3 min 20 s`, `2 h 5 min` */
function durationText(ms: number): string {
  const seconds = Math.round(ms / 1000)
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60]
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`
}
