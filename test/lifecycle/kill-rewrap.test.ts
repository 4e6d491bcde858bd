/** The master key changes while four processes encrypt and decrypt, and rewraps are killed or run at once: no token is lost. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  generateMasterKey,
  localMasterKey,
  masterKeysFromEnv,
  type RewrapReport,
  verifyAll,
} from '../../src/index.js'
import { BATCH_SIZE, KEYS, KILLS, killRewraps, seed, TIMEOUT_MS } from '../support/child-kills.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import {
  type HandedOut,
  handOut,
  startTraffic,
  stopAll,
  type Traffic,
  unopened,
} from '../support/child-traffic.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { type Dialect, dialects } from '../support/databases.js'
import { countDeadlocks } from '../support/deadlocks.js'
import { withStore } from '../support/fresh-store.js'
import { runSql } from '../support/raw-database.js'
import { userIds } from '../support/users.js'

const [OLD, NEW] = [generateMasterKey(), generateMasterKey()]
/** The two configurations of processes during a deployment. */
const oldPrimary = { API_KEY_MASTER_KEY: OLD, API_KEY_MASTER_KEY_PREVIOUS: NEW }
const newPrimary = { API_KEY_MASTER_KEY: NEW, API_KEY_MASTER_KEY_PREVIOUS: OLD }
const processes = [oldPrimary, oldPrimary, newPrimary, newPrimary]
const oldKeys = masterKeysFromEnv(oldPrimary)
const newKey = localMasterKey(NEW)

describe.each(dialects)('%s: a new master key, with four processes at work', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database(dialect)
  })

  function startRewrap(): ChildScript {
    const child = startChild('rewrap.mjs', [url, String(BATCH_SIZE)], newPrimary)
    cleanups.add(child.kill)
    return child
  }

  async function startAll(mint: boolean): Promise<Traffic[]> {
    const traffic = await startTraffic({ url, users: KEYS, mint, processes })
    for (const { kill } of traffic) cleanups.add(kill)
    return traffic
  }

  /** Expects that no row needs the old key, and that every row and every token opens with the new key alone. */
  async function expectDone(tokens: readonly HandedOut[], ...reports: RewrapReport[]): Promise<void> {
    for (const report of reports) {
      expect(report).toMatchObject({ complete: true, failedCount: 0 })
      expect(report.masterKeys.map(({ noRowNeedsIt }) => noRowNeedsIt)).toEqual([false, true])
    }
    const { findings } = await withStore(url, (store) => verifyAll({ store, masterKeys: newKey }))
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
    expect(await unopened(url, newKey, tokens)).toEqual([])
    if (dialect === 'postgres') expect(await countDeadlocks(url)).toBe(0)
  }

  it(
    `a rewrap of ${KEYS} keys that is killed ${KILLS} times loses none`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      const tokens = await handOut(url, oldKeys, userIds(KEYS))
      const traffic = await startAll(true)
      const hits = await killRewraps(url, startRewrap)
      expect(hits).toBeGreaterThan(0)

      const whole = startRewrap()
      whole.send('go')
      const report = await reportOf<RewrapReport>(whole)
      expect(report).toMatchObject({ complete: true, failedCount: 0 })
      console.info(
        `${dialect}: ${hits} of ${KILLS} kills hit it before its end; ${report.changed} rows were left`,
      )

      // The deployment ends while a rewrap is at work: its last pass finds rows that old processes have made behind its cursor.
      tokens.push(...(await handOut(url, oldKeys, ['b'])))
      const last = startRewrap()
      expect(await last.line()).toBe('first write')
      tokens.push(...(await handOut(url, oldKeys, ['a'])))
      tokens.push(...(await stopAll(traffic.slice(0, 2))))
      last.send('go')
      const lastReport = await reportOf<RewrapReport>(last)
      tokens.push(...(await stopAll(traffic.slice(2))))
      await expectDone(tokens, lastReport)
    },
    TIMEOUT_MS,
  )

  it(
    'three rewraps at once write each row once',
    async () => {
      const tokens = await handOut(url, oldKeys, userIds(KEYS))
      await countWrites(dialect, url)
      const traffic = await startAll(false)
      const rewraps = [startRewrap(), startRewrap(), startRewrap()]
      // All three have read the same page, and wait before they write.
      for (const rewrap of rewraps) expect(await rewrap.line()).toBe('first write')
      for (const rewrap of rewraps) rewrap.send('go')
      const reports = await Promise.all(rewraps.map((rewrap) => reportOf<RewrapReport>(rewrap)))
      tokens.push(...(await stopAll(traffic)))

      const sum = (which: 'changed' | 'skipped') =>
        reports.reduce((total, report) => total + report[which], 0)
      expect(sum('changed')).toBe(KEYS)
      expect(sum('skipped')).toBeGreaterThanOrEqual(2 * BATCH_SIZE)
      expect(await writesOf(dialect, url)).toEqual({ writes: KEYS, rows: KEYS })
      await expectDone(tokens, ...reports)
    },
    TIMEOUT_MS,
  )
})

/** Lets the database count the writes to the table of keys, in a table `writes`. */
async function countWrites(dialect: Dialect, url: string): Promise<void> {
  const table = 'create table writes (user_id text not null)'
  const trigger = 'create trigger count_writes after update on encryption_keys'
  const insert = 'insert into writes values (new.user_id)'
  await runSql(
    dialect,
    url,
    dialect === 'postgres'
      ? `${table};
         create function count_write() returns trigger language plpgsql as $$ begin ${insert}; return null; end $$;
         ${trigger} for each row execute function count_write()`
      : `${table}; ${trigger} begin ${insert}; end`,
  )
}

async function writesOf(dialect: Dialect, url: string): Promise<unknown> {
  const [row] = await runSql(
    dialect,
    url,
    'select count(*) as writes, count(distinct user_id) as rows from writes',
  )
  return { writes: Number(row?.writes), rows: Number(row?.rows) }
}
