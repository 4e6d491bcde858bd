/** Four processes write one SQLite file, and are killed with SIGKILL again and again: no token is lost, and the file stays sound. */
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../../src/index.js'
import { expectSound, killMoments, seed, TIMEOUT_MS } from '../../support/child-kills.js'
import { expectConsistent, type Load, startLoad } from '../../support/child-load.js'
import { freshDatabase, isChosen } from '../../support/databases.js'
import { slow } from '../../support/slow.js'

const KILLS = slow ? 1000 : 10
const PROCESSES = 4
/** Tokens that a process hands out before it is killed, at most. */
const TOKENS = 12
/** Nobody holds a lock for long; one that is waited for longer was not released by a kill. */
const deadlineMs = 20_000
/** The file is checked after so many kills. */
const CHECK_AFTER = 100

describe.runIf(isChosen('sqlite'))('sqlite, under the load of four processes', () => {
  it(
    `its writers are killed ${KILLS} times`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      const masterKey = generateMasterKey()
      const { url, remove } = await freshDatabase('sqlite')
      const loads: Load[] = []
      const start = async (name: string) => {
        const load = await startLoad({ url, masterKey, name, deadlineMs })
        loads.push(load)
        return load
      }
      const moments = killMoments(KILLS, TOKENS)
      let kills = 0
      const killOnes = async (name: number) => {
        for (let moment = moments.pop(); moment !== undefined; moment = moments.pop()) {
          const load = await start(`${name}-${moments.length}`)
          await load.moreTokens(moment.lines)
          await sleep(moment.ms)
          await load.kill()
          kills += 1
          if (kills % CHECK_AFTER === 0) expectSound(url)
        }
        // The others go on to be killed meanwhile.
        const last = await start(`${name}-last`)
        await last.moreTokens(TOKENS)
        await last.stop()
      }
      try {
        await Promise.all(Array.from({ length: PROCESSES }, (_, name) => killOnes(name)))
        expect(kills).toBe(KILLS)
        expectSound(url)
        expect(loads.flatMap(({ failures }) => failures)).toEqual([])
        await annotate(`${kills} kills: ${await expectConsistent(loads, { url, masterKey, deadlineMs })}`)
      } finally {
        for (const load of loads) await load.kill()
        await remove()
      }
    },
    TIMEOUT_MS,
  )
})
