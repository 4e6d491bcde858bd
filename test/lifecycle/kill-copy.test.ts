/** Copies are killed while four processes encrypt and decrypt at the source: in the end every token opens at the target. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type CopyReport, generateMasterKey, localMasterKey } from '../../src/index.js'
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
import { handOut, startTraffic, stopAll, unopened } from '../support/child-traffic.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { userIds } from '../support/users.js'

const MASTER_KEY = generateMasterKey()
const env = { API_KEY_MASTER_KEY: MASTER_KEY }
const masterKey = localMasterKey(MASTER_KEY)

describe.each(dialects.map((to) => [dialects.find((other) => other !== to) ?? to, to] as const))(
  'from %s to %s, with four processes at work',
  (fromDialect, toDialect) => {
    let from: FreshDatabase
    let to: FreshDatabase
    let started: { kill(): void }[]
    beforeEach(async () => {
      from = await freshDatabase(fromDialect)
      to = await freshDatabase(toDialect)
      started = []
    })
    afterEach(async () => {
      for (const child of started) child.kill()
      await from.remove()
      await to.remove()
    })

    function startCopy(batchSize: number): ChildScript {
      const child = startChild('copy-keys.mjs', [from.url, to.url, String(batchSize)])
      started.push(child)
      return child
    }

    it(
      `a copy of ${KEYS} keys that is killed ${KILLS} times loses none`,
      async ({ annotate }) => {
        await annotate(`KILL_SEED=${seed}`)
        const tokens = await handOut(from.url, masterKey, userIds(KEYS))
        const processes = [env, env, env, env]
        const traffic = await startTraffic({ url: from.url, users: KEYS, mint: true, processes })
        started.push(...traffic)
        let hits = 0
        for (const moment of killMoments(KILLS, Math.floor(KEYS / BATCH_SIZE / (KILLS + 1)), true)) {
          if (await killAt(startCopy(BATCH_SIZE), moment)) hits += 1
          expectSound(to.url)
        }
        expect(hits).toBeGreaterThan(0)
        // The traffic ends in the middle of a copy: what it has minted behind its back is for a further pass, or a further copy.
        const whole = startCopy(1000)
        await whole.line()
        tokens.push(...(await stopAll(traffic)))
        const report = await reportOf<CopyReport>(whole)
        expect(report).toMatchObject({ complete: true, extra: 0 })
        console.info(
          `${fromDialect} to ${toDialect}: ${hits} of ${KILLS} kills hit it before its end; ${report.copied} rows were left; ` +
            `${tokens.length} tokens were handed out`,
        )

        const last = await reportOf<CopyReport>(startCopy(1000))
        expect(last).toMatchObject({ complete: true, equal: true, extra: 0 })
        expect(last.census.to).toEqual(last.census.from)
        expect(last.digest.to).toBe(last.digest.from)
        expect(await unopened(to.url, masterKey, tokens)).toEqual([])
      },
      TIMEOUT_MS,
    )
  },
)
