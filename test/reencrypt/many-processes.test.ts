/** Several processes sweep one table at the same time: together they do the work once. */
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, encryptWithKey, generateMasterKey, masterKeysFromEnv } from '../../src/index.js'
import type { ReencryptReport } from '../../src/reencrypt/index.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { slow } from '../support/slow.js'
import { ACCEPT_V2 } from '../support/tokens.js'

const ROWS = slow ? 60_000 : 2_000
const BATCH_SIZE = slow ? 500 : 25
const USERS = 50
/** Values that one process finds changed by another: some pages for each meeting, and meetings are few. */
const MOST_SKIPPED = ROWS * (slow ? 0.1 : 0.2)
const TIMEOUT_MS = slow ? 900_000 : 120_000

const env = { API_KEY_MASTER_KEY: generateMasterKey() }

describe.each(dialects)('on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let host: RawDatabase

  beforeEach(async () => {
    host = cleanups.closing(await rawDatabase(dialect))
    const store = await openKeyStore(host.url)
    const masterKeys = masterKeysFromEnv(env)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, accept: ACCEPT_V2 })
    await host.query(
      'create table credentials (id integer primary key, user_id text not null, api_key text not null)',
    )
    const keys: Uint8Array[] = []
    for (let user = 0; user < USERS; user += 1) keys.push(await envelope.getOrCreateUserKey(`user-${user}`))
    await host.insert(
      'credentials',
      Array.from({ length: ROWS }, (_, id) => ({
        id,
        user_id: `user-${id % USERS}`,
        api_key: encryptWithKey(`row ${id}`, keys[id % USERS] as Uint8Array),
      })),
    )
    await envelope.close()
  }, TIMEOUT_MS)

  function startSweep(): ChildScript {
    const child = startChild('reencrypt.mjs', [host.url, String(BATCH_SIZE)], env)
    cleanups.add(child.kill)
    return child
  }

  /** Every row holds a v3 token of its plaintext. */
  async function expectSwept(): Promise<void> {
    const store = await openKeyStore(host.url)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(env) })
    const rows = await host.query('select id, user_id, api_key from credentials')
    const results = await envelope.decryptMany(
      rows.map(({ id, user_id, api_key }) => ({
        userId: String(user_id),
        token: String(api_key),
        context: { column: 'credentials.api_key', row: String(id) },
      })),
    )
    await envelope.close()
    const wrong = rows.filter(({ id }, index) => {
      const result = results[index]
      return result?.ok !== true || result.value !== `row ${id}`
    })
    expect(wrong).toEqual([])
    expect(rows).toHaveLength(ROWS)
  }

  it.each(slow ? [2, 4] : [2])(
    '%i processes sweep every value once',
    async (count) => {
      const reports = await Promise.all(
        Array.from({ length: count }, () => reportOf<ReencryptReport>(startSweep())),
      )
      const total = (of: (report: ReencryptReport) => number) =>
        reports.reduce((sum, report) => sum + of(report), 0)
      expect(total(({ changed }) => changed)).toBe(ROWS)
      const skipped = total((report) => report.skipped)
      console.info(`${dialect}: ${count} processes: ${skipped} of ${ROWS} values skipped`)
      expect(skipped).toBeLessThan(MOST_SKIPPED)
      for (const report of reports)
        expect(report).toMatchObject({ complete: true, left: 0, failed: [], after: { current: ROWS } })
      await expectSwept()
    },
    TIMEOUT_MS,
  )

  it(
    'what a killed process has left undone, the other one does',
    async () => {
      const [killed, other] = [startSweep(), startSweep()]
      await killed.line()
      killed.kill()
      const report = await reportOf<ReencryptReport>(other)
      expect(report).toMatchObject({ complete: true, left: 0, after: { current: ROWS } })
      await expectSwept()
    },
    TIMEOUT_MS,
  )

  it(
    'a few values among those that are done are found, and counted as they were before',
    async () => {
      await reportOf<ReencryptReport>(startSweep())
      const old = [3, ROWS / 2, ROWS - 4]
      for (const id of old) await host.query(`update credentials set api_key = 'row ${id}' where id = ${id}`)
      // The first pass ends early at one time, and sees them at another: it begins anywhere.
      const report = await reportOf<ReencryptReport>(startSweep())
      expect(report).toMatchObject({
        complete: true,
        changed: old.length,
        left: 0,
        before: { current: ROWS - old.length, plaintext: old.length, v2: 0 },
        after: { current: ROWS, plaintext: 0 },
      })
      await expectSwept()
    },
    TIMEOUT_MS,
  )
})
