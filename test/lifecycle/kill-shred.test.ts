/** A process that shreds users is killed: every user who is shredded in the database is in the shred log, which is written first. */
import { beforeEach, describe, expect, it } from 'vitest'
import { generateMasterKey, localMasterKey } from '../../src/index.js'
import { expectSound, KEYS, KILLS, killAt, killMoments, seed, TIMEOUT_MS } from '../support/child-kills.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import { handOut } from '../support/child-traffic.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { withStore } from '../support/fresh-store.js'
import { freshShredLog, type ShredLogFile } from '../support/shred-log-file.js'
import { userIds } from '../support/users.js'

const USERS = KEYS / 5
const MASTER_KEY = generateMasterKey()

describe.each(dialects)('%s: shredding with a shred log', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let log: ShredLogFile
  beforeEach(async () => {
    url = await cleanups.database(dialect)
    log = freshShredLog()
    cleanups.add(log.remove)
  })

  function startShredding(): ChildScript {
    const child = startChild('shred-users.mjs', [url, log.path], { API_KEY_MASTER_KEY: MASTER_KEY })
    cleanups.add(child.kill)
    return child
  }

  /** Expects a line in the log for each shredded user. @returns how many users are shredded */
  async function expectLogged(): Promise<number> {
    const rows = await withStore(url, (store) => store.list({ limit: USERS + 1 }))
    const shredded = rows.filter(({ shreddedAt }) => shreddedAt !== null)
    const logged = new Set(log.lines().map(userIdOf))
    expect(shredded.filter(({ userId }) => !logged.has(userId))).toEqual([])
    return shredded.length
  }

  it(
    `is killed ${KILLS} times, and no user is shredded without a line in the log`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      await handOut(url, localMasterKey(MASTER_KEY), userIds(USERS))
      let hits = 0
      for (const moment of killMoments(KILLS, Math.floor(USERS / (KILLS + 2)))) {
        if (await killAt(startShredding(), moment)) hits += 1
        expectSound(url)
        expect(await expectLogged()).toBeGreaterThanOrEqual(moment.lines)
      }
      expect(hits).toBeGreaterThan(0)
      console.info(`${dialect}: ${hits} of ${KILLS} kills hit it before its end`)
      await reportOf(startShredding())
      expect(await expectLogged()).toBe(USERS)
    },
    TIMEOUT_MS,
  )
})

/** The user of a line; null for a line that a kill has cut off, before which nothing was shredded. */
function userIdOf(line: string): string | null {
  try {
    return JSON.parse(line).userId
  } catch {
    return null
  }
}
