/** Eight processes mint keys of the same 300 users at once: whichever wins, all go on with the winner's key. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { runAtOnce, startChild } from '../support/child-process.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { countDeadlocks } from '../support/deadlocks.js'
import { withStore } from '../support/fresh-store.js'

const PROCESSES = 8
const USERS = 300
/** Two inserts of 300 rows seldom meet in opposite orders; in several rounds they nearly always would. */
const BULK_ROUNDS = 8
type Keys = Readonly<Record<string, string>>

/** Lets all processes begin at once. @returns the hashes of the keys that each of them got, by user */
function mintInEveryProcess(url: string, ...mode: string[]): Promise<Keys[]> {
  const env = { API_KEY_MASTER_KEY: randomBytes(32).toString('base64url') }
  return runAtOnce<Keys>(
    Array.from({ length: PROCESSES }, () => startChild('mint-users.mjs', [url, String(USERS), ...mode], env)),
  )
}

const countRows = (url: string) =>
  withStore(url, async (store) => (await store.census()).reduce((sum, { count }) => sum + count, 0))

describe.each(dialects)('%s: eight processes at once', (dialect) => {
  let database: FreshDatabase
  beforeEach(async () => {
    database = await freshDatabase(dialect)
  })
  afterEach(() => database.remove())

  it('mint one key for each user, and all of them get that key', async () => {
    const [first = {}, ...others] = await mintInEveryProcess(database.url, 'one-by-one')
    expect(others).toHaveLength(PROCESSES - 1)
    expect(new Set(Object.values(first)).size).toBe(USERS)
    for (const keys of others) expect(keys).toEqual(first)
    expect(await countRows(database.url)).toBe(USERS)
  })

  it('insert the same rows in bulk, each in another order, without a deadlock', async () => {
    const [first = {}, ...others] = await mintInEveryProcess(database.url, 'in-bulk', String(BULK_ROUNDS))
    expect(others).toHaveLength(PROCESSES - 1)
    expect(new Set(Object.values(first)).size).toBe(USERS * BULK_ROUNDS)
    for (const keys of others) expect(keys).toEqual(first)
    expect(await countRows(database.url)).toBe(USERS * BULK_ROUNDS)
    if (dialect === 'postgres') expect(await countDeadlocks(database.url)).toBe(0)
  })
})
