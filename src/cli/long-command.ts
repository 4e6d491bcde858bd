/** What commands that take long have in common: progress, and an end after the page in hand when they are interrupted. */
import type { LongWorkOptions } from '../lifecycle/long-work.js'
import type { ReportOptions } from './options.js'
import { progressDisplay } from './progress.js'

/** 128 and the number of the signal, as shells report it. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

/** npm and npx hand on the Ctrl-C that the terminal has sent already: within this time two are one. */
const SAME_KEYSTROKE_MS = 500

const INTERRUPTED =
  'Interrupted: the report is of a part. Run the same command again: what was done stays done, and it goes on with the rest.\n'

/** What the library's long operations are given. */
export type LongWork = Required<Pick<LongWorkOptions, 'signal' | 'onProgress'>>

/**
 * Runs `work` with progress on standard error; Ctrl-C (SIGINT, SIGTERM) ends it after the page in hand, a second one at once. The report
 * is printed in any case.
 */
export async function runLong<Report extends { readonly complete: boolean }>(
  { json = false }: ReportOptions,
  work: (long: LongWork) => Promise<Report>,
  print: (report: Report) => void,
): Promise<void> {
  const controller = new AbortController()
  const display = await progressDisplay(json)
  const interruption = { exitCode: 0, at: 0 }
  const interrupt = (signal: keyof typeof EXIT_CODES) => {
    const now = performance.now()
    if (controller.signal.aborted) {
      if (now - interruption.at > SAME_KEYSTROKE_MS) process.exit(EXIT_CODES[signal])
      return
    }
    Object.assign(interruption, { exitCode: EXIT_CODES[signal], at: now })
    controller.abort()
    display.end()
    process.stderr.write('Ending after the page in hand. Once more ends at once.\n')
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  try {
    const report = await work({
      signal: controller.signal,
      onProgress: (progress) => display.show(progress),
    })
    display.end()
    // The last page may have been in hand.
    const isPart = controller.signal.aborted && !report.complete
    if (isPart) process.exitCode = interruption.exitCode
    print(report)
    if (isPart) process.stderr.write(INTERRUPTED)
  } finally {
    display.end()
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
}
