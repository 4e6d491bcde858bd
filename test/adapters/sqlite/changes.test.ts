/** How a SQLite store finds what others have written: it polls, without a side effect. */
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { isOf, listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { randomRecord } from '../../support/rows.js'

/** Longer than any test: such a store never polls. */
const NEVER = { pollMs: 1_000_000 }
const OFTEN = { pollMs: 20 }

describe.runIf(isChosen('sqlite'))('polling for changes', () => {
  const cleanups = cleanUpAfterEach()
  let path: string
  beforeEach(async () => {
    path = await cleanups.database('sqlite')
  })
  // Runs before the clean-ups, which need the true methods.
  afterEach(() => void vi.restoreAllMocks())

  const open = (options = {}): SqliteKeyStore => cleanups.closing(sqliteKeyStore({ path }, options))
  const connect = () => cleanups.closing(new Database(path))
  const openOn = (client: Database.Database, options = {}) =>
    cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }, options))

  it('neither opens the store nor makes its file', async () => {
    const listener = listenTo(open(OFTEN))
    await sleep(100)
    expect(existsSync(path)).toBe(false)
    expect(listener.changes).toEqual([])
  })

  it('misses no commit between opening and the first poll', async () => {
    const other = open()
    await other.ready()
    for (const subscribeFirst of [true, false]) {
      const store = open({ pollMs: 300 })
      const early = subscribeFirst ? listenTo(store) : null
      await store.ready()
      const listener = early ?? listenTo(store)
      await other.shred(`user ${subscribeFirst}`, { forget: false })
      expect(await listener.next(() => true)).toEqual({ unspecific: true })
    }
  })

  it('reports each commit of others once, and does not take its own for one', async () => {
    const [store, other] = [open(OFTEN), open()]
    await store.ready()
    const listener = listenTo(store)
    await store.insertIfAbsent([randomRecord('alice')])
    await sleep(100)
    expect(listener.changes).toEqual([])
    await other.insertIfAbsent([randomRecord('bob')])
    await listener.next(() => true)
    await sleep(100)
    expect(listener.changes).toEqual([{ unspecific: true }])
    // A shred empties the write-ahead log, which may count as a commit of others; the last report names the user all the same.
    await store.shred('alice', { forget: false })
    await listener.next(isOf('alice'))
    expect(listener.changes.at(-1)).toEqual({ userIds: ['alice'] })
  })

  it('is not needed between stores on one connection: they report each other’s changes by user id', async () => {
    const client = connect()
    const [store, sibling, elsewhere] = [openOn(client, NEVER), openOn(client, NEVER), open(NEVER)]
    await Promise.all([store.ready(), sibling.ready(), elsewhere.ready()])
    const [own, listener, nothing] = [listenTo(store), listenTo(sibling), listenTo(elsewhere)]
    await store.shred('alice', { forget: false })
    await sibling.shred('bob', { forget: false })
    expect(own.changes).toEqual([{ userIds: ['alice'] }, { userIds: ['bob'] }])
    expect(listener.changes).toEqual(own.changes)
    expect(nothing.changes).toEqual([])
    await store.close()
    await sibling.shred('carol', { forget: false })
    expect(own.changes).toHaveLength(2)
    expect(listener.changes).toHaveLength(3)
  })

  it('happens only while there are listeners', async () => {
    const store = open(OFTEN)
    await store.ready()
    const pragma = vi.spyOn(Database.prototype, 'pragma')
    const looks = () => pragma.mock.calls.filter(([text]) => text === 'data_version').length
    await sleep(100)
    expect(looks()).toBe(0)
    const listener = listenTo(store)
    await vi.waitFor(() => expect(looks()).toBeGreaterThan(3))
    listener.end()
    const count = looks()
    await sleep(100)
    expect(looks()).toBe(count)
    const again = listenTo(store)
    await vi.waitFor(() => expect(looks()).toBeGreaterThan(count + 2))
    await store.close()
    const last = looks()
    await sleep(100)
    expect(looks()).toBe(last)
    expect(again.changes).toEqual([])
  })

  it('does not fix the snapshot that the host’s transaction reads', async () => {
    const client = connect()
    client.pragma('journal_mode = wal')
    const store = openOn(client, OFTEN)
    await store.ready()
    const listener = listenTo(store)
    client.exec('begin')
    await sleep(100)
    await open().insertIfAbsent([randomRecord('alice')])
    await sleep(100)
    expect(client.prepare('select count(*) from encryption_keys').pluck().get()).toBe(1)
    expect(listener.changes).toEqual([])
    client.exec('commit')
    await listener.next(({ unspecific }) => unspecific === true)
  })

  it('reports once that it fails, to listeners that come later too, and once that it works again', async () => {
    const store = open(OFTEN)
    await store.ready()
    const listener = listenTo(store)
    const failing = vi.spyOn(Database.prototype, 'pragma').mockImplementation(() => {
      throw Object.assign(new Error('disk I/O error'), { code: 'SQLITE_IOERR' })
    })
    expect(await listener.next(() => true)).toEqual({ silent: expect.stringContaining('SQLITE_IOERR') })
    await sleep(100)
    const late = listenTo(store)
    expect(late.changes).toEqual([])
    await late.next(() => true)
    failing.mockRestore()
    expect(await listener.next(() => true)).toEqual({})
    expect(listener.changes).toHaveLength(2)
    expect(late.changes).toEqual(listener.changes)
  })

  it('takes a locked database for one that has not changed', async () => {
    const store = open(OFTEN)
    await store.ready()
    const listener = listenTo(store)
    vi.spyOn(Database.prototype, 'pragma').mockImplementation(() => {
      throw Object.assign(new Error('database is locked'), { code: 'SQLITE_BUSY' })
    })
    await sleep(100)
    expect(listener.changes).toEqual([])
  })

  it('takes a whole number of milliseconds, and is an option of SQLite only', async () => {
    for (const pollMs of [
      0,
      -1,
      1.5,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      2 ** 31,
      '1000' as never,
      null as never,
    ]) {
      expect(() => open({ pollMs })).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
    }
    const refused = { code: 'ERR_INVALID_ARGUMENT' }
    await expect(openKeyStore('postgres://host/x', { pollMs: 1 })).rejects.toMatchObject(refused)
    await expect(openKeyStore(path, { listenUrl: false })).rejects.toMatchObject(refused)
    const store = cleanups.closing(await openKeyStore(path, { pollMs: 20 }))
    const listener = listenTo(store)
    await open().shred('alice', { forget: false })
    await listener.next(isOf('alice'))
  })
})
