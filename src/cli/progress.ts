/** How far long work is, on standard error: a bar on a terminal, plain lines elsewhere. */
import type cliProgress from 'cli-progress'
import type { Progress } from '../lifecycle/long-work.js'
import { thousands } from './output.js'

export interface ProgressDisplay {
  show(progress: Progress): void
  /** Leaves what it shows at the last state, on a line of its own. */
  end(): void
}

/** Of plain lines, which may fill a log. */
const LINE_EVERY_MS = 5000

/** @param json the report is for a program: nobody reads lines then */
export async function progressDisplay(json: boolean): Promise<ProgressDisplay> {
  if (process.stderr.isTTY) return new ProgressBar((await import('cli-progress')).default.SingleBar)
  return json ? NOTHING : new ProgressLines((line) => process.stderr.write(`${line}\n`))
}

const NOTHING: ProgressDisplay = { show: () => undefined, end: () => undefined }

/** A line every five seconds at most, and one at the end of each phase. */
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
    if (this.#now() - this.#lineAt >= LINE_EVERY_MS) this.#line(progress)
  }

  end(): void {
    if (this.#last !== null && this.#last !== this.#written) this.#line(this.#last)
    this.#last = null
  }

  #line(progress: Progress): void {
    this.#written = progress
    this.#lineAt = this.#now()
    const { phase, done, total } = progress
    this.#write(`${phase}: ${thousands(done)} of ${thousands(total)}, ${speedOf(progress)}`)
  }
}

class ProgressBar implements ProgressDisplay {
  readonly #SingleBar: typeof cliProgress.SingleBar
  #bar: cliProgress.SingleBar | null = null
  #last: Progress | null = null

  constructor(SingleBar: typeof cliProgress.SingleBar) {
    this.#SingleBar = SingleBar
  }

  show(progress: Progress): void {
    if (isNewPhase(this.#last, progress)) this.end()
    this.#last = progress
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

/** Work may go over the rows again, in the same phase. */
function isNewPhase(last: Progress | null, { phase, done }: Progress): boolean {
  return last === null || last.phase !== phase || done < last.done
}

function speedOf({ rate, etaMs }: Progress): string {
  const left = etaMs === null || etaMs < 500 ? '' : `, ${duration(etaMs)} left`
  return `${thousands(rate)} a second${left}`
}

/** `45 s`, `3 min 20 s`, `2 h 5 min` */
function duration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60]
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`
}
