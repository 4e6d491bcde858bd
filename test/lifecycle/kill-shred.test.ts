/** A process that shreds users is killed: whoever is shredded in the database stands in the key log, which is written first. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { generateMasterKey, type KeyRecord, localMasterKey } from '../../src/index.js'
import { expectSound, KEYS, KILLS, killAt, killMoments, seed, TIMEOUT_MS } from '../support/child-kills.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import { handOut } from '../support/child-traffic.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { userIds } from '../support/users.js'

const USERS = KEYS / 5
const MASTER_KEY = generateMasterKey()

describe.each(dialects)('%s: shredding with a key log', (dialect) => {
  let database: FreshDatabase
  let folder: ReturnType<typeof temporaryFolder>
  let keyLog: string
  let child: ChildScript | undefined
  beforeEach(async () => {
    database = await freshDatabase(dialect)
    folder = temporaryFolder()
    keyLog = join(folder.path, 'shred.log')
  })
  afterEach(async () => {
    child?.kill()
    folder.remove()
    await database.remove()
  })

  function startShredding(): ChildScript {
    child = startChild('shred-users.mjs', [database.url, keyLog], { API_KEY_MASTER_KEY: MASTER_KEY })
    return child
  }

  async function rows(): Promise<KeyRecord[]> {
    const store = await openKeyStore(database.url)
    try {
      return await store.list({ limit: USERS + 1 })
    } finally {
      await store.close()
    }
  }

  /** @returns how many users are shredded */
  async function expectLogged(): Promise<number> {
    const shredded = (await rows()).filter(({ shreddedAt }) => shreddedAt !== null)
    const logged = new Set(readFileSync(keyLog, 'utf8').split('\n').map(userIdOf))
    expect(shredded.filter(({ userId }) => !logged.has(userId))).toEqual([])
    return shredded.length
  }

  it(
    `is killed ${KILLS} times, and nobody is shredded without a line`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      await handOut(database.url, localMasterKey(MASTER_KEY), userIds(USERS))
      let hits = 0
      for (const moment of killMoments(KILLS, Math.floor(USERS / (KILLS + 2)))) {
        if (await killAt(startShredding(), moment)) hits += 1
        expectSound(database.url)
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

/** Null of a line that a kill has cut off: by it nothing was shredded. */
function userIdOf(line: string): string | null {
  try {
    return JSON.parse(line).userId
  } catch {
    return null
  }
}
