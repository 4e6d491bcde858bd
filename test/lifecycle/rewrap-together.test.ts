/** Several processes that rewrap one store at once share the work: few keys are wrapped twice, and one that is killed leaves nothing undone. */
import { describe, expect, it } from 'vitest'
import { generateMasterKey, masterKeysFromEnv, type RewrapReport, verifyAll } from '../../src/index.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { withStore } from '../support/fresh-store.js'
import { fill } from '../support/rows.js'
import { slow } from '../support/slow.js'
import { userIds } from '../support/users.js'

const KEYS = slow ? 60_000 : 12_000
/** What each process has under way when two of them meet is wrapped twice, about three pages: which are of one size relative to the work. */
const BATCH_SIZE = slow ? 1000 : 200
const [OLD, NEW] = [generateMasterKey(), generateMasterKey()]
const oldKeys = masterKeysFromEnv({ API_KEY_MASTER_KEY: OLD })
const newPrimary = { API_KEY_MASTER_KEY: NEW, API_KEY_MASTER_KEY_PREVIOUS: OLD }
const newKey = masterKeysFromEnv({ API_KEY_MASTER_KEY: NEW })

interface Report extends RewrapReport {
  readonly wraps: number
  readonly ms: number
  readonly cpuMs: number
}

describe.each(dialects)('%s: processes that rewrap together', (dialect) => {
  const cleanups = cleanUpAfterEach()

  async function filled(): Promise<string> {
    const url = await cleanups.database(dialect)
    const ids = userIds(KEYS)
    await withStore(url, async (store) => {
      for (let at = 0; at < KEYS; at += 5000) await fill(store, oldKeys.primary, ids.slice(at, at + 5000))
    })
    return url
  }

  async function begin(url: string, count: number): Promise<ChildScript[]> {
    const children = Array.from({ length: count }, () =>
      startChild('rewrap-together.mjs', [url, String(BATCH_SIZE)], newPrimary),
    )
    for (const child of children) cleanups.add(child.kill)
    for (const child of children) expect(await child.line()).toBe('ready')
    for (const child of children) child.send('go')
    return children
  }

  async function expectAllDone(url: string): Promise<void> {
    const report = await withStore(url, (store) => verifyAll({ store, masterKeys: newKey }))
    expect(report).toMatchObject({ ok: true, rows: KEYS })
  }

  it.each(slow ? [1, 2, 4] : [1, 2])(
    '%i of them wrap few keys twice',
    { timeout: 120_000 },
    async (count) => {
      const url = await filled()
      const reports = await Promise.all((await begin(url, count)).map((child) => reportOf<Report>(child)))
      const sum = (of: (report: Report) => number) => reports.reduce((all, report) => all + of(report), 0)
      for (const report of reports) expect(report).toMatchObject({ complete: true, failedCount: 0 })
      const [wraps, changed] = [sum((report) => report.wraps), sum((report) => report.changed)]
      console.info(
        `${dialect}: ${count} processes: ${(wraps / KEYS).toFixed(3)} wraps a key, ${sum(({ skipped }) => skipped)} skipped, ` +
          `${Math.round(Math.max(...reports.map(({ ms }) => ms)))} ms, CPU ${Math.round(sum(({ cpuMs }) => cpuMs))} ms, changed ${changed}`,
      )
      // Walking the same pages they make nearly as many wraps as there are processes. Of 60,000 keys on a quiet machine 1.008 (SQLite) and 1.028 (Postgres) wraps a key were measured
      // with two processes, 1.184 and 1.160 with four; of few keys up to 1.2, where other tests run beside it.
      expect(wraps / KEYS).toBeLessThanOrEqual(1 + (count - 1) * (slow ? 0.1 : 0.5))
      await expectAllDone(url)
    },
  )

  it('do what one left that was killed', { timeout: 120_000 }, async () => {
    const url = await filled()
    const [killed, other] = await begin(url, 2)
    await new Promise((resolve) => setTimeout(resolve, 150))
    killed?.kill()
    expect(await reportOf<Report>(other as ChildScript)).toMatchObject({ complete: true, failedCount: 0 })
    await expectAllDone(url)
  })
})
