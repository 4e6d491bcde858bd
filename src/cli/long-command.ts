/** What commands that take long share: they show progress, and an interruption stops them after the current page. */
import type { LongWorkOptions } from '../lifecycle/long-work.js'
import type { ReportOptions } from './options.js'
import { progressDisplay } from './progress.js'
import { sayError } from './say.js'

/** 128 plus the number of the signal, as shells report it. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

/** npm and npx pass on a Ctrl-C that the terminal has sent too: two signals within this time are one. */
const SAME_KEYSTROKE_MS = 500

const INTERRUPTED =
  'Interrupted: the report covers a part only. Run the same command again: what is done stays done, and it goes on with the rest.'

/** What a long operation of the library is given to show progress and to be interrupted. */
export type LongWorkControls = Required<Pick<LongWorkOptions, 'signal' | 'onProgress'>>

/**
 * Runs a long operation with progress on standard error, then prints its report. Ctrl-C (SIGINT, SIGTERM) stops it after the current
 * page, and the report is printed too. A second Ctrl-C ends the process at once.
 */
export async function runLongCommand<Report extends { readonly complete: boolean }>(
  { json = false }: ReportOptions,
  operation: (controls: LongWorkControls) => Promise<Report>,
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
    process.stderr.write('Stopping after the current page. Once more ends at once.\n')
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  try {
    const report = await operation({
      signal: controller.signal,
      onProgress: (progress) => display.show(progress),
    })
    display.end()
    // If the current page was the last one, the report is complete.
    const isPart = controller.signal.aborted && !report.complete
    if (isPart) process.exitCode = interruption.exitCode
    print(report)
    if (isPart) sayError(INTERRUPTED)
  } finally {
    display.end()
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
}
