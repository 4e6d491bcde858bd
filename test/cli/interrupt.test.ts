/** Long commands: progress on standard error, and an end after the current page when they are interrupted. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { barLine, ProgressLines } from '../../src/cli/progress.js'
import type { CensusRow, RewrapReport } from '../../src/index.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { lockTable } from '../support/raw-database.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'
import { userIds } from '../support/users.js'

const REWRAP = ['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']
const KEYS = 4000

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore(dialect)
  })
  afterEach(() => store.remove())

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)(
    '%s ends a rewrap after the current page, and a later run completes it',
    async (signal, code) => {
      await store.mint(...userIds(KEYS))
      const { id } = store.keys('b').primary
      const { child, ended } = store.start([...REWRAP, '--batch-size', '5', '--json'])
      await store.use(async (keys) => {
        while (rowsOf(await keys.census(), id) === 0) await sleep(5)
      })
      child.kill(signal)
      const { status, stdout, stderr } = await ended
      expect(status).toBe(code)
      const part: RewrapReport = JSON.parse(stdout)
      expect(part.complete).toBe(false)
      expect(part.changed).toBeGreaterThan(0)
      expect(part.changed).toBeLessThan(KEYS)
      expect(rowsOf(await store.use((keys) => keys.census()), id)).toBe(part.changed)
      expect(stderr).toContain('Run the same command again')

      const rest = store.json<RewrapReport>(REWRAP)
      expect(rest).toMatchObject({ status: 0, report: { complete: true, changed: KEYS - part.changed } })
      expect(rest.report.masterKeys).toContainEqual(
        expect.objectContaining({ primary: false, noRowNeedsIt: true }),
      )
    },
  )

  it('a second Ctrl-C ends at once, even while a lock prevents the page from being written', async () => {
    await store.mint(...userIds(100))
    const release = await lockTable(dialect, store.url, 'encryption_keys')
    try {
      const { child, ended } = store.start(REWRAP)
      // npm passes on a signal that the terminal has sent already, so two within half a second count as one.
      await sleep(3000)
      child.kill('SIGINT')
      await sleep(100)
      child.kill('SIGINT')
      await sleep(900)
      expect(child.exitCode).toBeNull()
      const start = performance.now()
      child.kill('SIGINT')
      const { status, stdout, stderr } = await ended
      expect(performance.now() - start).toBeLessThan(1000)
      expect({ status, stdout }).toEqual({ status: 130, stdout: '' })
      expect(stderr).toContain('Once more ends at once')
    } finally {
      await release()
    }
    // On Postgres the server may still write the page that was sent to it.
    expect(store.json(REWRAP)).toMatchObject({
      status: 0,
      report: { complete: true, masterKeys: [{ rows: 100 }, { rows: 0 }] },
    })
  })
})

describe('progress', () => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore('sqlite')
    await store.mint(...userIds(30))
  })
  afterEach(() => store.remove())

  it('is one line for each phase on standard error, and none with --json', () => {
    const { stdout, stderr } = store.run([...REWRAP, '--dry-run'])
    expect(stderr).toMatch(/^counting …\nrewrapping: 30 of 30\ncounting …\n$/)
    expect(stdout).not.toContain('rewrapping')
    const quiet = store.run([...REWRAP, '--json'])
    expect(quiet.stderr).toBe('')
    expect(quiet.stdout.trim().split('\n')).toHaveLength(1)
  })

  itIf(hasTerminal, 'script (util-linux) is not installed')('is a bar on a terminal', () => {
    const { status, shown } = onTerminal(store.folder, [...REWRAP, '--batch-size', '10'], { env: store.env })
    expect(status).toBe(0)
    expect(shown).toMatch(/rewrapping +█{24} 100 % · 30 of 30(?! ·)/)
    expect(shown).toContain('Rewrapped 30 keys')
  })

  it('is a shorter text on a narrow terminal, and has no rate in its first second', () => {
    const progress = { phase: 'rewrapping', done: 500, total: 1000, rate: 1234, etaMs: 65_000 }
    const full = `rewrapping   ${'█'.repeat(12)}${'░'.repeat(12)}  50 % · 500 of 1,000 · 1,234 a second, 1 min 5 s left`
    expect(barLine(progress, 1000)).toBe(full)
    expect(barLine(progress, 999)).toBe(full.replace(/ · 1,234.*/, ''))
    expect(barLine(progress, 1000, full.length + 1)).toBe(full)
    expect(barLine(progress, 1000, full.length)).toBe(
      `rewrapping   ${'█'.repeat(6)}${'░'.repeat(6)}  50 % · 500 of 1,000 · 1 min 5 s left`,
    )
    expect(barLine(progress, 1000, 60)).toBe('rewrapping 50 % · 500 of 1,000')
    expect(barLine(progress, 1000, 20)).toBe('rewrapping 50 %')
    expect(barLine(progress, 1000, 10)).toBe('50 %')
  })

  it('is at most one line every five seconds, and one at the end of each phase', () => {
    const lines: string[] = []
    let now = 0
    const display = new ProgressLines(
      (line) => lines.push(line),
      () => now,
    )
    const show = (phase: string, done: number) =>
      display.show({ phase, done, total: 100, rate: 10, etaMs: (100 - done) * 100 })
    for (let done = 1; done <= 100; done += 1) {
      now += 100
      show('comparing', done)
    }
    expect(lines).toEqual(['comparing: 51 of 100, 10 a second, 5 s left'])
    // The same phase again, in a further pass.
    show('comparing', 60)
    show('copying', 100)
    display.end()
    display.end()
    expect(lines).toEqual([
      'comparing: 51 of 100, 10 a second, 5 s left',
      'comparing: 100 of 100, 10 a second',
      // No rate before a second has passed.
      'comparing: 60 of 100',
      'copying: 100 of 100',
    ])
  })
})

function rowsOf(census: readonly CensusRow[], id: string): number {
  return census.reduce((sum, { kekId, count }) => (kekId === id ? sum + count : sum), 0)
}
