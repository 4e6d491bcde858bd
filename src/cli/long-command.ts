/** What commands that take long have in common: progress, and an end after the page in hand when they are interrupted. */
import type { LongWorkOptions } from '../lifecycle/long-work.js'
import type { ReportOptions } from './options.js'
import { progressDisplay } from './progress.js'

/** 128 and the number of the signal, as shells report it. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

type Interruption = keyof typeof EXIT_CODES

/** npm and npx hand on the Ctrl-C that the terminal has sent already: within this time two are one. */
const SAME_KEYSTROKE_MS = 500

/** What the library's long operations are given. */
export type LongWork = Required<Pick<LongWorkOptions, 'signal' | 'onProgress'>>

/**
 * Runs `work` with progress on standard error; Ctrl-C (SIGINT, SIGTERM) ends it after the page in hand, a second one at once. The report
 * is printed in any case.
 */
export async function runLong<Report>(
  { json = false }: ReportOptions,
  work: (long: LongWork) => Promise<Report>,
  print: (report: Report) => void,
): Promise<void> {
  const controller = new AbortController()
  const display = progressDisplay(json)
  let interrupted: { readonly by: Interruption; readonly at: number } | null = null
  const interrupt = (signal: Interruption) => {
    if (interrupted !== null) {
      if (performance.now() - interrupted.at > SAME_KEYSTROKE_MS) process.exit(EXIT_CODES[signal])
      return
    }
    interrupted = { by: signal, at: performance.now() }
    controller.abort()
    display.end()
    process.stderr.write('Ending after the page in hand. Once more ends at once.\n')
    process.exitCode = EXIT_CODES[signal]
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  try {
    const report = await work({
      signal: controller.signal,
      onProgress: (progress) => display.show(progress),
    })
    display.end()
    print(report)
    if (interrupted !== null) {
      process.stderr.write(
        'Interrupted: the report is of a part. Run the same command again: what was done stays done, and it goes on with the rest.\n',
      )
    }
  } finally {
    display.end()
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
}
