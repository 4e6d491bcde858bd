/** SQLite without a write-ahead log: reads on a host's connection wait while another process writes, without stopping this one. */
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { integer, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { beforeEach, describe, expect, it } from 'vitest'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { drizzleSource } from '../../../src/reencrypt/index.js'
import { isSilent, listenTo } from '../../support/change-listener.js'
import { startChild } from '../../support/child-process.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { withLongestStall } from '../../support/event-loop.js'
import { fixedRecord } from '../../support/rows.js'

/** How long the host's connection waits for a lock: as long as the process would stand still. */
const BUSY_TIMEOUT_MS = 4000
const MOST_STALL_MS = 2000

describe.runIf(isChosen('sqlite'))('while another process has an exclusive lock', () => {
  const cleanups = cleanUpAfterEach()
  let path: string
  let client: Database.Database

  beforeEach(async () => {
    path = await cleanups.database('sqlite')
    client = cleanups.closing(new Database(path))
    client.pragma(`busy_timeout = ${BUSY_TIMEOUT_MS}`)
    client.exec(`create table credentials (id integer primary key, user_id text, api_key text);
      insert into credentials values (1, 'alice', 'secret')`)
    await onHost().insertIfAbsent([fixedRecord('alice')])
  })

  const onHost = (pollMs = 1_000_000) =>
    cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }, { pollMs, deadlineMs: 30_000 }))

  /** Runs work that needs the lock, which is given back after a while in which timers must fire. @returns the result */
  async function expectToWait<T>(work: () => Promise<T>): Promise<T> {
    const holder = startChild('hold-write-lock.mjs', [path, 'exclusive'])
    cleanups.add(() => holder.kill())
    expect(await holder.line()).toBe('locked')
    const { result, stallMs } = await withLongestStall(async () => {
      let isDone = false
      const working = work().finally(() => {
        isDone = true
      })
      for (let ticks = 0; ticks < 10; ticks++) await new Promise((resolve) => setTimeout(resolve, 20))
      expect(isDone).toBe(false)
      holder.send('release')
      return working
    })
    expect(stallMs).toBeLessThan(MOST_STALL_MS)
    expect(client.pragma('busy_timeout', { simple: true })).toBe(BUSY_TIMEOUT_MS)
    return result
  }

  it('getAll, list and census wait for its end', async () => {
    const store = onHost()
    await store.ready()
    const [found, page, counted] = await expectToWait(() =>
      Promise.all([store.getAll(['alice']), store.list({ limit: 10 }), store.census()]),
    )
    expect([found.size, page.length, counted.length]).toEqual([1, 1, 1])
  })

  it('a store that opens waits for its end', async () => {
    const store = onHost()
    expect(await expectToWait(() => store.ready())).toMatchObject({ applied: [] })
  })

  it('the poll for changes comes again later', async () => {
    const store = onHost(20)
    const listener = listenTo(store)
    await store.ready()
    await expectToWait(() => store.getAll(['alice']))
    expect(listener.changes.filter(isSilent)).toEqual([])
  })

  it('the sweep waits for its end', async () => {
    const credentials = sqliteTable('credentials', {
      id: integer().primaryKey(),
      userId: text('user_id'),
      apiKey: text('api_key'),
    })
    const source = drizzleSource(drizzle({ client }), credentials, {
      key: 'id',
      owner: 'userId',
      columns: ['apiKey'],
    })
    const rows = await expectToWait(async () => {
      for await (const page of source.pages({ limit: 10 })) return page
      return []
    })
    expect(rows).toHaveLength(1)
  })
})
