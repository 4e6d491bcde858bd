/** Calls with tens of thousands of ids or rows let timers fire and sockets be read. */
import { describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { randomRecord } from '../support/rows.js'

const USERS = 20_000
/** Of the CPU time of a call, what it may take without a turn. As a whole it would be nearly all. */
const MOST_SHARE = 0.45

/** Runs work. @returns the largest share of the CPU time of this process that passed without a turn of the event loop */
async function longestShare(work: () => Promise<unknown>): Promise<number> {
  const used = (since?: NodeJS.CpuUsage) => {
    const { user, system } = process.cpuUsage(since)
    return user + system
  }
  const began = process.cpuUsage()
  let last = process.cpuUsage()
  let longest = 0
  const turn = () => {
    longest = Math.max(longest, used(last))
    last = process.cpuUsage()
  }
  const timer = setInterval(turn, 0)
  try {
    await work()
    turn()
  } finally {
    clearInterval(timer)
  }
  return longest / used(began)
}

describe.each(dialects)('on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()

  it(`calls with ${USERS} users leave turns to others`, { retry: 2 }, async () => {
    const store = cleanups.closing(await openKeyStore(await cleanups.database(dialect)))
    const records = Array.from({ length: USERS }, (_, i) => randomRecord(`user-${i}`))
    const ids = records.map(({ userId }) => userId)
    const shares = {
      insertIfAbsent: await longestShare(() => store.insertIfAbsent(records)),
      insertAgain: await longestShare(() => store.insertIfAbsent(records)),
      getAll: await longestShare(() => store.getAll(ids)),
      getActive: await longestShare(() => store.getActive(ids)),
    }
    for (const [call, share] of Object.entries(shares)) expect(share, call).toBeLessThan(MOST_SHARE)
    expect([...(await store.getAll(ids)).keys()].sort()).toEqual([...ids].sort())
    expect((await store.getActive([...ids, ...ids])).size).toBe(USERS)
  })
})
