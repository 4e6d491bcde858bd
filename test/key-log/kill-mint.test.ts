/** A process that mints with a key log is killed: whoever has a token is in the log, and whoever is in the log is in the store. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EnvelopeCrypto, findLostKeys, generateMasterKey, localMasterKey } from '../../src/index.js'
import { expectSound, KILLS, killMoments, seed, TIMEOUT_MS } from '../support/child-kills.js'
import { type ChildScript, startChild } from '../support/child-process.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { withStore } from '../support/fresh-store.js'
import { freshKeyLog, type KeyLogFile } from '../support/key-log-file.js'

const MASTER_KEY = generateMasterKey()

describe.each(dialects)('%s: minting with a key log', (dialect) => {
  let database: FreshDatabase
  let log: KeyLogFile
  let child: ChildScript | undefined
  beforeEach(async () => {
    database = await freshDatabase(dialect)
    log = freshKeyLog()
  })
  afterEach(async () => {
    child?.kill()
    log.remove()
    await database.remove()
  })

  it(
    `is killed ${KILLS} times, and log and store agree`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      for (const [round, { lines }] of killMoments(KILLS, 200).entries()) {
        const started = startChild('mint-logged.mjs', [database.url, log.path, String(round)], {
          API_KEY_MASTER_KEY: MASTER_KEY,
        })
        child = started
        const printed: string[] = []
        while (printed.length < lines) printed.push(await started.line())
        started.kill()
        printed.push(...(await started.rest()))
        await started.ended()
        expect(started.signal()).toBe('SIGKILL')
        expectSound(database.url)

        const logged = new Set(log.lines().map(userIdOf))
        expect(printed.filter((userId) => !logged.has(userId))).toEqual([])
        await withStore(database.url, async (store) => {
          expect(await findLostKeys({ store, keyLog: log.path })).toEqual({ count: 0, keys: [] })
          const masterKeys = localMasterKey(MASTER_KEY)
          await EnvelopeCrypto.open({ store, masterKeys, keyLog: log.path })
        })
      }
    },
    TIMEOUT_MS,
  )
})

/** Null of a line that a kill has cut off. */
function userIdOf(line: string): string | null {
  try {
    return JSON.parse(line).userId
  } catch {
    return null
  }
}
