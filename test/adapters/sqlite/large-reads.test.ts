/** Reads of many users on SQLite, whose driver is synchronous. */
import { describe, expect, it } from 'vitest'
import { dialects } from '../../support/databases.js'
import { freshStore } from '../../support/fresh-store.js'
import { randomRecord } from '../../support/rows.js'
import { userIds } from '../../support/users.js'

describe.runIf(dialects.includes('sqlite'))('a read of many users', () => {
  it('lets the event loop turn, and gives each row once', async () => {
    const test = await freshStore('sqlite')
    const users = userIds(20_000)
    await test.store.insertIfAbsent(users.map((userId) => randomRecord(userId)))
    for (const method of ['getAll', 'getActive'] as const) {
      let turns = 0
      let done = false
      const turn = () => {
        turns += 1
        if (!done) setImmediate(turn)
      }
      setImmediate(turn)
      const found = await test.store[method]([...users, ...users.slice(0, 1500)])
      done = true
      expect(turns).toBeGreaterThan(2)
      expect(found.size).toBe(users.length)
      expect(found.get(users[0] as string)).toMatchObject(
        method === 'getAll' ? [{ version: 1 }] : { version: 1 },
      )
      expect([found.get(users[0] as string)].flat()).toHaveLength(1)
    }
    await test.remove()
  })
})
