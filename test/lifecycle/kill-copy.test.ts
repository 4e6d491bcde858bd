/** Copies are killed while four processes encrypt and decrypt on the source; in the end every token opens on the target. */
import { beforeEach, describe, expect, it } from 'vitest'
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
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { userIds } from '../support/users.js'

const MASTER_KEY = generateMasterKey()
const env = { API_KEY_MASTER_KEY: MASTER_KEY }
const masterKey = localMasterKey(MASTER_KEY)

describe.each(dialects.map((to) => [dialects.find((other) => other !== to) ?? to, to] as const))(
  'from %s to %s, with four processes at work',
  (fromDialect, toDialect) => {
    const cleanups = cleanUpAfterEach()
    let from: string
    let to: string
    beforeEach(async () => {
      from = await cleanups.database(fromDialect)
      to = await cleanups.database(toDialect)
    })

    function startCopy(batchSize: number): ChildScript {
      const child = startChild('copy-keys.mjs', [from, to, String(batchSize)])
      cleanups.add(child.kill)
      return child
    }

    it(
      `a copy of ${KEYS} keys that is killed ${KILLS} times loses none`,
      async ({ annotate }) => {
        await annotate(`KILL_SEED=${seed}`)
        const tokens = await handOut(from, masterKey, userIds(KEYS))
        const processes = [env, env, env, env]
        const traffic = await startTraffic({ url: from, users: KEYS, mint: true, processes })
        for (const { kill } of traffic) cleanups.add(kill)
        let hits = 0
        for (const moment of killMoments(KILLS, Math.floor(KEYS / BATCH_SIZE / (KILLS + 1)), true)) {
          if (await killAt(startCopy(BATCH_SIZE), moment)) hits += 1
          expectSound(to)
        }
        expect(hits).toBeGreaterThan(0)
        // The traffic ends in the middle of a copy: keys that it has minted behind the cursor need a further pass, or a further copy.
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
        expect(await unopened(to, masterKey, tokens)).toEqual([])
      },
      TIMEOUT_MS,
    )
  },
)
