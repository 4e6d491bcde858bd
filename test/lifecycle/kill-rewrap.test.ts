/** The master key changes while four processes encrypt and decrypt, and rewraps are killed, or meet: no token is ever lost. */
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import {
  generateMasterKey,
  localMasterKey,
  masterKeysFromEnv,
  type RewrapReport,
  verifyAll,
} from '../../src/index.js'
import {
  BATCH_SIZE,
  expectSound,
  KEYS,
  KILLS,
  killAt,
  killMoments,
  seed,
  TIMEOUT_MS,
} from '../support/child-kills.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import {
  type HandedOut,
  handOut,
  startTraffic,
  stopAll,
  type Traffic,
  unopened,
} from '../support/child-traffic.js'
import { dialects, type FreshDatabase, freshDatabase, queryPostgres } from '../support/databases.js'
import { countDeadlocks } from '../support/deadlocks.js'
import { userIds } from '../support/users.js'

const [OLD, NEW] = [generateMasterKey(), generateMasterKey()]
/** As during a deployment. */
const oldPrimary = { API_KEY_MASTER_KEY: OLD, API_KEY_MASTER_KEY_PREVIOUS: NEW }
const newPrimary = { API_KEY_MASTER_KEY: NEW, API_KEY_MASTER_KEY_PREVIOUS: OLD }
const processes = [oldPrimary, oldPrimary, newPrimary, newPrimary]
const oldKeys = masterKeysFromEnv(oldPrimary)
const newKey = localMasterKey(NEW)

describe.each(dialects)('%s: a new master key, with four processes at work', (dialect) => {
  let database: FreshDatabase
  let started: { kill(): void }[]
  beforeEach(async () => {
    database = await freshDatabase(dialect)
    started = []
  })
  afterEach(async () => {
    for (const child of started) child.kill()
    await database.remove()
  })

  function startRewrap(): ChildScript {
    const child = startChild('rewrap.mjs', [database.url, String(BATCH_SIZE)], newPrimary)
    started.push(child)
    return child
  }

  async function startAll(mint: boolean): Promise<Traffic[]> {
    const traffic = await startTraffic({ url: database.url, users: KEYS, mint, processes })
    started.push(...traffic)
    return traffic
  }

  /** No row needs the old key, every row opens with the new one alone, and so does every token. */
  async function expectDone(tokens: readonly HandedOut[], ...reports: RewrapReport[]): Promise<void> {
    for (const report of reports) {
      expect(report).toMatchObject({ complete: true, failedCount: 0 })
      expect(report.masterKeys.map(({ noRowNeedsIt }) => noRowNeedsIt)).toEqual([false, true])
    }
    const store = await openKeyStore(database.url)
    const { findings } = await verifyAll({ store, masterKeys: newKey })
    await store.close()
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
    expect(await unopened(database.url, newKey, tokens)).toEqual([])
    if (dialect === 'postgres') expect(await countDeadlocks(database.url)).toBe(0)
  }

  it(
    `a rewrap of ${KEYS} keys that is killed ${KILLS} times loses none`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      const tokens = await handOut(database.url, oldKeys, userIds(KEYS))
      const traffic = await startAll(true)
      let hits = 0
      for (const moment of killMoments(KILLS, Math.floor(KEYS / BATCH_SIZE / (KILLS + 1)))) {
        const rewrap = startRewrap()
        rewrap.send('go')
        if (await killAt(rewrap, moment)) hits += 1
        expectSound(database.url)
      }
      expect(hits).toBeGreaterThan(0)

      const whole = startRewrap()
      whole.send('go')
      const report = await reportOf<RewrapReport>(whole)
      expect(report).toMatchObject({ complete: true, failedCount: 0 })
      console.info(
        `${dialect}: ${hits} of ${KILLS} kills hit it before its end; ${report.changed} rows were left`,
      )

      // The deployment ends while a rewrap is at work: rows that old processes have made behind its back are found by its last look.
      tokens.push(...(await handOut(database.url, oldKeys, ['b'])))
      const last = startRewrap()
      expect(await last.line()).toBe('first write')
      tokens.push(...(await handOut(database.url, oldKeys, ['a'])))
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
      const tokens = await handOut(database.url, oldKeys, userIds(KEYS))
      await countWrites(database.url)
      const traffic = await startAll(false)
      const rewraps = [startRewrap(), startRewrap(), startRewrap()]
      // All have the same page in hand.
      for (const rewrap of rewraps) expect(await rewrap.line()).toBe('first write')
      for (const rewrap of rewraps) rewrap.send('go')
      const reports = await Promise.all(rewraps.map((rewrap) => reportOf<RewrapReport>(rewrap)))
      tokens.push(...(await stopAll(traffic)))

      const sum = (which: 'changed' | 'skipped') =>
        reports.reduce((total, report) => total + report[which], 0)
      expect(sum('changed')).toBe(KEYS)
      expect(sum('skipped')).toBeGreaterThanOrEqual(2 * BATCH_SIZE)
      expect(await writesOf(database.url)).toEqual({ writes: KEYS, rows: KEYS })
      await expectDone(tokens, ...reports)
    },
    TIMEOUT_MS,
  )
})

/** Lets the database itself count what is written to the table. */
async function countWrites(url: string): Promise<void> {
  const table = 'create table writes (user_id text not null)'
  if (url.startsWith('postgres')) {
    await queryPostgres(
      url,
      `${table};
       create function count_write() returns trigger language plpgsql as
         $$ begin insert into writes values (new.user_id); return null; end $$;
       create trigger count_writes after update on encryption_keys for each row execute function count_write()`,
    )
  } else {
    const client = new Database(url)
    client.exec(
      `${table};
       create trigger count_writes after update on encryption_keys begin insert into writes values (new.user_id); end`,
    )
    client.close()
  }
}

async function writesOf(url: string): Promise<unknown> {
  const counts = 'select count(*) as writes, count(distinct user_id) as rows from writes'
  if (url.startsWith('postgres')) {
    const [row] = await queryPostgres(url, counts)
    return { writes: Number(row?.writes), rows: Number(row?.rows) }
  }
  const client = new Database(url)
  try {
    return client.prepare(counts).get()
  } finally {
    client.close()
  }
}
