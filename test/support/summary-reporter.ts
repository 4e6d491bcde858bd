/** A run in few lines: progress, what was skipped and why, what passing tests printed, failures in full, the counts last. */
import type { UserConsoleLog } from 'vitest'
import { DefaultReporter, type TestCase, type TestModule, type Vitest } from 'vitest/node'

const MOST_PROGRESS_LINES = 40
const MOST_LIST_LINES = 20

type Arguments<Method extends 'onTestRunStart' | 'onTestRunEnd' | 'onUserConsoleLog'> = Parameters<
  DefaultReporter[Method]
>

export default class SummaryReporter extends DefaultReporter {
  readonly #files = { total: 0, ended: 0 }
  readonly #logs: UserConsoleLog[] = []
  #counts = { passed: 0, failed: 0, skipped: 0 }

  override onInit(vitest: Vitest) {
    super.onInit(vitest)
    // After all that vitest itself has to say, and however the run ends.
    process.once('exit', (exitCode) => {
      const { passed, failed, skipped } = this.#counts
      const failures = failed === 0 && exitCode !== 0 ? 1 : failed
      process.stdout.write(
        `${passed} passed, ${failures} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`,
      )
    })
  }

  override onTestRunStart(...[specifications]: Arguments<'onTestRunStart'>) {
    this.#files.total = specifications.length
    this.#files.ended = 0
    super.onTestRunStart(specifications)
  }

  /** One line for each failed file and for every n-th of the others, and one for each failed test. */
  protected override printTestModule(module: TestModule) {
    const { total } = this.#files
    const ended = ++this.#files.ended
    const isFailed = module.state() === 'failed'
    if (!isFailed && ended < total && ended % Math.ceil(total / MOST_PROGRESS_LINES) > 0) return
    const tests = Array.from(module.children.allTests())
    const seconds = (module.diagnostic().duration / 1000).toFixed(1)
    const count = `${String(ended).padStart(String(total).length)}/${total}`
    const what = `${counted(tests.length, 'test')}, ${seconds} s`
    this.log(` ${isFailed ? '✗' : '✓'} ${count}  ${module.relativeModuleId} (${what})`)
    for (const test of tests) if (test.result().state === 'failed') this.log(`     ✗ ${test.fullName}`)
  }

  /** Called for every log when it is written, and by vitest's reporter, which prints it in full, once more when its test has failed. */
  override onUserConsoleLog(...[log, state]: Arguments<'onUserConsoleLog'>) {
    super.onUserConsoleLog(log, state)
    if (state === undefined) this.#logs.push(log)
  }

  override onTestRunEnd(...[modules, unhandledErrors, reason]: Arguments<'onTestRunEnd'>) {
    this.#printList('Skipped:', this.#skipped(modules))
    this.#printList('Printed by tests that passed:', this.#logged())
    // Where the global set-up has failed, vitest's reporter would say that it found no test file. The error itself comes after this.
    if (modules.length > 0 || unhandledErrors.length > 0 || this.#files.total === 0)
      super.onTestRunEnd(modules, unhandledErrors, reason)
    this.#counts = countsOf(modules, unhandledErrors.length)
  }

  /** The first line of each different log. */
  #logged(): string[] {
    const lines = new Set<string>()
    for (const { content, taskId = '' } of this.#logs) {
      const task = this.ctx.state.idMap.get(taskId)
      if (task?.result?.state === 'fail') continue
      const [first = '', ...more] = content.trimEnd().split('\n')
      const rest = more.length > 0 ? ` (and ${counted(more.length, 'more line')})` : ''
      lines.add(`${task === undefined ? '' : `${task.file.name}: `}${first.slice(0, 160)}${rest}`)
    }
    return Array.from(lines)
  }

  /** A line for each file and reason. */
  #skipped(modules: readonly TestModule[]): string[] {
    const counts = new Map<string, number>()
    for (const test of modules.flatMap((module) => Array.from(module.children.allTests('skipped')))) {
      const reason = reasonOf(test)
      const name =
        reason === undefined ? this.#whyUnexplained() : `${test.module.relativeModuleId}: ${reason}`
      counts.set(name, (counts.get(name) ?? 0) + 1)
    }
    return Array.from(counts, ([name, count]) => `${name} (${counted(count, 'test')})`)
  }

  #whyUnexplained(): string {
    const { TEST_BACKENDS } = process.env
    if (this.ctx.config.testNamePattern !== undefined) return 'not chosen by --testNamePattern'
    return TEST_BACKENDS === undefined ? 'no reason given' : `not of TEST_BACKENDS=${TEST_BACKENDS}`
  }

  #printList(title: string, lines: readonly string[]) {
    if (lines.length === 0) return
    this.log(`\n ${title}`)
    for (const line of lines.slice(0, MOST_LIST_LINES)) this.log(`   ${line}`)
    if (lines.length > MOST_LIST_LINES) this.log(`   … and ${lines.length - MOST_LIST_LINES} more`)
  }
}

function reasonOf(test: TestCase): string | undefined {
  const result = test.result()
  return (result.state === 'skipped' ? result.note : undefined) ?? test.meta().skipReason
}

function countsOf(modules: readonly TestModule[], unhandledErrors: number) {
  const counts = { passed: 0, failed: unhandledErrors, skipped: 0 }
  for (const module of modules) {
    // A file that cannot even be loaded has no tests to count.
    if (module.state() === 'failed' && module.errors().length > 0) counts.failed += 1
    for (const test of module.children.allTests()) {
      const { state } = test.result()
      if (state !== 'pending') counts[state] += 1
    }
  }
  return counts
}

function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`
}
