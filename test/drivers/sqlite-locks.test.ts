/** Waiting for locks of SQLite: those of other connections, and a transaction of the host on the connection that is shared. */
import Database from 'better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  assertNoHostTransaction,
  HostTransactionError,
  retryingWhileLocked,
} from '../../src/drivers/sqlite-locks.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { isChosen } from '../support/databases.js'

describe.runIf(isChosen('sqlite'))('retryingWhileLocked', () => {
  const cleanups = cleanUpAfterEach()
  let client: Database.Database
  let other: Database.Database
  beforeEach(async () => {
    const path = await cleanups.database('sqlite')
    client = cleanups.closing(new Database(path, { timeout: 0 }))
    client.exec('create table t (a integer)')
    other = cleanups.closing(new Database(path))
  })
  const insert = (deadlineMs: number) =>
    retryingWhileLocked(deadlineMs, () => client.prepare('insert into t values (1)').run().changes)

  it('waits for the lock of another connection', async () => {
    other.exec('begin immediate')
    const inserting = insert(20_000)
    setTimeout(() => other.exec('commit'), 50)
    expect(await inserting).toBe(1)
  })

  it('throws SQLITE_BUSY when the lock is held beyond the deadline', async () => {
    other.exec('begin immediate')
    await expect(insert(50)).rejects.toMatchObject({ code: 'SQLITE_BUSY' })
  })

  it('waits for the end of the host’s transaction on the connection that is shared', async () => {
    const insertApart = (deadlineMs: number) =>
      retryingWhileLocked(deadlineMs, () => {
        assertNoHostTransaction(client)
        return client.inTransaction
      })
    client.exec('begin')
    await expect(insertApart(50)).rejects.toBeInstanceOf(HostTransactionError)
    const waiting = insertApart(20_000)
    setTimeout(() => client.exec('rollback'), 50)
    expect(await waiting).toBe(false)
  })

  it('throws any other error at once', async () => {
    let attempts = 0
    const failing = retryingWhileLocked(20_000, () => {
      attempts += 1
      return client.prepare('insert into missing values (1)').run()
    })
    await expect(failing).rejects.toThrow('no such table')
    expect(attempts).toBe(1)
  })
})
